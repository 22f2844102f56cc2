"""Adapters as users handle them: inspected, composed, named by tags in the prompt."""

import functools
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
    IO,
    TOP,
    UNET,
    USAGE,
    Case,
    read_png,
    read_safetensors,
    sha256,
    write_safetensors,
)


def varints(positions):
    out, last = bytearray(), -1
    for position in positions:
        value, last = position - last - 1, position
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)


def base_hash(tensors):
    digest = hashlib.sha256()
    for name in sorted(tensors, key=str.encode):
        _, shape, data = tensors[name]
        values = [v for (v,) in struct.iter_unpack("<e", data)]
        digest.update(f"{name}\n{'x'.join(map(str, shape))}\n".encode())
        digest.update(struct.pack(f"<{len(values)}f", *values))
    return digest.hexdigest()


@functools.cache
def read_base():
    path = os.path.join(BASE, "unet", "diffusion_pytorch_model.safetensors")
    tensors = read_safetensors(path)[0]
    return tensors, base_hash(tensors)


class Adapters(Case):
    @classmethod
    def setUpClass(cls):
        cls.base, cls.hash = read_base()

    def values(self, name):
        return [v for (v,) in struct.iter_unpack("<e", self.base[name][2])]

    def adapter(self, file, tensors, step, shift, **metadata):
        """Every step-th entry of these tensors, moved by shift."""
        content = {}
        for name in tensors:
            values = self.values(name)
            positions = list(range(0, len(values), step))
            packed = varints(positions)
            content[name + ".positions"] = ("U8", [len(packed)], packed)
            moved = [values[p] + shift for p in positions]
            content[name + ".values"] = ("F32", [len(moved)], moved)
        said = {"sara.format": "1", "sara.target": "unet", "sara.base_sha256": self.hash}
        write_safetensors(self.path(file), content, {**said, **metadata})
        return self.path(file)


NAMES = ["conv_in.weight", "conv_out.weight", "down_blocks.0.resnets.0.conv1.weight",
         "up_blocks.1.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.bias"]  # fmt: skip


class Beyond(Adapters):
    def test_merge(self):
        """A value that float32 does not hold is no model's."""
        path = self.adapter("large.safetensors", ["conv_in.weight"], 7, 1e38)
        for out in ("out", "out.safetensors"):
            self.refused(
                USAGE, ["conv_in.weight: entry 0 becomes inf", "strengths"],
                *("merge", "-m", BASE, "--dtype", "fp32", "--adapter", path + ":90", "-o", out),
            )  # fmt: skip
        self.assertEqual(os.listdir(self.folder), ["large.safetensors"])
        self.ok("merge", "-m", BASE, "--dtype", "fp32", "--adapter", path, "-o", "out")


class Merged(Adapters):
    def test_told(self):
        """What fp16 loses of changes that are about as small as its steps."""
        path = self.adapter("a.safetensors", NAMES[:2], 3, 2e-5)
        out = self.ok("merge", "-m", BASE, "--adapter", path, "-o", "out").out
        changed = away = change2 = lost2 = 0
        for name in NAMES[:2]:
            for value in self.values(name)[::3]:
                moved, = struct.unpack("<f", struct.pack("<f", value + 2e-5))
                kept, = struct.unpack("<e", struct.pack("<e", moved))
                changed += 1
                away += kept == value
                change2 += (moved - value) ** 2
                lost2 += (kept - moved) ** 2
        self.assertTrue(0 < away < changed)
        norm, lost = change2 ** 0.5, 100 * (lost2 / change2) ** 0.5
        self.assertEqual(
            out,
            f"out\n{changed} entries changed (L2 {norm:.4g}); rounding takes {away} of them back "
            f"to the base's value, {lost:.2f} % of the change (L2) is lost\n",
        )


