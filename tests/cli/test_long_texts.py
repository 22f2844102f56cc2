"""What text encoders are not given of captions and prompts is told, and at each start."""

import os
import shutil
import unittest

from support import EMOJI, GOLDEN, Case

SD1 = os.path.join(GOLDEN, "pipeline")
SD3 = os.path.join(GOLDEN, "sd3_tiny")
KEEP = ("--cache_latents_to_disk", "--cache_text_encoder_outputs_to_disk")
CATS, SKY = "a cat " * 60, "a red dragon in the sky " * 40
# Ids, the ends among them, by transformers' CLIPTokenizer and T5TokenizerFast from that folder.
CLIP_SKY, T5_SKY, T5_DRAGON = 242, 441, 7


class LongTexts(Case):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("data"))
        ink = os.path.join(EMOJI, "ink")
        source = os.path.join(ink, next(n for n in sorted(os.listdir(ink)) if n.endswith(".png")))
        for name, caption in (("a", "a red dragon"), ("b", CATS), ("c", SKY), ("d", SKY)):
            shutil.copy(source, self.path("data", name + ".png"))
            self.write(f"data/{name}.txt", caption)

    def train(self, *more, model=SD3):
        shutil.rmtree(self.path("run"), ignore_errors=True)
        done = self.ok("train", "-m", model, "--train_data_dir", "data", "-o", "run", "-t", "1",
                       "--max_train_steps", "1", "--resolution", "16", "--trainable", "1%", *more)
        return done.err.splitlines()

    def told(self, lines, word):
        return [line for line in lines if word in line]

    def test_captions(self):
        """Those of each encoder: how many of the distinct ones, the longest, and the first."""
        for more, most, count, first in (((), 77, 2, "b"), (("200",), 200, 1, "c"),
                                         (("440",), 440, 1, "c"), (("441",), 441, 0, None)):
            lines = self.train(*(("--max_sequence_length", *more) if more else ()))
            clip, t5 = (self.told(lines, f"for {name}:") for name in ("CLIP", "T5"))
            self.assertEqual(len(clip), 1, lines)
            self.assertIn(f"warning: captions are cut at 32 tokens for CLIP: 2 of 3, the longest "
                          f"of {CLIP_SKY}; the first is that of data/b.png", clip[0])
            self.assertEqual(len(t5), 1 if count else 0, lines)
            for line in t5:
                self.assertIn(f"warning: captions are cut at {most} tokens for T5: {count} of 3, "
                              f"the longest of {T5_SKY}; the first is that of data/{first}.png; "
                              "--max_sequence_length takes more", line)
        lines = self.train("--no-t5")
        self.assertEqual(len(self.told(lines, "captions are cut")), 1, lines)
        lines = self.train(model=SD1)
        self.assertEqual(len(self.told(lines, "captions are cut")), 1, lines)
        self.assertIn("at 16 tokens for CLIP", self.told(lines, "captions are cut")[0])

    def test_kept_prompts(self):
        """A prompt whose states are on the disk is told about as one that is encoded."""
        shown = ("--validation_prompt", f"(a red:1.2) dragon {SKY}", "--validation_steps", "1")
        first, second = (self.train(*KEEP, *shown) for _ in range(2))
        self.assertIn("2 prompts' states found, 0 made", "\n".join(second))
        for words in ("the prompt is too long: ", f"the prompt is too long for T5: "
                      f"{T5_SKY + T5_DRAGON - 1 - 256} tokens were cut off at 256; ",
                      "the prompt's weights scale CLIP's states; T5 takes it without"):
            self.assertEqual(len(self.told(first, words)), 1, (words, first))
            self.assertEqual(self.told(second, words), self.told(first, words))
        shown = ("--validation_prompt", SKY, "--validation_steps", "1", "--long_prompt")
        first, second = (self.told(self.train(*KEEP, *shown, model=SD1), "is encoded in")
                         for _ in range(2))
        self.assertEqual((len(first), second), (1, first))

    def test_weights_of_kept_prompts(self):
        """What only encoding shows of a prompt is told at each start, too."""
        shown = ("--validation_prompt", "(cat:100) (dog:-99)", "--validation_steps", "1")
        first, second = (self.told(self.train(*KEEP, *shown), "the mean of its states")
                         for _ in range(2))
        self.assertGreater(len(first), 0)
        self.assertEqual(second, first)


if __name__ == "__main__":
    unittest.main()
