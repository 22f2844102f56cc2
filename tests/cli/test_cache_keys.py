"""Whatever decides what an image or a text is encoded to decides which file of the cache is taken:
each such thing is changed, on a folder that was filled before. With SARA_LONG=1 of three families,
and the result is that of a run without a cache."""

import json
import os
import shutil
import struct
import unittest

from support import files_below, processor_has
from support_caches import CAPTIONS, LATENTS, PROMPTS, Everything

LONG = os.environ.get("SARA_LONG") == "1"
ALL = (LATENTS - 2, CAPTIONS, PROMPTS)  # two of the squares are the buckets'
STATES = (0, CAPTIONS, PROMPTS)
IMAGES = (LATENTS - 2, 0, 0)
NO_EMPTY = (0, CAPTIONS, 1)
MODEL = (STATES, ALL, NO_EMPTY)


def sets(old, new):
    """Another line in the configuration."""
    def change(case):
        with open(case.path("sets.toml")) as file:
            text = file.read()
        case.assertIn(old, text)
        case.write("sets.toml", text.replace(old, new))
    return change


def image(*args, **options):
    return lambda case: case.put_image(*args, **options, salt="other")


def config(part, name="config.json", **values):
    def change(case):
        path = case.path("model", part, name)
        with open(path) as file:
            whole = json.load(file)
        case.write(path, json.dumps({**whole, **values}))
    return change


def weights(part, tensor):
    """Another first value of the tensor."""
    def change(case):
        folder = case.path("model", part)
        name = next(n for n in os.listdir(folder)
                    if n in ("model.safetensors", "diffusion_pytorch_model.safetensors"))
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            data = bytearray(file.read())
        size = struct.unpack("<Q", data[:8])[0]
        info = next(v for k, v in json.loads(data[8 : 8 + size]).items() if tensor in k)
        at = 8 + size + info["data_offsets"][0]
        kind = {"F32": "<f", "F16": "<e"}[info["dtype"]]
        struct.pack_into(kind, data, at, struct.unpack_from(kind, data, at)[0] + 0.1)
        case.write(path, bytes(data))
    return change


def words(tokenizer):
    """The words' ids the other way round."""
    def change(case):
        path = case.path("model", tokenizer, "vocab.json")
        with open(path) as file:
            ids = json.load(file)
        names = [word for word in ids if not word.startswith("<|")]
        ids.update(zip(names, [ids[word] for word in reversed(names)]))
        os.unlink(path)
        case.write(path, json.dumps(ids))
    return change


def text_of_masks(case):
    case.write("masked/masked0.txt", "green, cat")


def encoder(number, activation):
    part = f"text_encoder{number}"
    return {
        f"{part}'s weights": (weights(part, "fc1.weight"), STATES),
        f"{part}'s activation": (config(part, hidden_act=activation), STATES),
        f"{part}'s heads": (config(part, num_attention_heads=1), STATES),
        f"{part}'s eps": (config(part, layer_norm_eps=0.1), STATES),
        f"{part}'s end of text": (config(part, eos_token_id=5), STATES),
        # The empty prompt has no words; the second tokenizer fills up with one.
        f"words of {part}": (words(f"tokenizer{number}"), STATES if number else NO_EMPTY),
    }


