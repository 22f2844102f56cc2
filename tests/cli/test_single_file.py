"""Single-file checkpoints as their users give them to each command."""

import hashlib
import json
import math
import os
import shutil
import struct
import unittest

from support import BASE, INPUT, IO, OTHER_SIZES, UNET, USAGE, Case, files_below
from support import read_safetensors, write_safetensors

TOKENIZER = ("--tokenizer", os.path.join(BASE, "tokenizer"))


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class SingleFile(Case):
    def setUp(self):
        super().setUp()
        self.file = self.path("base.safetensors")
        self.ok("merge", "-m", BASE, "-o", self.file)

    def test_merge(self):
        tensors, metadata = read_safetensors(self.file)
        self.assertIn("model.diffusion_model.input_blocks.0.0.weight", tensors)
        self.assertIn("first_stage_model.decoder.conv_in.weight", tensors)
        self.assertIn(
            "cond_stage_model.transformer.text_model.final_layer_norm.weight", tensors
        )
        self.assertEqual(metadata["modelspec.prediction_type"], "epsilon")
        self.assertEqual(metadata["format"], "pt")
        self.refused(USAGE, self.file, "merge", "-m", BASE, "-o", self.file)
        self.ok("merge", "-m", self.file, *TOKENIZER, "-o", "back", "--dtype", "bf16")
        expected = {name for name in files_below(BASE)}
        self.assertEqual(set(files_below(self.path("back"))), expected)
        self.ok("generate", "-m", "back", "-p", "cat", "--steps", "1")

    def test_unet_without_prefix(self):
        """Alone, as ComfyUI keeps U-Nets, or beside the other parts: the same whole checkpoint."""
        unet = "model.diffusion_model."
        whole = read_safetensors(self.file)[0]
        alone = {n[len(unet) :]: t for n, t in whole.items() if n.startswith(unet)}
        beside = {n: t for n, t in whole.items() if not n.startswith(unet)}
        for tensors in (alone, {**alone, **beside}):
            write_safetensors(self.path("bare.safetensors"), tensors)
            self.ok("merge", "-m", "bare.safetensors", "--model_config", BASE, "-o",
                    "out.safetensors")
            self.assertEqual(read_safetensors(self.path("out.safetensors"))[0], whole)
            self.ok("inspect", "-m", "out.safetensors", *TOKENIZER)
            os.remove(self.path("out.safetensors"))

    def test_inspect(self):
        reports = [
            json.loads(self.ok("inspect", "-m", path, *more, "--json").out)
            for path, more in ((BASE, ()), (self.file, TOKENIZER))
        ]
        self.assertEqual(*reports)

    def test_generate(self):
        pictures = []
        for path, more in ((BASE, ()), (self.file, TOKENIZER)):
            out = self.path(f"{len(pictures)}.safetensors")
            self.ok("generate", "-m", path, *more, "-p", "cat", "--steps", "2", "-o", "x.png",
                    "--save-latents", out)
            pictures.append(sha256(out))
        self.assertEqual(*pictures)
        with open(self.path("x.png"), "rb") as file:
            picture = file.read()
        self.assertIn(f"Model hash: {sha256(self.file)[:10]}, Model: base,".encode(), picture)
        self.refused(
            USAGE, ["wrong", "epsilon"],
            *("generate", "-m", self.file, *TOKENIZER, "-p", "cat", "--prediction_type", "wrong"),
        )

    def scheduler(self, folder):
        with open(os.path.join(folder, "scheduler", "scheduler_config.json"),
                  encoding="ascii") as file:
            return json.load(file)

    def test_scheduler(self):
        """Its config goes through a file as it is, -Infinity too; the class is the one that
        model_index.json names."""
        own = self.scheduler(BASE)
        self.assertEqual(own["lambda_min_clipped"], -math.inf)
        self.ok("merge", "-m", self.file, *TOKENIZER, "-o", "back")
        self.assertEqual(self.scheduler(self.path("back")), own)
        self.ok("merge", "-m", BASE, "--prediction_type", "v", "-o", "v")
        self.assertEqual(self.scheduler(self.path("v")), {**own, "prediction_type": "v_prediction"})
        for name in ("EulerDiscreteScheduler", None):
            folder = self.path(f"other-{name}")
            shutil.copytree(BASE, folder)
            config = {key: value for key, value in own.items() if key != "_class_name"}
            with open(os.path.join(folder, "scheduler", "scheduler_config.json"), "w",
                      encoding="ascii") as file:
                json.dump({**config, **({"_class_name": name} if name else {})}, file)
            self.ok("merge", "-m", folder, "-o", f"{folder}.safetensors")
            self.ok("merge", "-m", f"{folder}.safetensors", *TOKENIZER, "-o", f"{folder}-back")
            self.assertEqual(self.scheduler(f"{folder}-back"), own)

    def test_text_encoder_without_its_stem(self):
        """cond_stage_model.transformer.embeddings... as some older files have it."""
        tensors, metadata = read_safetensors(self.file)
        bare = {
            name.replace(".transformer.text_model.", ".transformer."): value
            for name, value in tensors.items()
        }
        self.assertNotEqual(set(bare), set(tensors))
        write_safetensors(self.path("bare.safetensors"), bare, metadata)
        reports = [
            self.ok("inspect", "-m", path, *TOKENIZER, "--json").out
            for path in (self.file, "bare.safetensors")
        ]
        self.assertEqual(*reports)
        self.ok("merge", "-m", "bare.safetensors", *TOKENIZER, "-o", "folder")
        self.ok("merge", "-m", "folder", "-o", "again.safetensors")
        self.assertEqual(read_safetensors(self.path("again.safetensors"))[0], tensors)

    def folder_with_text(self, change, **config):
        """The base with other tensors in its text encoder. change: of the tensors, in place"""
        folder = self.path("changed")
        shutil.copytree(BASE, folder)
        path = os.path.join(folder, "text_encoder", "model.safetensors")
        tensors, metadata = read_safetensors(path)
        change(tensors)
        write_safetensors(path, tensors, metadata)
        path = os.path.join(folder, "text_encoder", "config.json")
        with open(path) as file:
            values = {**json.load(file), **config}
        with open(path, "w") as file:
            json.dump(values, file)
        return folder

    def test_text_projection(self):
        """Read and carried along in a folder; a file goes without it."""
        extra = {"text_projection.weight": ("F32", [2, 2], struct.pack("<4f", 1, 2, 3, 4))}
        folder = self.folder_with_text(lambda tensors: tensors.update(extra))
        self.ok("merge", "-m", folder, "-o", "copy")
        copied = read_safetensors(self.path("copy", "text_encoder", "model.safetensors"))[0]
        self.assertEqual(copied["text_projection.weight"], extra["text_projection.weight"])
        self.ok("merge", "-m", folder, "-o", "again.safetensors")
        self.assertEqual(
            read_safetensors(self.path("again.safetensors"))[0],
            read_safetensors(self.file)[0])

    def test_packed_dtypes(self):
        """What becomes one tensor takes the dtype that holds all three, or the one that is asked
        for."""
        def widen(tensors):
            for name, (dtype, shape, data) in tensors.items():
                if ".k_proj." in name:
                    self.assertEqual(dtype, "F16")
                    values = struct.unpack(f"<{len(data) // 2}e", data)
                    tensors[name] = ("F32", shape, struct.pack(f"<{len(values)}f", *values))

        folder = self.folder_with_text(widen, hidden_act="gelu")
        for options, dtype in (((), "F32"), (("--dtype", "fp16"), "F16")):
            out = self.path(f"{dtype}.safetensors")
            self.ok("merge", "-m", folder, *options, "-o", out)
            tensors = read_safetensors(out)[0]
            for end in ("weight", "bias"):
                name = f"cond_stage_model.model.transformer.resblocks.0.attn.in_proj_{end}"
                self.assertEqual(tensors[name][0], dtype)
                self.assertEqual(tensors[name][1][0], 3 * 128)

    def test_float64(self):
        """What float32 cannot tell apart is not called the same without a word."""
        self.ok("merge", "--unet-only", UNET, "-o", "unet.safetensors")
        tensors, metadata = read_safetensors(self.path("unet.safetensors"))
        name = "model.diffusion_model.out.2.bias"
        models = []
        for step in (0, 1e-12):
            models.append(self.path(f"{step}.safetensors"))
            tensors[name] = ("F64", [4], struct.pack("<4d", *[1 + step] * 4))
            write_safetensors(models[-1], tensors, metadata)
        said = self.sara("extract", "--unet-only", "--base", models[0], "--tuned", models[1], "-o",
                         "x.safetensors").err
        for path in models:
            self.assertIn(f"{path}: 1 tensors are float64; they are rounded to float32", said)

    def test_others_are_copied_as_they_are(self):
        tensors, metadata = read_safetensors(self.file)
        more = {
            name: ("F32", [1], struct.pack("<f", i))
            for i, name in enumerate(("embeddings.x", "text_model.embeddings.x", "encoder.foo",
                                      "final_layer_norm.weight", "betas"))
        }
        for dtype, size in OTHER_SIZES.items():
            more["other." + dtype] = (dtype, [3], bytes(range(3 * size)))
        write_safetensors(self.path("more.safetensors"), {**tensors, **more}, metadata)
        self.ok("merge", "-m", "more.safetensors", *TOKENIZER, "-o", "copy.safetensors")
        self.assertEqual(read_safetensors(self.path("copy.safetensors"))[0], {**tensors, **more})

    def test_train(self):
        """A run on the file gives the adapter of a run on the folder."""
        self.ok("merge", "--unet-only", UNET, "-o", "unet.safetensors")
        replay = self.write_replay("replay.safetensors", 2)
        for name, path in (("a", UNET), ("b", "unet.safetensors")):
            self.ok("train", "--unet_only", path, "--replay", replay, "-o", name)
        self.assertEqual(sha256(self.path("a", "adapter.safetensors")),
                         sha256(self.path("b", "adapter.safetensors")))

    def test_bench_of_a_bare_unet(self):
        """Whose number of heads another folder's config tells, as the refusal advises."""
        prefix = "model.diffusion_model."
        whole, _ = read_safetensors(self.file)
        bare = {n[len(prefix) :]: t for n, t in whole.items() if n.startswith(prefix)}
        write_safetensors(self.path("bare.safetensors"), bare)
        bench = ("bench", "-m", "bare.safetensors", "--latent", "4", "--steps", "1", "--json")
        self.refused(INPUT, "--model_config DIR", *bench)
        report = json.loads(self.ok(*bench, "--model_config", BASE).out)
        self.assertEqual(report["model"], "bare.safetensors")
        folder = json.loads(self.ok("bench", "-m", BASE, *bench[3:]).out)
        self.assertEqual(report["parameters"], folder["parameters"])
        self.refused(IO, "none", *bench, "--model_config", "none")

    def test_other_files(self):
        self.refused(INPUT, "pickle", "inspect", "-m", self.write("a.ckpt", b"\x80\x02model"))
        self.ok("train", "--unet_only", UNET, "--replay", self.write_replay("r.safetensors", 2),
                "-o", "run")
        self.refused(INPUT, "is an adapter of sara", "inspect", "-m", "run/adapter.safetensors")
        bare = os.path.join(UNET, "diffusion_pytorch_model.safetensors")
        self.refused(INPUT, "diffusers' layout", "inspect", "--unet-only", bare)


if __name__ == "__main__":
    unittest.main()
