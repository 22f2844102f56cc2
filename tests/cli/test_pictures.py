"""generate's file names without -o, and its seeds."""

import os
import re
import shutil
import unittest

from support import (BASE, IO, UNET, USAGE, Case, files_below, read_png, read_safetensors, sha256,
                     write_safetensors)


class Drawn(Case):
    def draw(self, *args):
        return self.ok("generate", "-m", BASE, "--steps", "1", "-t", "1", *args)

    def text(self, name):
        return read_png(self.path(name))[3]["parameters"]

    def seed_of(self, name):
        return int(re.search(r"Seed: (\d+),", self.text(name))[1])


class Names(Drawn):
    def drawn(self, *args):
        """The names that are printed, all of which are new."""
        before = set(files_below(self.folder))
        names = self.draw(*args).out.splitlines()
        self.assertEqual(set(files_below(self.folder)) - before, set(names))
        return names

    def test_first_new(self):
        self.assertEqual(self.drawn("-p", "x"), ["output.png"])
        self.assertEqual(self.drawn("-p", "x"), ["output_2.png"])
        self.assertEqual(self.drawn("-p", "x"), ["output_3.png"])
        self.assertEqual(
            self.drawn("-p", "x", "-p", "y", "-b", "2"), [f"output_{n}.png" for n in (4, 5, 6, 7)]
        )
        self.assertEqual(self.drawn("-p", "x", "--compare", "--adapter", self.adapter()),
                         ["output_8.png"])

    def adapter(self):
        tuned = self.path("tuned")
        if not os.path.exists(tuned):
            os.mkdir(tuned)
            self.ok("train", "-m", BASE, "--train_data_dir", os.path.join(BASE, "..", "ink"),
                    "-o", "tuned", "--max_train_steps", "1", "--train_batch_size", "1", "-t", "1",
                    "--trainable", "1%")
        return os.path.join(tuned, "adapter.safetensors")

    def test_gaps(self):
        """All of a run's pictures stand together, where nothing is in between."""
        self.write("output_3.png", "kept")
        self.write("output_6.png", "kept")
        self.assertEqual(self.drawn("-p", "x", "-b", "3"), [f"output_{n}.png" for n in (7, 8, 9)])
        self.assertEqual(self.drawn("-p", "x", "-b", "2"), ["output.png", "output_2.png"])
        self.assertEqual(self.drawn("-p", "x"), ["output_4.png"])
        for name in ["output_3.png", "output_6.png"]:
            with open(self.path(name), encoding="ascii") as file:
                self.assertEqual(file.read(), "kept")

    def test_other_things(self):
        """A folder or a link to nowhere of that name is none of the run's pictures either."""
        os.mkdir(self.path("output.png"))
        os.symlink("nowhere", self.path("output_2.png"))
        self.assertEqual(self.drawn("-p", "x"), ["output_3.png"])
        self.assertFalse(os.path.lexists(self.path("nowhere")))
        self.assertTrue(os.path.islink(self.path("output_2.png")))

    def test_given(self):
        """What is named is written over, also by a config file; folders are refused early."""
        self.write("output.png", "old")
        self.assertEqual(self.draw("-p", "x", "-o", "output.png").out, "output.png\n")
        self.text("output.png")
        self.write("c.json", '{"output": "y.png"}')
        self.write("y.png", "old")
        self.assertEqual(self.draw("-p", "x", "--config", "c.json").out, "y.png\n")
        os.mkdir(self.path("v1.2"))
        self.write("v1.2/pic_2", "old")
        self.assertEqual(self.draw("-p", "x", "-b", "2", "-o", "v1.2/pic").out,
                         "v1.2/pic\nv1.2/pic_2\n")
        os.mkdir(self.path("z_2.png"))
        self.refused(USAGE, ["z_2.png", "is a folder"], "generate", "-m", BASE, "-p", "x", "-b",
                     "2", "-o", "z.png")
        self.assertFalse(os.path.exists(self.path("z.png")))

    def start(self, count):
        write_safetensors(self.path("start"), {"latents": ("F32", [count, 4, 8, 8],
                                                           [0.5] * (count * 256))})
        return ("--init-latents", "start")

    def test_given_latents(self):
        """As many pictures as latents, all of whose names are checked before the model is read."""
        os.mkdir(self.path("z_3.png"))
        draw = ("generate", "-m", "nowhere", "-p", "x")
        self.refused(USAGE, ["z_3.png", "is a folder"], *draw, "-o", "z.png", *self.start(3))
        self.refused(IO, "nowhere", *draw, "-o", "z.png", *self.start(2))
        self.refused(USAGE, ["z_3.png", "is a folder"], *draw, "-p", "y", "-o", "z.png",
                     *self.start(2))
        self.refused(IO, "none", *draw, "--init-latents", "none")
        self.assertEqual(len(self.drawn("-p", "x", *self.start(2))), 2)

    def test_closed_folder(self):
        """Where nothing can be written, that is told before the model is read."""
        os.chmod(self.folder, 0o555)
        self.addCleanup(os.chmod, self.folder, 0o755)
        # root may write anywhere; access() judges by the real user
        limit = (lambda: os.setresuid(65534, 0, 0)) if os.geteuid() == 0 else None
        draw = ("generate", "-m", "nowhere", "-p", "x")
        self.refused(IO, ["output.png", "the current folder", "Permission denied"], *draw,
                     limit=limit)


