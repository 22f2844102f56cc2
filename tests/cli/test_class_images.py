"""DreamBooth's class images: what is missing is drawn by the base, once, wherever it stopped."""

import errno
import os
import random
import shutil
import signal
import subprocess
import time
import unittest

from support import EMOJI, GOLDEN, INPUT, INTERRUPTED, IO, PROGRAM, USAGE, Shim, as_others
from support import sha256

BASE = os.path.join(GOLDEN, "pipeline")
COUNT = 6
PROMPT = "a (red:1.9) barn"  # as a caption: the marks are text


class ClassImages(Shim):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("data"))
        ink = os.path.join(EMOJI, "ink")
        names = sorted(name for name in os.listdir(ink) if name.endswith(".png"))
        for name in names[:2]:
            shutil.copy(os.path.join(ink, name), self.path("data"))
        self.other = os.path.join(ink, names[3])

    def arguments(self, run, *more, folder="class"):
        return ["train", "-m", BASE, "--train_data_dir", "data", "--instance_prompt", "thing", "-o",
                run, "-t", "1", "--max_train_steps", "1", "--train_batch_size", "1", "--resolution",
                "16", "--learning_rate", "1e-2", "--with_prior_preservation", "--class_data_dir",
                folder, "--class_prompt", PROMPT, *more]

    def train(self, run, *more, folder="class", count=COUNT):
        return self.ok(*self.arguments(run, "--num_class_images", str(count), *more, folder=folder))

    def hashes(self, folder="class"):
        return {name: sha256(self.path(folder, name)) for name in sorted(os.listdir(
            self.path(folder))) if name.startswith("class-")}

    def test_drawn(self):
        """Number i is what generate draws with the seed + i; another start draws nothing."""
        done = self.train("one", "--seed", "7")
        self.assertIn(f"{COUNT} of {COUNT} class images are drawn to class", done.err)
        self.assertIn(f"from 2 images and {COUNT} class images", done.err)
        first = self.hashes()
        self.assertEqual(list(first), [f"class-{i:06}.png" for i in range(COUNT)])
        self.ok("generate", "-m", BASE, "-p", PROMPT, "-s", "9", "-W", "16", "-H", "16",
                "--no-prompt-weights", "-o", "x.png")
        self.assertEqual(sha256(self.path("x.png")), first["class-000002.png"])
        done = self.train("two", "--seed", "7")
        self.assertNotIn("are drawn", done.err)
        self.assertEqual(sha256(self.path("one", "adapter.safetensors")),
                         sha256(self.path("two", "adapter.safetensors")))
        os.remove(self.path("class", "class-000003.png"))
        done = self.train("three", "--seed", "7")
        self.assertIn(f"1 of {COUNT} class images are drawn", done.err)
        self.assertEqual(self.hashes(), first)

    def test_others_count(self):
        """Images of other names, also in kohya's folders, are of those that are wanted."""
        os.makedirs(self.path("class", "2_barn"))
        shutil.copy(self.other, self.path("class", "a.png"))
        shutil.copy(self.other, self.path("class", "2_barn", "b.png"))
        done = self.train("run", count=2)
        self.assertNotIn("are drawn", done.err)
        self.assertEqual(self.hashes(), {})

    def test_killed(self):
        """Ctrl-C and kill -9 at random moments; the next start goes on to the same files."""
        self.train("whole", folder="whole")
        whole = self.hashes("whole")
        draw = random.Random(5)
        for turn in range(8):
            process = subprocess.Popen(
                [PROGRAM, *self.arguments("run", "--num_class_images", str(COUNT))],
                cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            time.sleep(draw.uniform(0.02, 0.25))
            process.send_signal(signal.SIGKILL if turn % 2 else signal.SIGINT)
            _, err = process.communicate()
            if process.returncode == INTERRUPTED and "class images are in" in err:
                self.assertIn("the same command goes on", err)
            found = self.hashes() if os.path.isdir(self.path("class")) else {}
            for name, digest in found.items():
                self.assertEqual(digest, whole[name])
            shutil.rmtree(self.path("run"), ignore_errors=True)
        self.train("run")
        self.assertEqual(self.hashes(), whole)
        self.assertEqual(sha256(self.path("run", "adapter.safetensors")),
                         sha256(self.path("whole", "adapter.safetensors")))

    def test_full_disk(self):
        """Each call that fails is told; what is whole stays, and the next start goes on."""
        two = ["--num_class_images", "2"]
        calls = self.count(self.path("whole"), *self.arguments("run", *two, folder="whole"))
        self.assertGreaterEqual(calls, 6)  # made, renamed, synced: of each picture
        whole = self.hashes("whole")
        for sticky in (False, True):
            for at in range(1, calls + 1):
                shutil.rmtree(self.path("class"), ignore_errors=True)
                shutil.rmtree(self.path("run"))
                args = self.arguments("run", *two)
                shim = self.shim(self.path("class"), at, errno.ENOSPC, sticky)
                self.refused(IO, ["class", "No space left"], *args, env=shim)
                left = os.listdir(self.path("class")) if os.path.isdir(self.path("class")) else []
                self.assertEqual(sorted(left), sorted(whole)[:len(left)])
                for name in left:
                    self.assertEqual(sha256(self.path("class", name)), whole[name])
                self.ok(*args)
                self.assertEqual(self.hashes(), whole)

    def test_refused(self):
        self.refused(USAGE, ["--num_class_images 3", "goes with --class_prompt"], "train", "-m",
                     BASE, "--train_data_dir", "data", "--instance_prompt", "x", "-o", "run",
                     "--class_data_dir", "class", "--num_class_images", "3")
        self.write("file", "")
        self.refused(IO, ["file"], *self.arguments("run", folder="file"))
        os.mkdir(self.path("closed"), 0o555)
        done = self.refused(IO, ["closed: cannot be written: Permission denied"],
                            *self.arguments("run", folder="closed"), limit=as_others)
        self.assertNotIn("are drawn", done.err)
        os.mkdir(self.path("empty"))
        self.refused(INPUT, ["empty", "no images"], "train", "-m", BASE, "--train_data_dir", "data",
                     "--instance_prompt", "x", "-o", "run", "--class_data_dir", "empty",
                     "--with_prior_preservation", "-t", "1")
        shutil.copy(os.path.join(EMOJI, "ink", "u1f301.png"), self.path("empty"))
        self.refused(INPUT, ["empty", "no caption", "one caption for all by --class_prompt"],
                     "train", "-m", BASE, "--train_data_dir", "data", "--instance_prompt", "x",
                     "-o", "run", "--class_data_dir", "empty", "-t", "1")


if __name__ == "__main__":
    unittest.main()
