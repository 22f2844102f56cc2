"""Writing fails at many places, or the process dies there: one line with path and reason, the
checkpoint before is whole, and the run goes on to the same adapter. With SARA_LONG=1 every call
that changes a file is tried."""

import errno
import json
import os
import resource
import shutil
import unittest

from support import BASE, IO, SANITIZE, UNET, Shim, files_below, read_safetensors, remains, sha256

STEPS = 3
# Of the calls that are made to fail.
EVERY = 1 if os.environ.get("SARA_LONG") == "1" else 7 if SANITIZE else 3


class Runs(Shim):
    """Of a U-Net's folder of one's own; `more` are further options."""

    more = ()

    def setUp(self):
        super().setUp()
        self.unet = self.path("unet")
        shutil.copytree(UNET, self.unet)
        replay = self.write_replay("replay.safetensors", STEPS)
        self.args = [
            "train",
            "--unet-only",
            self.unet,
            *self.more,
            "--replay",
            replay,
            "-t",
            "1",
            "--trainable",
            "20000",
            "--checkpointing_steps",
            "1",
            "--checkpoints_total_limit",
            "2",
            "-o",
        ]
        self.run_folder = self.path("run")
        self.ok(*self.args, self.path("whole"))
        self.expected = sha256(self.path("whole", "adapter.safetensors"))

    def check_checkpoints(self):
        """Every checkpoint that bears its name is whole."""
        for name in os.listdir(self.run_folder) if os.path.isdir(self.run_folder) else []:
            if name.startswith("checkpoint-"):
                folder = os.path.join(self.run_folder, name)
                with open(os.path.join(folder, "manifest.json")) as file:
                    manifest = json.load(file)
                self.assertEqual(len(manifest["files"]), 2)
                for part, digest in manifest["files"].items():
                    self.assertEqual(sha256(os.path.join(folder, part)), digest, name)
        adapter = os.path.join(self.run_folder, "adapter.safetensors")
        if os.path.exists(adapter):
            self.assertEqual(sha256(adapter), self.expected)

    def finish(self, what):
        self.check_checkpoints()
        result = self.ok(*self.args, self.run_folder, "--resume_from_checkpoint", "latest")
        self.assertNotIn("damaged", result.err, what)
        self.assertEqual(
            sha256(os.path.join(self.run_folder, "adapter.safetensors")), self.expected, what
        )
        with open(os.path.join(self.run_folder, "log.jsonl")) as file:
            steps = [json.loads(line).get("step") for line in file]
        self.assertEqual([s for s in steps if s], list(range(1, STEPS + 1)), what)
        self.assertEqual(remains(self.folder), [], what)
        shutil.rmtree(self.run_folder)