class Seeds(Drawn):
    def told(self, result):
        lines = re.findall(r"^seed (\d+) \(drawn\)$", result.err, re.M)
        self.assertEqual(len(lines), 1, result.err)
        return int(lines[0])

    def test_drawn(self):
        """Told on one line and in the picture, which can be drawn again."""
        seeds = set()
        spelled = [("-s", "-1"), ("--seed=-1",), ("-s-7",), ("--seed", "-1")]
        for i, args in enumerate(spelled):
            name = f"{i}.png"
            seed = self.told(self.draw("-p", "x", "-o", name, *args))
            self.assertEqual(self.seed_of(name), seed)
            self.assertLess(seed, 2**32)
            seeds.add(seed)
            self.draw("-p", "x", "-o", "again.png", "-s", str(seed))
            with open(self.path(name), "rb") as one, open(self.path("again.png"), "rb") as other:
                self.assertTrue(one.read() == other.read())
        self.assertGreater(len(seeds), 2)  # four the same: once in 2^96

    def test_counts_up(self):
        result = self.draw("-p", "x", "-p", "y", "-b", "2", "-s", "-1", "-o", "b.png")
        seed = self.told(result)
        names = ["b.png", "b_2.png", "b_3.png", "b_4.png"]
        self.assertEqual([self.seed_of(name) for name in names], [seed, seed + 1] * 2)

    def test_config(self):
        """Only what holds in the end is drawn."""
        self.write("c.json", '{"seed": -1}')
        self.told(self.draw("-p", "x", "-o", "c.png", "--config", "c.json"))
        result = self.draw("-p", "x", "-o", "c.png", "--config", "c.json", "-s", "5")
        self.assertEqual((result.err.count("drawn"), self.seed_of("c.png")), (0, 5))
        self.assertNotIn("drawn", self.draw("-p", "x", "-o", "c.png", "-s", "0").err)
        self.assertEqual(self.seed_of("c.png"), 0)

    def train(self, out, seed, *args):
        return self.ok("train", "--unet-only", UNET, "--replay", self.path("replay"), "-o", out,
                       "--checkpointing_steps", "1", "-t", "1", "--seed", seed, *args)

    def test_train(self):
        """Told and kept: by the adapter, and by a run that is resumed."""
        self.write_replay("replay", 3)
        seed = self.told(self.train("run", "-1"))
        adapter = self.path("run", "adapter.safetensors")
        whole = sha256(adapter)
        self.assertEqual(read_safetensors(adapter)[1]["sara.seed"], str(seed))
        shutil.rmtree(self.path("run", "checkpoint-3"))
        result = self.train("run", "-1", "--resume_from_checkpoint", "latest")
        self.assertIn(f"\nseed {seed} (the run's)\n", "\n" + result.err)
        self.assertEqual(sha256(adapter), whole)
        self.train("again", str(seed))
        self.assertEqual(sha256(self.path("again", "adapter.safetensors")), whole)
        # A resumed run without a checkpoint yet draws, too.
        self.told(self.train("new", "-1", "--resume_from_checkpoint", "latest"))

    def test_bench(self):
        self.told(self.ok("bench", "--shape", "tiny", "--steps", "1", "--latent", "8", "--seed",
                          "-1", "-t", "1"))


if __name__ == "__main__":
    unittest.main()
