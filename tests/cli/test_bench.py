"""bench as its users call it. No time is judged."""

import json
import os
import re
import unittest

from support import BASE, DEVICE, GOLDEN, IO, MEMORY, SANITIZE, UNET, USAGE, Case, processor_has

TINY = ("bench", "--shape", "tiny", "--latent", "4", "--steps", "2")
KEYS = {
    "model": str,
    "method": str,
    "mixed_precision": str,
    "weight_dtype": str,
    "latent": int,
    "batch": int,
    "text_length": int,
    "threads": int,
    "checkpointing": bool,
    "checkpointing_levels": int,
    "disk_offload": bool,
    "parameters": int,
    "trainable": int,
    "seconds": list,
    "processor_seconds": list,
    "best": float,
    "load_seconds": float,
    "peak_rss_gib": float,
    "planned_gib": float,
    "flops_per_second": float,
    "peak_flops_per_second": float,
    "kinds": dict,
    "memory": dict,
}


class Bench(Case):
    def report(self, *args):
        return json.loads(self.ok(*args, "--json").out)

    def test_text_states(self):
        """CLIP's 77, and of SD3 T5's: 77 in training, 256 in drawing, as diffusers has them."""
        sd3 = ("bench", "-m", os.path.join(GOLDEN, "sd3_tiny", "transformer"), "--latent", "4",
               "--steps", "2")
        for args, states in ((TINY, 77), (sd3, 154), ((*sd3, "--method", "forward"), 333)):
            self.assertEqual(self.report(*args)["text_length"], states, args)

    def test_json(self):
        report = self.report(*TINY, "-t", "1", "--batch", "2")
        self.assertEqual({key: type(value) for key, value in report.items()}, KEYS)
        self.assertEqual(len(report["seconds"]), 2)
        self.assertEqual(report["best"], min(report["seconds"]))
        self.assertEqual(len(report["processor_seconds"]), 2)
        for seconds in report["seconds"] + report["processor_seconds"]:
            self.assertEqual(seconds, round(seconds, 3))
        self.assertEqual((report["threads"], report["batch"], report["latent"]), (1, 2, 4))
        self.assertEqual(set(report["memory"]), {"weights", "optimizer", "activations", "other"})
        for name, kind in report["kinds"].items():
            self.assertEqual(set(kind), {"seconds", "calls", "gflops_per_second"}, name)
        self.assertLess(abs(report["trainable"] / report["parameters"] - 0.058), 1e-4)
        total = sum(report["memory"].values()) / 2**30
        self.assertLess(abs(total - report["peak_rss_gib"]), 1e-3)

    def test_text_length(self):
        long, short = (
            self.report(*TINY, *length)["memory"]["activations"]
            for length in (("--text_length", "1024"), ())
        )
        self.assertGreater(long, short)
        self.refused(USAGE, "--text_length", *TINY, "--text_length", "4097")

    def test_options(self):
        report = self.report(
            *TINY,
            "--method=forward",
            "--gradient-checkpointing",
            "--seed",
            "7",
        )
        self.assertEqual((report["method"], report["trainable"]), ("forward", 0))
        self.assertTrue(report["checkpointing"])
        self.assertEqual(report["checkpointing_levels"], 2)
        report = self.report(*TINY, "--gradient_checkpointing_levels", "1")
        self.assertEqual((report["checkpointing"], report["checkpointing_levels"]), (True, 1))
        report = self.report(*TINY, "--trainable", "5000", "--lambda_rank", "0")
        self.assertEqual(report["trainable"], 5000)
        report = self.report(*TINY, "--mask", "lift", "--rank", "3", "--trainable", "5000")
        self.assertEqual(report["trainable"], 5000)
        lora = (*TINY, "--steps", "1", "--method", "lora")
        report = self.report(*lora, "--rank", "2", "--lora_alpha", "3")
        theirs = self.report(*lora, "--network_dim", "2", "--network-alpha", "3")
        self.assertEqual(report["trainable"], theirs["trainable"])
        self.assertLess(report["trainable"], self.report(*lora)["trainable"])
        report = self.report(*TINY, "--time_rank_term")
        self.assertEqual(set(report), set(KEYS) | {"rank_seconds"})
        self.assertGreater(report["rank_seconds"], 0)

    def test_weight_dtype(self):
        """Half the memory for the weights but for biases and norms."""
        wide = self.report(*TINY)
        narrow = self.report(*TINY, "--weight_dtype", "bf16")
        self.assertEqual((wide["weight_dtype"], narrow["weight_dtype"]), ("fp32", "bf16"))
        self.assertEqual(wide["parameters"], narrow["parameters"])
        self.assertLess(narrow["memory"]["weights"], 0.52 * wide["memory"]["weights"])
        self.assertIn("threads, bf16", self.ok(*TINY, "--weight-dtype=bf16").out.splitlines()[0])

    def test_mixed_precision(self):
        """One of two, for bench and train: it runs, or exit 8 with what the processor lacks."""
        train = ("train", "--unet-only", UNET, "--replay", self.write_replay("replay", 2))
        for command in (TINY, (*train, "-o", "run")):
            command = (*command, "--mixed_precision", "bf16")
            if not processor_has("avx512_bf16"):
                words = ["--mixed_precision bf16", "this processor has no AVX512-BF16"]
                self.refused(DEVICE, words, *command)
            elif command[0] == "bench":
                self.assertEqual(self.report(*command)["mixed_precision"], "bf16")
            else:
                self.ok(*command)
                with open(self.path("run", "log.jsonl")) as log:
                    losses = [line["loss"] for line in map(json.loads, log) if "step" in line]
                self.assertEqual([0 < loss < 10 for loss in losses], [True] * 2)

    @unittest.skipIf(SANITIZE, "the sanitizer's own memory")
    def test_plan(self):
        """What is planned is what is used, to a tenth."""
        for more in ([], ["--gradient_checkpointing"], ["--weight_dtype", "bf16", "-t", "1"],
                     ["--disk_offload"], ["--disk_offload", "--method", "lora"]):
            report = self.report("bench", "-m", BASE, "--latent", "32", "--batch", "8", "--steps",
                                 "1", *more)
            self.assertLess(abs(report["planned_gib"] / report["peak_rss_gib"] - 1), 0.1,
                            (more, report))

    @unittest.skipIf(SANITIZE, "the sanitizer's own memory")
    @unittest.skipUnless(processor_has("avx512_bf16"), "no AVX512-BF16")
    def test_plan_mixed_precision(self):
        """With what oneDNN keeps: frozen weights in its layouts, and primitives."""
        forward = ["--method", "forward"]
        for model, more in [
            (BASE, []),
            (BASE, forward),
            (BASE, [*forward, "--weight_dtype", "bf16"]),
            (BASE, ["--trainable", "1000"]),
            (UNET, []),
        ]:
            report = self.report(
                *("bench", "-m", model, "--latent", "32", "--steps", "1", "-t", "2"),
                *("--mixed_precision", "bf16", *more),
            )
            ratio = report["planned_gib"] / report["peak_rss_gib"]
            self.assertLess(abs(ratio - 1), 0.1, (model, more, report))

    def test_models(self):
        bare = self.report("bench", "-m", UNET, "--latent", "8", "--steps", "1")
        self.assertEqual((bare["model"], bare["parameters"]), (UNET, 942196))
        whole = self.report(
            "bench", "-m", BASE, "--latent", "4", "--steps", "1", "--method", "forward"
        )
        self.assertEqual(whole["model"], os.path.join(BASE, "unet"))

    def test_table(self):
        result = self.ok(*TINY)
        lines = result.out.splitlines()
        self.assertRegex(
            lines[0],
            r"^tiny: method sara, latents 4x4, batch 1, \d+ threads, fp32, mixed precision no$",
        )
        self.assertRegex(lines[1], r"^\d+ of \d+ parameters trained \(5\.80 %\)")
        self.assertRegex(lines[2], r"^seconds of each step: \d+\.\d{3} \d+\.\d{3}$")
        rows = re.findall(r"(?m)^  (\S.*?) +(\d+) +([\d.]+) +[\d.]+ %", result.out)
        seconds = [float(row[2]) for row in rows]
        self.assertEqual(seconds, sorted(seconds, reverse=True))
        names = {row[0] for row in rows}
        self.assertLessEqual({"conv2d", "conv2d dx", "linear", "adamw", "other"}, names)
        for word in ("GFLOP/s", "weights", "optimizer", "activations", "in all"):
            self.assertIn(word, result.out)
        self.assertIn("step 2 of 2", result.err)
        self.assertLessEqual(max(map(len, lines)), 100)

    def test_table_of_levels(self):
        line = self.ok(*TINY, "--gradient_checkpointing").out.splitlines()[0]
        self.assertIn("mixed precision no, checkpointing of 2 levels", line)
        self.assertNotIn("on the disk", line)
        tiny = ("bench", "-m", UNET, "--latent", "8", "--steps", "1")
        line = self.ok(*tiny, "--disk-offload").out.splitlines()[0]
        self.assertRegex(line, "checkpointing of 2 levels, weights on the disk$")

    def test_environment(self):
        """What the environment asks for is done or refused, never passed over."""
        for code, words, variables, args in [
            (USAGE, "SARA_SIMD=foo: expected generic, avx2 or avx512", {"SARA_SIMD": "foo"}, ()),
            # either reason, as the processor has it
            (DEVICE, "AVX512-BF16", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, ("--mixed_precision", "bf16")),
        ]:
            self.refused(code, words, *TINY, *args, env=variables)
        self.ok(*TINY, env={"SARA_SIMD": "generic"})
        self.ok(*TINY, env={"SARA_SIMD": ""})

    def test_too_large(self):
        """The plan is there, and what it would need, before anything of that size is drawn."""
        huge = ("--shape", "tiny", "--latent", "4096", "--batch", "1024", "--steps", "1000")
        result = self.refused(MEMORY, ["training needs ", "--latent "], "bench", *huge)
        self.assertNotIn("--train_batch_size", result.err)
        self.assertRegex(result.err, r"(?m)^memory: weights .*, peak \d+\.\d+ GiB in training$")

    def test_profile(self):
        self.ok(*TINY, "--profile", "trace.json")
        with open(self.path("trace.json")) as file:
            trace = json.load(file)
        events = trace["traceEvents"]
        self.assertEqual(sum(event["name"] == "step" for event in events), 2)
        for event in events:
            self.assertEqual(
                set(event), {"name", "ph", "ts", "dur", "pid", "tid", "args"}, event
            )
            self.assertGreaterEqual(event["dur"], 0)
        self.assertEqual(os.listdir(self.folder), ["trace.json"])

    def test_refused(self):
        for words, args in [
            ("no model given", ()),
            (["--model", "--shape"], ("-m", UNET, "--shape", "tiny")),
            ("--shape sd9: expected sd15, sd21, sdxl, tiny, sd3-medium, sd35-medium or "
             "sd35-large", ("--shape", "sd9")),
            ("--model_config x: goes with --model", (*TINY[1:], "--model_config", "x")),
            (["--vae", "the U-Net alone is timed"], ("-m", UNET, "--vae", "x")),
            (["--tokenizer", "the U-Net alone is timed"], ("-m", UNET, "--tokenizer", "x")),
            ("--method none: expected", (*TINY[1:], "--method", "none")),
            ("--weight_dtype int8: expected auto", (*TINY[1:], "--weight_dtype", "int8")),
            ("--latent 0: expected", (*TINY[1:], "--latent", "0")),
            ("--batch 1.5: expected", (*TINY[1:], "--batch", "1.5")),
            ("--steps x: expected", (*TINY[1:], "--steps", "x")),
            ("trainable: 101%", (*TINY[1:], "--trainable", "101%")),
            ("--lambda_rank -1: expected", (*TINY[1:], "--lambda_rank", "-1")),
            ("--profile", (*TINY[1:], "--profile")),
            ("--rank: a value is missing; it is the method's rank; --time_rank_term times",
             (*TINY[1:], "--rank")),
            ("--rank: a value is missing before --json; it is", (*TINY[1:], "--rank", "--json")),
            ("--profile : expected", (*TINY[1:], "--profile", "")),
            ("--disk_offload: goes with --model", (*TINY[1:], "--disk_offload")),
            ("--profile out: expected a name ending in .json", (*TINY[1:], "--profile", "out")),
            ("--trainable 1%", (*TINY[1:], "--trainable", "1%", "--method", "full")),
            ("--trainable 1%: goes with --method sara, lora, dora, adaptformer, ltsft or shira; a "
             "forward pass has no size to choose",
             (*TINY[1:], "--trainable", "1%", "--method", "forward")),
            ("--rank 5: goes with --method sara, lora, dora or shira; a forward pass has none",
             (*TINY[1:], "--rank", "5", "--method", "forward")),
            ("--mask largest: goes with --method sara; a forward pass has none",
             (*TINY[1:], "--mask", "largest", "--method", "forward")),
        ]:
            with self.subTest(args):
                self.refused(USAGE, words, "bench", *args)
        self.refused(IO, "none", "bench", "-m", "none")
        self.refused(IO, "none/trace.json", *TINY, "--profile", "none/trace.json")
        self.refused(
            USAGE,
            ["--profile", "is read"],
            *("bench", "-m", UNET, "--latent", "8"),
            *("--profile", os.path.join(UNET, "config.json")),
        )


if __name__ == "__main__":
    unittest.main()
