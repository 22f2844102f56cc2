"""Each exit code with its one line."""

import json
import os
import resource
import shutil
import subprocess
import time
import unittest

from support import (
    BASE,
    DIVERGED,
    GOLDEN,
    INPUT,
    IO,
    MEMORY,
    PROGRAM,
    SANITIZE,
    UNET,
    USAGE,
    Case,
    files_below,
    processor_has,
    remains,
    write_safetensors,
)


class Input(Case):
    """Exit 3: a file is there, but not what it should be."""

    def broken_model(self, name, content):
        shutil.rmtree(self.path("model"), ignore_errors=True)
        shutil.copytree(BASE, self.path("model"))
        self.write(os.path.join("model", name), content)
        return self.path("model")

    def test_models(self):
        for name, content in [
            ("unet/diffusion_pytorch_model.safetensors", b""),
            ("unet/diffusion_pytorch_model.safetensors", b"PK\3\4" + bytes(64)),
            ("unet/config.json", "{"),
            ("model_index.json", "[]"),
            ("scheduler/scheduler_config.json", '{"num_train_timesteps": -1}'),
            ("vae/config.json", '{"block_out_channels": "x"}'),
            ("tokenizer/vocab.json", "{}"),
            ("text_encoder/config.json", '{"hidden_size": 0}'),
        ]:
            with self.subTest(name):
                model = self.broken_model(name, content)
                self.refused(INPUT, os.path.dirname(name) or name, "inspect", "-m", model)
        self.refused(INPUT, "model_index.json", "inspect", "-m", UNET)
        self.refused(INPUT, "not safetensors", "inspect", "-m", self.write("file", ""))

    def test_adapters(self):
        for name, content in [("empty", b""), ("pickle", b"\x80\x02}q\0."), ("text", b"hello" * 9)]:
            path = self.write(name, content)
            self.refused(
                INPUT, name, "generate", "-m", BASE, "-p", "x", "--adapter", path, "--steps", "1"
            )
            self.refused(INPUT, name, "merge", "-m", BASE, "--adapter", f"{path}:0.5", "-o", "out")
        self.refused(INPUT, "folder", "merge", "-m", BASE, "--adapter", self.folder, "-o", "out")
        self.assertFalse(os.path.exists(self.path("out")))

    def test_another_base(self):
        replay = self.write_replay("replay.safetensors", 1)
        self.ok("train", "--unet-only", UNET, "--replay", replay, "-o", "run", "--threads", "1")
        adapter = self.path("run", "adapter.safetensors")
        other = os.path.join(GOLDEN, "unet_sd2")
        self.refused(
            INPUT,
            [adapter, "base"],
            "merge",
            "--unet-only",
            other,
            "--adapter",
            adapter,
            "-o",
            "out",
        )

    def test_replay(self):
        tensors = {"latents": ("F32", [1, 1, 4, 8, 8], [0.0] * 256)}
        write_safetensors(self.path("lacking"), tensors)
        base = ["train", "--unet-only", UNET, "-o", "run", "--replay"]
        self.refused(INPUT, ["lacking", "noise"], *base, "lacking")
        replay = self.write_replay("replay.safetensors", 2)
        self.refused(
            INPUT,
            ["replay.safetensors", "2 micro-batches", "3 steps"],
            *base,
            replay,
            "--max_train_steps",
            "3",
        )
        self.refused(
            INPUT,
            "replay.safetensors",
            "train",
            "--unet-only",
            os.path.join(GOLDEN, "unet_sd1"),
            "-o",
            "run",
            "--replay",
            self.write("replay.safetensors", b"x" * 100),
        )

    def test_datasets(self):
        base = ["train", "-m", BASE, "-o", "run", "--train_data_dir"]
        os.mkdir(self.path("empty"))
        self.refused(INPUT, "empty", *base, "empty")
        os.mkdir(self.path("bad"))
        self.write("bad/metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{nonsense\n')
        self.refused(INPUT, ["metadata.jsonl"], *base, "bad")
        os.mkdir(self.path("cut"))
        self.write("cut/a.png", b"\x89PNG\r\n\x1a\n")
        self.write("cut/a.txt", "x")
        self.refused(INPUT, "a.png", *base, "cut")


class Io(Case):
    """Exit 4: what is missing or cannot be written."""

    def test_missing(self):
        self.refused(IO, "none", "inspect", "-m", "none")
        self.refused(IO, "none", "inspect", "--unet-only", "none")
        self.refused(
            IO,
            "none.safetensors",
            "merge",
            "-m",
            BASE,
            "--adapter",
            "none.safetensors",
            "-o",
            "out",
        )
        self.refused(IO, "none", "train", "-m", BASE, "-o", "run", "--train_data_dir", "none")
        self.refused(IO, "none", "train", "--unet-only", UNET, "-o", "run", "--replay", "none")
        self.refused(IO, "none", "generate", "-m", BASE, "-p", "x", "--init-latents", "none")
        self.assertEqual(files_below(self.folder), [])

    def test_outputs(self):
        """Root may write anywhere, but not below a file or in /proc."""
        self.write("file", "")
        replay = self.write_replay("replay.safetensors", 1)
        train = ["train", "--unet-only", UNET, "--replay", replay, "-o"]
        for folder in ["file", "file/run", "/proc/run", "/dev/null"]:
            self.refused(IO, folder.replace("file/run", "file: "), *train, folder)
        self.refused(IO, "/proc/x", "merge", "-m", BASE, "-o", "/proc/x")
        self.refused(IO, "file/x: ", "merge", "-m", BASE, "-o", "file/x")
        self.refused(
            IO,
            "/proc/x.png",
            "generate",
            "-m",
            BASE,
            "-p",
            "x",
            "--steps",
            "1",
            "-o",
            "/proc/x.png",
        )
        self.refused(
            IO,
            "/proc/x",
            "generate",
            "-m",
            BASE,
            "-p",
            "x",
            "--steps",
            "1",
            "--save-latents",
            "/proc/x",
        )

    def test_standard_output(self):
        for args in (["--help"], ["train", "--help"], ["inspect", "-m", BASE, "--json"]):
            with open("/dev/full", "w") as full:
                done = subprocess.run(
                    [PROGRAM, *args], stdout=full, stderr=subprocess.PIPE, timeout=120
                )
            self.assertEqual(
                (done.returncode, done.stderr), (IO, b"sara: writing to standard output failed\n")
            )

    def test_closed_pipe(self):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [PROGRAM, "inspect", "-m", BASE], stdout=writing, stderr=subprocess.PIPE, timeout=120
        )
        os.close(writing)
        self.assertEqual(done.returncode, IO)


