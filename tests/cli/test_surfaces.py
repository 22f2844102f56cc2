"""Text from outside - captions, prompts, file names - reaches a terminal and report.html escaped.
No input is ever written over."""

import os
import pty
import shutil
import subprocess
import unittest

from pages import check_page
from support import BASE, EMOJI, INPUT, IO, PROGRAM, SLOW, UNET, USAGE, Case, read_png, sha256

EVIL = "<script>alert('\"&')</script>\x1b[31m\x07\u009b2J\x7f"
CONTROLS = {code: " " for code in [*range(0x20), *range(0x7F, 0xA0)]}
NAME = "\x1b[2J<script>x"  # a slash cannot be in the name of a file


class Surfaces(Case):
    def dataset(self, caption, name="a.png"):
        os.mkdir(self.path("data"))
        source = os.path.join(EMOJI, "ink")
        shutil.copy(os.path.join(source, sorted(os.listdir(source))[1]), self.path("data", name))
        self.write(os.path.join("data", os.path.splitext(name)[0] + ".txt"), caption)
        return self.path("data")

    def check_clean(self, text):
        for code in [*range(0x20), *range(0x7F, 0xA0)]:
            if code not in (0x0A, 0x0D):
                self.assertNotIn(chr(code), text)

    def test_report(self):
        data = self.dataset(EVIL)
        result = self.ok(
            "train",
            "-m",
            BASE,
            "--train_data_dir",
            data,
            "-o",
            "run",
            "-t",
            "1",
            "--max_train_steps",
            "3",
            "--train_batch_size",
            "1",
            "--caption_prefix",
            EVIL,
            "--validation_prompt",
            EVIL,
            "--validation_steps",
            "3",
        )
        self.check_clean(result.err)
        with open(self.path("run", "samples", NAME + ".png"), "wb"):
            pass
        result = self.ok(
            "train",
            "-m",
            BASE,
            "--train_data_dir",
            data,
            "-o",
            "run",
            "-t",
            "1",
            "--max_train_steps",
            "3",
            "--train_batch_size",
            "1",
            "--caption_prefix",
            EVIL,
            "--validation_prompt",
            EVIL,
            "--resume_from_checkpoint",
            "latest",
        )
        with open(self.path("run", "report.html"), encoding="utf-8") as file:
            text = file.read()
        self.check_clean(text)
        page = check_page(self, text)
        self.assertTrue(any("<script>alert('\"&')</script>" in t for t in page.texts), page.texts)
        self.assertEqual(len(page.values("src")), 1)
        self.assertEqual([v for v in page.values("alt") if "step 3" in v],
                         [EVIL.translate(CONTROLS) + ", step 3"])

    def test_error_lines(self):
        for args in (
            ["inspect", "-m", NAME],
            ["train", "-m", BASE, "-o", "r", "--train_data_dir", NAME],
            ["train", "--unet-only", UNET, "-o", "r", "--replay", NAME],
            ["merge", "-m", BASE, "-o", "out", "--adapter", NAME],
            ["generate", "-m", BASE, "-p", "x", "-o", f"{NAME}/x.png"],
            ["generate", "--config", NAME],
        ):
            result = self.refused(IO, r"\x1b[2J", *args)
            self.check_clean(result.err)
        path = self.write("r\x1bn.json", '{"steps": "\\u001b[31m\\u009b"}')
        result = self.refused(
            USAGE, [r"r\x1bn.json", r"--steps \x1b[31m"], "generate", "--config", path
        )
        self.check_clean(result.err)
        path = self.write("bad\x1b.safetensors", b"\x80\x02}q\0.")
        self.check_clean(
            self.refused(
                INPUT,
                r"bad\x1b",
                "generate",
                "-m",
                BASE,
                "-p",
                "x",
                "--adapter",
                path,
                "--steps",
                "1",
            ).err
        )

    def test_standard_output(self):
        """A pipe gets the very name, a terminal one without control characters."""
        name = "\x1b[31mfox.png"
        args = ["generate", "-m", BASE, "-p", "x", "--steps", "1", "-t", "1", "-o", name]
        self.assertEqual(self.ok(*args).out, name + "\n")
        master, slave = pty.openpty()
        done = subprocess.run(
            [PROGRAM, *args],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=60 * SLOW,
        )
        os.close(slave)
        shown = os.read(master, 4096).decode()
        os.close(master)
        self.assertEqual((done.returncode, shown), (0, "\\x1b[31mfox.png\r\n"))

    def test_prompt_in_png(self):
        """The PNG holds the prompt as it was given."""
        prompt = "a <b> caf\u00e9\nfox \U0001f98a"
        self.ok("generate", "-m", BASE, "-p", prompt, "--steps", "1", "-t", "1", "-o", "x.png")
        text = read_png(self.path("x.png"))[3]["parameters"]
        self.assertTrue(text.startswith(prompt + "\nSteps: 1, "), text)

    def test_no_utf8(self):
        for args in ([b"-p", b"fox\xff"], ["-p", "fox", "-n", b"\xed\xa0\x80"]):
            self.refused(USAGE, "UTF-8", "generate", "-m", BASE, *args)
        self.refused(
            USAGE,
            ["--caption_prefix", "UTF-8"],
            "train",
            "-m",
            BASE,
            "--train_data_dir",
            "x",
            "-o",
            "run",
            "--caption_prefix",
            b"ink\xff",
        )

    def test_long_texts(self):
        self.refused(IO, "aaaa", "inspect", "-m", "a" * 10000)
        self.refused(USAGE, "bbbb", "inspect", "--" + "b" * 10000)
        self.ok(
            "generate", "-m", BASE, "-p", "fox " * 20000, "--steps", "1", "-t", "1", "-o", "x.png"
        )


