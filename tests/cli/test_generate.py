"""generate as its users call it."""

import hashlib
import json
import math
import os
import re
import shutil
import struct
import unittest

from support import (
    BASE,
    INPUT,
    USAGE,
    Case,
    files_below,
    read_png,
    read_safetensors,
    sha256,
    write_safetensors,
)


class Rows(list):
    """Of a picture; a failed comparison does not print them."""

    def __repr__(self):
        return f"{len(self)} rows {hashlib.sha256(b''.join(self)).hexdigest()[:12]}"


def rows_of(path):
    return Rows(read_png(path)[2])


class Generate(Case):
    def draw(self, *args, out="x.png"):
        return self.ok(
            "generate", "-m", BASE, "-p", "a fox", "--steps", "2", "-t", "1", "-o", out, *args
        )

    def test_numbering(self):
        """Prompt by prompt; the second and further files carry a number."""
        os.mkdir(self.path("pictures.of"))
        result = self.draw("-p", "a cat", "-b", "2", out="pictures.of/x.png")
        names = [f"pictures.of/x{n}.png" for n in ("", "_2", "_3", "_4")]
        self.assertEqual(result.out.splitlines(), names)
        self.assertEqual(files_below(self.folder), sorted(names))
        texts = [read_png(self.path(name))[3]["parameters"] for name in names]
        self.assertEqual(
            [text.splitlines()[0] for text in texts], ["a fox", "a fox", "a cat", "a cat"]
        )
        self.assertEqual(
            [text.split("Seed: ")[1].split(",")[0] for text in texts], ["42", "43", "42", "43"]
        )

    def test_names(self):
        self.draw("-b", "2", out="plain")
        self.draw("-b", "2", out="./two.dots.PNG")
        self.assertEqual(
            files_below(self.folder), ["plain", "plain_2", "two.dots.PNG", "two.dots_2.PNG"]
        )

    def test_same_seed(self):
        """Equal options give equal files; another seed another picture; image i has seed + i."""
        self.draw("-b", "2", "--seed", "7", out="a.png")
        self.draw("--seed", "7", out="b.png")
        self.draw("--seed", "8", out="c.png")
        self.assertEqual(sha256(self.path("a.png")), sha256(self.path("b.png")))
        self.assertEqual(sha256(self.path("a_2.png")), sha256(self.path("c.png")))
        self.assertNotEqual(rows_of(self.path("b.png")), rows_of(self.path("c.png")))

    def test_parameters(self):
        self.draw(
            "-n",
            "red, <b>",
            "--seed",
            "18446744073709551615",
            "--cfg-scale",
            "3.5",
            "-W",
            "64",
            "-H",
            "128",
            "--sampling-method",
            "euler",
            "--scheduler",
            "karras",
        )
        width, height, rows, texts = read_png(self.path("x.png"))
        self.assertEqual((width, height, len(rows)), (64, 128, 128))
        version = self.ok("--version").out.split()[1]
        base = json.loads(self.ok("inspect", "-m", BASE, "--json").out)["base_sha256"]
        self.assertEqual(
            texts["parameters"],
            "a fox\nNegative prompt: red, <b>\nSteps: 2, Sampler: euler Karras, "
            "CFG scale: 3.5, Seed: 18446744073709551615, Size: 64x128, "
            f"Model hash: {base[:10]}, Model: base, Version: sara {version}",
        )

    def test_prompt_weights(self):
        """Told in one line; the picture keeps the prompt as it was given."""
        prompt = "a (red:1.4) fox, [[snow]] \\(calm\\)"
        result = self.draw("-n", "(blurry)", out="plain.png")
        self.assertIn('negative prompt weights: "blurry" 1.1', result.err)
        draw = ("generate", "-m", BASE, "-p", prompt, "--steps", "2", "-t", "1", "-o")
        result = self.ok(*draw, "on.png")
        lines = [line for line in result.err.splitlines() if "weights" in line]
        told = '"a" 1, "red" 1.4, "fox," 1, "snow" 0.826446, "(calm)" 1'
        self.assertEqual(lines, [f"prompt weights: {told}"])
        text = read_png(self.path("on.png"))[3]["parameters"]
        self.assertEqual(text.splitlines()[0], prompt)
        self.assertNotIn("Emphasis", text)
        result = self.ok(*draw, "off.png", "--no-prompt-weights")
        self.assertNotIn("weights", result.err)
        self.assertIn("Emphasis: None", read_png(self.path("off.png"))[3]["parameters"])
        self.assertNotEqual(rows_of(self.path("on.png")), rows_of(self.path("off.png")))
        self.draw("--no-prompt-weights", out="b.png")
        self.draw(out="a.png")
        self.assertEqual(sha256(self.path("a.png")), sha256(self.path("b.png")))

    def test_prompt_weights_are_checked_early(self):
        """Before the model is looked for."""
        for prompt, words in [
            ("(a:1000)", ['prompt: "a"', "weight 1000, expected -100 to 100"]),
            ("(a:1.2.3)", ["prompt: :1.2.3)", "expected a number"]),
            ("(" * 100000, ["1000 deep", "--no-prompt-weights"]),
        ]:
            self.refused(USAGE, words, "generate", "-m", "nowhere", "-p", prompt)
            self.refused(USAGE, words, "generate", "-m", "nowhere", "-p", "a", "-n", prompt)

    def test_long_prompts(self):
        """Cut with a count, or encoded whole."""
        long = ", ".join(["a fox"] * 12)  # 47 ids where 30 fit
        draw = ("generate", "-m", BASE, "--steps", "2", "-t", "1", "-p")
        result = self.ok(*draw, long, "-o", "cut.png")
        self.assertIn("the prompt is too long: 17 tokens were cut off at 32", result.err)
        self.assertIn("--long-prompt", result.err)
        result = self.ok(*draw, long, "--long-prompt", "-o", "long.png")
        self.assertIn("the prompt is encoded in 2 chunks of 30 tokens", result.err)
        self.assertNotIn("cut off", result.err)
        self.assertNotEqual(rows_of(self.path("cut.png")), rows_of(self.path("long.png")))
        self.ok(*draw, "a fox", "-n", long, "--long-prompt", "-o", "negative.png")
        self.ok(*draw, "a fox", "--long-prompt", "-o", "short.png")
        self.draw(out="plain.png")
        self.assertEqual(sha256(self.path("short.png")), sha256(self.path("plain.png")))
        self.refused(
            USAGE, ["prompt: more than 64 chunks"], *draw, "fox " * 2000, "--long-prompt", "-o", "x"
        )

    def test_model_name(self):
        """Its folder's, however the path is written."""
        for path in [BASE + "/", os.path.relpath(BASE, self.folder) + "//"]:
            self.ok("generate", "-m", path, "-p", "x", "--steps", "1", "-t", "1", "-o", "x.png")
            self.assertIn("Model: base,", read_png(self.path("x.png"))[3]["parameters"])

        shutil.copytree(BASE, self.path('odd, "x": y'))
        self.ok("generate", "-m", 'odd, "x": y', "-p", "x", "--steps", "1", "-t", "1", "-o",
                "x.png")
        text = read_png(self.path("x.png"))[3]["parameters"]
        self.assertIn(r', Model: "odd, \"x\": y", Version', text)

    def test_inputs_stay(self):
        """Latents are not saved over what is read."""
        shutil.copytree(BASE, self.path("model"))
        self.ok("merge", "-m", BASE, "-o", "file.safetensors")
        os.rename(self.path("file.safetensors"), self.path("my-file.sft"))
        tokenizer = ("--tokenizer", os.path.join(BASE, "tokenizer"))
        weights = "model/unet/diffusion_pytorch_model.safetensors"
        for model, more, out in (
            ("model", (), weights),
            ("model", (), "model/new"),
            ("my-file.sft", tokenizer, "my-file.sft"),
        ):
            before = {name: sha256(self.path(name)) for name in files_below(self.folder)}
            self.refused(
                USAGE, [f"save_latents {out}", "is within the model"],
                *("generate", "-m", model, *more, "-p", "x", "--steps", "1", "--save-latents", out),
            )  # fmt: skip
            self.assertEqual({n: sha256(self.path(n)) for n in files_below(self.folder)}, before)
        self.ok(
            "generate", "-m", "my-file.sft", *tokenizer, "-p", "x", "--steps", "1", "-o", "x.png"
        )
        self.assertIn("Model: my-file, Version", read_png(self.path("x.png"))[3]["parameters"])

    def test_methods(self):
        seen = set()
        for method in ["ddim", "ddpm", "pndm", "euler", "euler_a", "dpm++2m"]:
            self.draw("--sampling_method", method, "--steps", "4")
            text = read_png(self.path("x.png"))[3]["parameters"]
            self.assertRegex(text, rf"Sampler: {re.escape(method)}( Karras)?,")
            seen.add(b"".join(rows_of(self.path("x.png"))))
        self.assertEqual(len(seen), 6)

    def test_latents(self):
        """The start noise rules; the final latents are saved before the VAE."""
        noise = [math.sin(12.9898 * i) * 1.4 for i in range(2 * 4 * 8 * 8)]
        write_safetensors(self.path("start"), {"latents": ("F32", [2, 4, 8, 8], noise)})
        result = self.draw("--init-latents", "start", "--save-latents", "first", out="a.png")
        self.assertEqual(result.out, "a.png\na_2.png\n")
        self.draw("--init-latents", "start", "--save-latents", "second", "--seed", "1", out="b.png")
        self.assertEqual(sha256(self.path("first")), sha256(self.path("second")))
        self.assertEqual(rows_of(self.path("a_2.png")), rows_of(self.path("b_2.png")))
        dtype, shape, data = read_safetensors(self.path("first"))[0]["latents"]
        self.assertEqual((dtype, shape), ("F32", [2, 4, 8, 8]))
        values = [value for (value,) in struct.iter_unpack("<f", data)]
        self.assertTrue(all(math.isfinite(value) for value in values))
        self.assertNotEqual(values[:256], values[256:])
        size = read_png(self.path("a.png"))[:2]
        self.refused(
            USAGE,
            ["start", "asked for 64x64"],
            "generate",
            "-m",
            BASE,
            "-p",
            "x",
            "--init-latents",
            "start",
            "-W",
            "64",
            "-H",
            "64",
        )
        self.draw("--init-latents", "first", "--save-latents", "first", "-W", str(size[0]))
        write_safetensors(self.path("odd"), {"latents": ("F32", [1, 3, 8, 8], [0.0] * 192)})
        self.refused(
            INPUT, ["odd", "[1,3,8,8]"], "generate", "-m", BASE, "-p", "x", "--init-latents", "odd"
        )

    def test_type(self):
        """The base is F16: f16 and auto are its weights as they are, bf16 rounds them."""

        def pixels(*args):
            self.draw(*args)
            return rows_of(self.path("x.png"))

        plain, half = pixels(), pixels("--type", "f16")
        self.assertEqual(half, pixels("--weight_dtype", "auto"))
        self.assertEqual(plain, pixels("--type", "f32"))
        rounded = pixels("--type", "bf16")
        self.assertNotEqual(rounded, half)
        for rows, most in [(half, 0.1), (rounded, 2)]:
            off = sum(abs(a - b) for x, y in zip(rows, plain) for a, b in zip(x, y))
            self.assertLess(off / (len(plain) * len(plain[0])), most)

    def test_no_guidance(self):
        """At scale 1 the negative prompt has no effect, at 7 it has."""
        self.draw("--cfg-scale", "1", out="a.png")
        self.draw("--cfg-scale", "1", "-n", "blue", out="b.png")
        self.assertEqual(rows_of(self.path("a.png")), rows_of(self.path("b.png")))
        self.draw("-n", "blue", out="c.png")
        self.draw(out="d.png")
        self.assertNotEqual(rows_of(self.path("c.png")), rows_of(self.path("d.png")))


