"""Help, and what is wrong on the command line: exit 2 with one line that names option and value."""
import json
import os
import re
import unittest

from support import BASE, INPUT, IO, PROGRAM, TOP, UNET, USAGE, Case

COMMANDS = ["train", "generate", "merge", "inspect"]


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
                self.assertLessEqual(len(lines), 60 if command == "train" else 40)
                self.assertLessEqual(max(map(len, lines)), 100)
                examples = [line for line in lines if line.startswith(f"  sara {command} ")]
                self.assertGreaterEqual(len(examples), 2)
                self.assertEqual(text, self.ok("help", command).out)
                self.assertEqual(text, self.ok(command, "-m", "x", "-h").out)

    def test_every_option_is_named(self):
        """The options of the public header are all in the help, and each is understood."""
        with open(os.path.join(TOP, "include", "sara.h")) as file:
            header = file.read()
        struct = re.search(r"typedef struct sara_train_options \{(.*?)\} sara_train_options", header,
                           re.S).group(1)
        struct = re.sub(r"/\*.*?\*/", "", struct, flags=re.S)
        fields = set(re.findall(r"[ *](\w+)(?:\[\w+\])?[,;]", struct)) - {"validation_prompt_count"}
        fields = {"validation_prompt" if f == "validation_prompts" else f for f in fields}
        self.assertGreater(len(fields), 35)
        self.assertEqual(fields | {"threads", "config"}, set(options_of(self.ok("train", "--help").out)))

    def test_examples_use_known_options(self):
        for command in COMMANDS:
            text = self.ok(command, "--help").out
            for name in re.findall(r"--([\w-]+)", text[text.index("Examples:"):]):
                self.assertIn(name, options_of(text), command)

    def test_missing_value(self):
        for command in COMMANDS:
            for name, takes_value in options_of(self.ok(command, "--help").out).items():
                if not takes_value:
                    continue
                with self.subTest(f"{command} --{name}"):
                    self.refused(USAGE, [f"--{name}", "a value is missing"], command, f"--{name}")
                    self.refused(USAGE, [f"--{name}", "a value is missing", "--config"], command,
                                 f"--{name}", "--config", "x.json")


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
            self.refused(USAGE, '"stray"', command, "stray")
            self.refused(USAGE, '""', command, "")

    def test_control_characters_are_escaped(self):
        result = self.refused(USAGE, r"\x1b[2J", "generate", "--\x1b[2J")
        self.assertNotIn("\x1b", result.err)
        result = self.refused(USAGE, [r"\x9b", "gr\u00fcn"], "generate", b"--gr\xc3\xbcn\x9b\n")
        self.assertEqual(result.err.count("\n"), 1)


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
        for value in ["-1", "1.5", "18446744073709551616", "nan", ""]:
            self.refused(USAGE, f"--seed {value}", *self.train("--seed", value))
        for value in ["0", "-1", "1.5", "4097", "nan", ""]:
            self.refused(USAGE, f"--threads {value}", *self.train("--threads", value))

    def test_train_ranges(self):
        for name, value in [("max_train_steps", "0"), ("train_batch_size", "0"), ("threshold", "0"),
                            ("learning_rate", "0"), ("checkpointing_steps", "0"),
                            ("adam_beta1", "1"), ("adam_beta2", "1.5"), ("validation_steps", "0"),
                            ("gradient_accumulation_steps", "0"), ("num_train_epochs", "0"),
                            ("center_crop=", "maybe")]:
            joint = f"--{name}{value}" if name.endswith("=") else f"--{name}={value}"
            self.refused(USAGE, [f"--{name.rstrip('=')} {value}", "expected"], *self.train(joint))

    def test_budgets(self):
        replay = self.write_replay("replay.safetensors", 2)
        base = ["train", "--unet-only", UNET, "--replay", replay]
        for number, value in enumerate(["0", "-3%", "101%", "nan", "12Q", "", "%", "1e309", "0.5M%"]):
            self.refused(USAGE, ["trainable", value], *base, "--trainable", value, "-o",
                         f"run{number}")
        self.refused(USAGE, "threshold", *base, "--threshold", "1e-20", "-o", "nothing")
        self.refused(USAGE, ["--threshold", "--trainable"], *base, "--threshold", "0.1",
                     "--trainable", "5%", "-o", "both")
        self.refused(USAGE, ["--learning_rate", "1e+06"], *base, "--threshold", "1e6", "-o", "run")
        result = self.ok(*base, "--threshold", "1e6", "-o", "everything", "--learning_rate", "1e-5")
        self.assertIn("942196 of 942196", result.out)
        result = self.ok(*base, "--trainable", "100%", "-o", "everything-too",
                         "--learning_rate", "1e-5")
        self.assertIn("942196 of 942196", result.out)

    def test_train_contradictions(self):
        self.refused(USAGE, "--output_dir", "train", "-m", BASE, "--train_data_dir", "x")
        self.refused(USAGE, "--train_data_dir", "train", "-m", BASE, "-o", "run")
        self.refused(USAGE, "--pretrained_model_name_or_path", "train", "-o", "run", "--replay", "x")
        self.refused(USAGE, "--replay", "train", "--unet_only", UNET, "-o", "run")
        self.refused(USAGE, ["--unet-only", UNET], "train", "--unet_only", UNET, "-m", BASE, "-o",
                     "run", "--replay", "x")
        self.refused(USAGE, ["--replay x"], "train", "-m", BASE, "--train_data_dir", "y", "--replay",
                     "x", "-o", "run")
        self.refused(USAGE, ["--max_train_steps 5", "--num_train_epochs 2"],
                     *self.train("--max_train_steps", "5", "--num_train_epochs", "2"))
        self.refused(USAGE, ["--v_parameterization", "--prediction_type epsilon"],
                     *self.train("--v_parameterization", "--prediction_type", "epsilon"))
        self.refused(USAGE, ["lr_scheduler", "sawtooth", "cosine"],
                     *self.train("--lr_scheduler", "sawtooth"))
        self.refused(USAGE, ["prediction", "psilon"], *self.train("--prediction_type", "psilon"))
        self.assertFalse(os.path.exists(self.path("run")))

    def test_generate_numbers(self):
        base = ["generate", "-m", BASE, "-p", "x"]
        for option, values in {
                "--steps": ["0", "-1", "1001", "nan", "1e3", "2.5", ""],
                "--cfg-scale": ["-1", "nan", "inf", "1e309", "abc", ""],
                "--width": ["0", "-64", "x", "99999999999999999999"],
                "--height": ["0", "16385"], "--seed": ["-1", "x", "1.5", "18446744073709551616"],
                "--batch-count": ["0", "-1", "x"], "--threads": ["0", "-1", "x", "4097"]}.items():
            for value in values:
                self.refused(USAGE, [f"{option} {value}", "expected"], *base, option, value)
        self.refused(USAGE, "--width x", *base, "-W", "x")
        self.refused(USAGE, "--width x", *base, "-Wx")

    def test_generate_sizes(self):
        """Multiples of the VAE's factor times the U-Net's."""
        for width, height in [("60", "64"), ("64", "36"), ("1", "1")]:
            self.refused(USAGE, [f"{width}x{height}", "multiples of"], "generate", "-m", BASE, "-p",
                         "x", "-W", width, "-H", height)

    def test_generate_choices(self):
        base = ["generate", "-m", BASE]
        self.refused(USAGE, "-p", *base)
        self.refused(USAGE, "-m", "generate", "-p", "x")
        self.refused(USAGE, ["nosuch", "ddim", "ddpm", "pndm", "euler", "euler_a", "dpm++2m"], *base,
                     "-p", "x", "--sampling-method", "nosuch")
        self.refused(USAGE, ["--scheduler exponential", "karras"], *base, "-p", "x", "--scheduler",
                     "exponential")
        self.refused(USAGE, ["ddim", "Karras"], *base, "-p", "x", "--sampling-method", "ddim",
                     "--scheduler", "karras")
        self.refused(USAGE, "--compare", *base, "-p", "x", "--compare")
        self.refused(USAGE, "--save-latents", *base, "-p", "x", "-p", "y", "--save-latents", "l")
        self.refused(USAGE, ["<lora:ink:0.8>", "--adapter"], *base, "-p", "a cat <lora:ink:0.8>")
        for value in ["nan", "1e309", "-101", "inf"]:
            self.refused(USAGE, [f"a.safetensors:{value}", "strength"], *base, "-p", "x",
                         "--adapter", f"a.safetensors:{value}")

    def test_generate_output(self):
        base = ["generate", "-m", BASE, "-p", "x", "-o"]
        self.refused(USAGE, "--output fox.jpg", *base, "fox.jpg")
        self.refused(USAGE, "--output .", *base, ".")
        self.refused(USAGE, "--output ", *base, "")
        self.refused(IO, "--output none/fox.png", *base, "none/fox.png")

    def test_merge(self):
        self.refused(USAGE, "-o", "merge", "-m", BASE)
        self.refused(USAGE, ["dtype", "f8", "bf16"], "merge", "-m", BASE, "-o", "out", "--dtype", "f8")
        self.refused(USAGE, ["--model", "--unet-only"], "merge", "-m", BASE, "--unet-only", UNET, "-o",
                     "out")
        self.assertEqual(os.listdir(self.folder), [])


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
            self.refused(IO, "nowhere", "train", name, "nowhere", "-o", "x", "--train_data_dir", "y")

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
        return {"unet_only": UNET, "replay": self.write_replay("replay.safetensors", 3),
                "checkpointing-steps": 2, "lambda_rank": 0.25, "center_crop": True,
                "output": self.path("run")}

    def manifest(self, step):
        with open(self.path("run", f"checkpoint-{step}", "manifest.json")) as file:
            return json.load(file)["run"]

    def test_below_the_command_line(self):
        path = self.config(self.base())
        self.ok("train", "--max_train_steps", "2", "--config", path, "--lambda_rank", "0.5")
        run = self.manifest(2)
        self.assertEqual((run["lambda_rank"], run["center_crop"], run["max_train_steps"]),
                         (0.5, True, 2))

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
        path = self.config({"model": BASE, "prompt": ["a fox", "a cat"], "steps": 1,
                            "output": self.path("x.png"), "threads": 1})
        self.assertEqual(self.ok("generate", "--config", path).out.splitlines(),
                         [self.path("x.png"), self.path("x_2.png")])
        self.assertEqual(self.ok("generate", "--config", path, "-p", "a dog").out.splitlines(),
                         [self.path("x.png")])

    def test_prompts_of_training(self):
        path = self.config({"model": BASE, "output_dir": "run", "train_data_dir": "none",
                            "validation_prompt": ["p"] * 16})
        self.refused(IO, "none", "train", "--config", path, "--validation_prompt", "q")
        path = self.config({"validation_prompt": ["p"] * 17})
        self.refused(USAGE, ["run.json", "--validation_prompt", "16"], "train", "--config", path)

    def test_damage(self):
        for text, words in [("", "line"), ("[1]", "object"), ('{"seed": 1, "seed": 2}', "seed"),
                            ('{"seed": null}', "seed"), ('{"seed": {"a": 1}}', "seed"),
                            ('{"seed": [[1]]}', "seed"), ('{"seed": 1', "line 1"),
                            ('{"output": "a\\u0000b"}', "line 1"), ("\xff", "line")]:
            self.refused(INPUT, ["run.json", words], "generate", "--config",
                         self.config(text.encode("latin-1").decode("latin-1")))
        self.refused(USAGE, ["run.json", "--bogus"], "generate", "--config",
                     self.config({"bogus": 1}))
        self.refused(USAGE, ["run.json", "--steps 0"], "generate", "--config",
                     self.config({"steps": 0}))
        self.refused(USAGE, ["run.json", "--max_train_steps 0"], "train", "--config",
                     self.config({"max_train_steps": 0}))
        self.refused(USAGE, ["run.json", "--config"], "generate", "--config",
                     self.config({"config": "x"}))
        self.refused(USAGE, ["run.json", "network"], "train", "--config",
                     self.config({"push_to_hub": True}))
        self.refused(IO, "none.json", "generate", "--config", "none.json")
        self.refused(IO, self.folder, "generate", "--config", self.folder)

    def test_threads(self):
        self.refused(USAGE, ["run.json", "--threads 0"], "inspect", "--config",
                     self.config({"threads": 0}))


