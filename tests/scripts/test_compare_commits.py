"""scripts/compare_commits.sh finds each thing that differs, and calls equal what is."""
import json
import os
import random
import stat
import subprocess
import sys
import tempfile
import unittest
import zlib

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path[:0] = [os.path.join(TOP, "scripts", "compare_commits"), os.path.join(TOP, "tests", "cli")]

import equal  # noqa: E402
import formats  # noqa: E402
import inputs  # noqa: E402

PROGRAM = os.environ["SARA_PROGRAM"]
CASES = "^train/replay-sd1-fp16$|^inspect/unet-unet_sd1$"
# The program, but that a bit of the adapter is another.
ALTERED = """#!/bin/sh
set -e
"{program}" "$@"
[ "$1" != train ] || printf '\\001' |
    dd of=run/adapter.safetensors bs=1 seek=$(($(wc -c <run/adapter.safetensors) - 4)) \\
        conv=notrunc status=none
"""


class Files(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.sides = [os.path.join(scratch.name, side) for side in ("before", "after")]
        for side in self.sides:
            os.mkdir(side)

    def found(self):
        found = equal.Findings()
        equal.compare_folders(found, *self.sides)
        return found

    def differ(self, *words):
        differences = self.found().differences
        self.assertEqual(len(differences), 1, differences)
        for word in words:
            self.assertIn(word, differences[0])

    def texts(self, name, before, after):
        for side, text in zip(self.sides, (before, after)):
            with open(os.path.join(side, name), "w") as file:
                file.write(text)

    def tensors(self, tensors, metadata):
        for side, *content in zip(self.sides, tensors, metadata):
            formats.write_safetensors(os.path.join(side, "x.safetensors"), *content)

    def test_tensors(self):
        one = {"a": ("F32", [2], [1.0, 2.0])}
        for other, words in (({"a": ("F32", [2], [1.0, 2.5])}, ("[1]: 2.0 and 2.5", "1 of 2")),
                             ({"a": ("F32", [2, 1], [1.0, 2.0])}, ("F32 [2] and F32 [2, 1]",)),
                             ({"a": ("F32", [2], [1.0, 2.0]), "b": ("U8", [1], [0])}, ("b",)),
                             ({"a": ("F32", [2], [1.0, -2.0])}, ("2.0 and -2.0",))):
            self.tensors((one, other), ({}, {}))
            self.differ(*words)
        zeros = [{"a": ("F32", [1], [zero])} for zero in (0.0, -0.0)]
        self.tensors(zeros, ({}, {}))
        self.differ("0.0 and -0.0")
        self.tensors((one, one), ({}, {}))
        self.assertEqual(self.found().differences, [])

    def test_metadata(self):
        one = {"a": ("F32", [1], [1.0])}
        self.tensors((one, one), ({"k": "1"}, {"k": "2"}))
        self.differ("metadata k", "1 and 2")
        self.tensors((one, one), ({"k": "1"}, {"l": "1"}))
        self.differ("metadata k", "no such key")
        self.tensors((one, one), ({"k": "1"}, {"k": "1", "l": "1"}))
        found = self.found()
        self.assertEqual(found.differences, [])
        self.assertEqual(found.new_keys, {"x.safetensors: metadata l"})

    def test_runs(self):
        line = '{"step":1,"loss":0.5,"seconds":%s}\n'
        self.texts("log.jsonl", line % 1, line % 2)
        self.assertEqual(self.found().differences, [])
        self.texts("log.jsonl", line % 1, line.replace("0.5", "0.50") % 1)
        self.differ("log.jsonl:1 loss", "0.5 and 0.50")
        self.texts("log.jsonl", line % 1, line % 1 + line % 1)
        self.differ("lines")
        self.texts("log.jsonl", "", "")
        manifest = {"run": {"seed": "42"}, "sha256": "1", "files": {"a": "2"}}
        self.texts("manifest.json", json.dumps(manifest),
                   json.dumps({"run": {"seed": "42", "method": "sara"}, "sha256": "3"}))
        self.assertEqual(self.found().differences, [])
        self.texts("manifest.json", json.dumps(manifest), json.dumps({"run": {"seed": "43"}}))
        self.differ("run seed", "42 and 43")

    def test_others(self):
        report = "<table><tr><td>seed</td><td>%d</td></tr>%s</table>"
        self.texts("report.html", report % (1, ""),
                   report % (1, "<tr><td>method</td><td>sara</td></tr>"))
        self.assertEqual(self.found().differences, [])
        self.texts("report.html", report % (1, ""), report % (2, ""))
        self.differ("seed", "1 and 2")
        self.texts("report.html", report % (1, ""), report % (1, "<main>"))
        self.texts("report.html", "<p>0.12 s a step", "<p>0.3 s a step")
        self.assertEqual(self.found().differences, [])
        self.texts("report.html", "", "")
        self.texts("stdout", '{"a": 1}', '{"a": 1, "b": 2}')
        self.assertEqual(self.found().differences, [])
        self.texts("stdout", "a\n", "b\n")
        self.differ("stdout")
        self.texts("stdout", "", "")
        self.texts("config.json", "{}", "{ }")
        self.differ("config.json: bytes")
        os.remove(os.path.join(self.sides[1], "config.json"))
        self.differ("config.json", "there and not there")

    def test_nothing(self):
        self.differ("files", "none")

    def test_pictures(self):
        paths = [os.path.join(side, "x.png") for side in self.sides]
        for path in paths:
            inputs.write_picture(path, random.Random(1), 8, 8)
        self.assertEqual(self.found().differences, [])
        inputs.write_picture(paths[1], random.Random(2), 8, 8)
        self.differ("x.png", "colours")
        inputs.write_picture(paths[1], random.Random(1), 8, 8)
        with open(paths[1], "ab") as file:  # an empty chunk after the end
            file.write(b"\0\0\0\0teSt" + zlib.crc32(b"teSt").to_bytes(4, "big"))
        self.differ("x.png: bytes")


class Programs(unittest.TestCase):
    def compare(self, after):
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, "after")
            with open(path, "w") as file:
                file.write(after.format(program=PROGRAM))
            os.chmod(path, stat.S_IRWXU)
            return subprocess.run(
                [os.path.join(TOP, "scripts", "compare_commits.sh"), PROGRAM, path, "--only", CASES,
                 "--output", os.path.join(scratch, "out")], capture_output=True, text=True)

    def test_same(self):
        done = self.compare('#!/bin/sh\nexec "{program}" "$@"\n')
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        self.assertIn("ok train/replay-sd1-fp16\n", done.stdout)
        self.assertIn("\n2 cases: 2 equal, 0 not, 0 skipped", done.stdout)

    def test_altered(self):
        done = self.compare(ALTERED)
        self.assertEqual((done.returncode, done.stderr), (1, ""), done.stdout)
        self.assertIn("DIFFERS train/replay-sd1-fp16: run/adapter.safetensors: ", done.stdout)
        self.assertIn("ok inspect/unet-unet_sd1\n", done.stdout)

    def test_failing(self):
        done = self.compare("#!/bin/sh\necho 'no memory' >&2\nexit 5\n")
        self.assertEqual(done.returncode, 1)
        self.assertIn("DIFFERS inspect/unet-unet_sd1: after: exit code 5, no memory", done.stdout)
        self.assertIn("\n2 cases: 0 equal, 2 not, 0 skipped", done.stdout)

    def test_usage(self):
        script = os.path.join(TOP, "scripts", "compare_commits.sh")
        for args, word in (([], "compare_commits.sh BEFORE"), (["x"], "x: neither a commit")):
            done = subprocess.run([script, *args], capture_output=True, text=True)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(word, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