class Inspect(Adapters):
    def report(self, *args):
        return json.loads(self.ok("inspect", "--json", *args).out)

    def test_report(self):
        options = {"sara.method": "sara", "sara.threshold": "0.002", "modelspec.title": "x"}
        path = self.adapter("a.safetensors", NAMES, 7, 0.5, **options)
        report = self.report("--adapter", path)
        counts = {n: len(range(0, len(self.values(n)), 7)) for n in NAMES}
        total = sum(counts.values())
        self.assertEqual(
            [(b["name"], b["tensors"], b["entries"], b["change_norm"]) for b in report["blocks"]],
            [
                ("down_blocks.0", 1, counts[NAMES[2]], None),
                ("mid_block", 1, counts[NAMES[4]], None),
                ("up_blocks.1", 1, counts[NAMES[3]], None),
                ("others", 2, counts[NAMES[0]] + counts[NAMES[1]], None),
            ],
        )
        for block in report["blocks"]:
            self.assertAlmostEqual(block["share"], block["entries"] / total, places=8)
        self.assertEqual(
            {k: report[k] for k in ("method", "target", "base_sha256", "dtype", "tensors")},
            {"method": "sara", "target": "unet", "base_sha256": self.hash, "dtype": "F32",
             "tensors": 5},
        )  # fmt: skip
        self.assertEqual((report["entries"], report["change_norm"]), (total, None))
        self.assertEqual(report["file_bytes"], os.path.getsize(path))
        self.assertEqual(report["position_bytes"], total)  # gaps of 6: one byte each
        self.assertEqual(report["bytes_per_position"], 1)
        self.assertEqual(report["options"], {"threshold": "0.002"})
        self.assertEqual(report["metadata"]["modelspec.title"], "x")
        self.assertEqual(report["metadata"], read_safetensors(path)[1])

    def test_change(self):
        path = self.adapter("a.safetensors", NAMES, 7, 0.5)
        report = self.report("--adapter", path, "-m", BASE)
        for block in report["blocks"]:
            self.assertAlmostEqual(block["change_norm"], 0.5 * math.sqrt(block["entries"]), 4)
        self.assertAlmostEqual(report["change_norm"], 0.5 * math.sqrt(report["entries"]), 4)
        text = self.ok("inspect", "--adapter", path, "-m", BASE).out
        bars = {name: len(bar) for name, bar in re.findall(r"(?m)^  (\S+) .* (#+)$", text)}
        most = max(b["change_norm"] for b in report["blocks"])
        for block in report["blocks"]:
            width = 30 * block["change_norm"] / most
            self.assertLessEqual(abs(bars.get(block["name"], 0) - width), 0.5001, block)
            self.assertRegex(text, rf"(?m)^  {block['name']} .* {block['change_norm']:.4g}  #*$")
        self.assertIn(f"{report['change_norm']:.4g} (L2)", text)

    def test_short_numbers(self):
        """As few digits as read back as the same float, or double where it is no float."""
        cases = {"0.0020000000949949026": "0.002", "0.00050000000000000001": "0.0005",
                 "9.9999999999999995e-08": "1e-07", "-0.10000000149011612": "-0.1",
                 "0.012299999594688416,0.0020000000949949026": "0.0123,0.002",
                 "0.00049658526318243541": "0.0004965852631824354",
                 "0.33333333333333331": "0.3333333333333333", "0.3333333432674408": "0.33333334",
                 "3.4028234663852886e+38": "3.4028235e+38", "1.4012984643248171e-45": "1e-45",
                 "1.7976931348623157e+308": "1.7976931348623157e+308",
                 "1.50": "1.50", "5000": "5000", "18446744073709551615":
                 "18446744073709551615", "a 0.0020000000949949026": "a 0.0020000000949949026",
                 "1.0.0020000000949949026": "1.0.0020000000949949026", "inf": "inf", "": "",
                 ",": ",", "1e99999999999999999999": "1e99999999999999999999"}  # fmt: skip
        options = {f"sara.o{i}": text for i, text in enumerate(cases)}
        path = self.adapter("a.safetensors", NAMES, 7, 0.5, **options)
        report = self.report("--adapter", path)
        text = self.ok("inspect", "--adapter", path).out
        for i, (given, expected) in enumerate(cases.items()):
            self.assertEqual(report["options"][f"o{i}"], expected)
            self.assertEqual(report["metadata"][f"sara.o{i}"], given)  # as in the file
            self.assertRegex(text, rf"(?m)^  o{i} +{re.escape(expected)}$")

    def test_text(self):
        evil = {"sara.caption_prefix": "\x1b[2Jink\n" + "x" * 200, "sara.method": "\x1b[31m"}
        path = self.adapter("a.safetensors", NAMES, 7, 0.5, **evil)
        text = self.ok("inspect", "--adapter", path).out
        self.assertIn(self.hash, text)
        self.assertIn("cannot be said without the base", text)
        self.assertNotIn("#", text)
        self.assertNotIn("\x1b", text)
        self.assertIn(r"\x1b[2Jink\x0axxx", text)
        self.assertLessEqual(max(map(len, text.splitlines())), 100)

    def test_refused(self):
        path = self.adapter("a.safetensors", NAMES, 7, 0.5)
        other = self.adapter("b.safetensors", NAMES, 7, 0.5, **{"sara.base_sha256": "0" * 64})
        self.refused(
            INPUT,
            ["b.safetensors", "made for the base 000000000000", self.hash[:12]],
            *("inspect", "--adapter", other, "-m", BASE),
        )
        forced = self.report("--adapter", other, "-m", BASE, "--force")
        self.assertAlmostEqual(forced["change_norm"], 0.5 * math.sqrt(forced["entries"]), 4)
        self.assertEqual(self.report("--adapter", other)["base_sha256"], "0" * 64)
        self.refused(
            INPUT, "conv_in.weight: ", "inspect", "--adapter", path, "--unet-only", UNET, "--force"
        )
        self.refused(USAGE, "--tokenize", "inspect", "--adapter", path, "--tokenize", "x")
        self.refused(IO, "none.safetensors", "inspect", "--adapter", "none.safetensors")
        self.refused(INPUT, "a folder", "inspect", "--adapter", BASE)
        with open(path, "rb") as file:
            data = file.read()
        self.write("cut.safetensors", data[:-1])
        self.refused(INPUT, "cut.safetensors", "inspect", "--adapter", "cut.safetensors")

    def test_documented(self):
        """The example of docs/formats.md, put together from the page."""
        with open(os.path.join(TOP, "docs", "formats.md"), encoding="utf-8") as file:
            page = file.read()
        length, header, data = re.search(
            r"```\n0 +((?:[0-9a-f]{2} )+).*\n8 +(\{(?:.|\n)*?\}\})\n((?:\d+ .*\n)+)```", page
        ).groups()
        header = "".join(line.strip() for line in header.splitlines()).encode()
        header += b" " * (-len(header) % 8)
        self.assertEqual(struct.unpack("<Q", bytes.fromhex(length))[0], len(header))
        content = bytes.fromhex(length) + header
        for line in data.splitlines():
            offset, digits = re.match(r"(\d+) +((?:[0-9a-f]{2} )+)", line).groups()
            self.assertEqual(int(offset), len(content), line)
            content += bytes.fromhex(digits)
        self.write("example.safetensors", content)
        report = self.report("--adapter", "example.safetensors")
        self.assertEqual((report["entries"], report["tensors"]), (3, 1))
        self.assertEqual((report["position_bytes"], report["dtype"]), (4, "F32"))
        self.assertAlmostEqual(report["bytes_per_position"], 4 / 3, places=8)
        tensors = read_safetensors(self.path("example.safetensors"))[0]
        self.assertEqual(tensors["conv_in.weight.positions"][2], varints([3, 4, 300]))
        self.assertEqual(
            struct.unpack("<3f", tensors["conv_in.weight.values"][2]), (0.5, -0.25, 1)
        )


