"""sara inspect --analyze: its page, its JSON, what it refuses."""

import json
import os
import unittest

from pages import check_page
from support import BASE, UNET, USAGE, Case


class Analyze(Case):
    def test_page(self):
        self.ok("inspect", "--unet-only", UNET, "--analyze", "-o", "page.html")
        with open(self.path("page.html"), encoding="utf-8") as file:
            text = file.read()
        page = check_page(self, text)
        self.assertLess(len(text), 400_000)
        for word in ["cross-attention query", "norms", "mid_block", "down_blocks.1", "others",
                     "excess kurtosis", "0.6 %", "2e-3"]:
            self.assertTrue(any(word in t for t in page.texts), word)
        plots = [a for a in page.attributes if a[:2] == ("svg", "role")]
        self.assertEqual(len(plots), 2 + 2 + 14 + 6)  # each kind and block has its own

    def test_json(self):
        printed = self.ok("inspect", "-m", BASE, "--analyze", "--json").out
        report = json.loads(printed)
        for groups in ("kinds", "blocks"):
            for key in ("entries", "tensors", "within_1e-3"):
                self.assertEqual(sum(g[key] for g in report[groups]), report["whole"][key])
        plain = json.loads(self.ok("inspect", "-m", BASE, "--json").out)
        selected = {t["threshold"]: t["selected"] for t in plain["thresholds"]}
        for t, count in zip(report["thresholds"], report["whole"]["selected"]):
            self.assertEqual(selected[min(selected, key=lambda s: abs(s - t["threshold"]))], count)

    def test_refused(self):
        for args, text in [
                (["--analyze"], "-o FILE.html or --json is missing"),
                (["-o", "x.html"], "-o x.html: goes with --analyze"),
                (["--analyze", "-o", "x.json"], "-o x.json: expected FILE.html; --json"),
                (["--analyze", "-o", "x"], "-o x: expected FILE.html"),
                (["--analyze", "--zero_sweep", "1e-3"], "--zero_sweep 1e-3 and --analyze: give"),
                (["--clip_resize", "9"], "--clip_resize: goes with --zero_sweep"),
                (["--clip_tokenizer", "x"], "--clip_tokenizer: goes with --zero_sweep"),
                (["--analyze", "--tokenize", "a", "--json"], "--analyze and --tokenize a")]:
            self.refused(USAGE, [text], "inspect", "--unet-only", UNET, *args)
        self.assertFalse(os.path.exists(self.path("x.html")))


if __name__ == "__main__":
    unittest.main()
