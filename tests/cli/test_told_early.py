"""What is wrong is told before pictures are drawn and models are read."""

import os
import unittest

from support import BASE, INPUT, IO, USAGE, Case, write_safetensors


class ToldEarly(Case):
    def foreign(self, name):
        """An adapter of another base."""
        metadata = {"sara.format": "1", "sara.target": "unet", "sara.base_sha256": "0" * 64}
        tensors = {
            "conv_in.weight.positions": ("U8", [1], b"\x03"),
            "conv_in.weight.values": ("F32", [1], [0.5]),
        }
        write_safetensors(self.path(name), tensors, metadata)

    def test_generate(self):
        """Of the second prompt, and of the lower row of a comparison."""
        self.foreign("other.safetensors")
        draw = ("generate", "-m", BASE, "--steps", "2", "-o", "x.png")
        for args in (
            ("-p", "a", "-p", "b <lora:other:1>", "--lora-model-dir", "."),
            ("-p", "a", "--adapter", "other.safetensors", "--compare"),
            ("-p", "a <lora:other:1>", "--lora-model-dir", ".", "--compare"),
        ):
            result = self.refused(INPUT, "other.safetensors", *draw, *args)
            self.assertNotIn("generate ", result.err.replace("sara generate", ""), args)
        self.assertEqual(os.listdir(self.folder), ["other.safetensors"])

    def test_outputs(self):
        """Before the model is read, which is not there."""
        draw = ("generate", "-m", "nowhere", "-p", "a")
        self.refused(IO, "none/l.safetensors", *draw, "--save-latents", "none/l.safetensors")
        self.refused(IO, "none/x.png", *draw, "-o", "none/x.png")
        if os.geteuid() != 0:
            os.mkdir(self.path("closed"), 0o500)
            self.refused(IO, "closed/x.png", *draw, "-o", "closed/x.png")

    def test_device(self):
        for command in (
            ("train", "--train_data_dir", "nowhere", "-o", "run", "-m", BASE),
            ("generate", "-p", "a", "-m", BASE),
            ("bench", "--shape", "sd15"),
        ):
            words = "device cuda: this build has cpu"
            result = self.refused(USAGE, words, *command, "--device", "cuda")
            self.assertNotIn("apart", result.err)
            self.assertEqual(os.listdir(self.folder), [])
            self.assertIn("--device NAME", self.ok(command[0], "--help").out)

    def test_adapters(self):
        for command in (
            ("generate", "-p", "a"),
            ("merge", "-o", "new"),
            ("export", "--format", "a1111", "-o", "new.safetensors"),
        ):
            words = "--adapter none.safetensors: No such file"
            self.refused(IO, words, *command, "-m", "nowhere", "--adapter", "none.safetensors:0.5")


if __name__ == "__main__":
    unittest.main()
