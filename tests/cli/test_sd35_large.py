"""A model built as SD3.5 large is: norms of queries and keys, and no second attention. Its folder
and its single file are told apart from SD3's and SD3.5 medium's, train, merge and draw."""

import array
import json
import os
import struct
import unittest

from support import EMOJI, GOLDEN, INPUT, USAGE, Case, read_safetensors, sha256, write_safetensors

TINY = os.path.join(GOLDEN, "sd3_tiny")
LARGE = "stable-diffusion-v3.5-large"
BLOCK, HEAD = "transformer_blocks.{}.attn.", 4
WEIGHTS = os.path.join("transformer", "diffusion_pytorch_model.safetensors")
TRAIN = ("--train_data_dir", os.path.join(EMOJI, "ink"), "--resolution", "32", "--max_train_steps",
         "3", "--train_batch_size", "2", "--center_crop", "--trainable", "20%", "--learning_rate",
         "1e-2", "-t", "1")
DRAW = ("-p", "a red dragon", "-W", "24", "-H", "40", "--steps", "2", "--seed", "4", "-o",
        "picture.png")


def floats(tensor):
    """Values, of F32 and F16."""
    dtype, _, content = tensor
    if dtype == "F32":
        return array.array("f", content)
    return array.array("f", struct.unpack(f"<{len(content) // 2}e", content))


def positions(content):
    """The distances of docs/formats.md."""
    at, value, shift = -1, 0, 0
    for byte in content:
        value |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            at += value + 1
            yield at
            value = shift = 0


class Large(Case):
    def setUp(self):
        super().setUp()
        self.base = self.make("base", {})

    def make(self, name, more):
        """sd3_tiny with norms in its transformer, whose weights are no ones and partly small;
        more: of its config"""
        folder = self.path(name)
        os.makedirs(os.path.join(folder, "transformer"))
        for entry in os.listdir(TINY):
            if entry != "transformer":
                os.symlink(os.path.realpath(os.path.join(TINY, entry)), os.path.join(folder, entry))
        with open(os.path.join(TINY, "transformer", "config.json")) as file:
            config = {**json.load(file), "qk_norm": "rms_norm", **more}
        with open(os.path.join(folder, "transformer", "config.json"), "w") as file:
            json.dump(config, file)
        tensors, _ = read_safetensors(os.path.join(TINY, WEIGHTS))
        for i in range(2):
            for j, norm in enumerate(("norm_q", "norm_k", "norm_added_q", "norm_added_k")):
                values = [0.03] + [0.5 + 0.1 * ((i + j + k) % 7) for k in range(1, HEAD)]
                tensors[f"{BLOCK.format(i)}{norm}.weight"] = (
                    "F16", [HEAD], struct.pack(f"<{HEAD}e", *values))
        write_safetensors(os.path.join(folder, WEIGHTS), tensors)
        return folder

    def architecture(self, model, *options):
        return json.loads(self.ok("inspect", "-m", model, "--json", *options).out)["architecture"]

    def single(self):
        self.ok("merge", "-m", self.base, "-o", "single.safetensors")
        return self.path("single.safetensors")

    def test_recognised(self):
        """By structure, in a file too that tells nothing of its transformer."""
        single = self.single()
        tensors, metadata = read_safetensors(single)
        self.assertEqual(metadata["modelspec.architecture"], LARGE)
        start = "model.diffusion_model.joint_blocks.1."
        self.assertIn(start + "x_block.attn.ln_q.weight", tensors)
        self.assertIn(start + "context_block.attn.ln_k.weight", tensors)
        self.assertFalse([name for name in tensors if "attn2" in name])
        told = ("modelspec.", "sara.config.transformer")
        write_safetensors(self.path("bare.safetensors"), tensors, {
            key: value for key, value in metadata.items() if not key.startswith(told)})
        tokenizer = ("--tokenizer", TINY)
        self.assertEqual(self.architecture(self.base), LARGE)
        self.assertEqual(self.architecture(single, *tokenizer), LARGE)
        self.assertEqual(self.architecture(self.path("bare.safetensors"), *tokenizer), LARGE)

    def test_not_medium(self):
        """Whose config has a second attention, which these weights lack."""
        folder = self.make("medium", {"dual_attention_layers": [0]})
        self.refused(INPUT, ["attn2", "missing"], "inspect", "-m", folder)

    def check_merged(self, adapter, merged):
        """The base's values, and at the adapter's positions the adapter's."""
        base, _ = read_safetensors(os.path.join(self.base, WEIGHTS))
        changes, _ = read_safetensors(adapter)
        got, _ = read_safetensors(os.path.join(merged, WEIGHTS))
        self.assertEqual(set(got), set(base))
        for name, tensor in base.items():
            wanted = floats(tensor)
            if f"{name}.positions" in changes:
                values = floats(changes[f"{name}.values"])
                for at, value in zip(positions(changes[f"{name}.positions"][2]), values):
                    wanted[at] = value
            self.assertEqual(got[name], ("F32", tensor[1], wanted.tobytes()), name)

    def test_trains_and_merges(self):
        """From folder and file alike."""
        self.ok("train", "-m", self.base, "--output_dir", "a", *TRAIN)
        self.ok("train", "-m", self.single(), "--model_config", self.base, "--output_dir", "b",
                *TRAIN)
        changes = [read_safetensors(self.path(run, "adapter.safetensors"))[0] for run in "ab"]
        self.assertEqual(*changes)
        trained = {name.rsplit(".", 2)[0] for name in changes[0]}
        self.assertIn("transformer_blocks.0.attn.norm_added_q", trained)
        adapter = self.path("a", "adapter.safetensors")
        self.ok("merge", "-m", self.base, "--adapter", adapter, "--dtype", "fp32", "-o", "merged")
        self.check_merged(adapter, self.path("merged"))
        pictures = []
        for options in (["-m", "merged"], ["-m", self.base, "--adapter", adapter],
                        ["-m", self.base]):
            self.ok("generate", *options, *DRAW, "--save-latents", "latents.safetensors")
            pictures.append(sha256(self.path("latents.safetensors")))
            os.remove(self.path("latents.safetensors"))
            os.remove(self.path("picture.png"))
        self.assertEqual(pictures[0], pictures[1])
        self.assertNotEqual(pictures[0], pictures[2])

    def test_exports(self):
        """A1111 has no whole changes of SD3."""
        self.ok("train", "-m", self.base, "--output_dir", "a", *TRAIN, "--trainable", "90%")
        adapter = self.path("a", "adapter.safetensors")
        self.refused(USAGE, ["format a1111", "Stable Diffusion 3.5", "format comfyui"], "export",
                     adapter, "-m", self.base, "--format", "a1111", "-o", "no.safetensors")
        self.assertFalse(os.path.exists(self.path("no.safetensors")))
        self.ok("export", adapter, "-m", self.base, "--format", "comfyui", "-o", "c.safetensors")
        tensors, _ = read_safetensors(self.path("c.safetensors"))
        self.assertIn("diffusion_model.joint_blocks.0.context_block.attn.qkv.diff_b", tensors)
        self.assertIn("diffusion_model.joint_blocks.0.context_block.attn.ln_q.diff", tensors)


if __name__ == "__main__":
    unittest.main()