class Others(Case):
    @unittest.skipIf(SANITIZE, "a sanitizer needs more addresses than the limit allows")
    def test_memory(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

        result = self.refused(
            MEMORY,
            "out of memory",
            "generate",
            "-m",
            BASE,
            "-p",
            "x",
            "-W",
            "8192",
            "-H",
            "8192",
            "-t",
            "1",
            limit=limit,
        )
        self.assertEqual(files_below(self.folder), [])
        self.assertNotIn("terminate", result.err)

    @unittest.skipIf(SANITIZE, "a sanitizer needs more addresses than the limits allow")
    def test_few_addresses(self):
        """Whatever the limit: the run is refused before it starts, or it succeeds."""
        command = ("bench", "--shape", "tiny", "--latent", "8", "--steps", "1")
        kinds = [("-t", "1"), ("-t", "2")]
        if processor_has("avx512_bf16"):
            kinds.append(("-t", "2", "--mixed_precision", "bf16"))
        for kind in kinds:
            codes, words = [], set()
            for mib in range(80, 1000, 10):

                def limit(size=mib << 20):
                    resource.setrlimit(resource.RLIMIT_AS, (size, size))

                result = self.sara(*command, *kind, limit=limit)
                codes.append(result.code)
                if result.code == 0:
                    break
                self.check_refused(result, MEMORY, " needs ", (kind, mib))
                words.add(result.errors()[0].split(" needs ")[0])
            self.assertEqual(codes[-1], 0, kind)
            self.assertGreater(len(codes), 3, kind)
            self.assertIn("sara bench: training", words)
        self.assertIn("sara bench: starting 2 threads", words)

    def test_diverged(self):
        replay = self.write_replay("nan.safetensors", 12, nan=True)
        result = self.refused(
            DIVERGED, "diverged", "train", "--unet-only", UNET, "--replay", replay, "-o", "run"
        )
        self.assertEqual(result.err.count("warning: "), 10)
        with open(self.path("run", "log.jsonl")) as file:
            self.assertEqual([json.loads(line)["event"] for line in file], ["skipped"] * 10)
        self.assertFalse(os.path.exists(self.path("run", "adapter.safetensors")))
        self.assertEqual(remains(self.folder), [])

    def test_used_folder(self):
        replay = self.write_replay("replay.safetensors", 2)
        train = ["train", "--unet-only", UNET, "--replay", replay, "-o", "run"]
        self.ok(*train)
        before = {
            name: os.stat(self.path("run", name)).st_mtime_ns
            for name in files_below(self.path("run"))
        }
        self.refused(USAGE, ["run", "--resume_from_checkpoint"], *train)
        for name, time in before.items():
            self.assertEqual(os.stat(self.path("run", name)).st_mtime_ns, time, name)


class Threads(Case):
    def test_any_number(self):
        for number, (args, env) in enumerate(
            [
                (["-t", "1"], {}),
                ([], {"OMP_NUM_THREADS": "1"}),
                ([], {"OMP_NUM_THREADS": "999"}),
                (["-t", "999"], {}),
                (["--threads=2"], {"OMP_NUM_THREADS": "junk"}),
            ]
        ):
            self.ok(
                "generate",
                "-m",
                BASE,
                "-p",
                "a fox",
                "--steps",
                "1",
                "-o",
                f"{number}.png",
                *args,
                env=env,
            )
            self.assertTrue(os.path.exists(self.path(f"{number}.png")))


if __name__ == "__main__":
    unittest.main()