class Precision(Adapters):
    """An adapter of the fp32 model on the same in fp16 and bf16: refused with the reason, applied
    when forced."""

    def setUp(self):
        super().setUp()
        shift = self.adapter("shift.safetensors", NAMES, 3, 0.001)
        self.ok("merge", "-m", BASE, "--adapter", shift + ":0.37", "--dtype", "fp32", "-o", "fp32")
        self.ok("merge", "-m", "fp32", "--dtype", "fp16", "-o", "fp16")
        self.ok("merge", "-m", "fp32", "--dtype", "bf16", "-o", "bf16")
        self.ok("merge", "-m", "fp16", "--dtype", "fp32", "-o", "as-fp32")
        self.ok("merge", "-m", "fp16", "-o", "fp16.safetensors")
        self.ok("merge", "-m", "fp32", "--adapter", shift, "--force", "-o", "tuned")
        os.mkdir(self.path("loras"))
        self.extract("fp32", "tuned", "loras/ink.safetensors")

    def test_each(self):
        for check in (self.tell_precision, self.refuse_another, self.go_from_the_half,
                      self.name_only_another):  # fmt: skip
            with self.subTest(check.__name__):
                check()
            shutil.rmtree(self.path("out"), ignore_errors=True)

    def extract(self, base, tuned, to):
        self.ok("extract", "--base", base, "--tuned", tuned, "-o", to)

    def said(self, *args):
        return json.loads(self.ok("inspect", "--json", *args).out)["base_precision"]

    def tell_precision(self):
        for path, precision in [("fp32", "fp32"), ("fp16", "fp16"), ("bf16", "bf16"),
                                ("as-fp32", "fp16")]:  # fmt: skip
            self.assertEqual(self.said("-m", path), precision)
            self.assertIn(f", in {precision}\n", self.ok("inspect", "-m", path).out)
        self.assertEqual(self.said("--adapter", "loras/ink.safetensors"), "fp32")
        self.assertIn(", in fp32\n", self.ok("inspect", "--adapter", "loras/ink.safetensors").out)
        old = self.adapter("old.safetensors", NAMES, 7, 0.5)
        self.assertIsNone(self.said("--adapter", old))

    def refuse_another(self):
        draw = ("generate", "--steps", "1", "-W", "32", "-H", "32", "-p")
        tags = (*draw, "a<lora:ink:1>", "--lora-model-dir", "loras")
        ink = ("--adapter", "loras/ink.safetensors")
        for path, precision in (("fp16", "fp16"), ("bf16", "bf16")):
            words = [
                "loras/ink.safetensors", "made for a base in fp32", f"the model is in {precision}",
                "even the same model is another base", "force"
            ]  # fmt: skip
            for command in [(*draw, "a", *ink), tags, ("merge", "-o", "out", *ink),
                            ("export", "--format", "a1111", "-o", "x.safetensors", *ink),
                            ("inspect", *ink)]:  # fmt: skip
                self.refused(INPUT, words, *command, "-m", path)
                self.ok(*command, "-m", path, "--force")
                shutil.rmtree(self.path("out"), ignore_errors=True)
                if os.path.exists(self.path("x.safetensors")):
                    os.remove(self.path("x.safetensors"))
            self.refused(INPUT, words, *draw, "a", *ink, "-m", path, "--type", "bf16")
        words[2] = "the model is in fp16"
        self.refused(INPUT, words, "inspect", "--unet-only", "fp16.safetensors", *ink)
        self.ok("inspect", "--unet-only", "fp16.safetensors", *ink, "--force")
        self.ok(*draw, "a", *ink, "-m", "fp32", "--type", "bf16")  # which is in memory alone

    def go_from_the_half(self):
        """Made for the fp16 model, whatever its file stores it as."""
        self.ok("merge", "-m", "fp16", "--adapter", "shift.safetensors", "--force",
                "--dtype", "fp32", "-o", "half-tuned.safetensors")  # fmt: skip
        for number, path in enumerate(("fp16", "as-fp32")):
            file = f"half{number}.safetensors"
            self.extract(path, "half-tuned.safetensors", file)
            self.refused(
                INPUT,
                ["made for a base in fp16", "the model is in fp32", "use it in fp16"],
                *("merge", "-m", "fp32", "-o", "out", "--adapter", file),
            )
        self.assertEqual(sha256(self.path("half0.safetensors")), sha256(self.path(file)))
        self.ok("merge", "-m", "as-fp32", "-o", "out", "--adapter", "half0.safetensors")

    def name_only_another(self):
        """Of one precision, or where the adapter does not tell it."""
        self.ok("merge", "-m", "tuned", "-o", "out", "--force",
                *("--adapter", "loras/ink.safetensors"))
        line = self.refused(
            INPUT,
            ["made for the base ", "but the model is another, "],
            *("inspect", "-m", "tuned", "--adapter", "loras/ink.safetensors"),
        ).errors()[0]
        self.assertNotIn("precision", line)
        self.assertNotRegex(line, r"fp32|fp16")
        old = self.adapter("old.safetensors", NAMES, 7, 0.5)
        self.refused(
            INPUT,
            ["made for the base " + self.hash[:12], "is another, ", "in fp32", "does not tell"],
            *("inspect", "-m", "tuned", "--adapter", old),
        )


