"""What a killed command left half-written goes when the same output is written again."""

import fcntl
import os
import shutil
import signal
import unittest

from support import BASE, UNET, Shim


class Remains(Shim):
    def setUp(self):
        super().setUp()
        self.place = self.path("place")
        os.mkdir(self.place)

    def kill_at(self, call, *args):
        result = self.sara(*args, env=self.shim(self.place, at=call))
        self.assertEqual(result.code, -signal.SIGKILL, (call, result.err))
        return os.listdir(self.place)

    def check(self, name, *args):
        """The output is written after a kill at each call, and nothing else is left then."""
        out, left = os.path.join(self.place, name), 0
        args = [*args, "-t", "1", "-o", out]
        for call in range(1, self.count(self.place, *args) + 1):
            if os.path.isdir(out):
                shutil.rmtree(out)
            elif os.path.exists(out):
                os.remove(out)
            names = self.kill_at(call, *args)
            left += name not in names and len(names)
            if not os.path.exists(out):
                self.ok(*args)
            self.assertEqual(os.listdir(self.place), [name], call)
        self.assertGreater(left, 2)

    def adapter(self):
        replay = self.write_replay("r.safetensors", 1)
        self.ok("train", "--unet-only", UNET, "--replay", replay, "-t", "1", "-o", self.path("run"))
        return self.path("run", "adapter.safetensors")

    def test_merged_folder(self):
        self.check("merged", "merge", "--unet-only", UNET)

    def test_exported(self):
        args = ["export", self.adapter(), "--unet-only", UNET]
        self.check("x.safetensors", *args, "--format", "comfyui")
        shutil.rmtree(self.place)
        os.mkdir(self.place)
        self.check("peft", *args, "--format", "peft", "--rank", "2")

    def test_picture(self):
        size = ["-W", "32", "-H", "32"]
        self.check("a.png", "generate", "-m", BASE, "-p", "a", "--steps", "1", *size)

    def test_others_stay(self):
        """Of other outputs, and what another process is writing at this moment."""
        args = ["merge", "--unet-only", UNET, "-t", "1", "-o"]
        one, two = os.path.join(self.place, "one"), os.path.join(self.place, "two")
        (left,) = self.kill_at(4, *args, one)
        self.ok(*args, two)
        self.assertEqual(sorted(os.listdir(self.place)), [left, "two"])
        held = os.open(os.path.join(self.place, left), os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        self.ok(*args, one)
        self.assertEqual(sorted(os.listdir(self.place)), [left, "one", "two"])
        os.close(held)
        shutil.rmtree(one)
        self.ok(*args, one)
        self.assertEqual(sorted(os.listdir(self.place)), ["one", "two"])


if __name__ == "__main__":
    unittest.main()
