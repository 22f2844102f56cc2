"""Folders of images as people have them, and what is told of them before the first is encoded."""

import json
import os
import shutil
import unittest

from support import BASE, EMOJI, INPUT, TOP, USAGE, Case

IMAGES = os.path.join(TOP, "tests", "io", "data", "images")
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


class Dataset(Case):
    def fill(self, name, content):
        """A file below data/; content: bytes, a text, or the path of a file to be copied."""
        path = self.path("data", *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(content, str) and os.path.isabs(content):
            shutil.copy(content, path)
        else:
            self.write(path, content)
        return path

    def args(self, *more, data="data"):
        return (
            *("train", "-m", BASE, "--train_data_dir", data, "-o", "run", "-t", "1"),
            *("--train_batch_size", "1", "--resolution", "32"),
            *(more if "--num_train_epochs" in more else ("--max_train_steps", "1", *more)),
        )

    def image(self, index=0):
        names = [n for n in sorted(os.listdir(os.path.join(EMOJI, "ink"))) if n.endswith(".png")]
        return os.path.join(EMOJI, "ink", names[index])

    def refused_early(self, words, *more):
        result = self.refused(INPUT, words, *self.args(*more))
        self.assertNotIn("cache ", result.err)  # the progress of encoding
        return result.errors()[0]


class Images(Dataset):
    """Whatever is wrong with an image is told before any is encoded."""

    def test_damaged_last_image(self):
        self.fill("a.png", self.image())
        for name in ["rgb.png", "rgb-420.jpg", "progressive.jpg", "lossy.webp", "lossless.webp"]:
            with open(os.path.join(IMAGES, name), "rb") as file:
                whole = file.read()
            for size in [0, 1, 12, len(whole) // 3, len(whole) - 13, len(whole) - 1]:
                with self.subTest(name, size=size):
                    path = self.fill("z" + os.path.splitext(name)[1], whole[:size])
                    self.refused_early("data/z.", "--instance_prompt", "x")
            os.unlink(path)

    def test_bytes_after_the_end(self):
        for name in ["rgb.png", "rgb-420.jpg", "lossy.webp"]:
            with open(os.path.join(IMAGES, name), "rb") as file:
                self.fill(name, file.read() + bytes(100))
        self.ok(*self.args("--instance_prompt", "x"))

    def test_several(self):
        self.fill("a.png", self.image())
        for i in range(8):
            self.fill(f"b{i}.png", b"nothing")
        line = self.refused_early("data/b0.png: unknown content", "--instance_prompt", "x")
        self.assertIn("7 more images cannot be used: data/b1.png, data/b2.png", line)
        self.assertNotIn("b7", line)

    def test_too_long_at_the_resolution(self):
        import struct
        import zlib

        def chunk(kind, data):
            tail = struct.pack(">I", zlib.crc32(kind + data))
            return struct.pack(">I", len(data)) + kind + data + tail

        rows = zlib.compress((b"\0" + bytes(3)) * 2000)
        header = struct.pack(">IIBBBBB", 1, 2000, 8, 2, 0, 0, 0)
        chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        self.fill("a.png", self.image())
        self.fill("line.png", b"\x89PNG\r\n\x1a\n" + chunks)
        self.refused_early("data/line.png: 1x2000 is too long", "--instance_prompt", "x")

    def test_git_lfs_pointers(self):
        self.fill("a.png", self.image())
        self.fill("b.png", LFS)
        self.refused_early(["data/b.png", "git lfs pull"], "--instance_prompt", "x")
        self.fill("b.png", self.image(1))
        self.fill("a.txt", LFS)
        self.fill("b.txt", "fine")
        self.refused_early(["data/a.txt", "git lfs pull"])
        self.fill("metadata.jsonl", LFS)
        self.refused_early(["data/metadata.jsonl", "git lfs pull"])

    def test_git_lfs_pointers_of_a_model(self):
        shutil.copytree(BASE, self.path("base"))
        for name in ["model_index.json", "unet/config.json", "tokenizer/vocab.json"]:
            with self.subTest(name):
                with open(self.path("base", name), "rb") as file:
                    whole = file.read()
                self.write(self.path("base", name), LFS)
                command = ("inspect", "-m", "base", "--tokenize", "x")
                self.refused(INPUT, [name, "git lfs pull"], *command)
                self.write(self.path("base", name), whole)


class GoingOn(Dataset):
    def test_what_becomes_of_captions(self):
        """A resumed run keeps it, given or not."""
        self.fill("a.png", self.image())
        args = self.args("--instance_prompt", "a, b, c", "--max_train_steps", "2",
                         "--resume_from_checkpoint", "latest")
        self.ok(*self.args("--instance_prompt", "a, b, c", "--shuffle_caption"))
        for options, words in [
                ((), ["shuffle_caption = true", "its default"]),
                (("--shuffle_caption", "--caption_dropout_rate", "0.5"),
                 ["caption_dropout_rate = its default", "0.5"]),
                (("--shuffle_caption", "--enable_bucket", "--min_bucket_reso", "32"),
                 ["bucket", "its default"])]:
            self.refused(USAGE, ["checkpoint-1", "a resumed run keeps", *words], *args, *options)
        self.ok(*args, "--shuffle_caption", "--caption_dropout_rate", "0")


class Masks(Dataset):
    def test_alpha_of_a_configuration(self):
        """kohya's scripts weigh the loss by alpha_mask without --masked_loss, too."""
        self.fill("a.png", os.path.join(IMAGES, "rgba.png"))
        subset = "[[datasets]]\n[[datasets.subsets]]\nimage_dir='data'\nclass_tokens='x'\n"
        losses = []
        for number, (key, more) in enumerate([("", ()), ("alpha_mask=true\n", ()),
                                              ("alpha_mask=true\n", ("--masked_loss",))]):
            self.write("sets.toml", subset + key)
            run = f"run{number}"
            self.ok("train", "-m", BASE, "--dataset_config", "sets.toml", "-o", run, "-t", "1",
                    "--resolution", "32", "--max_train_steps", "1", *more)
            with open(self.path(run, "log.jsonl"), encoding="utf-8") as file:
                losses.append([json.loads(line)["loss"] for line in file if '"loss"' in line])
        self.assertEqual(len(losses[0]), 1)
        self.assertEqual(losses[1], losses[2])
        self.assertLess(losses[1][0], 0.9 * losses[0][0])


class Layouts(Dataset):
    """Where images and captions lie in other programs' data sets; what is left is named."""

    def test_kohya_folders(self):
        self.fill("2_ink/a.png", self.image())
        self.fill("2_ink/a.txt", "foggy")
        self.fill("1_other/b.png", self.image(1))
        self.fill("stray.png", self.image(2))
        self.fill("2_ink/a_sd.npz", "")
        result = self.ok(*self.args("--num_train_epochs", "3"))
        self.assertIn("from 2 images, 3 with repeats", result.err)
        self.assertIn("2_ink, 2 times each: 1 (2_ink/a.png)", result.err)
        self.assertIn("stray.png", result.err)
        self.assertIn(".npz: 1 (2_ink/a_sd.npz)", result.err)
        self.assertIn("9 steps done", result.out)

    def test_metadata_csv(self):
        self.fill("a.png", self.image())
        self.fill("metadata.csv", 'file_name,text\r\na.png,"foggy, ""grey"""\r\n')
        self.ok(*self.args())
        self.fill("metadata.csv", "file_name,text\r\na.png,foggy, grey\r\n")
        self.refused_early(["metadata.csv: line 2", "has to stand in"], "-o", "run2")

    def test_caption_extension(self):
        self.fill("a.png", self.image())
        self.fill("a.caption", "foggy")
        self.ok(*self.args())
        self.fill("a.txt", "fog, grey")
        self.refused_early("--caption_extension", "-o", "run2")
        for name in ["caption", ".txt"]:
            self.ok(*self.args("-o", "run" + name, "--caption_extension", name))

    def test_links_and_names(self):
        blob = self.fill("blobs/11", self.image())
        os.makedirs(self.path("data", "snapshots"))
        os.symlink("../blobs/11", self.path("data", "snapshots", "cafe\u0301.png"))
        os.symlink(blob, self.path("data", "snapshots", "b.png"))
        self.fill("snapshots/metadata.csv", "file_name,text\ncaf\u00e9.png,one\n.\\b.png,two\n")
        self.ok(*self.args(data="data/snapshots"))
        self.fill("snapshots/metadata.csv", "file_name,text\nB.PNG,two\n")
        self.refused(
            INPUT, ["image B.PNG", "is b.png"], *self.args("-o", "r2", data="data/snapshots")
        )

    def test_own_output_is_passed_over(self):
        """A run below the images, and a second one beside it."""
        self.fill("a.png", self.image())
        self.fill("a.txt", "foggy")
        more = ("--validation_prompt", "foggy", "--validation_steps", "1")
        self.ok(*self.args("-o", "data/run1", *more))
        result = self.ok(*self.args("-o", "data/run2", *more))
        self.assertIn("a run: 1 (run1)", result.err)
        self.assertIn("the output folder: 1 (run2)", result.err)
        self.assertIn("from 1 images", result.err)
        line = self.refused(INPUT, "holds a run", *self.args("-o", "r", data="data/run1"))
        self.assertNotIn("cache", line.err)

    def test_control_characters_in_names(self):
        self.fill("a.png", self.image())
        self.fill("\x1b[31m_x/b.npz", "")
        self.fill("\x1b[2Jz.txt", "")
        result = self.ok(*self.args("--instance_prompt", "x"))
        self.assertNotIn("\x1b", result.err)
        self.assertIn("\\x1b[2Jz.txt", result.err)


if __name__ == "__main__":
    unittest.main()
