"""What is wrong on the command line: exit 2 with one line that names option and value."""

import os
import re
import unittest

from support import BASE, INPUT, IO, UNET, USAGE, Case, files_below

COMMANDS = ["train", "generate", "merge", "extract", "export", "inspect", "bench"]


class Unknown(Case):
    def test_command(self):
        self.refused(USAGE, "trian: no such command", "trian")
        self.refused(USAGE, r"\x1b[31m: no such command", "\x1b[31m")
        self.refused(USAGE, "--bogus", "--bogus")

    def test_option(self):
        for command in COMMANDS:
            self.refused(USAGE, [f"sara {command}: ", "--bogus"], command, "--bogus")
            self.refused(USAGE, "--bogus", command, "--bogus=3")
            self.refused(USAGE, "-Q", command, "-Q")
            if command not in ("export", "inspect"):  # there it is an adapter
                self.refused(USAGE, '"stray"', command, "stray")
            self.refused(USAGE, '""', command, "")

    def test_control_characters_are_escaped(self):
        result = self.refused(USAGE, r"\x1b[2J", "generate", "--\x1b[2J")
        self.assertNotIn("\x1b", result.err)
        result = self.refused(USAGE, [r"\x9b", "gr\u00fcn"], "generate", b"--gr\xc3\xbcn\x9b\n")
        self.assertEqual(result.err.count("\n"), 1)

    def test_misformed_characters_are_escaped(self):
        """Each beside its neighbour that is whole: the last C1 control, a surrogate, the end of
        Unicode, overlong forms; as Python decodes them."""
        for odd, whole in [(b"\xc2\x9f", "\xa0"), (b"\xed\xa0\x80", "\ud7ff"),
                           (b"\xf4\x90\x80\x80", "\U0010ffff"), (b"\xe0\x9f\xbf", "\u0800"),
                           (b"\xf0\x8f\xbf\xbf", "\U00010000"), (b"\xc1\xbf", "\x7e"),
                           (b"\x7f", "\xe9"), (b"\xc3", "\xff")]:
            shown = "".join(f"\\x{byte:02x}" for byte in odd) + whole + "."
            given = b"--" + odd + whole.encode() + b"."
            self.refused(USAGE, f"--{shown}: no such", "generate", given)


