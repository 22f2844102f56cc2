"""What goes to stdout and to stderr, and the progress line."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import unittest

from support import (
    BASE,
    DIVERGED,
    INTERRUPTED,
    IO,
    PROGRAM,
    SLOW,
    UNET,
    Case,
    read_safetensors,
    sha256,
)


class Streams(Case):
    """stdout holds results alone."""

    def test_train(self):
        replay = self.write_replay("replay.safetensors", 3)
        result = self.ok("train", "--unet-only", UNET, "--replay", replay, "-o", "run")
        self.assertRegex(
            result.out,
            r"^3 steps done, loss \d\.\d+ -> \d\.\d+\n"
            r"\d+ of 942196 parameters trained\n"
            r"adapter: run/adapter\.safetensors\nreport:  run/report\.html\n$",
        )
        self.assertRegex(
            result.err, r"(?m)^train 1/3  loss \d+\.\d{4}  \S+( s each|/s)  \d+:\d\d left$"
        )
        self.assertRegex(result.err, r"(?m)^train 3/3  loss .* 0:00 left$")
        self.assertNotIn("\r", result.err)
        self.assertNotIn("\x1b", result.err)
        _, metadata = read_safetensors(self.path("run", "adapter.safetensors"))
        count = re.search(r"(\d+) of 942196", result.out).group(1)
        self.assertEqual(metadata["sara.selected"], count)

    def test_losses(self):
        """The means over the first and the last twenty steps, in this order."""
        replay = self.write_replay("replay.safetensors", 23)
        out = self.ok("train", "--unet-only", UNET, "--replay", replay, "-o", "run").out
        with open(self.path("run", "log.jsonl"), encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        losses = [line["loss"] for line in lines if "step" in line]
        first, last = sum(losses[:20]) / 20, sum(losses[-20:]) / 20
        self.assertNotEqual(f"{first:.4f}", f"{last:.4f}")
        self.assertIn(f"23 steps done, loss {first:.4f} -> {last:.4f}\n", out)

    def test_generate(self):
        result = self.ok("generate", "-m", BASE, "-p", "a fox", "--steps", "2", "-o", "fox.png")
        self.assertEqual(result.out, "fox.png\n")
        self.assertRegex(result.err, r"(?m)^generate 2/2  ")

    def test_closed_streams(self):
        """Files must not come to lie under the numbers of the standard streams."""
        replay = self.write_replay("replay.safetensors", 3)
        args = [PROGRAM, "train", "--unet-only", UNET, "--replay", replay, "-t", "1", "-o"]
        self.ok(*args[1:], "whole")
        for number, (closed, code) in enumerate(
            [((2,), 0), ((0, 2), 0), ((1,), IO), ((0, 1, 2), IO)]
        ):
            done = subprocess.run(
                [*args, f"run{number}"],
                cwd=self.folder,
                timeout=60 * SLOW,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=lambda: [os.close(stream) for stream in closed],
            )
            self.assertEqual(done.returncode, code, closed)
            with open(self.path(f"run{number}", "log.jsonl")) as file:
                steps = [json.loads(line).get("step") for line in file]
            self.assertEqual([step for step in steps if step], [1, 2, 3])
            self.assertEqual(
                sha256(self.path(f"run{number}", "adapter.safetensors")),
                sha256(self.path("whole", "adapter.safetensors")),
            )

    def on_terminal(self, *args, env=None, size=(24, 80), interrupt_at=None):
        """Exit code and what a terminal shows of stderr; SIGINT once the text is there."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        process = subprocess.Popen(
            [PROGRAM, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=slave,
            cwd=self.folder,
            env={**os.environ, "TERM": "xterm", **(env or {})},
        )
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            shown += data
            if interrupt_at and interrupt_at.encode() in shown:
                process.send_signal(signal.SIGINT)
                interrupt_at = None
        os.close(master)
        return process.wait(timeout=60 * SLOW), shown.decode()

    def test_terminal(self):
        replay = self.write_replay("replay.safetensors", 40)
        code, shown = self.on_terminal(
            "train", "--unet-only", UNET, "--replay", replay, "-o", "run"
        )
        self.assertEqual(code, 0)
        lines = shown.split("\r\n")
        progress = [line for line in lines if "train 40/40" in line]
        self.assertEqual(len(progress), 1, shown)
        views = progress[0].split("\r\x1b[K")
        self.assertEqual(views[0], "")
        self.assertGreaterEqual(len(views), 3, shown)
        for view in views[1:]:
            self.assertRegex(
                view, r"^train \d+/40  loss \d+\.\d{4}  \S+( s each|/s)  \d+:\d\d left$"
            )

    def test_error_after_progress(self):
        """The error line stands on a line of its own."""
        replay = self.write_replay("nan.safetensors", 12, nan=True)
        code, shown = self.on_terminal(
            "train", "--unet-only", UNET, "--replay", replay, "-o", "run"
        )
        self.assertEqual(code, DIVERGED)
        self.assertRegex(shown, r"\r\nsara train: diverged[^\r\n]*\r\n$")

    def test_interrupt_on_terminal(self):
        replay = self.write_replay("replay.safetensors", 100)
        code, shown = self.on_terminal(
            "train",
            "--unet-only",
            UNET,
            "--replay",
            replay,
            "-o",
            "run",
            interrupt_at="train 1/100",
        )
        self.assertEqual(code, INTERRUPTED)
        self.assertIn(
            "\r\nstopping as soon as the work is saved; once more stops at once\r\n", shown
        )
        self.assertRegex(shown, r"\r\nsara train: interrupted after step \d+ of 100 [^\r]*\r\n$")

    def test_narrow_terminal(self):
        replay = self.write_replay("replay.safetensors", 2)
        _, shown = self.on_terminal(
            "train", "--unet-only", UNET, "--replay", replay, "-o", "run", size=(24, 20)
        )
        for view in re.findall(r"\r\x1b\[K([^\r]*)", shown):
            self.assertLess(len(view), 20)

    def test_dumb_terminal(self):
        replay = self.write_replay("replay.safetensors", 2)
        _, shown = self.on_terminal(
            "train", "--unet-only", UNET, "--replay", replay, "-o", "run", env={"TERM": "dumb"}
        )
        self.assertNotIn("\x1b", shown)
        self.assertIn("train 2/2", shown)


if __name__ == "__main__":
    unittest.main()
