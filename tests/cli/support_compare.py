"""A small comparison on the golden pipeline, a few steps a run. No time is judged. SARA_LONG=1
kills a larger one at ten moments; else a small one at two."""

import json
import os
import re
import shutil

from support import EMOJI, GOLDEN, Case

MEASURED = ("seconds", "peak_bytes", "seconds_per_step")  # what differs from run to run
LONG = os.environ.get("SARA_LONG") == "1"


def lines(path, first, last):
    with open(path) as file:
        return "".join(file.readlines()[first:last])


def without_measured(value):
    if isinstance(value, dict):
        return {k: without_measured(v) for k, v in value.items() if k not in MEASURED}
    if isinstance(value, list):
        return [without_measured(v) for v in value]
    return value


def config_in(folder):
    """A comparison of one row in a folder; what it reads is made there."""
    prompts = os.path.join(EMOJI, "prompts.txt")
    for name, first, last in (("prompts", 0, 2), ("tuning", 10, 12), ("base", 20, 22)):
        with open(os.path.join(folder, name + ".txt"), "w") as file:
            file.write(lines(prompts, first, last))
    for name, beginning in (("ink", "u1f34"), ("ink-reference", "u1f33")):
        os.mkdir(os.path.join(folder, name))
        for image in os.listdir(os.path.join(EMOJI, name)):
            if image.startswith(beginning):
                shutil.copy(os.path.join(EMOJI, name, image), os.path.join(folder, name))
    return {
        "model": os.path.join(GOLDEN, "pipeline"),
        "output_dir": "out",
        "data": [
            {
                "name": "ink",
                "train_data_dir": "ink",
                "references": "ink-reference",
                "prompts": "prompts.txt",
                "tuning_prompts": "tuning.txt",
                "caption_prefix": "ink style, ",
            }
        ],
        "seeds": [1],
        "learning_rates": [0.01, 0.1, 0.5, 2],
        "train": {
            "max_train_steps": 2,
            "train_batch_size": 1,
            "trainable": "5%",
            "instance_prompt": "a thing",
        },
        "rows": [{"name": "sara"}],
        "eval": {"clip": os.path.join(EMOJI, "clip"), "fid": "clip", "kid_subsets": 3, "steps": 1},
        "base_prompts": "base.txt",
    }


class CompareCase(Case):
    def setUp(self):
        super().setUp()
        self.config = config_in(self.folder)

    def write_config(self, config=None, name="compare.json"):
        return self.write(name, json.dumps(config or self.config))

    def compare(self, *args, out="out"):
        return self.ok("compare", "--config", "compare.json", "-t", "1", "-o", out, *args)

    def result(self, out="out"):
        with open(self.path(out, "compare.json")) as file:
            return json.load(file)

    def table(self, out="out"):
        """table.md without what differs from run to run."""
        with open(self.path(out, "table.md")) as file:
            text = file.read()
        rows = [line.split(" | ") for line in text.split("\n")]
        dropped = [i for i, name in enumerate(rows[6]) if re.search("memory|a step", name)]
        self.assertEqual(len(dropped), 2, text)
        return [
            [cell for i, cell in enumerate(row) if i not in dropped] if len(row) > 10 else row
            for row in rows
        ]