class Values(Case):
    def train(self, *args):
        return ("train", "--unet-only", UNET, "--replay", "none.safetensors", "-o", "run", *args)

    def test_train_numbers(self):
        junk = ["", "abc", "1x", "1,5", "NaN", "nan", "-1", "1e309", "inf", "0x"]
        text = self.ok("train", "--help").out
        for name in re.findall(r"--(\w+) N\b", text):
            if name in ("threads", "seed"):
                continue
            for value in junk:
                with self.subTest(f"--{name} {value}"):
                    self.refused(USAGE, [f"--{name} {value}"], *self.train(f"--{name}", value))
        for value in ["--1", "-x", "-9223372036854775809", "1.5", "18446744073709551616", "nan",
                      ""]:
            self.refused(USAGE, f"--seed {value}", *self.train("--seed", value))
        for value in ["0", "-1", "1.5", "4097", "nan", ""]:
            self.refused(USAGE, f"--threads {value}", *self.train("--threads", value))

    def test_train_ranges(self):
        for name, value in [
            ("max_train_steps", "0"),
            ("train_batch_size", "0"),
            ("threshold", "0"),
            ("learning_rate", "0"),
            ("checkpointing_steps", "0"),
            ("adam_beta1", "1"),
            ("adam_beta2", "1.5"),
            ("validation_steps", "0"),
            ("gradient_accumulation_steps", "0"),
            ("num_train_epochs", "0"),
            ("center_crop=", "maybe"),
        ]:
            joint = f"--{name}{value}" if name.endswith("=") else f"--{name}={value}"
            self.refused(USAGE, [f"--{name.rstrip('=')} {value}", "expected"], *self.train(joint))

    def test_budgets(self):
        replay = self.write_replay("replay.safetensors", 2)
        base = ["train", "--unet-only", UNET, "--replay", replay]
        for number, value in enumerate(
            ["0", "-3%", "101%", "nan", "12Q", "", "%", "1e309", "0.5M%"]
        ):
            self.refused(
                USAGE, ["trainable", value], *base, "--trainable", value, "-o", f"run{number}"
            )
        self.refused(USAGE, "threshold", *base, "--threshold", "1e-20", "-o", "nothing")
        self.refused(
            USAGE,
            ["--threshold", "--trainable"],
            *base,
            "--threshold",
            "0.1",
            "--trainable",
            "5%",
            "-o",
            "both",
        )
        self.refused(USAGE, ["--learning_rate", "1e+06"], *base, "--threshold", "1e6", "-o", "run")
        result = self.ok(*base, "--threshold", "1e6", "-o", "everything", "--learning_rate", "1e-5")
        self.assertIn("942196 of 942196", result.out)
        result = self.ok(
            *base, "--trainable", "100%", "-o", "everything-too", "--learning_rate", "1e-5"
        )
        self.assertIn("942196 of 942196", result.out)

    def test_train_contradictions(self):
        self.refused(USAGE, "--output_dir", "train", "-m", BASE, "--train_data_dir", "x")
        self.refused(USAGE, "--train_data_dir", "train", "-m", BASE, "-o", "run")
        self.refused(
            USAGE, "--pretrained_model_name_or_path", "train", "-o", "run", "--replay", "x"
        )
        self.refused(USAGE, "--replay", "train", "--unet_only", UNET, "-o", "run")
        self.refused(
            USAGE,
            ["--unet-only", UNET],
            "train",
            "--unet_only",
            UNET,
            "-m",
            BASE,
            "-o",
            "run",
            "--replay",
            "x",
        )
        self.refused(
            USAGE,
            ["--replay x"],
            "train",
            "-m",
            BASE,
            "--train_data_dir",
            "y",
            "--replay",
            "x",
            "-o",
            "run",
        )
        self.refused(
            USAGE,
            ["--max_train_steps 5", "--num_train_epochs 2"],
            *self.train("--max_train_steps", "5", "--num_train_epochs", "2"),
        )
        self.refused(
            USAGE,
            ["--v_parameterization", "--prediction_type epsilon"],
            *self.train("--v_parameterization", "--prediction_type", "epsilon"),
        )
        self.refused(
            USAGE, ["lr_scheduler", "sawtooth", "cosine"], *self.train("--lr_scheduler", "sawtooth")
        )
        self.refused(USAGE, ["prediction", "psilon"], *self.train("--prediction_type", "psilon"))
        self.refused(
            USAGE,
            "--weight_dtype int8: expected auto, fp32, fp16 or bf16",
            *self.train("--weight_dtype", "int8"),
        )
        self.assertFalse(os.path.exists(self.path("run")))

    def test_generate_numbers(self):
        base = ["generate", "-m", BASE, "-p", "x"]
        for option, values in {
            "--steps": ["0", "-1", "1001", "nan", "1e3", "2.5", ""],
            "--cfg-scale": ["-1", "nan", "inf", "1e309", "abc", ""],
            "--width": ["0", "-64", "x", "99999999999999999999"],
            "--height": ["0", "16385"],
            "--seed": ["--1", "-x", "-1.5", "-9223372036854775809", "x", "1.5"],
            "--batch-count": ["0", "-1", "x"],
            "--threads": ["0", "-1", "x", "4097"],
        }.items():
            for value in values:
                self.refused(USAGE, [f"{option} {value}", "expected"], *base, option, value)
        self.refused(USAGE, "0 to 2^64-1", *base, "--seed", "18446744073709551616")
        self.refused(USAGE, "--width x", *base, "-W", "x")
        self.refused(USAGE, "--width x", *base, "-Wx")

    def test_limits_are_within(self):
        """What stands at an end of its range is taken: the model is missed, which is read later."""
        base = ["generate", "-m", "nowhere"]
        for option, values in {"--steps": ["1", "1000"], "--cfg-scale": ["0", "1000"],
                               "--width": ["1", "16384"], "--batch-count": ["1", "100000"],
                               "--threads": ["1"], "--seed": ["0", "18446744073709551615"]}.items():
            for value in values:
                self.refused(IO, "nowhere", *base, "-p", "x", option, value)
        self.refused(IO, "nowhere", *base, *["-p", "x"] * 64)
        self.refused(USAGE, ["--prompt y", "at most 64 times"], *base, *["-p", "x"] * 64, "-p", "y")

    def test_generate_sizes(self):
        """Multiples of the VAE's factor."""
        for width, height in [("62", "64"), ("64", "35"), ("1", "1")]:
            self.refused(
                USAGE,
                [f"{width}x{height}", "multiples of"],
                "generate",
                "-m",
                BASE,
                "-p",
                "x",
                "-W",
                width,
                "-H",
                height,
            )

    def test_generate_choices(self):
        base = ["generate", "-m", BASE]
        self.refused(USAGE, "-p", *base)
        self.refused(USAGE, "-m", "generate", "-p", "x")
        self.refused(
            USAGE,
            ["nosuch", "ddim", "ddpm", "pndm", "euler", "euler_a", "dpm++2m"],
            *base,
            "-p",
            "x",
            "--sampling-method",
            "nosuch",
        )
        self.refused(
            USAGE,
            ["--scheduler exponential", "karras"],
            *base,
            "-p",
            "x",
            "--scheduler",
            "exponential",
        )
        self.refused(
            USAGE,
            ["ddim", "Karras"],
            *base,
            "-p",
            "x",
            "--sampling-method",
            "ddim",
            "--scheduler",
            "karras",
        )
        for option in ("--type", "--weight_dtype"):
            self.refused(
                USAGE,
                "weight_dtype q8_0: expected auto, fp32, fp16 or bf16",
                *(*base, "-p", "x", option, "q8_0"),
            )
        self.refused(
            USAGE,
            "--type f16 and --weight_dtype bf16: give one of them",
            *(*base, "-p", "x", "--type", "f16", "--weight_dtype", "bf16"),
        )
        self.refused(USAGE, "--compare", *base, "-p", "x", "--compare")
        self.refused(USAGE, "--save-latents", *base, "-p", "x", "-p", "y", "--save-latents", "l")
        self.refused(
            USAGE,
            ["<lora:ink:0.8>", "--lora-model-dir", "--adapter"],
            *(*base, "-p", "a cat <lora:ink:0.8>"),
        )
        self.refused(
            USAGE,
            ["--validation_prompt: prompt: <lora:ink:0.8>"],
            *("train", "-m", BASE, "--train_data_dir", "x", "-o", "run"),
            *("--validation_prompt", "a cat <lora:ink:0.8>"),
        )
        for value in ["nan", "1e309", "-101", "inf"]:
            self.refused(
                USAGE,
                [f"a.safetensors:{value}", "strength"],
                *base,
                "-p",
                "x",
                "--adapter",
                f"a.safetensors:{value}",
            )

    def test_generate_output(self):
        base = ["generate", "-m", BASE, "-p", "x", "-o"]
        self.refused(USAGE, "--output fox.jpg", *base, "fox.jpg")
        self.refused(USAGE, "--output .", *base, ".")
        self.refused(USAGE, "--output ", *base, "")
        self.refused(IO, "--output none/fox.png", *base, "none/fox.png")

    def test_merge(self):
        self.refused(USAGE, "-o", "merge", "-m", BASE)
        self.refused(
            USAGE, ["dtype", "f8", "bf16"], "merge", "-m", BASE, "-o", "out", "--dtype", "f8"
        )
        self.refused(
            USAGE, ["--model", "--unet-only"], "merge", "-m", BASE, "--unet-only", UNET, "-o", "out"
        )
        self.assertEqual(os.listdir(self.folder), [])

    def test_merge_before_the_model(self):
        """What is wrong with the output is said before the model is looked for."""
        self.write("file", "x")
        self.write("x.safetensors", "x")
        os.makedirs(self.path("full", "in"))
        before = files_below(self.folder)
        for code, words, args in (
            (USAGE, "file: exists and is no folder", ["-o", "file"]),
            (USAGE, "full: exists and holds 1", ["-o", "full/"]),
            (USAGE, "x.safetensors: exists", ["-o", "x.safetensors"]),
            (USAGE, ["dtype f8", "bf16"], ["-o", "new", "--dtype", "f8"]),
            (IO, "/proc/x: cannot make a folder there", ["-o", "/proc/x"]),
            (IO, "/proc/x.safetensors", ["-o", "/proc/x.safetensors"]),
            (IO, "none/x.safetensors", ["-o", "none/x.safetensors"]),
            (IO, "file/x: cannot make a folder there", ["-o", "file/x"]),
            (IO, "nowhere: no such file or folder", ["-o", "new"]),
            (IO, "nowhere: no such file or folder", ["-o", "new.safetensors"]),
        ):
            self.refused(code, words, "merge", "-m", "nowhere", *args)
        self.assertEqual(files_below(self.folder), before)
        self.assertEqual(sorted(os.listdir(self.folder)), ["file", "full", "x.safetensors"])


