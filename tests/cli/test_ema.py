"""Single files with averages of the U-Net's weights, as LDM's training leaves them."""

import json
import os
import shutil
import unittest

from support import BASE, EMOJI, INPUT, USAGE, Case, read_safetensors, sha256
from support import write_safetensors

PREFIX = "model.diffusion_model."
TOKENIZER = ("--tokenizer", os.path.join(BASE, "tokenizer"))
UNET_FILE = os.path.join("unet", "diffusion_pytorch_model.safetensors")


class Averages(Case):
    def setUp(self):
        """tuned.safetensors: another U-Net. both: BASE's, with tuned's as averages under LitEma's
        names, which have no dots; alone: the same without BASE's U-Net."""
        super().setUp()
        shutil.copytree(BASE, self.path("tuned"))
        tensors = read_safetensors(self.path("tuned", UNET_FILE))[0]
        for name, (dtype, shape, data) in tensors.items():
            tensors[name] = (dtype, shape, bytes([data[0] ^ 1]) + data[1:])
        write_safetensors(self.path("tuned", UNET_FILE), tensors)
        for name, model in (("base", BASE), ("tuned", "tuned")):
            self.ok("merge", "-m", model, "-o", name + ".safetensors")
        self.base, self.metadata = read_safetensors(self.path("base.safetensors"))
        self.tuned = read_safetensors(self.path("tuned.safetensors"))[0]
        averages = {}
        for name, tensor in self.tuned.items():
            if name.startswith(PREFIX):
                averages["model_ema." + name[len("model.") :].replace(".", "")] = tensor
        averages["model_ema.decay"] = ("F32", [], b"\0\0\x80\x3f")
        averages["model_ema.num_updates"] = ("I32", [], bytes(4))
        self.averages = averages
        self.put("both", {**self.base, **averages})
        others = {n: t for n, t in self.base.items() if not n.startswith(PREFIX)}
        self.put("alone", {**others, **averages})

    def put(self, name, tensors, metadata=None):
        write_safetensors(self.path(name + ".safetensors"), tensors, metadata or self.metadata)

    def hash(self, *model):
        return json.loads(self.ok("inspect", *model, "--json").out)["base_sha256"]

    def test_averages(self):
        """All with the same files, which take long to make."""
        for check in (self.check_which_is_read, self.check_refused_files, self.check_merge,
                      self.check_commands):  # fmt: skip
            with self.subTest(check.__name__):
                check()

    def check_which_is_read(self):
        base, tuned = self.hash("-m", BASE), self.hash("-m", "tuned")
        self.assertNotEqual(base, tuned)
        self.assertEqual(self.hash("-m", "both.safetensors", *TOKENIZER), base)
        for name in ("both", "alone"):
            model = ("-m", name + ".safetensors", *TOKENIZER, "--use_ema_weights")
            self.assertEqual(self.hash(*model), tuned)
        unet = ("--unet-only", "alone.safetensors", "--use_ema_weights")
        self.assertEqual(self.hash(*unet), tuned)
        dotted = {"model_ema." + n[len("model.") :]: t for n, t in self.tuned.items()
                  if n.startswith(PREFIX)}  # fmt: skip
        self.put("dotted", {**self.base, **dotted})
        model = ("-m", "dotted.safetensors", *TOKENIZER, "--use_ema_weights")
        self.assertEqual(self.hash(*model), tuned)

    def check_refused_files(self):
        self.refused(INPUT, ["alone.safetensors", "averages alone", "--use_ema_weights reads"],
                     "inspect", "-m", "alone.safetensors")  # fmt: skip
        self.refused(INPUT, ["base.safetensors", "holds no averages"], "inspect", "-m",
                     "base.safetensors", "--use_ema_weights")  # fmt: skip
        self.refused(USAGE, "is a folder", "inspect", "-m", BASE, "--use_ema_weights")
        self.refused(USAGE, "goes with --model", "bench", "--shape", "tiny", "--use_ema_weights")
        self.refused(USAGE, "goes with a model", "inspect", "--adapter", "x", "--use_ema_weights")
        missing = dict(self.averages)
        del missing["model_ema.diffusion_modelout0weight"]
        self.put("missing", {**self.base, **missing})
        self.refused(INPUT, ["1 missing (model_ema.diffusion_modelout0weight)"], "inspect", "-m",
                     "missing.safetensors", "--use_ema_weights")  # fmt: skip
        odd = {"model_ema.diffusion_modellabel_emb00weight": ("F32", [1], bytes(4))}
        self.put("odd", {**self.base, **self.averages, **odd})
        self.refused(INPUT, "1 not expected (model_ema.diffusion_modellabel_emb00weight)",
                     "inspect", "-m", "odd.safetensors", "--use_ema_weights")  # fmt: skip
        name = "model_ema.diffusion_modelinput_blocks00weight"
        dtype, shape, data = self.averages[name]
        wrong = {name: (dtype, shape, b"\0\x7e" + data[2:])}
        self.put("nan", {**self.base, **self.averages, **wrong})
        self.refused(INPUT, name, "inspect", "-m", "nan.safetensors", *TOKENIZER,
                     "--use_ema_weights")  # fmt: skip

    def check_merge(self):
        """Averages are written as the U-Net, and as nothing else."""
        for name in ("both", "alone"):
            merge = ("merge", "-m", name + ".safetensors", *TOKENIZER, "--use_ema_weights", "-o")
            self.ok(*merge, name + "-out.safetensors")
            self.assertEqual(read_safetensors(self.path(name + "-out.safetensors"))[0], self.tuned)
            self.ok(*merge, name + "-out")
            self.assertEqual(
                read_safetensors(self.path(name + "-out", UNET_FILE))[0],
                read_safetensors(self.path("tuned", UNET_FILE))[0],
            )
        self.ok("merge", "-m", "both.safetensors", *TOKENIZER, "-o", "plain.safetensors")
        self.assertEqual(read_safetensors(self.path("plain.safetensors"))[0], self.base)

    def check_commands(self):
        extract = ("extract", "-o")
        self.ok(*extract, "a.safetensors", "--base", BASE, "--tuned", "tuned")
        for base, tuned in ((BASE, "both"), ("base.safetensors", "alone")):
            self.ok(*extract, "b.safetensors", "--base", base, "--tuned", tuned + ".safetensors",
                    "--use_ema_weights")  # fmt: skip
            self.assertEqual(
                *(read_safetensors(self.path(n + ".safetensors"))[0] for n in ("a", "b"))
            )
            os.remove(self.path("b.safetensors"))
        self.refused(INPUT, "holds no averages", *extract, "b.safetensors", "--base",
                     "base.safetensors", "--tuned", "tuned.safetensors",
                     "--use_ema_weights")  # fmt: skip
        self.ok("bench", "-m", "alone.safetensors", "--use_ema_weights", "--steps", "1", "--latent",
                "8")  # fmt: skip
        draw = ("generate", "-p", "a fox", "--steps", "1", "--save-latents")
        self.ok(*draw, "x.safetensors", "-m", "alone.safetensors", *TOKENIZER, "--use_ema_weights",
                "--sampling-method", "euler")  # fmt: skip
        self.ok(*draw, "y.safetensors", "-m", "tuned.safetensors", *TOKENIZER, "--sampling-method",
                "euler")  # fmt: skip
        self.assertEqual(sha256(self.path("x.safetensors")), sha256(self.path("y.safetensors")))
        os.mkdir(self.path("images"))
        ink = os.path.join(EMOJI, "ink")
        name = min(n for n in os.listdir(ink) if n.endswith(".png"))
        shutil.copy(os.path.join(ink, name), self.path("images"))
        self.ok("train", "-m", "alone.safetensors", *TOKENIZER, "--use_ema_weights",
                "--train_data_dir", "images", "--instance_prompt", "x", "--output_dir", "run",
                "--max_train_steps", "1", "--train_batch_size", "1",
                "--resolution", "64")  # fmt: skip
        adapter = ("--adapter", os.path.join("run", "adapter.safetensors"))
        self.ok("inspect", *adapter, "-m", "tuned")
        export = ("export", *adapter, "--format", "comfyui", "-o", "c.safetensors", "-m")
        self.ok(*export, "alone.safetensors", "--use_ema_weights")


if __name__ == "__main__":
    unittest.main()
