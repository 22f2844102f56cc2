"""Help of the program and of each command."""

import os
import re
import unittest

from support import TOP, USAGE, Case

COMMANDS = ["train", "data", "generate", "merge", "extract", "export", "inspect", "bench",
            "compare", "eval"]

METHODS = {
    "sara": {"trainable", "threshold", "mask", "mask_steps", "rank", "adapter", "lambda_rank",
             "progressive_iter", "track_drift"},
    "full": {"track_drift"},
    "lora": {"adapter", "trainable", "rank", "lora_alpha", "lora_targets", "save_as",
             "track_drift"},
    "dora": {"adapter", "trainable", "rank", "lora_alpha", "lora_targets", "save_as",
             "track_drift"},
    "adaptformer": {"adapter", "trainable", "adapter_width", "adapter_scale"},
    "ltsft": {"adapter", "trainable", "ltsft_steps", "track_drift"},
    "shira": {"adapter", "trainable", "rank", "lora_targets", "track_drift"},
}


def options_of(text):
    """The long options that a help text lists, with whether they take a value."""
    found = re.findall(r"^ +(?:-\w, )?--([\w-]+)( [A-Z][\w\[\]:]*)?", text, re.M)
    return {name: bool(value) for name, value in found}


class Help(Case):
    def test_program(self):
        text = self.ok("--help").out
        for command in COMMANDS:
            self.assertRegex(text, rf"(?m)^  {command} +\w")
        self.assertIn("Examples:", text)
        self.assertLessEqual(len(text.splitlines()), 24)
        self.assertLessEqual(max(map(len, text.splitlines())), 90)
        self.assertEqual(text, self.ok("-h").out)
        self.assertEqual(text, self.ok("help").out)

    def test_no_arguments(self):
        result = self.sara()
        self.assertEqual((result.code, result.out), (USAGE, ""))
        self.assertEqual(result.err, self.ok("--help").out)

    def test_version(self):
        self.assertRegex(self.ok("--version").out, r"^sara \d+\.\d+\.\d+\n$")

    def test_commands(self):
        for command in COMMANDS:
            with self.subTest(command):
                text = self.ok(command, "--help").out
                lines = text.splitlines()
                most = {"train": 116, "generate": 60, "eval": 51}.get(command, 50)
                self.assertLessEqual(len(lines), most)
                self.assertLessEqual(max(map(len, lines)), 100)
                examples = [line for line in lines if line.startswith(f"  sara {command} ")]
                self.assertGreaterEqual(len(examples), 2)
                self.assertEqual(text, self.ok("help", command).out)
                other = ["--config"] if command == "compare" else ["-m"]
                self.assertEqual(text, self.ok(command, *other, "x", "-h").out)

    def test_every_option_is_named(self):
        """The options of the public header are all in the help, and each is understood."""
        with open(os.path.join(TOP, "include", "sara_train.h")) as file:
            header = file.read()
        struct = re.search(
            r"typedef struct sara_train_options \{(.*?)\} sara_train_options", header, re.S
        ).group(1)
        struct = re.sub(r"/\*.*?\*/", "", struct, flags=re.S)
        fields = set(re.findall(r"[ *](\w+)(?:\[\w+\])?[,;]", struct))
        fields -= {"size", "validation_prompt_count", "draw_seed", "resolution_height"}
        fields = {"validation_prompt" if f == "validation_prompts" else f for f in fields}
        self.assertGreater(len(fields), 35)
        shown = set()
        for method in METHODS:
            shown |= set(options_of(self.ok("train", "--method", method, "--help").out))
        self.assertEqual(fields | {"threads", "config"}, shown)

    def test_methods(self):
        """The help shows what goes with the method that is named, of which the default is sara."""
        text = self.ok("train", "--help").out
        self.assertEqual(text, self.ok("train", "--method=sara", "-h").out)
        for method, own in METHODS.items():
            for args in (("--method", method, "--help"), ("--help", "--method", method)):
                text = self.ok("train", *args).out
                shown = set(options_of(text))
                self.assertIn(f"These are for --method {method};", text)
                self.assertLessEqual(own | {"seed", "method", "learning_rate"}, shown)
                others = set().union(*METHODS.values()) - own
                self.assertEqual(others & shown, set(), method)
        self.refused(USAGE, "--method x: no such method", "train", "--method", "x", "--help")

    def test_examples_use_known_options(self):
        for command in COMMANDS:
            text = self.ok(command, "--help").out
            for name in re.findall(r"--([\w-]+)", text[text.index("Examples:") :]):
                self.assertIn(name, options_of(text), command)

    def test_missing_value(self):
        for command in COMMANDS:
            for name, takes_value in options_of(self.ok(command, "--help").out).items():
                if not takes_value:
                    continue
                with self.subTest(f"{command} --{name}"):
                    self.refused(USAGE, [f"--{name}", "a value is missing"], command, f"--{name}")
                    self.refused(
                        USAGE,
                        [f"--{name}", "a value is missing", "--config"],
                        command,
                        f"--{name}",
                        "--config",
                        "x.json",
                    )


if __name__ == "__main__":
    unittest.main()
