"""Another denoiser beside a model (--denoiser): what full fine-tuning writes, drawn, merged,
inspected, exported and compared."""

import hashlib
import json
import os
import shutil
import struct
import unittest

from support import BASE, EMOJI, INPUT, IO, UNET, USAGE, Case, files_below, read_png
from support import read_safetensors, sha256

WEIGHTS = "diffusion_pytorch_model.safetensors"
FULL = ("--method", "full", "--max_train_steps", "2", "--train_batch_size", "1", "--learning_rate",
        "1e-3", "--resolution", "32", "--center_crop")  # fmt: skip


class Denoiser(Case):
    def setUp(self):
        """run/unet: BASE's denoiser, all of it trained for two steps."""
        super().setUp()
        self.ok("train", "-m", BASE, "--train_data_dir", os.path.join(EMOJI, "ink"),
                "--output_dir", "run", *FULL)  # fmt: skip
        self.unet = os.path.join("run", "unet")

    def pixels(self, *args):
        self.ok("generate", "-p", "a fox", "--steps", "2", "-o", "x.png", *args)
        return hashlib.sha256(b"".join(read_png(self.path("x.png"))[2])).hexdigest()

    def inspect(self, *args):
        return json.loads(self.ok("inspect", "--json", *args).out)

    def test_stands_in(self):
        """As if it lay in the model's folder, by either name and from either folder."""
        shutil.copytree(BASE, self.path("by-hand"))
        shutil.rmtree(self.path("by-hand", "unet"))
        shutil.copytree(self.path(self.unet), self.path("by-hand", "unet"))
        own, expected = self.pixels("-m", BASE), self.pixels("-m", "by-hand")
        self.assertNotEqual(own, expected)
        for option in (["--denoiser", self.unet], ["--diffusion-model", "run"]):
            self.assertEqual(self.pixels("-m", BASE, *option), expected)
        text = read_png(self.path("x.png"))
        report = self.inspect("-m", BASE, "--denoiser", self.unet)
        self.assertEqual(report, self.inspect("-m", "by-hand"))
        self.assertNotEqual(report["base_sha256"], self.inspect("-m", BASE)["base_sha256"])
        self.assertIn(report["base_sha256"][:10], str(text))

    def test_merged(self):
        """Folders and files of either kind of model hold it, with its config."""
        expected = self.pixels("-m", BASE, "--denoiser", self.unet)
        config = self.path(self.unet, "config.json")
        with open(config) as file:
            told = json.load(file)
        told["resnet_time_scale_shift"] = "default"
        told["note"] = "of the denoiser"
        with open(config, "w") as file:
            json.dump(told, file)
        self.ok("merge", "-m", BASE, "--denoiser", self.unet, "-o", "folder")
        with open(self.path("folder", "unet", "config.json")) as file:
            self.assertEqual(json.load(file)["note"], "of the denoiser")
        self.assertEqual(read_safetensors(self.path("folder", "unet", WEIGHTS))[0],
                         read_safetensors(self.path(self.unet, WEIGHTS))[0])  # fmt: skip
        self.ok("merge", "-m", BASE, "-o", "base.safetensors")
        self.ok("merge", "-m", "base.safetensors", "--tokenizer", os.path.join(BASE, "tokenizer"),
                "--denoiser", self.unet, "-o", "file.safetensors")  # fmt: skip
        self.assertEqual(self.pixels("-m", "folder"), expected)
        tokenizer = ("--tokenizer", os.path.join(BASE, "tokenizer"))
        self.assertEqual(self.pixels("-m", "file.safetensors", *tokenizer), expected)
        metadata = read_safetensors(self.path("file.safetensors"))[1]
        self.assertEqual(json.loads(metadata["sara.config.unet"])["note"], "of the denoiser")
        self.ok("merge", "-m", "base.safetensors", *tokenizer, "--denoiser", self.unet,
                "-o", "folder-of-file")  # fmt: skip
        self.assertEqual(self.pixels("-m", "folder-of-file"), expected)

    def test_extracted(self):
        """A bare folder on either side is compared with the other's denoiser."""
        self.ok("extract", "--base", BASE, "--tuned", self.unet, "--top_fraction", "1",
                "-o", "to.safetensors")  # fmt: skip
        self.assertEqual(self.pixels("-m", BASE, "--adapter", "to.safetensors"),
                         self.pixels("-m", BASE, "--denoiser", self.unet))  # fmt: skip
        self.ok("extract", "--base", self.unet, "--tuned", BASE, "--top_fraction", "1",
                "-o", "back.safetensors")  # fmt: skip
        there = ("--denoiser", self.unet, "--adapter", "back.safetensors")
        self.assertEqual(self.pixels("-m", BASE, *there), self.pixels("-m", BASE))

    def test_variants(self):
        """A variant may be the bare folder's, the model's or both's."""
        half = os.path.join("half", "diffusion_pytorch_model.fp16.safetensors")
        os.mkdir(self.path("half"))
        shutil.copy(self.path(self.unet, "config.json"), self.path("half"))
        shutil.copy(self.path(self.unet, WEIGHTS), self.path(half))
        shutil.copytree(BASE, self.path("both"))
        os.rename(self.path("both", "unet", WEIGHTS),
                  self.path("both", "unet", os.path.basename(half)))  # fmt: skip
        for number, sides in enumerate([(BASE, "half"), ("half", BASE), ("half", "both"),
                                        ("both", self.unet)]):  # fmt: skip
            self.ok("extract", "--base", sides[0], "--tuned", sides[1], "--variant", "fp16",
                    "--tolerance", "0", "-o", f"{number}.safetensors")  # fmt: skip
        first, third = (read_safetensors(self.path(name))[0]
                        for name in ("0.safetensors", "3.safetensors"))  # fmt: skip
        self.assertEqual(first, third)

    def test_exported(self):
        """The change is one of the denoiser that stands in."""
        self.ok("extract", "--base", self.unet, "--tuned", BASE, "--top_fraction", "0.01",
                "-o", "a.safetensors")  # fmt: skip
        export = ("export", "a.safetensors", "--format", "comfyui", "--save_precision", "fp32")
        self.ok(*export, "-m", BASE, "--denoiser", self.unet, "-o", "beside.safetensors")
        self.ok(*export, "--unet-only", self.unet, "-o", "alone.safetensors")
        beside, alone = (read_safetensors(self.path(f"{name}.safetensors"))[0]
                         for name in ("beside", "alone"))  # fmt: skip
        self.assertEqual(beside, alone)
        self.refused(INPUT, "made for a base", *export, "-m", BASE, "-o", "none.safetensors")

    def test_refused(self):
        before = files_below(self.folder)
        self.refused(USAGE, "is one itself", "inspect", "--unet-only", self.unet, "--denoiser",
                     "run")  # fmt: skip
        self.refused(IO, "denoiser nowhere: no such folder", "inspect", "-m", BASE, "--denoiser",
                     "nowhere")  # fmt: skip
        self.refused(IO, "denoiser ", "inspect", "-m", BASE, "--denoiser",
                     os.path.join(self.unet, WEIGHTS))  # fmt: skip
        self.refused(IO, "is no folder", "inspect", "-m", BASE, "--denoiser",
                     os.path.join(self.unet, WEIGHTS))  # fmt: skip
        self.refused(INPUT, [UNET + ": cross_attention_dim", "the text encoder of " + BASE,
                     "they must agree"], "generate", "-m", BASE, "-p", "a", "--denoiser",
                     UNET)  # fmt: skip
        self.refused(INPUT, ["--denoiser", "train, merge, export and inspect"], "generate", "-m",
                     self.unet, "-p", "a")  # fmt: skip
        self.ok("merge", "-m", BASE, "-o", "base.safetensors")
        self.refused(USAGE, ["use_ema_weights", self.unet], "inspect", "-m", "base.safetensors",
                     "--denoiser", self.unet, "--use_ema_weights")  # fmt: skip
        shutil.copytree(UNET, self.path("wide"))
        with open(self.path("wide", "config.json")) as file:
            config = json.load(file)
        config["cross_attention_dim"] = 768
        with open(self.path("wide", "config.json"), "w") as file:
            json.dump(config, file)
        before = files_below(self.folder)
        self.refused(INPUT, ["denoiser wide: is of SD1.x", "is of Stable Diffusion of a width"],
                     "inspect", "-m", BASE, "--denoiser", "wide")  # fmt: skip
        self.refused(USAGE, "goes with a model", "inspect", "--adapter", "x", "--denoiser", "run")
        self.assertEqual(files_below(self.folder), before)

    def test_not_finite(self):
        """The file that is wrong is named."""
        path = self.path(self.unet, WEIGHTS)
        with open(path, "r+b") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            file.seek(8 + size)
            file.write(struct.pack("<f", float("nan")))
        before = sha256(path)
        result = self.refused(INPUT, self.unet, "inspect", "-m", BASE, "--denoiser", self.unet)
        self.assertIn("NaN", result.err)
        self.assertEqual(sha256(path), before)


if __name__ == "__main__":
    unittest.main()
