"""Encoded images and captions on the disk: the same results, and nothing is encoded twice."""

import json
import os
import shutil
import unittest

from support import EMOJI, GOLDEN, IO, Case, sha256

BASE = os.path.join(GOLDEN, "pipeline")
SDXL = os.path.join(GOLDEN, "families", "sdxl")
IMAGES = 4
KEEP = ("--cache_latents_to_disk", "--cache_text_encoder_outputs_to_disk")


class CacheFiles(Case):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("data"))
        ink = os.path.join(EMOJI, "ink")
        for index, name in enumerate(sorted(os.listdir(ink))):
            if name.endswith(".png") and index < 2 * IMAGES:
                shutil.copy(os.path.join(ink, name), self.path("data"))
        for index, name in enumerate(sorted(os.listdir(self.path("data")))):
            with open(self.path("data", name[:-3] + "txt"), "w") as file:
                file.write(f"thing {index // 2}")
        self.images = len([x for x in os.listdir(self.path("data")) if x.endswith("png")])
        self.captions = (self.images + 1) // 2

    def train(self, run, *more, flip=("--random_flip",)):
        return self.ok("train", "-m", BASE, "--train_data_dir", "data", "-o", run, "-t", "1",
                       "--max_train_steps", "2", "--train_batch_size", "3", "--resolution", "16",
                       "--learning_rate", "1e-2", "--checkpointing_steps", "1", *flip, *more)

    def result(self, run):
        return sha256(self.path(run, "adapter.safetensors"))

    def assert_counts(self, done, latents, states, folder="data/.sara-cache"):
        """(found, made) of both kinds, flipped images being files of their own."""
        for kind, what, (found, made) in (("latents", "latents", latents),
                                          ("states", "captions' states", states)):
            self.assertIn(f"{folder}/{kind}: {found} {what} found, {made} made", done.err)

    def files(self, kind, folder=("data", ".sara-cache")):
        return sorted(os.listdir(self.path(*folder, kind)))

    def test_second_tokenizer(self):
        """States depend on the ids of each of a model's tokenizers."""
        shutil.copytree(SDXL, self.path("sdxl"))

        def states():
            shutil.rmtree(self.path("run"), ignore_errors=True)
            done = self.ok("train", "-m", "sdxl", "--train_data_dir", "data", "-o", "run", "-t",
                           "1", "--max_train_steps", "1", "--resolution", "16", KEEP[1])
            return done.err

        every = self.captions
        self.assertIn(f"0 captions' states found, {every} made", states())
        self.assertIn(f"{every} captions' states found, 0 made", states())
        path = self.path("sdxl", "tokenizer_2", "vocab.json")
        with open(path) as file:
            ids = json.load(file)
        words = [word for word in ids if not word.startswith("<|")]
        ids.update(zip(words, [ids[word] for word in reversed(words)]))
        with open(path, "w") as file:
            json.dump(ids, file)
        self.assertIn(f"0 captions' states found, {every} made", states())

    def test_same_bits(self):
        self.train("plain")
        both = 2 * self.images
        self.assert_counts(self.train("first", *KEEP), (0, both), (0, self.captions))
        self.assertEqual(self.result("first"), self.result("plain"))
        self.assertEqual(len(self.files("latents")), both)
        self.assertEqual(len(self.files("states")), self.captions)
        self.assert_counts(self.train("second", *KEEP), (both, 0), (self.captions, 0))
        self.assertEqual(self.result("second"), self.result("plain"))
        self.assertNotIn("passed over", self.train("third").err)
        done = self.train("latents", KEEP[0])
        self.assertNotIn("states:", done.err)
        self.assertEqual(self.result("latents"), self.result("plain"))
        done = self.train("states", KEEP[1])
        self.assertNotIn("latents:", done.err)
        self.assertEqual(self.result("states"), self.result("plain"))

    def test_validation_prompts(self):
        """Their states, the negative prompt's among them, are found by what decides them."""
        shown = ("--validation_steps", "1", "--validation_prompt")
        plain = self.train("plain", *shown, "a (cat:1.3)")
        self.assertNotIn("prompts' states", plain.err.replace("captions", ""))
        for run, more, found in (("first", ("a (cat:1.3)",), (0, 2)),
                                 ("second", ("a (cat:1.3)",), (2, 0)),
                                 ("weight", ("a (cat:1.2)",), (1, 1)),
                                 ("literal", ("a (cat:1.3)", "--no_prompt_weights"), (0, 2)),
                                 ("long", ("a (cat:1.3)", "--long_prompt"), (0, 2)),
                                 ("one", ("a cat", "--validation_guidance_scale", "1"), (0, 1))):
            done = self.train(run, *KEEP, *shown, *more)
            self.assertIn("data/.sara-cache/states: {} prompts' states found, {} made"
                          .format(*found), done.err)
            self.assertEqual(self.result(run), self.result("plain"))
        for run in ("first", "second"):
            for name in ("step-000001-0.png", "step-000002-0.png"):
                self.assertEqual(sha256(self.path(run, "samples", name)),
                                 sha256(self.path("plain", "samples", name)))

    def test_resumed(self):
        """Where encoded images lie is no part of a run, and they are no images of the folder."""
        self.train("whole")
        self.train("parts")
        shutil.rmtree(self.path("parts", "checkpoint-2"))
        os.remove(self.path("parts", "adapter.safetensors"))
        self.train("parts", "--resume_from_checkpoint", "latest", *KEEP)
        self.assertEqual(self.result("parts"), self.result("whole"))

    def test_what_decides(self):
        """Other settings, encoders and contents are other files; what is alike is found."""
        both = 2 * self.images
        self.train("first", *KEEP)
        self.assert_counts(self.train("prefix", *KEEP, "--caption_prefix", "a "), (both, 0),
                           (0, self.captions))
        self.assert_counts(self.train("size", *KEEP, "--resolution", "24"), (0, both),
                           (self.captions, 0))
        self.assert_counts(self.train("straight", *KEEP, flip=()),
                           (self.images, 0), (self.captions, 0))
        vae = os.path.join(GOLDEN, "shifted")
        self.assert_counts(self.train("vae", *KEEP, "--vae", vae), (0, both), (self.captions, 0))
        one, other = self.two_images()
        shutil.copy(one, other)
        self.assert_counts(self.train("content", *KEEP), (both, 0), (self.captions, 0))

    def two_images(self):
        names = [n for n in sorted(os.listdir(self.path("data"))) if n.endswith(".png")]
        return self.path("data", names[0]), self.path("data", names[1])

    def test_damaged(self):
        """A file that is not as it was written is made anew."""
        self.train("first", *KEEP)
        for kind, made in (("latents", (2 * self.images - 1, 2)),
                           ("states", (self.captions - 1, 1))):
            path = self.path("data", ".sara-cache", kind, self.files(kind)[0])
            for damage in (lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1]),
                           lambda data: b""):
                with open(path, "rb") as file:
                    whole = file.read()
                with open(path, "wb") as file:
                    file.write(damage(whole))
                done = self.train(f"again-{kind}-{len(damage(whole))}", *KEEP)
                self.assertRegex(done.err, f"{os.path.basename(path)}.*; it is made anew")
                self.assertIn(f"{made[1]} made", done.err)
                with open(path, "rb") as file:
                    self.assertEqual(file.read(), whole)

    def test_where(self):
        both = 2 * self.images
        done = self.train("named", *KEEP, "--cache_dir", "kept/here")
        self.assert_counts(done, (0, both), (0, self.captions), "kept/here")
        self.assertFalse(os.path.exists(self.path("data", ".sara-cache")))
        self.write("data/.sara-cache", "no folder")
        done = self.train("beside", *KEEP)
        self.assertIn("encoded images and captions are kept in beside/cache instead", done.err)
        self.assert_counts(done, (0, both), (0, self.captions), "beside/cache")
        self.assertEqual(self.result("beside"), self.result("named"))
        self.refused(IO, "data/.sara-cache", "train", "-m", BASE, "--train_data_dir", "data", "-o",
                     "none", "--max_train_steps", "1", "--resolution", "16", *KEEP, "--cache_dir",
                     "data/.sara-cache/x")


if __name__ == "__main__":
    unittest.main()
