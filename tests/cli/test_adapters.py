"""Adapters as users handle them: inspected, merged, at any precision."""

import json
import math
import os
import re
import shutil
import struct
import unittest

from support import BASE, INPUT, IO, TOP, UNET, USAGE, read_safetensors, sha256
from support_adapters import Adapters, NAMES, varints


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


if __name__ == "__main__":
    unittest.main()