class OtherPrograms(Case):
    """Flags of diffusers, kohya sd-scripts and stable-diffusion.cpp: there, or refused with advice."""
    TRAINERS = """pretrained_model_name_or_path revision variant dataset_name train_data_dir
        image_column caption_column instance_data_dir instance_prompt class_data_dir class_prompt
        with_prior_preservation prior_loss_weight num_class_images output_dir seed resolution
        center_crop random_flip train_batch_size num_train_epochs max_train_steps
        gradient_accumulation_steps gradient_checkpointing learning_rate scale_lr lr_scheduler
        lr_warmup_steps lr_num_cycles lr_power snr_gamma min_snr_gamma noise_offset prediction_type
        use_8bit_adam use_ema adam_beta1 adam_beta2 adam_weight_decay adam_epsilon max_grad_norm
        mixed_precision checkpointing_steps checkpoints_total_limit resume_from_checkpoint
        validation_prompt validation_prompts num_validation_images validation_steps
        validation_epochs report_to logging_dir threshold progressive_iter lambda_rank percent mask
        output_name save_every_n_steps save_every_n_epochs save_precision save_model_as cache_latents
        cache_latents_to_disk enable_bucket min_bucket_reso max_bucket_reso bucket_reso_steps
        bucket_no_upscale caption_extension shuffle_caption keep_tokens caption_dropout_rate
        caption_prefix flip_aug clip_skip v2 v_parameterization zero_terminal_snr sample_prompts
        sample_every_n_steps sample_sampler save_state resume config_file preset-path""".split()
    GENERATORS = """m model diffusion-model vae taesd p prompt n negative-prompt W H steps cfg-scale s
        seed sampling-method scheduler b batch-count clip-skip o output t threads type lora-model-dir
        rng vae-tiling offload-to-cpu motion-module video-frames fps prediction v M mode""".split()

    def check(self, command, names):
        known = 0
        for name in names:
            option = f"-{name}" if len(name) == 1 else f"--{name}"
            line = self.sara(command, option).errors()
            if not line:  # a switch that is there: the command complains of what is missing
                continue
            with self.subTest(option):
                self.assertNotIn("no such option", line[0])
                if "is not supported: " in line[0]:
                    self.assertIn(option, line[0])
                    self.assertGreater(len(line[0].split("is not supported: ")[1]), 8)
                else:
                    known += 1
        return known

    def test_trainers(self):
        self.assertGreater(self.check("train", self.TRAINERS), 35)

    def test_stable_diffusion_cpp(self):
        self.assertGreater(self.check("generate", self.GENERATORS), 15)

    def test_advice(self):
        for command, option, words in [
                ("train", "--dataset_name=lambdalabs/x", ["downloads nothing", "--train_data_dir"]),
                ("train", "--percent=5", ["--trainable"]), ("train", "--push-to-hub", ["network"]),
                ("generate", "--lora-model-dir=x", ["--adapter"]),
                ("generate", "--num_inference_steps=5", ["--steps"]),
                ("generate", "-M", ["sara merge"])]:
            self.refused(USAGE, [option.split("=")[0], *words], command, option)

    def test_kohya_v_parameterization(self):
        replay = self.write_replay("replay.safetensors", 1)
        self.ok("train", "--unet-only", UNET, "--replay", replay, "-o", "v", "--v_parameterization")
        with open(self.path("v", "checkpoint-1", "manifest.json")) as file:
            self.assertEqual(json.load(file)["run"]["prediction_type"], "v_prediction")

    def test_hub_names(self):
        name = "runwayml/stable-diffusion-v1-5"
        self.refused(IO, [name, "downloads nothing"], "inspect", "-m", name)
        self.refused(IO, [name, "downloads nothing"], "merge", "-m", name, "-o", "x")
        self.refused(IO, [name, "downloads nothing"], "generate", "-m", name, "-p", "x")
        self.refused(IO, [name, "downloads nothing"], "train", "-m", name, "-o", "x",
                     "--train_data_dir", "x")


if __name__ == "__main__":
    assert os.path.exists(PROGRAM), PROGRAM
    unittest.main()