class WithoutEffect(Case):
    """Options that say nothing about this kind of model."""

    def setUp(self):
        super().setUp()
        self.ok("merge", "-m", BASE, "-o", "base.safetensors")

    def commands(self, *model):
        """All that take a model, with what they need besides."""
        self.write("a.safetensors", "x")
        draw = ("generate", *model, "-p", "a", "-o", "new.png")
        yield "inspect", ("inspect", *model)
        yield "inspect", ("inspect", *model, "--adapter", "a.safetensors")
        yield "generate", draw
        yield "merge", ("merge", *model, "-o", "new")
        yield "export", ("export", "a.safetensors", "--format", "a1111", "-o", "new.safetensors",
                         *model)
        yield "train", ("train", *model, "--train_data_dir", BASE, "-o", "new")
        if model[1] == BASE:
            yield "bench", ("bench", *model)

    def test_folder(self):
        for name, command in self.commands("-m", BASE):
            for option in ("model_config", "tokenizer"):
                words = [f"{option} {BASE}/tokenizer", "is a folder, which has its own"]
                if (name, option) in (("bench", "tokenizer"), ("export", "tokenizer")):
                    words = ["--" + option]
                self.refused(USAGE, words, *command, f"--{option}", f"{BASE}/tokenizer")

    def test_file(self):
        for name, command in self.commands("-m", "base.safetensors"):
            words = ["variant fp16", "base.safetensors is one file, which has no variants"]
            self.refused(USAGE, words, *command, "--variant", "fp16")
        for words, command in (
            (["--variant fp16", "--model"], ("bench", "--shape", "tiny", "--variant", "fp16")),
            (["tokenizer", "the U-Net alone"],
             ("inspect", "--unet-only", "base.safetensors", "--tokenizer", f"{BASE}/tokenizer")),
            (["tokenizer", "the U-Net alone"],
             ("merge", "--unet-only", UNET, "--tokenizer", f"{BASE}/tokenizer", "-o", "new")),
            (["model_config", "is a folder"],
             ("merge", "--unet-only", UNET, "--model_config", BASE, "-o", "new")),
        ):  # fmt: skip
            self.refused(USAGE, words, *command)
        self.assertFalse(any(name.startswith("new") for name in os.listdir(self.folder)))

    def test_adapter_alone(self):
        self.write("a.safetensors", "x")
        for option in ("variant", "prediction_type", "model_config", "tokenizer"):
            words = [f"--{option} x: goes with a model"]
            self.refused(
                USAGE, words, "inspect", "--adapter", "a.safetensors", f"--{option}", "x"
            )

    def test_two_models(self):
        """Of two models an option may be for one; it is refused where it is for neither."""
        self.ok("merge", "-m", BASE, "-o", "folder")
        config, variant = ("--model_config", BASE), ("--variant", "fp16")
        same = "no entry differs"
        for a, b in ((BASE, "base.safetensors"), ("base.safetensors", BASE)):
            command = ("extract", "--base", a, "--tuned", b, "-o", "new.safetensors")
            self.refused(INPUT, same, *command, *config)
            self.refused(INPUT, "fp16", *command, *variant)  # the folder has none
        folders = ("extract", "--base", BASE, "--tuned", "folder", "-o", "new.safetensors")
        self.refused(USAGE, ["model_config", "is a folder"], *folders, *config)
        files = ("extract", "--base", "base.safetensors", "--tuned", "base.safetensors")
        self.refused(USAGE, ["variant fp16", "is one file"], *files, "-o", "x", *variant)


if __name__ == "__main__":
    unittest.main()
