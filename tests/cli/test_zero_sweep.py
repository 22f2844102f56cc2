"""sara inspect --zero_sweep: rows are what a model gives whose small entries are zero in its
file."""

import array
import json
import os
import shutil
import struct
import unittest

from support import BASE, EMOJI, INPUT, IO, USAGE, Case

CLIP = os.path.join(EMOJI, "clip")
WEIGHTS = os.path.join("unet", "diffusion_pytorch_model.safetensors")
THRESHOLDS = {0.001953125: 0x1800, 0.03125: 0x2800}  # bits of float16


def zeroed(path, below):
    """Sets the entries of a file of float16 whose magnitude is below to zero; how many there are,
    and how many in all."""
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    values = array.array("H", data[start:])
    small = [(x & 0x7FFF) < below for x in values]
    values = array.array("H", (0 if s else x for s, x in zip(small, values)))
    with open(path, "wb") as file:
        file.write(data[:start] + values.tobytes())
    return sum(small), len(values)


class ZeroSweep(Case):
    def setUp(self):
        super().setUp()
        self.write("prompts.txt", "a fox\nsunset\nsnowman\n")
        self.draw = ["--prompts", "prompts.txt", "--clip", CLIP, "--steps", "2"]

    def sweep(self, thresholds, *args):
        text = ",".join(map(str, thresholds))
        return self.ok("inspect", "-m", BASE, "--zero_sweep", text, *self.draw, *args)

    def measure(self, model, *args):
        return json.loads(self.ok("eval", "-m", model, *self.draw, *args, "--json").out)

    def test_equal_to_models_with_zeros(self):
        report = json.loads(self.sweep(THRESHOLDS, "--json").out)
        self.assertEqual(report["against"], "untouched")
        self.assertEqual((report["convention"], report["images"]), ("clip", 3))
        first, *rows = report["rows"]
        self.assertEqual([row["t"] for row in rows], list(THRESHOLDS))
        plain = self.measure(BASE, "-o", "plain")
        self.assertEqual((first["t"], first["entries"], first["share"]), (0, 0, 0))
        self.assertEqual(first["clip_score"], plain["clip_score"]["mean"])
        self.assertLess(abs(first["fid"]), 1e-6)
        model = self.path("model")
        shutil.copytree(BASE, model)
        row = rows[-1]
        small, entries = zeroed(os.path.join(model, WEIGHTS), THRESHOLDS[row["t"]])
        self.assertEqual((row["entries"], row["share"]), (small, small / entries))
        self.assertEqual(report["parameters"], entries)
        expected = self.measure(model, "--references", "plain")
        self.assertEqual(row["clip_score"], expected["clip_score"]["mean"])
        self.assertEqual(row["fid"], expected["fid"]["value"])
        self.assertEqual(row["kid"], expected["kid"]["mean"])
        self.assertGreater(row["fid"], rows[0]["fid"])

    def test_references_and_outputs(self):
        ink = self.path("ink")
        os.mkdir(ink)
        for name in ("u1f307", "u1f30d", "u1f313"):
            shutil.copy(os.path.join(EMOJI, "ink-reference", f"{name}.png"), ink)
        table = self.sweep([0.01], "--references", ink, "-o", "sweep.json").out
        with open(self.path("sweep.json")) as file:
            report = json.load(file)
        self.assertEqual(report["against"], "references")
        expected = self.measure(BASE, "--references", ink)
        self.assertEqual(report["rows"][0]["fid"], expected["fid"]["value"])
        self.assertEqual(len(table.splitlines()), 3)
        self.assertIn(f"{report['rows'][1]['fid']:.4f}", table)
        self.assertIn(f"{report['rows'][1]['kid']:.6f}", table)
        self.assertIn("FID (clip)", table)
        self.sweep([0.01, 0.02], "-o", "sweep.html")
        with open(self.path("sweep.html")) as file:
            page = file.read()
        for part in ("<svg", "FID (clip)", "CLIP score", "the model as it is", "0.01", "0.02"):
            self.assertIn(part, page)

    def test_refused(self):
        ok = ["inspect", "-m", BASE, *self.draw]
        for text in ("", "x", "0", "-1", "0.1,0.1", "0.2,0.1", "0.1,", ",0.1", "0.1;0.2", "nan",
                     "inf", "0.1,inf", "1e400", "0.1 0.2", ",".join(str(i + 1) for i in range(65))):
            with self.subTest(text):
                self.refused(USAGE, "--zero_sweep", *ok, "--zero_sweep", text)
        sweep = ["--zero_sweep", "0.01"]
        for words, args in [
            ("--prompts: goes with --zero_sweep", ok),
            ("drawn with: goes with --zero_sweep", ["inspect", "-m", BASE, "--steps", "2"]),
            ("--scheduler x: expected", [*ok, *sweep, "--scheduler", "x"]),
            ("no prompts given", ["inspect", "-m", BASE, *sweep, "--clip", CLIP]),
            ("nothing to measure with",
             ["inspect", "-m", BASE, *sweep, "--prompts", "prompts.txt"]),
            ("--adapter: give one", [*ok, *sweep, "--adapter", "x"]),
            ("--analyze: give one", [*ok, *sweep, "--analyze", "--json"]),
            ("FILE.html or FILE.json", [*ok, *sweep, "-o", "sweep"]),
        ]:
            with self.subTest(words):
                self.refused(USAGE, words, *args)
        self.refused(IO, "no/x.json", *ok, *sweep, "-o", "no/x.json")
        self.write("one", "a fox\n")
        one = ["inspect", "-m", BASE, "--prompts", "one", "--clip", CLIP, *sweep]
        self.refused(INPUT, "at least two", *one, "--fid", "clip")
        self.assertEqual(sorted(os.listdir(self.folder)), ["one", "prompts.txt"])


if __name__ == "__main__":
    unittest.main()
