"""What is wrong with a comparison is told before anything runs."""

import copy
import os
import unittest

from support import GOLDEN, INPUT, IO, USAGE
from support_compare import CompareCase, lines


class Refused(CompareCase):
    """Before anything runs, naming the key."""

    def setUp(self):
        super().setUp()
        self.config["rows"].append({"name": "lora", "method": "lora"})

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
        os.mkdir(self.path("empty"))
        self.check(["data ink: train_data_dir: empty", "no images"], "data", 0, "train_data_dir",
                   value="empty")
        self.check(["data[0]: prompts", "none.txt"], "data", 0, "prompts", value="none.txt",
                   code=IO)
        self.write("one.txt", "a cat\n\n")
        self.check(["base_prompts one.txt", "1 prompt"], "base_prompts", value="one.txt")
        self.check(["train: expected an object"], "train", value="long")
        self.check(["choose_by loss", "vlhi, fid or clip_score"], "choose_by", value="loss")
        self.check(["pictures", "65"], "pictures", value=65)
        self.check(["seeds[0]", "whole number"], "seeds", value=[1.5])
        self.check(["seeds[0] and seeds[1]", "7"], "seeds", value=[7, 7])
        self.check(["row lora", "method lara", "no such method"], "rows", 1, "method", value="lara")
        self.check(["row lora", "method is no text"], "rows", 1, "method", value=5)
        self.check(["train: method is no text"], "train", "method", value=["sara"])
        self.check(["cost: methods"], "cost", value={"methods": "sara"})
        self.check(["strengths_row sora", "no row"], "strengths_row", value="sora")
        self.check(["strengths: no such key"], "strengths", value="0,1")
        self.check(["row sara", "trainable: 300%"], "rows", 0, "trainable", value="300%")
        self.check(["row sara", "--train_batch_size 0"], "rows", 0, "train_batch_size", value=0)
        self.check(["row lora", "mask", "method lora"], "rows", 1, "mask", value="random")
        self.check(["row sara", "max_train_steps", "expected a text"], "rows", 0,
                   "max_train_steps", value=[3])
        self.check(["two rows are named sara"], "rows", 1, "name", value="sara")
        self.check(["name base", "untouched"], "rows", 1, "name", value="base")
        self.check(["a/b", "folder"], "rows", 1, "name", value="a/b")
        self.check(["row sara", "groups"], "rows", 0, "groups", value=[])

    def test_eval(self):
        """What sara eval would refuse after the base's pictures are drawn."""
        for words, key, value in (
            ("fid foo", "fid", "foo"),
            ("fid dino: goes with dino", "fid", "dino"),
            ("dino none", "dino", "none"),
            ("clip_tokenizer none", "clip_tokenizer", "none"),
            ("inception none", "inception", "none"),
            ("inception: is of no use with fid clip", "inception", "compare.json"),
            ("sampling_method zz", "sampling_method", "zz"),
            ("guidance_scale", "guidance_scale", -1),
            ("kid_subset_size", "kid_subset_size", 1),
            ("kid_subsets", "kid_subsets", 0),
            ("clip_resize", "clip_resize", [1]),
            ("steps", "steps", "20"),
            ("width", "width", 0),
            ("embedding_dir nowhere: is no folder", "embedding_dir", "nowhere"),
            ("seed", "seed", -1),  # drawn anew by each process
        ):
            self.check([f"compare.json: eval: {words}"], "eval", key, value=value)

    def test_sizes(self):
        """Those that the model does not take, by its configs."""
        wide = "width and height must be multiples of 4, the VAE's factor; the nearest are "
        self.check(["eval: size 30x32: ", wide + "28x32 and 32x32"], "eval",
                   value={**self.config["eval"], "width": 30, "height": 32})
        self.check(["row sara: resolution 33x33: ", wide + "32x32 and 36x36"], "train",
                   value={**self.config["train"], "resolution": 33})
        self.check(["row sara: resolution 33x32: ", wide + "32x32 and 36x32"], "train",
                   value={**self.config["train"], "resolution": "33,32"})
        self.config["model"] = os.path.join(GOLDEN, "sd3_tiny")
        self.check(["eval: size 64x64: ", "8 to 56; the transformer has positions for no more"],
                   "eval", value={**self.config["eval"], "width": 64})
        self.check(["row sara: resolution 20x20: ", "multiples of 8, the VAE's factor 4 by the "
                    "transformer's 2"], "train", value={**self.config["train"], "resolution": 20})

    def test_fair(self):
        self.check(["row sara", "learning_rates: 3", "at least 4"], "learning_rates",
                   value=[1e-4, 1e-3, 1e-2])
        self.check(["row lora", "learning_rates: 1", "at least 4"], "rows", 1, "learning_rates",
                   value=[1e-4])
        self.check(["row sara", "learning_rates[1]", "more than the one before"], "learning_rates",
                   value=[1e-3, 1e-4, 1e-5, 1e-6])
        self.check(["row sara", "learning_rates[1]", "more than the one before"], "learning_rates",
                   value=[1e-3, 1.00000000001e-3, 1e-2, 1e-1])
        self.check(["row sara", "learning_rates[0]", "more than 0"], "learning_rates",
                   value=[0, 1e-4, 1e-3, 1e-2])
        self.write("tuning.txt", "a cat\n" + lines(self.path("prompts.txt"), 1, 2))
        self.check(["data ink", "both have", "does not use"], "seeds", value=[1])
        self.write("tuning.txt", "a cat\n  " + lines(self.path("prompts.txt"), 1, 2)[:-1] + " \n")
        self.check(["data ink", "both have", "does not use"], "seeds", value=[1])

    def test_command_line(self):
        self.refused(USAGE, "--config", "compare")
        self.refused(USAGE, "--cots", "compare", "--config", "compare.json", "--cots")


if __name__ == "__main__":
    unittest.main()
