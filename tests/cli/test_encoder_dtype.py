"""--encoder_dtype: text encoders and VAE compute with rounded weights, as those of a model whose
files were rounded do; it is a part of a run and of what is kept of it on the disk."""

import os
import shutil
import struct
import unittest

from formats import read_png, read_safetensors, write_safetensors
from support import EMOJI, GOLDEN, USAGE, Case

BASE = os.path.join(GOLDEN, "pipeline")
WEIGHTS = (("text_encoder", "model"), ("vae", "diffusion_pytorch_model"))
KEEP = ("--cache_latents_to_disk", "--cache_text_encoder_outputs_to_disk")


def rounded(dtype, shape, values):
    """What is no vector, to 16 bits, ties to even."""
    if len(shape) < 2:
        return dtype, shape, values
    count = len(values) // 4
    narrow = struct.pack(f"<{count}e", *struct.unpack(f"<{count}f", values))
    return dtype, shape, list(struct.unpack(f"<{count}e", narrow))


class EncoderDtype(Case):
    def setUp(self):
        super().setUp()
        shutil.copytree(BASE, self.path("rounded"))
        for folder, stem in WEIGHTS:
            path = self.path("rounded", folder, stem + ".safetensors")
            tensors, metadata = read_safetensors(path)
            write_safetensors(path, {name: rounded(*t) for name, t in tensors.items()}, metadata)
        os.mkdir(self.path("data"))
        for name in sorted(os.listdir(os.path.join(EMOJI, "ink")))[1:4]:
            shutil.copy(os.path.join(EMOJI, "ink", name), self.path("data"))

    def draw(self, model, *more):
        self.ok("generate", "-m", model, "-p", "a cat", "-o", "a.png", "--steps", "2", "-t", "1",
                *more)
        rows = read_png(self.path("a.png"))[2]
        os.remove(self.path("a.png"))
        return rows

    def train(self, run, model, *more):
        return self.ok("train", "-m", model, "--train_data_dir", "data", "--instance_prompt", "ink",
                       "-o", run, "-t", "1", "--max_train_steps", "2", "--resolution", "16",
                       "--learning_rate", "1e-2", "--checkpointing_steps", "1", *more)

    def trained(self, run):
        return read_safetensors(self.path(run, "adapter.safetensors"))[0]

    def test_as_rounded_files(self):
        plain = self.draw(BASE)
        narrow = self.draw(BASE, "--encoder_dtype", "fp16")
        self.assertEqual(narrow, self.draw("rounded"))
        self.assertEqual(self.draw(BASE, "--encoder_dtype", "fp32"), plain)
        self.assertNotEqual(self.draw(BASE, "--encoder_dtype", "bf16"), plain)
        for run, model, more in (("plain", BASE, ()), ("narrow", BASE, ("fp16",)),
                                 ("rounded-run", "rounded", ())):
            self.train(run, model, *(("--encoder_dtype",) + more if more else ()))
        self.assertEqual(self.trained("narrow"), self.trained("rounded-run"))
        self.assertNotEqual(self.trained("narrow"), self.trained("plain"))

    def test_kept_on_the_disk(self):
        """Each rounding has files of its own; wider ones than the model's are the model's."""
        for run, dtype, counts in (("one", "auto", "0 latents found, 3 made"),
                                   ("two", "bf16", "0 latents found, 3 made"),
                                   ("three", "fp16", "0 latents found, 3 made"),
                                   ("four", "fp32", "3 latents found, 0 made"),
                                   ("five", "bf16", "3 latents found, 0 made")):
            err = self.train(run, BASE, "--encoder_dtype", dtype, *KEEP).err
            self.assertIn(counts, err)
            self.assertIn(counts.replace("latents", "captions' states").replace("3", "1"), err)
        self.assertEqual(self.trained("two"), self.trained("five"))

    def test_resumed(self):
        self.train("run", BASE, "--encoder_dtype", "fp16")
        self.refused(USAGE, ['encoder_dtype = "fp16", now it is "auto"'], "train", "-m", BASE,
                     "--train_data_dir", "data", "--instance_prompt", "ink", "-o", "run",
                     "--resolution", "16", "--learning_rate", "1e-2", "--max_train_steps", "4",
                     "--resume_from_checkpoint", "latest")

    def test_refused(self):
        self.refused(USAGE, "encoder_dtype fp8: expected auto, fp32, fp16 or bf16", "generate",
                     "-m", BASE, "-p", "a", "--encoder_dtype", "fp8")
        unet = os.path.join(BASE, "unet")
        replay = self.write_replay("replay.safetensors", 2)
        self.refused(USAGE, "the denoiser alone is loaded", "train", "--unet_only", unet,
                     "--replay", replay, "-o", "run", "--encoder_dtype", "fp16")


if __name__ == "__main__":
    unittest.main()
