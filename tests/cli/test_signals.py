"""SIGINT, SIGTERM and kill -9 while the program works: what is saved is whole and the run goes
on to the same adapter."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
import unittest

from support import (
    BASE,
    EMOJI,
    INTERRUPTED,
    PROGRAM,
    SLOW,
    UNET,
    Case,
    files_below,
    remains,
    sha256,
)

STEPS = 16


def wait_taken(process, number):
    """Of two signals that are pending the kernel hands out the lower number first."""
    bit = 1 << number - 1
    while process.poll() is None:
        with open(f"/proc/{process.pid}/status") as file:
            pending = [int(line.split()[1], 16) for line in file if "Pnd:" in line]
        if not any(mask & bit for mask in pending):
            break
        time.sleep(0.001)


class SignalCase(Case):
    def start(self, *args, program=(PROGRAM,), **options):
        process = subprocess.Popen(
            [*program, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            text=True,
            **options,
        )
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            process.kill()
            process.communicate()
        process.stdout.close()
        process.stderr.close()

    def wait_line(self, process, beginning):
        for line in process.stderr:
            if line.startswith(beginning):
                return
        self.fail(f"no line began with {beginning}: exit {process.wait()}")

    def wait_steps(self, process, run, steps):
        """Until so many steps are in the log, or the end."""
        limit = time.monotonic() + 60 * SLOW
        while process.poll() is None and self.logged(run) < steps:
            self.assertLess(time.monotonic(), limit)
            time.sleep(0.002)

    def logged(self, run):
        try:
            with open(self.path(run, "log.jsonl")) as file:
                return sum('"step"' in line for line in file)
        except FileNotFoundError:
            return 0

    def check_log(self, run):
        """Exactly one line for each step, in order."""
        with open(self.path(run, "log.jsonl")) as file:
            steps = [json.loads(line).get("step") for line in file]
        self.assertEqual([s for s in steps if s is not None], list(range(1, STEPS + 1)))

    def interrupted(self, process):
        out, err = process.communicate(timeout=60 * SLOW)
        self.assertEqual((process.returncode, out), (INTERRUPTED, ""), err)
        errors = [line for line in err.splitlines() if line.startswith("sara")]
        self.assertEqual(len(errors), 1, err)
        self.assertIn("interrupted", errors[0])
        return errors[0]


class Training(SignalCase):
    def setUp(self):
        super().setUp()
        replay = self.write_replay("replay.safetensors", STEPS)
        self.args = [
            "train",
            "--unet-only",
            UNET,
            "--replay",
            replay,
            "-t",
            "1",
            "--checkpointing_steps",
            "5",
            "--lambda_rank",
            "0.05",
        ]
        self.ok(*self.args, "-o", "whole")
        self.expected = sha256(self.path("whole", "adapter.safetensors"))

    def finish(self, run, *args):
        self.ok(*(args or self.args), "-o", run, "--resume_from_checkpoint", "latest")
        self.assertEqual(sha256(self.path(run, "adapter.safetensors")), self.expected, run)
        self.check_log(run)
        self.assertEqual(remains(self.folder), [])

    def test_signals(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            run = number.name
            process = self.start(*self.args, "-o", run)
            self.wait_steps(process, run, 2)
            process.send_signal(number)
            line = self.interrupted(process)
            step = self.logged(run)
            self.assertIn(f"step {step} of {STEPS}", line)
            self.assertTrue(os.path.isdir(self.path(run, f"checkpoint-{step}")), line)
            self.assertFalse(os.path.exists(self.path(run, "adapter.safetensors")))
            self.finish(run)

    def test_again_and_again(self):
        """With SARA_LONG=1 as often as it takes to meet what happens once in thirty times."""
        for number in range(100 if os.environ.get("SARA_LONG") == "1" else 1):
            run = f"run{number}"
            for round_number in range(1, 6):
                process = self.start(*self.args, "-o", run, "--resume_from_checkpoint", "latest")
                self.wait_steps(process, run, 3 * round_number)
                process.send_signal(signal.SIGTERM)
                self.interrupted(process)
            self.finish(run)

    def test_before_the_first_step(self):
        process = self.start(*self.args, "-o", "run")
        process.send_signal(signal.SIGSTOP)  # likely before it can catch anything
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60 * SLOW)
        self.assertIn(process.returncode, (-signal.SIGINT, INTERRUPTED))
        self.finish("run")

    def test_ignored_stays_ignored(self):
        """As nohup and background jobs of a shell want it."""
        process = self.start(
            *self.args, "-o", "run", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
        )
        self.wait_steps(process, "run", 1)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60 * SLOW)
        self.assertEqual(process.returncode, 0)
        self.assertEqual(sha256(self.path("run", "adapter.safetensors")), self.expected)

    def test_two_runs(self):
        process = self.start(*self.args, "-o", "run")
        self.wait_steps(process, "run", 1)
        process.send_signal(signal.SIGSTOP)
        self.refused(
            4, ["run", "another run"], *self.args, "-o", "run", "--resume_from_checkpoint", "latest"
        )
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60 * SLOW)
        self.assertEqual(process.returncode, 0)
        self.assertEqual(sha256(self.path("run", "adapter.safetensors")), self.expected)

    def test_remains(self):
        """What a killed process left half-written is cleared away, and nothing else."""
        self.ok(*self.args, "-o", "run")
        os.makedirs(self.path("run", "samples"))
        os.makedirs(self.path("run", ".checkpoint-9.partial"))
        remains_of = [".checkpoint-9.partial/x", ".sara-1-0.tmp", "samples/.sara-1-0.tmp"]
        kept = ["notes.txt", "samples/.notes"]
        for name in remains_of + kept:
            self.write(os.path.join("run", name), "x")
        self.ok(*self.args, "-o", "run", "--resume_from_checkpoint", "latest")
        left = files_below(self.path("run"))
        self.assertEqual([name for name in remains_of if name in left], [])
        self.assertEqual([name for name in kept if name in left], kept)

    def test_kill(self):
        """Twenty times at any moment, each time going on from the newest checkpoint."""
        draw = random.Random(20)
        args = ["1" if arg == "5" else arg for arg in self.args]
        begun = time.monotonic()
        self.ok(*args, "-o", "other")
        self.assertEqual(sha256(self.path("other", "adapter.safetensors")), self.expected)
        usual = time.monotonic() - begun
        killed = attempts = 0
        while killed < 20 and attempts < 100:
            attempts += 1
            process = self.start(*args, "-o", "run", "--resume_from_checkpoint", "latest")
            time.sleep(draw.random() * usual * 0.6)
            process.kill()
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
            if os.path.exists(self.path("run", "adapter.safetensors")):
                # A kill while the report was written leaves its beginning until the next opening.
                self.finish("run", *args)
                shutil.move(self.path("run"), self.path(f"done-{attempts}"))
        self.assertEqual(killed, 20)
        self.finish("run", *args)


class Images(SignalCase):
    """While images are cached, drawn and merged."""

    def test_caching(self):
        process = self.start(
            "train",
            "-m",
            BASE,
            "--train_data_dir",
            os.path.join(EMOJI, "ink"),
            "-o",
            "run",
            "--max_train_steps",
            "1",
            "-t",
            "1",
        )
        self.wait_line(process, "cache 1/")
        process.send_signal(signal.SIGTERM)
        self.interrupted(process)
        self.assertEqual(remains(self.folder), [])
        self.assertNotIn(os.path.join("run", "log.jsonl"), files_below(self.folder))

    def test_validation(self):
        """The picture is left out, the step is not."""
        process = self.start(
            "train",
            "-m",
            BASE,
            "--train_data_dir",
            self.dataset(),
            "-o",
            "run",
            "--max_train_steps",
            "2",
            "--validation_prompt",
            "a fox",
            "--validation_steps",
            "1",
            "--train_batch_size",
            "1",
            "-t",
            "1",
        )
        self.wait_line(process, "generate 1/")
        process.send_signal(signal.SIGINT)
        self.interrupted(process)
        self.assertEqual(
            sorted(n for n in os.listdir(self.path("run")) if n[0] == "c"), ["checkpoint-1"]
        )
        self.ok(
            "train",
            "-m",
            BASE,
            "--train_data_dir",
            self.path("data"),
            "-o",
            "run",
            "--max_train_steps",
            "2",
            "--validation_prompt",
            "a fox",
            "--validation_steps",
            "1",
            "--train_batch_size",
            "1",
            "-t",
            "1",
            "--resume_from_checkpoint",
            "latest",
        )
        self.assertIn("step-000002-0.png", os.listdir(self.path("run", "samples")))
        self.assertEqual(remains(self.folder), [])

    def dataset(self):
        os.mkdir(self.path("data"))
        name = sorted(n for n in os.listdir(os.path.join(EMOJI, "ink")) if n.endswith(".png"))[0]
        shutil.copy(os.path.join(EMOJI, "ink", name), self.path("data", "a.png"))
        self.write("data/a.txt", "a picture")
        return self.path("data")

    def draw(self):
        process = self.start(
            "generate",
            "-m",
            BASE,
            "-p",
            "a fox",
            "-W",
            "256",
            "-H",
            "256",
            "--steps",
            "50",
            "-o",
            "fox.png",
            "-t",
            "1",
        )
        self.wait_line(process, "generate 1/50")
        return process

    def test_generating(self):
        process = self.draw()
        process.send_signal(signal.SIGINT)
        self.interrupted(process)
        self.assertEqual(files_below(self.folder), [])

    def test_twice(self):
        """The second ends the program at once, unless the step was over before it came. One that
        comes before the handler of the first has begun may be handled before it."""
        for first, second in [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]:
            codes = []
            while 128 + second not in codes and len(codes) < 10:
                process = self.draw()
                time.sleep(0.03)
                process.send_signal(first)
                wait_taken(process, first)
                process.send_signal(second)
                process.communicate(timeout=60 * SLOW)
                codes.append(process.returncode)
            self.assertEqual(codes[-1], 128 + second)
            self.assertLessEqual(set(codes), {128 + second, 128 + first, INTERRUPTED})
        self.assertEqual(files_below(self.folder), [])

    def test_merging(self):
        process = self.start("merge", "-m", BASE, "--dtype", "bf16", "-o", "out")
        limit = time.monotonic() + 60 * SLOW
        while process.poll() is None and not os.listdir(self.folder):
            self.assertLess(time.monotonic(), limit)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60 * SLOW)
        self.assertIn(process.returncode, (0, INTERRUPTED))  # 0: it came too late
        self.assertEqual(os.listdir(self.folder), ["out"] if process.returncode == 0 else [])


if __name__ == "__main__":
    unittest.main()
