"""Models, adapters and their files as symbolic links, as a hub cache and users arrange them."""

import json
import os
import shutil
import unittest

from support import BASE, EMOJI, INPUT, IO, UNET, USAGE, Case, files_below, read_safetensors
from support import sha256, write_safetensors

WEIGHTS = "diffusion_pytorch_model"


def cached(model, top):
    """A copy of the model as HOME/models--NAME/snapshots/REVISION, whose files are links into
    HOME/models--NAME/blobs; the snapshot's path."""
    home = os.path.join(top, "models--org--emoji")
    snapshot, blobs = os.path.join(home, "snapshots", "0123abcd"), os.path.join(home, "blobs")
    os.makedirs(blobs)
    for name in files_below(model):
        source, link = os.path.join(model, name), os.path.join(snapshot, name)
        blob = os.path.join(blobs, sha256(source))
        shutil.copy(source, blob)
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(os.path.relpath(blob, os.path.dirname(link)), link)
    return snapshot


def shard(folder, stem):
    """The weights as two shards and an index."""
    path = os.path.join(folder, stem + ".safetensors")
    tensors = read_safetensors(path)[0]
    names = sorted(tensors)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    files = [f"{stem}-{i}-of-00002.safetensors" for i in ("00001", "00002")]
    for file, half in zip(files, halves):
        write_safetensors(os.path.join(folder, file), {name: tensors[name] for name in half})
    weight_map = {name: file for file, half in zip(files, halves) for name in half}
    with open(path + ".index.json", "w") as file:
        json.dump({"metadata": {}, "weight_map": weight_map}, file)
    os.remove(path)