class Adapters(Case):
    """With an adapter made by a short training run on three pictures."""

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("data"))
        source = os.path.join(os.path.dirname(BASE), "ink")
        for name in sorted(name for name in os.listdir(source) if name.endswith(".png"))[:3]:
            shutil.copy(os.path.join(source, name), self.path("data"))
        self.ok(
            "train",
            "-m",
            BASE,
            "--train_data_dir",
            "data",
            "--instance_prompt",
            "ink style",
            "-o",
            "run",
            "-t",
            "1",
            "--max_train_steps",
            "2",
            "--train_batch_size",
            "1",
            "--learning_rate",
            "1e-2",
            "--trainable",
            "10%",
        )
        self.adapter = self.path("run", "adapter.safetensors")

    def pixels(self, *args):
        self.ok(
            "generate", "-m", BASE, "-p", "a fox", "--steps", "2", "-t", "1", "-o", "x.png", *args
        )
        return rows_of(self.path("x.png"))

    def test_strength(self):
        plain, whole = self.pixels(), self.pixels("--adapter", self.adapter)
        self.assertNotEqual(plain, whole)
        self.assertEqual(self.pixels("--adapter", self.adapter + ":0"), plain)
        self.assertEqual(self.pixels("--adapter", self.adapter + ":1.0"), whole)
        half = self.pixels("--adapter", self.adapter + ":0.5")
        self.assertNotIn(half, [plain, whole])
        self.assertEqual(
            self.pixels("--adapter", self.adapter + ":0.25", "--adapter", self.adapter + ":0.25"),
            half,
        )
        odd = self.path("with:0.5")
        shutil.copy(self.adapter, odd)
        self.assertEqual(self.pixels("--adapter", odd), whole)

    def test_compare(self):
        """Base above, adapters below; prompt p with seed + p; enlarged twice, gaps of 2 pixels."""
        self.ok(
            "generate",
            "-m",
            BASE,
            "--adapter",
            self.adapter,
            "--compare",
            "-p",
            "a fox",
            "-p",
            "a cat",
            "-p",
            "a fox",
            "--steps",
            "2",
            "-t",
            "1",
            "-o",
            "grid.png",
        )
        plain, whole = self.pixels(), self.pixels("--adapter", self.adapter)
        third = self.pixels("--seed", "44"), self.pixels("--seed", "44", "--adapter", self.adapter)
        side = len(plain)
        width, height, rows, texts = read_png(self.path("grid.png"))
        self.assertRegex(texts["parameters"],
                         r"^a fox\nSteps: 2, .*Seed: 42, Size: \d+x\d+, .*Adapters: ")
        self.assertEqual((width, height), (2 * (3 * side + 2 * 2), 2 * (2 * side + 2)))

        def cell(column, row):
            left, top = 2 * column * (side + 2), 2 * row * (side + 2)
            return Rows(
                b"".join(
                    rows[top + 2 * y][3 * (left + 2 * x) : 3 * (left + 2 * x) + 3]
                    for x in range(side)
                )
                for y in range(side)
            )

        self.assertEqual((cell(0, 0), cell(0, 1)), (plain, whole))
        self.assertEqual((cell(2, 0), cell(2, 1)), third)
        self.assertNotIn(cell(1, 0), [plain, whole])
        self.assertEqual(set(rows[2 * side]), {255})
        for options in (["-b", "2"], ["--save-latents", "l"]):
            self.refused(
                USAGE,
                "--compare",
                "generate",
                "-m",
                BASE,
                "--adapter",
                self.adapter,
                "-p",
                "x",
                "--compare",
                *options,
            )

    def test_merged_draws_the_same(self):
        self.ok("merge", "-m", BASE, "--adapter", self.adapter, "-o", "fp32", "--dtype", "fp32")
        merged = self.ok(
            "generate", "-m", "fp32", "-p", "a fox", "--steps", "2", "-t", "1", "-o", "m.png"
        )
        self.assertEqual(merged.out, "m.png\n")
        self.assertEqual(rows_of(self.path("m.png")), self.pixels("--adapter", self.adapter))
        report = json.loads(self.ok("inspect", "-m", "fp32", "--json").out)
        self.assertEqual([part["dtype"] for part in report["components"]], ["F32"] * 3)
        self.refused(INPUT, "base", "merge", "-m", "fp32", "--adapter", self.adapter, "-o", "again")
        self.ok("merge", "-m", "fp32", "--adapter", self.adapter, "-o", "again", "--force")

    def test_report(self):
        result = self.ok("merge", "-m", BASE, "--adapter", self.adapter + ":0.001", "-o", "out")
        self.assertRegex(
            result.out,
            r"^out\n\d+ entries changed \(L2 [\d.e-]+\); rounding takes \d+ of "
            r"them back to the base's value, [\d.]+ % of the change \(L2\) is "
            r"lost\n$",
        )


if __name__ == "__main__":
    unittest.main()
