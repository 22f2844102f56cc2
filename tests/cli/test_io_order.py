"""What survives a power cut: a file's bytes are on the disk before its name is, and its name before
the program goes on. A folder that is renamed is whole on the disk, and a run's log is there before
the checkpoint that counts on it."""

import os
import unittest

from support import BASE, UNET, Shim


class Order(Shim):
    def calls(self, *args):
        """(name, path, where to) of each call on what is in the test's folder."""
        log = os.path.join(self.notes, "log")
        self.ok(*args, env=self.shim(self.folder, log=log))
        with open(log) as file:
            return [tuple(line.rstrip("\n").split("\t")) for line in file]

    def setUp(self):
        super().setUp()
        self.notes = self.folder + "-notes"
        os.mkdir(self.notes)
        self.addCleanup(os.rmdir, self.notes)
        self.addCleanup(os.remove, os.path.join(self.notes, "log"))

    def check_folder(self, calls, top):
        """The names in a folder and in those below it are on the disk."""
        changed, synced = {}, {}
        for i, (call, path, new) in enumerate(calls):
            if call == "fsync":
                synced[path] = i
            elif call != "write":
                changed[os.path.dirname(new or path)] = i
        for folder, last in changed.items():
            if folder == top or folder.startswith(top + os.sep):
                self.assertLess(last, synced.get(folder, -1), folder)

    def check(self, calls):
        """Returns the base names of what was renamed."""
        renamed = []
        for i, (call, old, new) in enumerate(calls):
            if call != "rename":
                continue
            before = [c for c, path, _ in calls[:i] if path == old]
            if "write" in before:
                self.assertEqual(before[-1], "fsync", f"{new}: before it got its name")
            else:
                self.check_folder(calls[:i], old)
            self.assertEqual(calls[i + 1][:2], ("fsync", os.path.dirname(new)), f"after {new}")
            renamed.append(os.path.basename(new))
        return renamed

    def test_training(self):
        run = self.path("run")
        replay = self.write_replay("replay.safetensors", 3)
        args = ["train", "--unet-only", UNET, "--replay", replay, "-t", "1", "-o", run]
        args += ["--trainable", "20000", "--checkpointing_steps", "1"]
        calls = self.calls(*args, "--checkpoints_total_limit", "2")
        renamed = self.check(calls)
        parts = ["adapter.safetensors", "state.safetensors", "manifest.json"]
        self.assertEqual(
            [name for name in renamed if name.startswith("checkpoint-")],
            ["checkpoint-1", "checkpoint-2", "checkpoint-3"],
        )
        self.assertEqual([renamed.count(name) for name in parts], [4, 3, 3])
        self.assertEqual(renamed[-2:], ["adapter.safetensors", "report.html"])
        log = os.path.join(run, "log.jsonl")
        for i, (call, _, new) in enumerate(calls):
            if call == "rename" and os.path.basename(new).startswith("checkpoint-"):
                before = [c[0] for c in calls[:i] if c[1] == log]
                self.assertEqual(before[-2:], ["write", "fsync"], new)

    def test_others(self):
        size = ["-W", "64", "-H", "64", "-t", "1"]
        for args, names in [
            (["generate", "-m", BASE, "-p", "a fox", "--steps", "1", *size], ["fox.png"]),
            (["merge", "-m", BASE, "-t", "1"], ["model_index.json", "merged"]),
        ]:
            renamed = self.check(self.calls(*args, "-o", self.path(names[-1])))
            self.assertEqual([name for name in names if name not in renamed], [])
            os.remove(os.path.join(self.notes, "log"))
        self.write(os.path.join(self.notes, "log"), "")


if __name__ == "__main__":
    unittest.main()
