"""What the tests of caches on the disk share: a data set with everything on, of two sets: buckets
and squares of the same images, masks in files and alpha, flips, drawn crops and colours, repeats,
class images, captions that vary; a tiny model; and what a run over all of it comes to."""

import hashlib
import os
import shutil

from support import GOLDEN, Shim, remains, sha256, write_png

CONFIG = """
[general]
shuffle_caption = true
keep_tokens = 1
caption_dropout_rate = 0.2
flip_aug = true

[[datasets]]
resolution = 16
batch_size = 2
enable_bucket = true
min_bucket_reso = 8
max_bucket_reso = 32
bucket_reso_steps = 8

  [[datasets.subsets]]
  image_dir = "masked"
  conditioning_data_dir = "masks"
  num_repeats = 2

  [[datasets.subsets]]
  image_dir = "alpha"
  alpha_mask = true

  [[datasets.subsets]]
  image_dir = "cropped"
  conditioning_data_dir = "masks"
  random_crop = true

  [[datasets.subsets]]
  image_dir = "class"
  is_reg = true
  class_tokens = "thing"

[[datasets]]
resolution = 16
batch_size = 1

  [[datasets.subsets]]
  image_dir = "masked"
  conditioning_data_dir = "masks"
  flip_aug = false
  shuffle_caption = false
  caption_dropout_rate = 0.0

  [[datasets.subsets]]
  image_dir = "coloured"
  color_aug = true
"""
# A square bucket resizes 33x32 to 17x16, a square crop to 16x16.
IMAGES = {"masked": [(24, 24), (33, 32), (40, 20)], "alpha": [(20, 44), (24, 24)],
          "cropped": [(44, 36)], "class": [(24, 24), (30, 20)], "coloured": [(24, 24)]}
LATENTS, CAPTIONS, PROMPTS = 17, 3, 2  # files of each; flipped ones are files of their own
KEEP = ("--cache_latents_to_disk", "--cache_text_encoder_outputs_to_disk", "--cache_dir")


def noise(size, salt):
    return b"".join(hashlib.sha256(f"{salt} {i}".encode()).digest()
                    for i in range(size // 32 + 1))[:size]


class Everything(Shim):
    MODEL = "sd3_tiny"

    def setUp(self):
        super().setUp()
        for folder, sizes in IMAGES.items():
            for index in range(len(sizes)):
                self.put_image(folder, index)
                if folder in ("masked", "cropped"):
                    self.put_image("masks", index, folder)
                if folder != "class":
                    self.write(f"{folder}/{folder}{index}.txt", f"red, blue, {folder} {index}")
        self.write("sets.toml", CONFIG)
        shutil.copytree(os.path.join(GOLDEN, self.MODEL), self.path("model"))

    def put_image(self, folder, index, named=None, salt=""):
        """Of noise that its place and the salt decide; in masks: that of an image in `named`."""
        name = named or folder
        width, height = IMAGES[name][index]
        channels = 4 if folder == "alpha" else 3
        os.makedirs(self.path(folder), exist_ok=True)
        write_png(self.path(folder, f"{name}{index}.png"), width, height,
                  noise(width * height * channels, f"{folder} {name} {index} {salt}"), channels)

    def arguments(self, run, *more, cache=None):
        return ["train", "-m", "model", "--dataset_config", "sets.toml", "--masked_loss", "-o", run,
                "-t", "1", "--max_train_steps", "6", "--learning_rate", "1e-2",
                "--validation_steps", "6", "--validation_prompt", "a (red:1.3) cat",
                "--validation_guidance_scale", "2", *(KEEP if cache else ()),
                *([cache] if cache else ()), *more]

    def train(self, run, *more, cache=None, **options):
        shutil.rmtree(self.path(run), ignore_errors=True)
        return self.ok(*self.arguments(run, *more, cache=cache), **options)

    def result(self, run):
        """What was trained, and the pictures that it draws."""
        folder = self.path(run, "samples")
        return [sha256(self.path(run, "adapter.safetensors")),
                *(sha256(os.path.join(folder, name)) for name in sorted(os.listdir(folder)))]

    def counts(self, done, cache="kept"):
        """(found, made) of latents, captions and prompts."""
        found = {}
        for line in done.err.splitlines():
            if line.startswith(cache + "/") and line.endswith(" made"):
                words = line.split(": ")[1].replace("' states", "").split()
                found[words[1]] = (int(words[0]), int(words[3]))
        return found["latents"], found["captions"], found["prompts"]

    def files(self, cache="kept"):
        """Name below the cache's folder: content."""
        found = {}
        for kind in ("latents", "states"):
            for name in os.listdir(self.path(cache, kind)):
                with open(self.path(cache, kind, name), "rb") as file:
                    found[os.path.join(kind, name)] = file.read()
        return found

    def assert_whole(self, run, expected, cache="kept", what=None):
        """The result, the files of a cache that nothing happened to, and no others."""
        self.assertEqual(self.result(run), expected[0], what)
        self.assertEqual(self.files(cache), expected[1], what)
        self.assertEqual(remains(self.path(cache)), [], what)