# What is changed, and how many latents, captions and prompts are made anew; None: those counts say
# nothing that another way tells. An option is a list, an environment a dictionary.
CHANGES = {
    "nothing": ([], (0, 0, 0)),
    "a mask": (image("masks", 0, "masked"), (2, 0, 0)),
    "an image": (image("masked", 0), (2, 0, 0)),
    "an image with its alpha": (image("alpha", 0), (2, 0, 0)),
    "an image of the class": (image("class", 0), (2, 0, 0)),
    "an image that is cropped anew": (image("cropped", 0), (0, 0, 0)),
    "a caption": (text_of_masks, (0, 1, 0)),
    "the resolution": (sets("resolution = 16", "resolution = 24"), (LATENTS - 1, 0, 0)),
    "the resolution of squares": (
        sets("resolution = 16\nbatch_size = 1", "resolution = 24\nbatch_size = 1"), (3, 0, 0)),
    "two sides": (
        sets("resolution = 16\nbatch_size = 1", "resolution = [16, 24]\nbatch_size = 1"),
        (3, 0, 0)),
    "squares like buckets": (
        sets("resolution = 16\nbatch_size = 1", "resolution = [16, 16]\nbatch_size = 1"),
        (0, 0, 0)),
    "no buckets": (sets("enable_bucket = true", "enable_bucket = false"), None),
    "buckets' limits": (sets("max_bucket_reso = 32", "max_bucket_reso = 16"), None),
    "nothing enlarged": (sets("bucket_reso_steps = 8",
                              "bucket_reso_steps = 8\nbucket_no_upscale = true"), None),
    "no flips": (sets("flip_aug = true", "flip_aug = false"), (0, 0, 0)),
    "more flips": (sets("  flip_aug = false\n", ""), (2, 0, 0)),
    "all crops drawn": (sets("flip_aug = true", "flip_aug = true\nrandom_crop = true"), (0, 0, 0)),
    "no crop drawn": (sets("random_crop = true", "random_crop = false"), (2, 0, 0)),
    "colours as they are": (sets("color_aug = true", "color_aug = false"), (2, 0, 0)),
    "no alpha": (sets("alpha_mask = true", "alpha_mask = false"), (4, 0, 0)),
    "no masks": (sets('conditioning_data_dir = "masks"\n', ""), (7, 0, 0)),
    "alpha for masks": (
        sets('conditioning_data_dir = "masks"\n', "alpha_mask = true\n"), (7, 0, 0)),
    "the VAE's weights": (weights("vae", "encoder.conv_in.weight"), IMAGES),
    "the VAE's groups": (config("vae", norm_num_groups=2), IMAGES),
    "the VAE's scale": (config("vae", scaling_factor=0.5), None),  # is applied later
    **encoder("", "gelu"),
    **(encoder("_2", "quick_gelu") if LONG else {}),
    "T5's weights": (weights("text_encoder_3", "SelfAttention.q"), STATES),
    "T5's eps": (config("text_encoder_3", layer_norm_epsilon=0.3), STATES),
    "T5's distance": (config("text_encoder_3", relative_attention_max_distance=16), STATES),
    "no T5": (["--no_t5"], STATES),
    "T5's tokens": (["--max_sequence_length", "20"], (0, CAPTIONS, 0)),
    "bf16": (["--encoder_dtype", "bf16"], ALL),
    "a prompt's weights": (["--no_prompt_weights"], (0, 0, 2)),
    "chunks of prompts": (["--long_prompt"], (0, 0, 2)),
    "threads": (["-t", "2"], (0, 0, 0)),
    "a device": (["--device", "cpu-plain"], ALL),
    **({"vector instructions": ({"SARA_SIMD": "generic"}, ALL)} if processor_has("avx2") else {}),
}


class Keys(Everything):
    counted = True

    def change(self, change):
        """Options and environment that remain to be given."""
        if callable(change):
            change(self)
        return (change if isinstance(change, list) else [],
                change if isinstance(change, dict) else {})

    def one(self, what, change, made):
        more, env = self.change(change)
        shutil.copytree(self.path("kept"), self.path("cache"))
        if LONG or made is None:
            self.train("plain", *more, env=env)
        done = self.train("cached", *more, cache="cache", env=env)
        self.assertNotIn("made anew", done.err, what)
        if LONG or made is None:
            self.assertEqual(self.result("cached"), self.result("plain"), what)
        if self.counted and made is not None:
            counts = tuple(count for _, count in self.counts(done, "cache"))
            self.assertEqual(counts, made, what)

    def inputs(self):
        found = {}
        for name in files_below(self.folder):
            if name.split(os.sep)[0] not in ("kept", "cache", "cached", "plain"):
                with open(self.path(name), "rb") as file:
                    found[name] = file.read()
        return found

    def restore(self, before):
        now = self.inputs()
        for name, data in before.items():
            if now[name] != data:
                self.write(name, data)

    def fill_kept(self):
        self.train("plain")
        done = self.train("cached", cache="kept")
        self.assertEqual(self.result("cached"), self.result("plain"))
        return done

    def changes(self, changes):
        counts = self.counts(self.fill_kept())
        if self.counted:
            self.assertEqual(counts, ((2, ALL[0]), (0, CAPTIONS), (0, PROMPTS)))
        for what, (change, made) in changes.items():
            before = self.inputs()
            shutil.rmtree(self.path("cache"), ignore_errors=True)
            with self.subTest(what):
                self.one(what, change, made)
            self.restore(before)

    def test_images(self):
        self.changes({k: v for k, v in CHANGES.items() if v[1] not in MODEL})

    def test_model(self):
        self.changes({k: v for k, v in CHANGES.items() if v[1] in MODEL})


@unittest.skipUnless(LONG, "SARA_LONG=1")
class KeysOfSDXL(Keys):
    """Of what it has; its prompts are others."""

    MODEL = os.path.join("families", "sdxl")
    counted = False

    def changes(self, changes):
        super().changes({k: v for k, v in changes.items() if self.fits(k)})

    def fits(self, what):
        return "T5" not in what and (self.MODEL != "pipeline" or "text_encoder_2" not in what)


@unittest.skipUnless(LONG, "SARA_LONG=1")
class KeysOfSD1(KeysOfSDXL):
    MODEL = "pipeline"


if __name__ == "__main__":
    unittest.main()
