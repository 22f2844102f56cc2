"""Options from JSON and TOML files, and the spellings of options."""

import json
import os
import unittest

from support import BASE, INPUT, IO, UNET, USAGE, Case


class Forms(Case):
    """The same option in all its spellings."""

    def test_dashes_and_underscores(self):
        for name in ["--max_train_steps", "--max-train-steps", "--max-train_steps"]:
            self.refused(USAGE, "max_train_steps 0", "train", name, "0")
            self.refused(USAGE, "max_train_steps 0", "train", f"{name}=0")
        for name in ["--batch-count", "--batch_count", "-b"]:
            self.refused(USAGE, "--batch-count 0", "generate", name, "0")

    def test_short_and_long(self):
        for name in ["-o", "--output", "--output_dir", "--output-dir"]:
            replay = self.write_replay("replay.safetensors", 1)
            self.ok("train", "--unet-only", UNET, "--replay", replay, name, "run" + name)
            self.assertTrue(os.path.exists(self.path("run" + name, "adapter.safetensors")))
        for name in ["-m", "--model", "--pretrained_model_name_or_path"]:
            self.refused(
                IO, "nowhere", "train", name, "nowhere", "-o", "x", "--train_data_dir", "y"
            )

    def test_values_that_look_like_options(self):
        self.refused(USAGE, "unexpected", "generate", "-p", "--nonsense--", "-n", "-h", "stray")
        self.refused(IO, "nowhere", "generate", "-p", "-h", "-m", "nowhere")
        self.refused(IO, "nowhere", "generate", "--prompt=--steps", "-m", "nowhere")

    def test_last_one_wins(self):
        self.refused(IO, "second", "generate", "-p", "x", "-m", "first", "-m", "second")


class Config(Case):
    def config(self, value, name="run.json"):
        return self.write(name, value if isinstance(value, str) else json.dumps(value))

    def base(self):
        return {
            "unet_only": UNET,
            "replay": self.write_replay("replay.safetensors", 3),
            "checkpointing-steps": 2,
            "lambda_rank": 0.25,
            "center_crop": True,
            "output": self.path("run"),
        }

    def manifest(self, step):
        with open(self.path("run", f"checkpoint-{step}", "manifest.json")) as file:
            return json.load(file)["run"]

    def test_toml(self):
        """As kohya's: tables are no more than headings."""
        path = self.config(
            "[model]\nunet_only = '%s'\n[data]\nreplay = '%s'\noutput = '%s'\n"
            "center_crop = true\nlambda_rank = 0.25\n[training]\nmax_train_steps = 2\n"
            "validation_prompt = []\n"
            % (UNET, self.write_replay("replay.safetensors", 3), self.path("run")),
            "run.toml",
        )
        self.ok("train", "--config", path, "--checkpointing_steps", "2")
        run = self.manifest(2)
        self.assertEqual((run["lambda_rank"], run["center_crop"]), (0.25, True))
        self.refused(INPUT, ["bad.toml: line 2: "], "train", "--config",
                     self.config("a = 1\nb = \n", "bad.toml"))
        self.refused(USAGE, ["run.toml", "bogus"], "train", "--config",
                     self.config("[x]\nbogus = 1\n", "run.toml"))
        self.refused(IO, "none.toml", "train", "--config", "none.toml")

    def test_below_the_command_line(self):
        path = self.config(self.base())
        self.ok("train", "--max_train_steps", "2", "--config", path, "--lambda_rank", "0.5")
        run = self.manifest(2)
        self.assertEqual(
            (run["lambda_rank"], run["center_crop"], run["max_train_steps"]), (0.5, True, 2)
        )

    def test_aliases_meet(self):
        """-o on the command line wins over the file's output_dir, and the other way round."""
        path = self.config({**self.base(), "output": "from-file"})
        self.ok("train", "--config", path, "--output_dir", "run")
        self.assertTrue(os.path.exists(self.path("run")))
        self.assertFalse(os.path.exists(self.path("from-file")))

    def test_later_file_wins(self):
        path = self.config(self.base())
        second = self.config({"lambda_rank": 0.125, "seed": "18446744073709551615"}, "second.json")
        self.ok("train", f"--config={path}", "--config", second)
        run = self.manifest(3)
        self.assertEqual((run["lambda_rank"], run["seed"]), (0.125, "18446744073709551615"))

    def test_lists(self):
        """The command line's list takes the place of the file's."""
        path = self.config(
            {
                "model": BASE,
                "prompt": ["a fox", "a cat"],
                "steps": 1,
                "output": self.path("x.png"),
                "threads": 1,
            }
        )
        self.assertEqual(
            self.ok("generate", "--config", path).out.splitlines(),
            [self.path("x.png"), self.path("x_2.png")],
        )
        self.assertEqual(
            self.ok("generate", "--config", path, "-p", "a dog").out.splitlines(),
            [self.path("x.png")],
        )

    def test_prompts_of_training(self):
        path = self.config(
            {
                "model": BASE,
                "output_dir": "run",
                "train_data_dir": "none",
                "validation_prompt": ["p"] * 16,
            }
        )
        self.refused(IO, "none", "train", "--config", path, "--validation_prompt", "q")
        path = self.config({"validation_prompt": ["p"] * 17})
        self.refused(USAGE, ["run.json", "--validation_prompt", "16"], "train", "--config", path)

    def test_damage(self):
        for text, words in [
            ("", "line"),
            ("[1]", "object"),
            ('{"seed": 1, "seed": 2}', "seed"),
            ('{"seed": null}', "seed"),
            ('{"seed": {"a": 1}}', "seed"),
            ('{"seed": [[1]]}', "seed"),
            ('{"seed": 1', "line 1"),
            ('{"output": "a\\u0000b"}', "line 1"),
            ("\xff", "line"),
        ]:
            self.refused(
                INPUT,
                ["run.json", words],
                "generate",
                "--config",
                self.config(text.encode("latin-1").decode("latin-1")),
            )
        self.refused(
            USAGE, ["run.json", "--bogus"], "generate", "--config", self.config({"bogus": 1})
        )
        self.refused(
            USAGE, ["run.json", "--steps 0"], "generate", "--config", self.config({"steps": 0})
        )
        self.refused(
            USAGE,
            ["run.json", "--max_train_steps 0"],
            "train",
            "--config",
            self.config({"max_train_steps": 0}),
        )
        self.refused(
            USAGE, ["run.json", "--config"], "generate", "--config", self.config({"config": "x"})
        )
        self.refused(
            USAGE, ["run.json", "network"], "train", "--config", self.config({"push_to_hub": True})
        )
        self.refused(IO, "none.json", "generate", "--config", "none.json")
        self.refused(IO, self.folder, "generate", "--config", self.folder)

    def test_threads(self):
        self.refused(
            USAGE, ["run.json", "--threads 0"], "inspect", "--config", self.config({"threads": 0})
        )


if __name__ == "__main__":
    unittest.main()