class Overwriting(Case):
    def setUp(self):
        super().setUp()
        shutil.copytree(UNET, self.path("unet"))
        self.before = {
            name: sha256(self.path("unet", name)) for name in os.listdir(self.path("unet"))
        }

    def check_untouched(self):
        after = {name: sha256(self.path("unet", name)) for name in os.listdir(self.path("unet"))}
        self.assertEqual(after, self.before)

    def test_merge(self):
        os.symlink("unet", self.path("link"))
        for out in [
            "unet",
            "unet/",
            "./unet",
            self.path("unet"),
            "link",
            "unet/new",
            "link/a/b",
            "unet/../unet/new",
        ]:
            with self.subTest(out):
                self.refused(USAGE, out.rstrip("/"), "merge", "--unet-only", "unet", "-o", out)
                self.check_untouched()

    def test_train(self):
        replay = self.write_replay("replay.safetensors", 1)
        self.refused(
            USAGE,
            ["output_dir", "unet"],
            "train",
            "--unet-only",
            "unet",
            "--replay",
            replay,
            "-o",
            "./unet",
        )
        self.check_untouched()

    def test_train_data(self):
        os.mkdir(self.path("data"))
        self.refused(
            USAGE,
            ["output_dir", "data"],
            "train",
            "-m",
            BASE,
            "--train_data_dir",
            "data",
            "-o",
            "data",
        )
        self.assertEqual(os.listdir(self.path("data")), [])

    def test_generate(self):
        """An adapter or start noise under the name of the picture."""
        for option in ["--adapter", "--init-latents"]:
            path = self.write("input.png", b"precious")
            self.refused(
                USAGE,
                ["--output", path],
                "generate",
                "-m",
                BASE,
                "-p",
                "x",
                option,
                path,
                "-o",
                path,
            )
            with open(path, "rb") as file:
                self.assertEqual(file.read(), b"precious")
        adapter = self.write("a.safetensors", b"precious")
        self.refused(
            USAGE,
            ["--save-latents", adapter],
            "generate",
            "-m",
            BASE,
            "-p",
            "x",
            "--adapter",
            adapter + ":0.5",
            "--save-latents",
            adapter,
        )


if __name__ == "__main__":
    unittest.main()
