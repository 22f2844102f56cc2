"""Textual inversion in prompts: drawn, in validation, shown, refused."""

import hashlib
import json
import os
import unittest

from support import EMOJI, GOLDEN, INPUT, IO, USAGE, Case, read_png, sha256, write_safetensors

BASE = os.path.join(GOLDEN, "pipeline")
WIDTH = 8


class Embeddings(Case):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("inner"))
        os.mkdir(self.path("inner", "more"))
        self.put("inner/toy", "emb_params", [2, WIDTH], 1)
        self.put("inner/more/learned", "<cat-toy>", [WIDTH], 2)

    def put(self, name, tensor, shape, step):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [step * (i % 5 - 2) * 0.25 for i in range(count)]
        write_safetensors(self.path(name + ".safetensors"), {tensor: ("F32", shape, values)})

    def draw(self, *args, folder="--embedding-dir=inner"):
        self.ok("generate", "-m", BASE, "--steps", "2", "-t", "1", "-o", "x.png", *args,
                *([folder] if folder else []))
        rows, texts = read_png(self.path("x.png"))[2:]
        return hashlib.sha256(b"".join(rows)).hexdigest(), texts["parameters"]

    def test_drawn(self):
        """Each way to name one; in the negative prompt, with weights, in chunks."""
        toy = self.draw("-p", "a toy")[0]
        self.assertNotEqual(toy, self.draw("-p", "a toy", folder=None)[0])
        self.assertEqual(toy, self.draw("-p", "a TOY", folder="--embedding_dir=inner")[0])
        self.assertEqual(toy, self.draw("-p", "a embedding:toy.safetensors")[0])
        self.assertEqual(toy, self.draw("-p", "a (toy:1.0)")[0])
        plain = self.draw("-p", "a b")[0]
        seen = {toy, plain}
        for args in (("-p", "a <cat-toy>"), ("-p", "a (toy:1.5)"), ("-p", "a b", "-n", "toy"),
                     ("-p", "a b", "-n", "(<cat-toy>:1.5)"),
                     ("-p", "toy toy toy toy toy toy toy toy", "--long-prompt")):  # fmt: skip
            picture = self.draw(*args)[0]
            self.assertNotIn(picture, seen, args)
            seen.add(picture)

    def test_text(self):
        """As A1111 names embeddings and the hashes of their files."""
        text = self.draw("-p", "a toy toy", "-n", "<cat-toy> toy")[1]
        toy, learned = (sha256(self.path("inner", *name))[:12]
                        for name in (("toy.safetensors",), ("more", "learned.safetensors")))
        self.assertIn(f', TI hashes: "toy: {toy}, learned: {learned}", Version: ', text)
        self.assertTrue(text.startswith("a toy toy\nNegative prompt: <cat-toy> toy\n"), text)
        self.assertNotIn("TI hashes", self.draw("-p", "a b")[1])

    def test_told(self):
        done = self.ok("generate", "-m", BASE, "--steps", "1", "-t", "1", "-o", "x.png", "-p",
                       "a toy", "--embedding-dir", "inner")  # fmt: skip
        self.assertEqual(done.err.count("prompt: toy is an embedding of 2 vectors, inner/toy."), 1)

    def test_refused(self):
        draw = ("generate", "-m", BASE, "-o", "x.png", "-p")
        self.refused(USAGE, ["embedding:toy", "--embedding-dir DIR"], *draw, "a embedding:toy")
        within = (*draw[:-1], "--embedding-dir", "inner", "-p")
        self.refused(IO, ["inner/hat.safetensors", "embedding:hat"], *within, "a embedding:hat")
        self.refused(IO, ["nowhere"], *draw, "a", "--embedding-dir", "nowhere")
        self.put("inner/wide", "emb_params", [2, 768], 1)
        self.refused(INPUT, ["inner/wide.safetensors", "768", str(WIDTH)], *within, "a wide b")
        with open(self.path("inner", "old.pt"), "wb") as file:
            file.write(b"\x80\x02.")
        self.refused(INPUT, ["inner/old.pt", "pickled", "save_file"], *within, "a old b")
        self.refused(INPUT, ["textual inversion", "--embedding-dir"], *draw, "a", "--adapter",
                     "inner/toy.safetensors")
        self.assertEqual(self.draw("-p", "a b")[0], self.draw("-p", "a b", folder=None)[0])

    def test_shown(self):
        report = json.loads(self.ok("inspect", "inner/toy.safetensors", "--json").out)
        self.assertEqual((report["vectors"], report["widths"], report["token"]), (2, [8], None))
        write_safetensors(self.path("xl.safetensors"), {
            "clip_l": ("F16", [3, 768], bytes(3 * 768 * 2)),
            "clip_g": ("F16", [3, 1280], bytes(3 * 1280 * 2))})  # fmt: skip
        for name, words in (("inner/more/learned", ("1 of width 8, F32", "<cat-toy>")),
                            ("xl", ("3 of width 768 + 1280, F16", "SDXL, SD3, SD3.5"))):
            shown = self.ok("inspect", name + ".safetensors").out
            for word in words:
                self.assertIn(word, shown)
        self.put("inner/one", "emb_params", [1, 768], 1)
        self.assertIn("SD1.x", self.ok("inspect", "--adapter", "inner/one.safetensors").out)
        self.refused(USAGE, ["inner/toy.safetensors", "-m"], "inspect", "inner/toy.safetensors",
                     "-m", BASE)

    def test_tokens(self):
        """Vectors where the words' ids were; weights are literal there."""
        show = ("inspect", "-m", BASE, "--json", "--tokenize")
        plain = json.loads(self.ok(*show, "a b").out)["ids"]
        shown = self.ok(*show, "a toy <cat-toy> b", "--embedding-dir", "inner").out
        report = json.loads(shown)
        self.assertEqual(report["embeddings"], [{"at": 2, "vector": "toy[0]"},
                                                {"at": 3, "vector": "toy[1]"},
                                                {"at": 4, "vector": "learned[0]"}])  # fmt: skip
        self.assertEqual(report["ids"], [*plain[:2], -1, -2, -3, *plain[2:-3]])
        text = self.ok(*(show[:3]), "--tokenize", "a toy", "--embedding-dir", "inner").out
        ids = " ".join(map(str, plain[:2]))
        self.assertTrue(text.startswith(f"{ids} toy[0] toy[1] "), text)
        self.refused(USAGE, ["--zero_sweep"], "inspect", "-m", BASE, "--embedding-dir", "inner")

    def test_tokens_of_several(self):
        """Both CLIPs have the vectors; T5 takes the text without them."""
        write_safetensors(self.path("inner", "pair.safetensors"), {
            "clip_l": ("F32", [2, 4], [0.5] * 8), "clip_g": ("F32", [2, 4], [0.25] * 8)})
        shown = json.loads(self.ok("inspect", "-m", os.path.join(GOLDEN, "sd3_tiny"), "--json",
                                   "--tokenize", "a pair", "--embedding-dir", "inner").out)
        for report in (shown, shown["tokenizer_2"]):
            self.assertEqual(report["ids"][2:4], [-1, -2])
            self.assertEqual([place["vector"] for place in report["embeddings"]],
                             ["pair[0]", "pair[1]"])  # fmt: skip
        with open(os.path.join(GOLDEN, "families", "tokens_t5.json"), encoding="utf-8") as file:
            recorded = {row["text"]: row["full"] for row in json.load(file)}
        t5 = shown["tokenizer_3"]
        self.assertEqual(t5, {"ids": recorded["a"] + [0] * (256 - len(recorded["a"])),
                              "embeddings": []})  # fmt: skip

    def validate(self, run, *more):
        """The pictures before the first step and after it."""
        self.ok("train", "-m", BASE, "--train_data_dir", os.path.join(EMOJI, "ink"), "-o", run,
                "-t", "1", "--max_train_steps", "1", "--resolution", "16", "--validation_steps",
                "1", "--validation_prompt", "a toy", "--validation_prompt", "<cat-toy>", *more)
        folder = self.path(run, "samples")
        return [hashlib.sha256(b"".join(read_png(os.path.join(folder, name))[2])).hexdigest()
                for name in sorted(os.listdir(folder))]

    def test_validation(self):
        """States on the disk are those of the files as they are."""
        options = ("--embedding_dir", "inner", "--cache_text_encoder_outputs_to_disk",
                   "--cache_dir", "cache")
        plain = self.validate("plain")
        with_toy = self.validate("run", *options)
        self.assertEqual(self.validate("again", *options), with_toy)
        self.put("inner/toy", "emb_params", [3, WIDTH], 3)
        other = self.validate("other", *options)
        for i, (a, b, c) in enumerate(zip(plain, with_toy, other)):
            self.assertNotEqual(a, b)
            self.assertEqual(b == c, i % 2 == 1, i)  # of the first prompt alone


if __name__ == "__main__":
    unittest.main()
