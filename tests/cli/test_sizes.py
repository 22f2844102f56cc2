"""Sizes of pictures and latents: any multiple of the VAE's factor, which is 4 here."""

import json
import os
import re
import shutil
import unittest

from support import (EMOJI, GOLDEN, INPUT, USAGE, Case, read_png, read_safetensors,
                     write_safetensors)

MODEL = os.path.join(GOLDEN, "pipeline")
SD3 = os.path.join(GOLDEN, "sd3_tiny")  # patches of 2, a table of 7 positions a side
DRAW = ("generate", "-m", MODEL, "-p", "x", "--steps", "2")
TRAIN = ("--max_train_steps", "1", "--trainable", "10%", "--output_dir", "run")


class Sizes(Case):
    def images(self):
        """A folder with one image."""
        ink = os.path.join(EMOJI, "ink")
        name = min(name for name in os.listdir(ink) if name.endswith(".png"))
        os.makedirs(self.path("images"), exist_ok=True)
        shutil.copy(os.path.join(ink, name), self.path("images"))
        return ("--train_data_dir", self.path("images"), "--instance_prompt", "x")

    def replay(self, height, width):
        count = 4 * height * width
        write_safetensors(self.path("replay.safetensors"), {
            "latents": ("F32", [1, 1, 4, height, width], [0.5] * count),
            "noise": ("F32", [1, 1, 4, height, width], [i % 7 - 3.0 for i in range(count)]),
            "timesteps": ("I64", [1, 1], [500]),
            "encoder_hidden_states": ("F32", [1, 1, 3, 8], [0.25] * 24)})
        return self.path("replay.safetensors")

    def without_sample_size(self):
        folder = self.path("model")
        shutil.copytree(MODEL, folder)
        with open(os.path.join(folder, "unet", "config.json")) as file:
            config = json.load(file)
        with open(os.path.join(folder, "unet", "config.json"), "w") as file:
            json.dump({**config, "sample_size": None}, file)
        return folder

    def test_drawn(self):
        for width, height in ((72, 88), (4, 4), (20, 4), (36, 100)):
            self.ok(*DRAW, "-W", str(width), "-H", str(height), "-o", "x.png",
                    "--save-latents", "l.safetensors")
            self.assertEqual(read_png(self.path("x.png"))[:2], (width, height))
            shape = read_safetensors(self.path("l.safetensors"))[0]["latents"][1]
            self.assertEqual(shape, [1, 4, height // 4, width // 4])
        self.ok(*DRAW, "--init-latents", "l.safetensors", "-o", "y.png")
        self.assertEqual(read_png(self.path("y.png"))[:2], (36, 100))

    def test_refused(self):
        for width, height, nearest in (("30", "32", "28x32 and 32x32"),
                                       ("32", "33", "32x32 and 32x36"),
                                       ("30", "33", "28x32 and 32x36"), ("1", "8", "4x8 and 4x8"),
                                       ("16383", "8", "16380x8 and 16384x8")):
            self.refused(USAGE, [f"size {width}x{height}", "multiples of 4, the VAE's factor",
                                 f"the nearest are {nearest}"], *DRAW, "-W", width, "-H", height)
        self.refused(USAGE, ["--resolution 30x30", "28x28 and 32x32"], "train", "-m", MODEL,
                     *self.images(), *TRAIN, "--resolution", "30")

    def test_trained(self):
        self.ok("train", "-m", MODEL, *self.images(), *TRAIN, "--resolution", "36",
                "--validation_prompt", "x", "--validation_steps", "1")
        metadata = read_safetensors(self.path("run", "adapter.safetensors"))[1]
        self.assertEqual(metadata["modelspec.resolution"], "36x36")
        self.assertEqual(read_png(self.path("run", "samples", "step-000001-0.png"))[:2], (32, 32))

    def test_trained_otherwise_than_square(self):
        """As kohya's: --resolution width,height; a list in files."""
        train = ("train", "-m", MODEL, *self.images(), *TRAIN)
        for i, given in enumerate((["--resolution", "48,32"],
                                   ["--config", self.write("a.toml", "resolution = [48, 32]")],
                                   ["--config", self.write("b.toml", "resolution = '48,32'")],
                                   ["--config", self.write("c.json", '{"resolution": [48, 32]}')],
                                   ["--config", "a.toml", "--resolution", "48"])):
            self.ok(*train, *given, "-o", f"run{i}")
            metadata = read_safetensors(self.path(f"run{i}", "adapter.safetensors"))[1]
            size, option = ("48x32", "48,32") if i < 4 else ("48x48", "48")
            self.assertEqual(metadata["modelspec.resolution"], size)
            self.assertEqual(metadata["sara.resolution"], option)
        self.refused(USAGE, ["--resolution 30x33: ", "28x32 and 32x36"], *train, "--resolution",
                     "30,33")
        for value in ("[48, 32, 16]", "[48, 7]", "[48.5, 32]"):
            self.refused(USAGE, ["d.toml: --resolution ", "expected one whole number or two"],
                         *train, "--config", self.write("d.toml", f"resolution = {value}"))
        self.refused(USAGE, 'has resolution = "48,32", now it is "32,48"', *train, "-o", "run0",
                     "--resume_from_checkpoint", "latest", "--resolution", "32,48")

    def test_of_a_dataset_config(self):
        """What a file says is told as the file's."""
        folder = self.images()[1]

        def refused(words, keys, *more):
            text = (f"[general]\n{keys}\n[[datasets]]\n[[datasets.subsets]]\n"
                    f"image_dir = '{folder}'\nclass_tokens = 'x'\n")
            result = self.refused(INPUT, words, "train", "-m", MODEL, "--dataset_config",
                                  self.write("data.toml", text), *TRAIN, *more)
            self.assertNotIn("--", result.errors()[0])

        wide = "multiples of 4, the VAE's factor; the nearest are "
        refused(["data.toml: datasets[0]: resolution 30x33: ", wide + "28x32 and 32x36"],
                "resolution = [30, 33]", "--resolution", "32")
        refused(["data.toml: datasets[0]: bucket_reso_steps 30x30: ", wide + "28x28 and 32x32"],
                "resolution = 32\nenable_bucket = true\nbucket_reso_steps = 15\n"
                "min_bucket_reso = 15\nmax_bucket_reso = 60")
        self.refused(USAGE, "--bucket_reso_steps 30x30: ", "train", "-m", MODEL, *self.images(),
                     *TRAIN, "--enable_bucket", "--resolution", "32", "--bucket_reso_steps", "15",
                     "--min_bucket_reso", "15", "--max_bucket_reso", "60")

    def test_replayed(self):
        unet = ("train", "--unet_only", os.path.join(MODEL, "unet"))
        for height, width in ((5, 7), (1, 1), (18, 22)):
            self.ok(*unet, "--replay", self.replay(height, width), *TRAIN)
            with open(self.path("run", "log.jsonl")) as file:
                self.assertGreater(json.loads(file.readline())["loss"], 0)
            shutil.rmtree(self.path("run"))

    def test_padding(self):
        """Without padding each halving rounds down: a side of 3 is too short for 3 levels."""
        folder = self.path("unet")
        shutil.copytree(os.path.join(MODEL, "unet"), folder)
        with open(os.path.join(folder, "config.json")) as file:
            config = json.load(file)
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump({**config, "downsample_padding": 0}, file)
        unet = ("train", "--unet_only", folder)
        self.refused(INPUT, "latents: 3x9, the U-Net takes 4 or more", *unet, "--replay",
                     self.replay(3, 9), *TRAIN)
        self.ok(*unet, "--replay", self.replay(5, 9), *TRAIN)
        self.refused(USAGE, "--latent 3: the U-Net takes 4 or more", "bench", "-m", folder,
                     "--latent", "3")

    def test_patches(self):
        """SD3's are multiples of its patches, too, and within its table of positions."""
        draw = ("generate", "-m", SD3, "-p", "x", "--steps", "1", "-o", "x.png")
        for width, height in ((8, 8), (56, 24)):
            self.ok(*draw, "-W", str(width), "-H", str(height))
            self.assertEqual(read_png(self.path("x.png"))[:2], (width, height))
        unit = "multiples of 8, the VAE's factor 4 by the transformer's 2; the nearest are "
        most = "width and height must be 8 to 56; the transformer has positions for no more"
        train = ("train", "-m", SD3, *self.images(), *TRAIN)
        for width, height, words in (
                (12, 16, unit + "8x16 and 16x16"), (4, 8, unit + "8x8 and 8x8"),
                (53, 8, unit + "48x8 and 56x8"), (64, 8, most), (8, 60, most)):
            size = f"{width}x{height}"
            result = self.refused(USAGE, [f"size {size}: ", words], *draw, "-W", str(width), "-H",
                                  str(height))
            self.assertNotIn("encoded", result.err)
            self.refused(USAGE, [f"size {size}: ", words], "eval", "-m", SD3, "--prompts",
                         self.write("prompts.txt", "x"), "--clip",
                         os.path.join(EMOJI, "clip"), "-W", str(width), "-H", str(height))
            if (width, height) != (53, 8):
                latents = [1, 4, height // 4, width // 4]
                write_safetensors(self.path("l.safetensors"), {
                    "latents": ("F32", latents, [0.5] * (width * height // 4))})
                self.refused(USAGE, [f"l.safetensors {size}: ", words], *draw, "--init-latents",
                             "l.safetensors")
        for side, words in ((12, unit + "8x8 and 16x16"), (64, most)):
            self.refused(USAGE, [f"--resolution {side}x{side}: ", words], *train, "--resolution",
                         str(side))
        for side in (3, 16):
            words = f"{side}: the transformer takes multiples of 2 up to 14"
            self.refused(USAGE, f"--latent {words}", "bench", "-m",
                         os.path.join(SD3, "transformer"), "--latent", str(side))
            self.refused(INPUT, f"latents: {side}x{side}, the transformer takes multiples of 2",
                         "train", "--unet_only", os.path.join(SD3, "transformer"), "--replay",
                         self.replay(side, side), *TRAIN)

    def test_timed(self):
        for side in ("1", "7", "54"):
            done = self.ok("bench", "-m", os.path.join(MODEL, "unet"), "--latent", side, "--steps",
                           "1", "--json")
            self.assertEqual(json.loads(done.out)["latent"], int(side))

    def test_no_sample_size(self):
        folder = self.without_sample_size()
        draw = ("generate", "-m", folder, "-p", "x", "--steps", "1", "-o", "x.png")
        train = ("train", "-m", folder, *self.images(), *TRAIN)
        self.refused(USAGE, ["no sample_size", "give width and height"], *draw)
        self.refused(USAGE, "no sample_size", *draw, "-W", "32")
        self.ok(*draw, "-W", "32", "-H", "20")
        self.refused(USAGE, ["no sample_size", "give --resolution"], *train)
        self.ok(*train, "--resolution", "20", "--validation_prompt", "x", "--validation_steps", "1")
        self.assertEqual(read_png(self.path("run", "samples", "step-000001-0.png"))[:2], (20, 20))
        shutil.rmtree(self.path("run"))
        self.ok(*train, "--resolution", "20,28", "--validation_prompt", "x", "--validation_steps",
                "1")
        self.assertEqual(read_png(self.path("run", "samples", "step-000001-0.png"))[:2], (20, 28))
        shutil.rmtree(self.path("run"))
        replay = ("train", "-m", folder, "--replay", self.replay(5, 5), *TRAIN)
        self.refused(USAGE, ["no sample_size", "give --resolution"], *replay,
                     "--validation_prompt", "x")
        planned = []
        for size in ("160,20", "20,160"):  # of 160x160 eight times as much
            done = self.ok(*replay, "--validation_prompt", "x", "--resolution", size, "-o", size)
            planned.append(float(re.search(r"for pictures ([0-9.]+) MiB", done.err)[1]))
        self.assertAlmostEqual(planned[0] / planned[1], 1, delta=0.1)
        self.refused(USAGE, "the nearest are 20x20 and 24x24", *replay, "--validation_prompt", "x",
                     "--resolution", "21")
        self.ok(*replay, "--validation_prompt", "x", "--validation_steps", "1",
                "--resolution", "24")  # fmt: skip
        self.assertEqual(read_png(self.path("run", "samples", "step-000001-0.png"))[:2], (24, 24))


if __name__ == "__main__":
    unittest.main()