class Compose(Adapters):
    def setUp(self):
        super().setUp()
        os.makedirs(self.path("loras", "in"))
        names = [n for n in self.base if n.startswith(("up_blocks", "conv_out")) and "weight" in n]
        self.ink = self.adapter("loras/ink.safetensors", names[:20], 3, 0.05)
        self.wash = self.adapter("loras/in/wash.safetensors", names[10:30], 4, -0.03)

    def picture(self, *args):
        options = ("--steps", "2", "-t", "1", "-o", "x.png", "--lora-model-dir", "loras")
        self.ok("generate", "-m", BASE, *options, *args)
        return hashlib.sha256(b"".join(read_png(self.path("x.png"))[2])).hexdigest()

    def text(self):
        return read_png(self.path("x.png"))[3]["parameters"]

    def test_tags(self):
        plain = self.picture("-p", "a fox")
        ink = self.picture("-p", "a fox", "--adapter", self.ink)
        half = self.picture("-p", "a fox", "--adapter", self.ink + ":0.5")
        self.assertEqual(len({plain, ink, half}), 3)
        self.assertEqual(self.picture("-p", "a <lora:ink:1>fox"), ink)
        self.assertEqual(self.picture("-p", "<lora:ink>a fox"), ink)
        self.assertEqual(self.picture("-p", "a fox<lora:ink:0.5>"), half)
        self.assertEqual(self.picture("-p", "a fox<lora:ink:0.75><lora:ink:-.25>"), half)
        self.assertEqual(self.picture("-p", "a fox<lora:ink:0>"), plain)
        self.assertEqual(self.picture("-p", "a fox", "-n", "<lora:ink:0.5>"), half)
        self.assertEqual(self.picture("-p", "a fox<lora:ink:0.25>", "-n", "<lora:ink:0.25>"), half)

    def test_order(self):
        """Overlapping ones add up to the same bits in any order, also with 16-bit weights."""
        for kind in ("f32", "bf16", "f16"):
            a, b = ("--adapter", self.ink + ":0.8"), ("--adapter", self.wash + ":0.6")
            both = self.picture("-p", "a fox", "--type", kind, *a, *b)
            first = sha256(self.path("x.png"))
            self.assertEqual(self.picture("-p", "a fox", "--type", kind, *b, *a), both)
            self.assertEqual(sha256(self.path("x.png")), first)
            tags = ["<lora:ink:0.8>", "<lora:in/wash:0.6>"]
            for order in (tags, tags[::-1]):
                prompt = f"{order[0]}a {order[1]}fox"
                self.assertEqual(self.picture("-p", prompt, "--type", kind), both)
            self.assertEqual(self.picture("-p", "a fox" + tags[1], "--type", kind, *a), both)
            self.assertNotEqual(self.picture("-p", "a fox", "--type", kind, *a), both)

    def test_each_prompt_has_its_own(self):
        names = ["x.png", "x_2.png", "x_3.png"]
        plain, ink = self.picture("-p", "a fox"), self.picture("-p", "a fox<lora:ink>")
        self.picture("-p", "a fox<lora:ink>", "-p", "a fox", "-p", "a fox<lora:ink>")
        rows = [b"".join(read_png(self.path(name))[2]) for name in names]
        self.assertEqual([hashlib.sha256(r).hexdigest() for r in rows], [ink, plain, ink])

    def test_text(self):
        self.picture("-p", "a <lora:ink:.5>fox", "-n", "red<lora:ink>", "--adapter",
                     self.wash + ":0.6")  # fmt: skip
        lines = self.text().split("\n")
        self.assertEqual(lines[:2], ["a <lora:ink:.5>fox", "Negative prompt: red<lora:ink>"])
        self.assertIn(
            f'Model hash: {self.hash[:10]}, Model: base, Adapters: "ink: 1.5, wash: 0.6", Version',
            lines[2],
        )
        self.picture("-p", "a fox")
        self.assertNotIn("Adapters", self.text())
        os.mkdir(self.path("loras", "sub"))
        shutil.copy(self.ink, self.path("loras", "sub", "deep.safetensors"))
        self.picture("-p", "a fox<lora:sub/deep>")
        self.assertIn('Adapters: "deep: 1"', self.text())

    def test_compare(self):
        """Above the base alone, below with the tags' adapters."""
        self.picture("-p", "a fox<lora:ink>", "--compare")
        rows = read_png(self.path("x.png"))[2]
        half = len(rows) // 2
        self.picture("-p", "a fox", "--adapter", self.ink, "--compare")
        self.assertEqual(read_png(self.path("x.png"))[2], rows)
        self.assertNotEqual(rows[: half - 2], rows[half + 2 :])

    def test_refused(self):
        base = ["generate", "-m", BASE, "--lora-model-dir", "loras", "-p"]
        self.refused(IO, ["loras/none.safetensors", "<lora:none:1>"], *base, "<lora:none:1>")
        self.refused(USAGE, ["<lora:ink:x>", "weight x"], *base, "<lora:ink:x>")
        self.refused(USAGE, ["negative prompt", "<lora:ink:x>"], *base, "a", "-n", "<lora:ink:x>")
        self.refused(USAGE, ["<lora:../ink:1>", "leads out"], *base, "<lora:../ink:1>")
        self.refused(USAGE, ["<lora:ink", "without its >"], *base, "<lora:ink")
        self.refused(IO, "nowhere", *base, "a", "--lora-model-dir", "nowhere")
        lora = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": ("F32", [1], [0.0])}
        write_safetensors(self.path("loras", "kohya.safetensors"), lora, {"ss_v2": "False"})
        self.refused(
            INPUT, ["loras/kohya.safetensors", "lora_down.weight", "is missing"], *base,
            "a<lora:kohya:1>"
        )
        self.adapter("loras/other.safetensors", NAMES, 7, 0.5, **{"sara.base_sha256": "0" * 64})
        self.refused(INPUT, ["other.safetensors", "made for the base"], *base, "a<lora:other>")
        self.picture("-p", "a<lora:other:0.01>", "--force")
        self.assertFalse(os.path.exists(self.path("output.png")))

    def test_missing(self):
        """One fault, one exit code, by whichever way a file is named."""
        draw = ("generate", "-m", BASE, "--lora-model-dir", "loras", "-p")
        self.refused(IO, "loras/none.safetensors", *draw, "a<lora:none>")
        self.refused(IO, "loras/none.safetensors", *draw, "a", "--adapter",
                     "loras/none.safetensors")

    def test_too_small(self):
        """A strength that changes nothing gives the base's bits and says so."""
        for strength in ("1e-300", "0"):
            out = self.ok("merge", "-m", BASE, "--adapter", f"{self.ink}:{strength}", "--dtype",
                          "fp32", "-o", "out" + strength).out  # fmt: skip
            self.assertEqual(out, f"out{strength}\n0 entries changed (L2 0)\n")
        unet = os.path.join("unet", "diffusion_pytorch_model.safetensors")
        self.assertEqual(*(sha256(self.path(out, unet)) for out in ("out0", "out1e-300")))

    def test_from_config(self):
        self.write("options.json", json.dumps({"lora_model_dir": "loras", "prompt": "a<lora:ink>"}))
        self.ok("generate", "-m", BASE, "--config", "options.json", "--steps", "1", "-o", "c.png")
        shutil.rmtree(self.path("loras"))
        self.refused(IO, "loras", "generate", "-m", BASE, "--config", "options.json")



