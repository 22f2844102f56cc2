"""A host program in a locale with another decimal point gets the C locale's files and lines."""

import json
import os
import re
import shutil
import subprocess
import unittest

from support import BASE, EMOJI, SLOW, Case, files_below, read_png, read_safetensors

HOST = os.environ["SARA_LOCALE_HOST"]
# Of equal runs these differ: how long they took, and when they were.
TIMES = [
    (r'"(seconds|steps_per_second)":[-+.e\d]+', r'"\1":0'),
    (r"\d+\.\d+ s\b", "0 s"),
]


def without_times(data):
    text = data.decode()
    for pattern, plain in TIMES:
        text = re.sub(pattern, plain, text)
    return text


def shape(value):
    """What is where; numbers are numbers, of equal kernels in any order."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return value if isinstance(value, str) else type(value)


class Locales(Case):
    def host(self, locale, point, threshold=""):
        """Files and output of the host program's run in a folder of one name."""
        out = self.path("out")
        shutil.rmtree(out, ignore_errors=True)
        os.mkdir(out)
        done = subprocess.run(
            [HOST, point, BASE, self.path("images"), "out", threshold],
            capture_output=True,
            cwd=self.folder,
            env={**os.environ, "LC_ALL": locale, "LANGUAGE": "", "OMP_NUM_THREADS": "1"},
            timeout=300 * SLOW,
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""), locale)
        files = {}
        for name in files_below(out):
            with open(os.path.join(out, name), "rb") as file:
                files[name] = file.read()
        return files, without_times(done.stdout)

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("images"))
        shutil.copy(os.path.join(EMOJI, "ink", "u1f301.png"), self.path("images", "a.PNG"))
        self.write("images/a.txt", "foggy")

    def check(self, threshold):
        files, out = self.host("C", ".", threshold)
        for locale, point in [("de_DE.UTF-8", ","), ("ps_AF.UTF-8", "\u066b")]:
            others, printed = self.host(locale, point, threshold)
            self.assertEqual(printed, out, locale)
            self.assertEqual(sorted(others), sorted(files), locale)
            for name, data in files.items():
                if name in ("bench.json", "trace.json"):
                    self.assertEqual(shape(json.loads(others[name])), shape(json.loads(data)))
                elif name in ("run/log.jsonl", "run/report.html"):
                    self.assertEqual(without_times(others[name]), without_times(data), locale)
                else:
                    self.assertTrue(data == others[name], (locale, name))
        return files

    def test_runs(self):
        """Default options: 5.8% of the entries, a validation, a resumed run, all other writers."""
        files = self.check("")
        for name in ["run/adapter.safetensors", "run/log.jsonl", "run/report.html", "x.png",
                     "merged/unet/config.json", "merged.safetensors", "a.safetensors",
                     "l.safetensors", "peft/adapter_config.json", "x.safetensors", "trace.json",
                     "bench.json"]:
            self.assertIn(name, files)
        metadata = read_safetensors(self.path("out", "run", "adapter.safetensors"))[1]
        self.assertEqual(metadata["sara.lambda_rank"], "0.00050000000000000001")
        self.assertIn("CFG scale: 2.5,", read_png(self.path("out", "x.png"))[3]["parameters"])

    def test_threshold(self):
        self.check("2e-3")
        metadata = read_safetensors(self.path("out", "run", "adapter.safetensors"))[1]
        self.assertEqual(metadata["sara.threshold"], "0.002")


if __name__ == "__main__":
    unittest.main()
