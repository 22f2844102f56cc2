"""train --report_to tensorboard: the events are the log's numbers and the pictures; going on; a
disk that fails."""

import json
import os
import struct
import unittest

from events import read_events
from support import BASE, EMOJI, IO, UNET, USAGE, Shim

INK = os.path.join(EMOJI, "ink")


class TensorBoard(Shim):
    def train(self, folder, *args, images=False, check=True, env=None):
        """Four steps: of a replay with a tiny U-Net, or of an image."""
        model = ["-m", BASE, "--train_data_dir", self.data(), "--train_batch_size", "1"] if images \
            else ["--unet-only", UNET, "--replay", self.write_replay("replay.safetensors", 4)]
        args = ["train", *model, "-o", folder, "-t", "1", "--max_train_steps", "4",
                "--lr_scheduler", "constant", "--progressive_iter", "0", *args]
        return self.ok(*args, env=env) if check else self.sara(*args, env=env)

    def data(self):
        folder = self.path("data")
        if not os.path.exists(folder):
            os.mkdir(folder)
            os.symlink(os.path.join(INK, "u1f301.png"), os.path.join(folder, "a.png"))
            self.write(os.path.join("data", "a.txt"), "foggy")
        return folder

    def log(self, folder):
        with open(self.path(folder, "log.jsonl"), encoding="utf-8") as file:
            return [line for line in map(json.loads, file) if "step" in line]

    def expected(self, line):
        return {key: struct.unpack("<f", struct.pack("<f", value))[0]
                for key, value in line.items() if key != "step" and value is not None}

    def test_events(self):
        self.train("run", "--report_to", "tensorboard", "--track_drift", "2", "--validation_steps",
                   "2", "--validation_prompt", "cat <b>", "--validation_guidance_scale", "1",
                   images=True)
        events = read_events(self.path("run", "logs"))
        self.assertEqual(events[0][1][3], b"brain.Event:2")
        self.assertEqual((events[1][0], events[1][1][7]), (1, b"\x08\x01"))
        scalars = {step: v for step, _, v in events if v and "validation/0" not in v}
        self.assertEqual(scalars, {line["step"]: self.expected(line) for line in self.log("run")})
        self.assertIn("small_still_small", scalars[2])
        self.assertNotIn("small_still_small", scalars[1])
        pictures = {step: v["validation/0"] for step, _, v in events if "validation/0" in v}
        self.assertEqual(sorted(pictures), [2, 4])
        for step, (width, height, data) in pictures.items():
            with open(self.path("run", "samples", f"step-{step:06}-0.png"), "rb") as file:
                self.assertEqual(data, file.read())
            self.assertEqual((width, height), struct.unpack(">II", data[16:24]))
        times = [event[1] for _, event, _ in events]
        self.assertEqual(times, sorted(times))

    def test_going_on(self):
        """Stopped after step 4, going on from the checkpoint of 2: what 3 and 4 were is purged."""
        to = ["--report_to", "tensorboard", "--logging_dir", self.path("elsewhere", "deep"),
              "--checkpointing_steps", "2"]
        self.train("run", *to)
        self.assertFalse(os.path.exists(self.path("run", "logs")))
        self.train("run", *to, "--resume_from_checkpoint", "checkpoint-2")
        folder = self.path("elsewhere", "deep")
        self.assertEqual(len(os.listdir(folder)), 2)
        events = read_events(folder)
        starts = [step for step, event, _ in events if 7 in event]
        self.assertEqual(starts, [1, 3])
        self.assertEqual([step for step, _, values in events if values], [1, 2, 3, 4, 3, 4])
        self.train("run", *to, "--resume_from_checkpoint", "latest")  # nothing is left to do
        self.assertEqual(len(os.listdir(folder)), 2)

    def test_refused(self):
        for args, text in [
                (["--report_to", "wandb"], "--report_to wandb: expected none or tensorboard"),
                (["--logging_dir", "x"], "--logging_dir x: goes with --report_to tensorboard")]:
            result = self.train("run", *args, check=False)
            self.check_refused(result, USAGE, text)
        self.write("file", "")
        result = self.train("run", "--report_to", "tensorboard", "--logging_dir",
                            self.path("file", "x"), check=False)
        self.check_refused(result, IO, self.path("file"))

    def test_failing_disk(self):
        """Once steps are written: a line tells it once, and the adapter is the same."""
        self.train("plain")
        with open(self.path("plain", "adapter.safetensors"), "rb") as file:
            expected = file.read()
        args = ["--report_to", "tensorboard", "--logging_dir", self.path("first")]
        result = self.train("run", *args, env=self.shim(self.path("first"), at=4, number=28),
                            check=False)
        self.check_refused(result, IO, "No space left on device")  # before the first step
        for at in (5, 7):
            folder = self.path(f"logs{at}")
            env = self.shim(folder, at=at, number=28, sticky=True)
            result = self.train(f"run{at}", "--report_to", "tensorboard", "--logging_dir", folder,
                                env=env)
            self.assertEqual(result.err.count("--report_to tensorboard: "), 1, result.err)
            self.assertIn("No space left on device; the run goes on without it", result.err)
            with open(self.path(f"run{at}", "adapter.safetensors"), "rb") as file:
                self.assertEqual(file.read(), expected)
            self.assertEqual(len(self.log(f"run{at}")), 4)


if __name__ == "__main__":
    unittest.main()
