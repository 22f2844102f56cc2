"""compare as its users call it, on the emoji base with a few steps a run. No time is judged."""

import copy
import json
import os
import unittest

from support import BASE, EMOJI, INPUT, IO, USAGE, Case


def lines(path, first, last):
    with open(path) as file:
        return "".join(file.readlines()[first:last])


class CompareCase(Case):
    def setUp(self):
        super().setUp()
        prompts = os.path.join(EMOJI, "prompts.txt")
        self.write("prompts.txt", lines(prompts, 0, 3))
        self.write("tuning.txt", lines(prompts, 10, 12))
        self.write("base.txt", lines(prompts, 20, 23))
        self.config = {
            "model": BASE,
            "output_dir": "out",
            "data": [
                {
                    "name": "ink",
                    "train_data_dir": os.path.join(EMOJI, "ink"),
                    "references": os.path.join(EMOJI, "ink-reference"),
                    "prompts": "prompts.txt",
                    "tuning_prompts": "tuning.txt",
                    "caption_prefix": "ink style, ",
                }
            ],
            "seeds": [1],
            "learning_rates": [1e-4, 3e-4, 1e-3, 3e-3],
            "train": {"max_train_steps": 2, "train_batch_size": 1, "trainable": "1%"},
            "rows": [{"name": "sara"}, {"name": "lora", "method": "lora"}],
            "eval": {"clip": os.path.join(EMOJI, "clip"), "steps": 2, "guidance_scale": 3},
            "base_prompts": "base.txt",
        }

    def write_config(self, config, name="compare.json"):
        return self.write(name, json.dumps(config))


class Refused(CompareCase):
    """Before anything runs, naming the key."""

    def changed(self, *path, value=None):
        config = copy.deepcopy(self.config)
        where = config
        for key in path[:-1]:
            where = where[key]
        if value is None:
            del where[path[-1]]
        else:
            where[path[-1]] = value
        return config

    def check(self, words, *path, value=None, code=INPUT):
        self.write_config(self.changed(*path, value=value))
        self.refused(code, ["compare.json", *words], "compare", "--config", "compare.json")
        self.assertFalse(os.path.exists(self.path("out")), path)

    def test_keys(self):
        self.check(["rowz", "no such key"], "rowz", value=1)
        self.check(["data[0]", "prompt", "no such key"], "data", 0, "prompt", value="a")
        self.check(["eval", "clipp", "no such key"], "eval", "clipp", value="a")
        self.check(["row sara", "trainabel", "training option"], "rows", 0, "trainabel", value=1)
        self.check(["train: seed", "seeds"], "train", "seed", value=1)
        self.check(["row lora: learning_rate:", "learning_rates"], "rows", 1, "learning_rate",
                   value=1e-3)

    def test_missing(self):
        self.check(["model is missing"], "model")
        self.check(["output_dir is missing"], "output_dir")
        self.check(["rows"], "rows")
        self.check(["seeds: 0 of them"], "seeds")
        self.check(["eval is missing"], "eval")
        self.check(["clip is missing"], "eval", "clip")
        self.check(["data[0]: tuning_prompts is missing"], "data", 0, "tuning_prompts")
        self.check(["base_prompts is missing"], "base_prompts")
        self.check(["rows[1]: name is missing"], "rows", 1, "name")

    def test_values(self):
        self.check(["model none", "not there"], "model", value="none")
        self.check(["references none", "no folder"], "data", 0, "references", value="none")
        self.check(["data[0]: prompts", "none.txt"], "data", 0, "prompts", value="none.txt",
                   code=IO)
        self.check(["choose_by loss", "vlhi, fid or clip_score"], "choose_by", value="loss")
        self.check(["pictures", "65"], "pictures", value=65)
        self.check(["seeds[0]", "whole number"], "seeds", value=[1.5])
        self.check(["seeds[0] and seeds[1]", "7"], "seeds", value=[7, 7])
        self.check(["row lora", "method lara", "no such method"], "rows", 1, "method", value="lara")
        self.check(["row sara", "trainable: 300%"], "rows", 0, "trainable", value="300%")
        self.check(["row sara", "--train_batch_size 0"], "rows", 0, "train_batch_size", value=0)
        self.check(["row lora", "mask", "method lora"], "rows", 1, "mask", value="random")
        self.check(["row sara", "max_train_steps", "expected a text"], "rows", 0,
                   "max_train_steps", value=[3])
        self.check(["two rows are named sara"], "rows", 1, "name", value="sara")
        self.check(["name base", "untouched"], "rows", 1, "name", value="base")
        self.check(["a/b", "folder"], "rows", 1, "name", value="a/b")
        self.check(["row sara", "groups"], "rows", 0, "groups", value=[])

    def test_fair(self):
        self.check(["row sara", "learning_rates: 3", "at least 4"], "learning_rates",
                   value=[1e-4, 1e-3, 1e-2])
        self.check(["row lora", "learning_rates: 1", "at least 4"], "rows", 1, "learning_rates",
                   value=[1e-4])
        self.check(["row sara", "learning_rates[1]", "more than the one before"], "learning_rates",
                   value=[1e-3, 1e-4, 1e-5, 1e-6])
        self.check(["row sara", "learning_rates[0]", "more than 0"], "learning_rates",
                   value=[0, 1e-4, 1e-3, 1e-2])
        self.write("tuning.txt", "a cat\n" + lines(self.path("prompts.txt"), 1, 2))
        self.check(["data ink", "both have", "does not use"], "seeds", value=[1])

    def test_command_line(self):
        self.refused(USAGE, "--config", "compare")
        self.refused(USAGE, "--cots", "compare", "--config", "compare.json", "--cots")


if __name__ == "__main__":
    unittest.main()