class Training(Runs):
    def each_call(self, number, sticky=False, every=1):
        calls = self.count(self.run_folder, *self.args, self.run_folder)
        self.assertGreater(calls, 60)
        shutil.rmtree(self.run_folder)
        reason = os.strerror(number) if number else None
        for at in range(1, calls + 1, every * EVERY):
            what = f"call {at} of {calls}: {reason or 'killed'}"
            result = self.sara(
                *self.args, self.run_folder, env=self.shim(self.run_folder, at, number, sticky)
            )
            if reason:
                self.check_refused(result, IO, [self.run_folder, reason], what)
            else:
                self.assertEqual(result.code, -9, what)
            self.finish(what)

    def test_disk_full(self):
        self.each_call(errno.ENOSPC, sticky=True, every=4)

    def test_input_output_error(self):
        self.each_call(errno.EIO, every=3)

    def test_killed(self):
        self.each_call(0)

    def test_file_size_limit(self):
        largest = max(
            os.path.getsize(self.path("whole", name)) for name in files_below(self.path("whole"))
        )
        for size in [0, 1, 100, 600, 4096, largest // 2, largest - 1]:

            def limit():
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

            result = self.sara(*self.args, self.run_folder, limit=limit)
            self.check_refused(result, IO, [self.run_folder, os.strerror(errno.EFBIG)], size)
            self.finish(f"files of at most {size} bytes")

    def test_profile(self):
        """A trace that cannot be written is a warning; the run is not lost."""
        traces = self.path("traces")
        os.mkdir(traces)
        args = [*self.args, self.run_folder, "--profile", os.path.join(traces, "trace.json")]
        calls = self.count(traces, *args)
        self.assertGreater(calls, 2)
        shutil.rmtree(self.run_folder)
        os.remove(os.path.join(traces, "trace.json"))
        for at in range(2, calls + 1):  # the first opens it, before the first step
            result = self.sara(*args, env=self.shim(traces, at, errno.ENOSPC, sticky=True))
            self.assertEqual((result.code, result.errors()), (0, []), (at, result.err))
            self.assertIn("warning: --profile: ", result.err, at)
            self.assertIn(os.strerror(errno.ENOSPC), result.err, at)
            self.assertEqual(
                sha256(os.path.join(self.run_folder, "adapter.safetensors")), self.expected
            )
            shutil.rmtree(self.run_folder)


class Reading(Runs):
    """Weights that stay on the disk are read throughout a run: wherever that fails, one line names
    the file."""

    more = ("--disk_offload",)

    def test_each_read(self):
        calls = self.count(self.unet, *self.args, self.run_folder, reads=True)
        self.assertGreater(calls, 500)
        shutil.rmtree(self.run_folder)
        checkpoints = 0
        for at in range(7, calls + 1, calls // 16):
            what = f"read {at} of {calls}"
            env = self.shim(self.unet, at, errno.EIO, reads=True)
            result = self.sara(*self.args, self.run_folder, env=env)
            words = [os.path.join(self.unet, "diffusion_pytorch_model.safetensors"),
                     os.strerror(errno.EIO)]
            self.check_refused(result, IO, words, what)
            checkpoints += any(name.startswith("checkpoint-")
                               for name in os.listdir(self.run_folder)
                               ) if os.path.isdir(self.run_folder) else 0
            self.finish(what)
        self.assertGreater(checkpoints, 2)


class Full(Shim):
    """A longer run puts its weights in the place of a shorter one's: whenever the process dies, one
    of the two is there, whole, and what a user has put beside them."""

    WEIGHTS = os.path.join("unet", "diffusion_pytorch_model.safetensors")

    def setUp(self):
        super().setUp()
        replay = self.write_replay("replay.safetensors", STEPS)
        self.args = ["train", "--unet-only", UNET, "--replay", replay, "-t", "1", "--method"]
        self.args += ["full", "--lr_scheduler", "constant", "--checkpoints_total_limit", "1"]
        self.args += ["--resume_from_checkpoint", "latest", "-o"]
        self.short, self.run_folder = self.path("short"), self.path("run")
        self.ok(*self.args, self.short, "--max_train_steps", "1")
        with open(os.path.join(self.short, "unet", "README.md"), "w") as file:
            file.write("mine")
        self.args[1:1] = ["--max_train_steps", str(STEPS)]
        self.ok(*self.args, self.path("whole"))
        self.expected = self.digest(self.path("whole"))

    def digest(self, folder):
        return sha256(os.path.join(folder, self.WEIGHTS))

    def kill_at(self, call):
        shutil.copytree(self.short, self.run_folder)
        env = self.shim(self.run_folder, call)
        self.assertEqual(self.sara(*self.args, self.run_folder, env=env).code, -9, call)
        both = (self.digest(self.short), self.expected)
        self.assertIn(self.digest(self.run_folder), both, call)
        self.ok(*self.args, self.run_folder)
        self.assertEqual(self.digest(self.run_folder), self.expected, call)
        self.assertEqual(remains(self.folder), [], call)
        self.assertTrue(os.path.exists(os.path.join(self.run_folder, "unet", "README.md")))
        shutil.rmtree(self.run_folder)

    def renaming(self):
        """The number of the call that gives the new weights their name."""
        shutil.copytree(self.short, self.run_folder)
        log = self.path("log")
        self.ok(*self.args, self.run_folder, env=self.shim(self.run_folder, log=log))
        self.assertEqual(remains(self.folder), [])
        shutil.rmtree(self.run_folder)
        with open(log) as file:
            calls = [line.rstrip("\n").split("\t") for line in file]
        os.remove(log)
        weights = os.path.join(self.run_folder, self.WEIGHTS)
        (at,) = [i for i, c in enumerate(calls, 1) if c[0] == "rename" and c[2] == weights]
        return at

    def test_killed(self):
        renaming = self.renaming()
        for call in [*range(1, renaming - 3, 40 * EVERY), *range(renaming - 3, renaming + 2)]:
            self.kill_at(call)

    def test_error(self):
        """Where they cannot take the place, what is there stays."""
        renaming = self.renaming()
        shutil.copytree(self.short, self.run_folder)
        result = self.sara(
            *self.args, self.run_folder, env=self.shim(self.run_folder, renaming, errno.EIO)
        )
        weights = os.path.join(self.run_folder, self.WEIGHTS)
        self.check_refused(result, IO, [weights, os.strerror(errno.EIO)])
        self.assertEqual(self.digest(self.run_folder), self.digest(self.short))
        self.assertEqual(remains(self.folder), [])


class Others(Shim):
    """What generate and merge write is whole or not there."""

    def test_generate(self):
        folder = self.path("out")
        os.mkdir(folder)
        args = [
            "generate",
            "-m",
            BASE,
            "-p",
            "a fox",
            "--steps",
            "1",
            "-t",
            "1",
            "-o",
            os.path.join(folder, "fox.png"),
            "--save-latents",
            os.path.join(folder, "l"),
        ]
        calls = self.count(folder, *args)
        self.assertGreaterEqual(calls, 8)
        shutil.rmtree(folder)
        os.mkdir(folder)
        for at in range(1, calls + 1):
            result = self.sara(*args, env=self.shim(folder, at, errno.EIO))
            self.check_refused(result, IO, [folder, os.strerror(errno.EIO)], at)
            for name in files_below(folder):
                self.assertIn(name, ["l", "fox.png"])
                if name == "l":
                    self.assertEqual(
                        list(read_safetensors(os.path.join(folder, name))[0]), ["latents"]
                    )
            shutil.rmtree(folder)
            os.mkdir(folder)

    def test_merge(self):
        place, out = self.path("place"), self.path("place", "out")
        os.mkdir(place)
        args = ["merge", "-m", BASE, "-t", "1", "-o", out]
        calls = self.count(place, *args)
        self.assertGreaterEqual(calls, 40)
        shutil.rmtree(out)
        for at in range(1, calls + 1, 3 * EVERY):
            result = self.sara(*args, env=self.shim(place, at, errno.ENOSPC, sticky=True))
            self.check_refused(result, IO, [place, os.strerror(errno.ENOSPC)], at)
            left = os.listdir(place)
            if left == ["out"]:  # only the last sync failed: it is whole
                self.ok("inspect", "-m", out)
                shutil.rmtree(out)
            else:
                self.assertEqual(left, [], at)


if __name__ == "__main__":
    unittest.main()
