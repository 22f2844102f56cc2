"""Every method: whenever the process dies or the disk is full, the run goes on to the same result.

With SARA_LONG=1 every call that changes a file is tried, else a few of them.
"""

import errno
import hashlib
import os
import shutil
import unittest

from support import IO, SANITIZE, UNET, Shim, files_below, remains

STEPS = 4
TRIED = 2 if SANITIZE else 3  # calls of each run

SARA = ["--trainable", "20000"]
METHODS = {
    "largest": ["--mask", "largest", *SARA],
    "random": ["--mask", "random", *SARA],
    "gradient": ["--mask", "gradient", "--mask_steps", "2", *SARA],
    "lift": ["--mask", "lift", "--rank", "4", *SARA],
    "full": ["--method", "full"],
    "lora": ["--method", "lora", "--lora_targets", "all"],
    "lora-peft": ["--method", "lora", "--save_as", "peft"],
    "dora": ["--method", "dora"],
    "adaptformer": ["--method", "adaptformer", "--adapter_width", "4"],
    "ltsft": ["--method", "ltsft", "--ltsft_steps", "2", *SARA],
    "shira": ["--method", "shira", "--rank", "2"],
}
RUN = ("checkpoint-", "log.jsonl", "report.html", ".lock")  # what a run folder has of every method


def digest(folder):
    """Of the result: whatever is not every run's."""
    names = [name for name in files_below(folder) if not name.startswith(RUN)]
    found = hashlib.sha256()
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            found.update(name.encode() + file.read())
    return names and found.hexdigest()


class Methods(Shim):
    def begin(self, options):
        self.args = ["train", "--unet-only", UNET, "--replay", self.replay, "-t", "1", *options]
        self.args += ["--checkpointing_steps", "1", "--checkpoints_total_limit", "2", "-o"]
        self.run_folder = self.path("run")
        calls = self.count(self.run_folder, *self.args, self.run_folder)
        self.expected = digest(self.run_folder)
        self.assertTrue(self.expected)
        shutil.rmtree(self.run_folder)
        return calls

    def finish(self, what):
        self.ok(*self.args, self.run_folder, "--resume_from_checkpoint", "latest")
        self.assertEqual(digest(self.run_folder), self.expected, what)
        self.assertEqual(remains(self.folder), [], what)
        shutil.rmtree(self.run_folder)

    def tried(self, calls):
        if os.environ.get("SARA_LONG") == "1":
            return range(1, calls + 1)
        return sorted({1 + i * (calls - 1) // (TRIED - 1) for i in range(TRIED)})

    def interrupted_at(self, at, number, what):
        env = self.shim(self.run_folder, at, number, sticky=True)
        result = self.sara(*self.args, self.run_folder, env=env)
        if number:
            self.check_refused(result, IO, [self.run_folder, os.strerror(number)], what)
        else:
            self.assertEqual(result.code, -9, what)
        self.finish(what)

    def each_method(self, number):
        self.replay = self.write_replay("replay.safetensors", 2 * STEPS)
        for name, options in METHODS.items():
            calls = self.begin([*options, "--max_train_steps", str(STEPS)])
            for at in self.tried(calls):
                self.interrupted_at(at, number, f"{name}: call {at} of {calls}")

    def test_killed(self):
        self.each_method(0)

    def test_disk_full(self):
        self.each_method(errno.ENOSPC)


if __name__ == "__main__":
    unittest.main()