class HubCache(Case):
    def setUp(self):
        super().setUp()
        shutil.copytree(BASE, self.path("plain"))
        for part, stem in (("unet", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model")):
            shard(self.path("plain", part), stem)
        self.model = cached(self.path("plain"), self.path("cache"))

    def test_read(self):
        """The whole model, every part of it sharded; pictures too are those of the plain one."""
        here = json.loads(self.ok("inspect", "-m", self.model, "--json").out)
        self.assertEqual(here, json.loads(self.ok("inspect", "-m", BASE, "--json").out))
        draw = ("generate", "-p", "a fox", "--steps", "1", "-o")
        self.ok(*draw, "a.png", "--save-latents", "a.safetensors", "-m", self.model)
        self.ok(*draw, "b.png", "--save-latents", "b.safetensors", "-m", BASE)
        self.assertEqual(sha256(self.path("a.safetensors")), sha256(self.path("b.safetensors")))
        self.ok("bench", "-m", self.model, "--steps", "1", "--latent", "8")

    def test_train(self):
        result = self.path("run", "adapter.safetensors")
        os.mkdir(self.path("images"))
        ink = os.path.join(EMOJI, "ink")
        name = min(n for n in os.listdir(ink) if n.endswith(".png"))
        shutil.copy(os.path.join(ink, name), self.path("images"))
        self.ok("train", "-m", self.model, "--train_data_dir", "images", "--instance_prompt", "x",
                "--output_dir", "run", "--max_train_steps", "1", "--train_batch_size", "1",
                "--resolution", "64")  # fmt: skip
        os.makedirs(self.path("loras"))
        os.symlink(result, self.path("loras", "ink.safetensors"))
        os.symlink("loras/ink.safetensors", self.path("link.safetensors"))
        for extra in (["-p", "a fox", "--adapter", "link.safetensors"],
                      ["-p", "a fox<lora:ink>", "--lora-model-dir", "loras"]):  # fmt: skip
            self.ok("generate", "-m", self.model, "--steps", "1", *extra)
        self.ok("inspect", "--adapter", "link.safetensors", "-m", self.model)
        os.symlink("loop.safetensors", self.path("loras", "loop.safetensors"))
        self.refused(IO, ["loop.safetensors", "symbolic links"], "generate", "-m", self.model, "-p",
                     "a fox<lora:loop>", "--lora-model-dir", "loras")  # fmt: skip

    def test_merge(self):
        """What is written holds files, no links, the same ones as from the plain model."""
        for output in ("out", "out.safetensors"):
            self.ok("merge", "-m", self.model, "-o", output)
            self.ok("merge", "-m", BASE, "-o", "plain-" + output)
        for name in files_below(self.path("plain-out")):
            self.assertFalse(os.path.islink(self.path("out", name)), name)
            self.assertEqual(
                sha256(self.path("out", name)), sha256(self.path("plain-out", name)), name
            )
        self.assertEqual(
            sha256(self.path("out.safetensors")), sha256(self.path("plain-out.safetensors"))
        )
        self.assertEqual(files_below(self.path("out")), files_below(self.path("plain-out")))

    def test_single_file(self):
        """A checkpoint in a cache, with the configs of a cached folder."""
        os.mkdir(self.path("files"))
        self.ok("merge", "-m", BASE, "-o", "files/emoji.safetensors")
        link = os.path.join(cached(self.path("files"), self.path("other")), "emoji.safetensors")
        config = ("--model_config", self.model)
        report = json.loads(self.ok("inspect", "-m", link, *config, "--json").out)
        base = json.loads(self.ok("inspect", "-m", BASE, "--json").out)
        self.assertEqual(report["base_sha256"], base["base_sha256"])
        tokenizer = ("--tokenizer", os.path.join(self.model, "tokenizer"))
        self.ok("merge", "-m", link, *config, *tokenizer, "-o", "out")
        self.ok("inspect", "-m", "out")

    def test_outputs_stay_safe(self):
        """Nothing is written through a link into what is read."""
        latents = os.path.join(self.model, "unet", WEIGHTS + "-00001-of-00002.safetensors")
        before = sha256(latents)
        self.refused(USAGE, "is within the model", "generate", "-m", self.model, "-p", "x",
                     "--steps", "1", "--save-latents", latents)  # fmt: skip
        os.symlink(os.path.relpath(latents, self.folder), self.path("link.safetensors"))
        self.refused(USAGE, "exists", "merge", "-m", self.model, "-o", "link.safetensors")
        self.assertEqual(sha256(latents), before)


class Links(Case):
    def test_loops(self):
        """Each file that is read of a model."""
        for name in files_below(BASE):
            shutil.copytree(BASE, self.path("model"))
            path = self.path("model", name)
            os.remove(path)
            os.symlink(os.path.basename(path), path)
            self.refused(IO, [name, "Too many levels of symbolic links"], "inspect", "-m", "model")
            os.remove(path)
            os.symlink("../gone/blob", path)
            self.refused(
                IO, [name, "a link to ../gone/blob, which is not there"], "inspect", "-m", "model"
            )
            shutil.rmtree(self.path("model"))
        os.symlink("loop", self.path("loop"))
        self.refused(IO, ["loop", "Too many levels of symbolic links"], "inspect", "-m", "loop")

    def test_folders(self):
        """Parts that lie elsewhere; an output there would be copied into itself."""
        shutil.copytree(BASE, self.path("model"))
        os.rename(self.path("model", "vae"), self.path("elsewhere"))
        os.symlink(self.path("elsewhere"), self.path("model", "vae"))
        self.ok("merge", "-m", "model", "-o", "out")
        self.assertFalse(os.path.islink(self.path("out", "vae")))
        self.assertEqual(files_below(self.path("out")), files_below(BASE))
        self.refused(USAGE, "lies inside", "merge", "-m", "model", "-o", "elsewhere/out")
        os.symlink("..", self.path("model", "unet", "back"))
        self.refused(INPUT, ["unet/back", "a link back"], "merge", "-m", "model", "-o", "circle")
        self.assertFalse(os.path.exists(self.path("circle")))

    def test_output_that_is_a_link(self):
        os.mkdir(self.path("empty"))
        os.symlink("empty", self.path("link"))
        os.symlink("nowhere", self.path("broken"))
        for name, to in (("link", "empty"), ("link/", "empty"), ("broken", "nowhere")):
            self.refused(USAGE, f"is a link, to {to}", "merge", "--unet-only", UNET, "-o", name)
        self.assertEqual(os.listdir(self.path("empty")), [])
        os.symlink("gone.safetensors", self.path("out.safetensors"))
        self.refused(IO, "cannot write through the link", "merge", "--unet-only", UNET, "-o",
                     "out.safetensors")  # fmt: skip


if __name__ == "__main__":
    unittest.main()
