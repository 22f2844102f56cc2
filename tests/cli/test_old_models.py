"""Configs of 2022, which diffusers' pipeline corrects: what is drawn and trained, and what is told
and kept."""

import json
import os
import shutil
import unittest

from support import EMOJI, GOLDEN, Case, read_png, read_safetensors

CORRECTED = {
    "scheduler/scheduler_config.json: steps_offset 0 (not stated)",
    "scheduler/scheduler_config.json: clip_sample true (not stated)",
    "unet/config.json: sample_size 8 (_diffusers_version 0.6.0, before 0.9)",
}


class OldModels(Case):
    def model(self):
        """Its pictures are 256 pixels wide once the sample size is 64, 32 as its config has it."""
        folder = self.path("old")
        shutil.copytree(os.path.join(GOLDEN, "pipeline"), folder)
        path = os.path.join(folder, "unet", "config.json")
        with open(path) as file:
            config = json.load(file)
        with open(path, "w") as file:
            json.dump({**config, "_diffusers_version": "0.6.0"}, file)
        return folder

    def check_told(self, err, folder):
        lines = [line for line in err.splitlines() if "the config is outdated" in line]
        self.assertEqual({line.split(": the config")[0] for line in lines},
                         {f"{folder}/{line}" for line in CORRECTED}, err)
        self.assertEqual(len(lines), len(CORRECTED), err)

    def test_drawn(self):
        folder = self.model()
        done = self.ok("generate", "-m", folder, "-p", "x", "--steps", "1", "-o", "x.png")
        self.assertEqual(read_png(self.path("x.png"))[:2], (256, 256))
        self.check_told(done.err, folder)
        self.ok("generate", "-m", folder, "-p", "x", "--steps", "1", "-W", "32", "-H", "32",
                "-o", "small.png")
        self.assertEqual(read_png(self.path("small.png"))[:2], (32, 32))

    def test_trained(self):
        folder, images = self.model(), self.path("images")
        os.mkdir(images)
        ink = os.path.join(EMOJI, "ink")
        name = min(name for name in os.listdir(ink) if name.endswith(".png"))
        shutil.copy(os.path.join(ink, name), images)
        done = self.ok("train", "-m", folder, "--train_data_dir", images, "--instance_prompt", "x",
                       "--output_dir", "run", "--max_train_steps", "1", "--trainable", "10%",
                       "--validation_prompt", "x", "--validation_steps", "1")
        self.check_told(done.err, folder)
        metadata = read_safetensors(self.path("run", "adapter.safetensors"))[1]
        self.assertEqual(metadata["modelspec.resolution"], "256x256")
        self.assertEqual(read_png(self.path("run", "samples", "step-000001-0.png"))[:2], (256, 256))

    def test_told_by_others(self):
        folder = self.model()
        done = self.ok("inspect", "-m", folder, "--json")
        self.check_told(done.err, folder)
        json.loads(done.out)
        self.check_told(self.ok("merge", "-m", folder, "-o", "copy").err, folder)
        for name in ("unet/config.json", "scheduler/scheduler_config.json"):
            with open(os.path.join(folder, name)) as old, open(self.path("copy", name)) as new:
                self.assertEqual(old.read(), new.read(), name)
        done = self.ok("bench", "-m", folder, "--latent", "8", "--steps", "1",
                       "--method", "forward")
        self.assertNotIn("outdated", done.err)  # a U-Net alone


if __name__ == "__main__":
    unittest.main()
