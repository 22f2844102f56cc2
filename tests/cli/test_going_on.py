"""Runs that are trained further, and runs that start from an adapter, through the program."""

import json
import os
import unittest

from support import IO, UNET, USAGE, Case, read_safetensors, sha256


class GoingOn(Case):
    def setUp(self):
        super().setUp()
        replay = self.write_replay("replay.safetensors", 8)
        self.args = ["train", "--unet-only", UNET, "--replay", replay, "-t", "1"]
        self.args += ["--lr_scheduler", "constant"]

    def adapter(self, run):
        return self.path(run, "adapter.safetensors")

    def test_longer(self):
        args = [*self.args, "--progressive_iter", "0"]
        self.ok(*args, "-o", "whole", "--max_train_steps", "8")
        self.ok(*args, "-o", "run", "--max_train_steps", "4")
        go_on = ("-o", "run", "--resume_from_checkpoint", "latest", "--max_train_steps")
        words = ["checkpoint-4: 4 steps are done", "--max_train_steps gives 2"]
        self.refused(USAGE, words, *args, *go_on, "2")
        result = self.ok(*args, *go_on, "8")
        self.assertIn("the run has now 8 steps instead of 4", result.err)
        self.assertEqual(sha256(self.adapter("run")), sha256(self.adapter("whole")))
        with open(self.path("run", "log.jsonl")) as file:
            steps = [json.loads(line)["step"] for line in file]
        self.assertEqual(steps, list(range(1, 9)))

    def test_peft(self):
        """Its folder is told as the adapter that it is; a run that goes on writes no other."""
        args = [*self.args, "--method", "lora", "-o", "run", "--save_as"]
        done = self.ok(*args, "peft", "--max_train_steps", "1")
        self.assertIn("adapter: run/lora\n", done.out)
        words = 'the run has save_as = "peft", now it is "kohya"'
        self.refused(USAGE, words, *args, "kohya", "--max_train_steps", "2",
                     "--resume_from_checkpoint", "latest")

    def test_from_adapter(self):
        """By an option and by a file of options; what is extracted from two models too."""
        self.ok(*self.args, "-o", "first", "--max_train_steps", "2")
        first = self.adapter("first")
        start = [*self.args, "--max_train_steps", "2", "-o"]
        self.ok(*start, "second", "--adapter", "first/adapter.safetensors:0.5")
        config = self.write("config.json", json.dumps({"adapter": f"{first}:0.5"}))
        self.ok(*start, "third", "--config", config)
        self.assertEqual(sha256(self.adapter("second")), sha256(self.adapter("third")))
        tensors, metadata = read_safetensors(self.adapter("second"))
        before, _ = read_safetensors(first)
        for name, tensor in before.items():
            if name.endswith(".positions"):
                self.assertEqual(tensors[name], tensor)
        self.assertEqual(metadata["sara.adapter_sha256"], sha256(first))
        self.assertEqual(metadata["sara.adapter_strength"], "0.5")
        self.ok("merge", "--unet-only", UNET, "--adapter", first, "-o", "merged")
        self.ok("extract", "--unet-only", "--base", UNET, "--tuned", "merged", "-o",
                "x.safetensors")
        extracted = [*start, "fourth", "--adapter", "x.safetensors"]
        self.refused(USAGE, "--learning_rate is missing", *extracted)
        words = "--progressive_iter 1"
        self.refused(USAGE, words, *extracted, "--learning_rate", "1e-4", "--progressive_iter", "1")
        self.ok(*extracted, "--learning_rate", "1e-4")

    def test_refused(self):
        base = [*self.args, "-o", "run", "--adapter", "a.safetensors"]
        words = ["--adapter b.safetensors", "one adapter", "a.safetensors is given already"]
        self.refused(USAGE, words, *base, "--adapter", "b.safetensors")
        for option, value in (("threshold", "1e-3"), ("trainable", "5%")):
            self.refused(USAGE, f"leave --{option} out", *base, f"--{option}", value)
        self.refused(IO, "a.safetensors: ", *base)
        self.assertFalse(os.path.exists(self.path("run")))


if __name__ == "__main__":
    unittest.main()