UNET_LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT_LAYER = "encoder.layers.0.self_attn.q_proj"


class Lora(Adapters):
    """A file as kohya's trainer writes it: a layer of the U-Net and one of the text encoder."""

    picture, text = Compose.picture, Compose.text

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("loras"))
        self.lora("loras/tune.safetensors")

    def factors(self, key, out, into, tensors):
        down = [0.25 * math.sin(i + 1) for i in range(2 * into)]
        up = [0.25 * math.cos(i + 1) for i in range(out * 2)]
        tensors[key + ".lora_down.weight"] = ("F32", [2, into], down)
        tensors[key + ".lora_up.weight"] = ("F32", [out, 2], up)
        tensors[key + ".alpha"] = ("F32", [], [1.0])
        return lambda row, col: 0.5 * sum(up[row * 2 + k] * down[k * into + col] for k in (0, 1))

    def lora(self, file, *others):
        tensors = {}
        shape = self.base[UNET_LAYER + ".weight"][1]
        text = os.path.join(BASE, "text_encoder", "model.safetensors")
        self.texts = read_safetensors(text)[0]
        self.text_name = next(n for n in self.texts if n.endswith(TEXT_LAYER + ".weight"))
        kohya = "lora_unet_" + UNET_LAYER.replace(".", "_")
        self.unet_change = self.factors(kohya, *shape, tensors)
        kohya = "lora_te_text_model_" + TEXT_LAYER.replace(".", "_")
        self.text_change = self.factors(kohya, *self.texts[self.text_name][1], tensors)
        for other in others:
            self.factors(other, 4, 4, tensors)
        write_safetensors(self.path(file), tensors, {"ss_v2": "False"})

    def changed(self, before, after, change, strength):
        """The entries of a weight, of which the last ones are looked at."""
        _, (rows, cols), data = before
        dtype, _, new = after
        self.assertEqual(dtype, "F32")
        for col in range(cols - 20, cols):
            at = (rows - 1) * cols + col
            want = struct.unpack_from("<e", data, 2 * at)[0] + strength * change(rows - 1, col)
            self.assertAlmostEqual(struct.unpack_from("<f", new, 4 * at)[0], want, delta=1e-6)

    def test_merged(self):
        out = self.ok("merge", "-m", BASE, "--adapter", "loras/tune.safetensors:0.5", "--dtype",
                      "fp32", "-o", "out").out  # fmt: skip
        unet = read_safetensors(self.path("out/unet/diffusion_pytorch_model.safetensors"))[0]
        text = read_safetensors(self.path("out/text_encoder/model.safetensors"))[0]
        name = UNET_LAYER + ".weight"
        self.changed(self.base[name], unet[name], self.unet_change, 0.5)
        self.changed(self.texts[self.text_name], text[self.text_name], self.text_change, 0.5)
        entries = sum(math.prod(t[1]) for t in (self.base[name], self.texts[self.text_name]))
        self.assertIn(f"{entries} entries changed", out)

    def test_drawn(self):
        plain = self.picture("-p", "a fox")
        tuned = self.picture("-p", "a fox", "--adapter", "loras/tune.safetensors:0.5")
        self.assertNotEqual(plain, tuned)
        self.assertIn('Adapters: "tune: 0.5"', self.text())
        self.assertEqual(self.picture("-p", "a <lora:tune:0.5>fox"), tuned)
        own = self.adapter("own.safetensors", NAMES, 7, 0.5)
        rows = []
        for adapter in ("loras/tune.safetensors:0.5", own):
            self.picture("-p", "a fox", "--adapter", adapter, "--compare")
            rows.append(read_png(self.path("x.png"))[2])
        half = len(rows[0]) // 2 - 2  # the base's row knows nothing of the text encoder's change
        self.assertEqual(rows[0][:half], rows[1][:half])
        self.assertNotEqual(rows[0][-half:], rows[1][-half:])

    def test_layers_missing(self):
        self.lora("loras/more.safetensors", "lora_unet_nowhere", "lora_unet_elsewhere")
        draw = ("merge", "-m", BASE, "--adapter", "loras/more.safetensors", "-o", "out")
        self.refused(INPUT, ["loras/more.safetensors", "2 of its layers", "lora_unet_elsewhere"],
                     *draw)  # fmt: skip
        self.assertIn("2 layers that the model does not have", self.ok(*draw, "--force").err)


if __name__ == "__main__":
    unittest.main()
