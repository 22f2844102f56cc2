"""Adapters as users handle them: inspected."""

import hashlib
import json
import math
import os
import re
import struct
import unittest

from support import (
    BASE,
    INPUT,
    IO,
    UNET,
    USAGE,
    Case,
    read_safetensors,
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


class Adapters(Case):
    @classmethod
    def setUpClass(cls):
        path = os.path.join(BASE, "unet", "diffusion_pytorch_model.safetensors")
        cls.base = read_safetensors(path)[0]
        cls.hash = base_hash(cls.base)

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


if __name__ == "__main__":
    unittest.main()
