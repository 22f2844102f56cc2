"""sara eval: pictures of folders, and drawn ones, against values of transformers and numpy
(make_eval.py); what is told before anything is drawn."""

import errno
import json
import os
import shutil
import signal
import subprocess
import unittest

from support import BASE, EMOJI, GOLDEN, HERE, INPUT, INTERRUPTED, IO, PROGRAM, USAGE, Shim

CLIP = os.path.join(EMOJI, "clip")
VIT = os.path.join(HERE, "..", "eval", "data", "models", "vit")
DRAW = ["-m", BASE, "--clip", CLIP, "--steps", "2"]

with open(os.path.join(HERE, "eval_expected.json")) as file:
    EXPECTED = json.load(file)


class EvalCase(Shim):
    def report(self, *args):
        return json.loads(self.ok("eval", *args, "--json").out)

    def near(self, value, expected, tolerance=1e-3):
        if isinstance(expected, list):
            self.assertEqual(len(value), len(expected))
            for pair in zip(value, expected):
                self.near(*pair, tolerance)
        else:
            self.assertTrue(abs(value - expected) <= tolerance * abs(expected), (value, expected))

    def folder_of(self, name, source, reverse=False):
        """The recorded pictures of a folder of the demo's, with captions."""
        os.mkdir(self.path(name))
        with open(os.path.join(EMOJI, source, "metadata.jsonl")) as file:
            texts = {row["file_name"]: row["text"] for row in map(json.loads, file)}
        names = EXPECTED["names"][:: -1 if reverse else 1]
        for picture in names:
            shutil.copy(os.path.join(EMOJI, source, picture), self.path(name))
        rows = [json.dumps({"file_name": n, "text": texts[n]}) + "\n" for n in names]
        self.write(f"{name}/metadata.jsonl", "".join(rows))
        return self.path(name)

    def prompts(self, text="a fox\nsunset\n"):
        return self.write("prompts.txt", text)


class Folders(EvalCase):
    def test_values(self):
        """Whatever the order of the metadata, pictures are in that of their names."""
        ink = self.folder_of("ink", "ink-reference", reverse=True)
        noto = self.folder_of("noto", "noto-reference")
        report = self.report("-i", ink, "--references", noto, "--before", noto, "--clip", CLIP)
        count = len(EXPECTED["names"])
        self.assertEqual(report["names"], EXPECTED["names"])
        self.assertEqual((report["images"], report["references"]), (count, count))
        self.near(report["clip_score"]["each"], EXPECTED["clip_score"])
        self.near(report["clip_score"]["mean"], sum(EXPECTED["clip_score"]) / count)
        for key in ("clip_cosine", "fid", "kid", "cmmd", "clip_i"):
            value = report[key]
            value = value.get("value", value.get("mean")) if isinstance(value, dict) else value
            self.near(value, EXPECTED[key])
        self.assertEqual(report["fid"]["convention"], "clip")
        self.assertEqual(
            {k: report["kid"][k] for k in ("convention", "deviation", "subset_size", "subsets")},
            {"convention": "clip", "deviation": 0, "subset_size": count, "subsets": 1},
        )
        self.assertEqual(report["drift"]["backbone"], "clip")
        self.near(report["drift"]["each"], EXPECTED["drift"])
        self.near(report["drift"]["mean"], sum(EXPECTED["drift"]) / count)
        self.assertNotIn("dino", report)

    def test_dino(self):
        """It is DINO that drift is measured by where both are given; FID is by the first."""
        ink = self.folder_of("ink", "ink-reference")
        noto = self.folder_of("noto", "noto-reference")
        args = ["-i", ink, "--references", noto, "--before", noto, "--dino", VIT]
        report = self.report(*args)
        self.near(report["dino"]["mean"], EXPECTED["dino"])
        self.near(report["drift"]["each"], EXPECTED["dino_drift"])
        self.near(report["fid"]["value"], EXPECTED["dino_fid"])
        self.assertEqual(report["fid"]["convention"], "dino")
        both = self.report(*args, "--clip", CLIP)
        self.assertEqual((both["dino"], both["drift"]), (report["dino"], report["drift"]))
        self.assertEqual(both["drift"]["backbone"], "dino")
        self.near(both["fid"]["value"], EXPECTED["fid"])
        named = self.report(*args, "--clip", CLIP, "--fid", "dino")
        self.assertEqual((named["fid"], named["kid"]), (report["fid"], report["kid"]))

    def test_table(self):
        ink = self.folder_of("ink", "ink-reference")
        result = self.ok("eval", "-i", ink, "--references", ink, "--clip", CLIP, "--before", ink)
        self.assertIn("FID of 5 and 5 pictures: with fewer than 2048 of each", result.err)
        self.assertNotIn("not used", result.err)
        lines = [line.split() for line in result.out.splitlines()]
        self.assertEqual(lines[0], "5 pictures, 5 references".split())
        rows = {line[0]: line for line in lines[1:]}
        self.assertEqual(set(rows), {"CLIP", "FID", "KID", "CMMD", "CLIP-I", "drift"})
        self.assertEqual(rows["FID"][1:], ["0.0000", "(clip)"])
        self.assertEqual(rows["drift"][1], "0.000000")
        self.assertIn("1 x 5 pictures)", " ".join(rows["KID"]))

    def test_page(self):
        ink = self.folder_of("ink", "ink-reference")
        args = ["-i", ink, "--references", ink, "--clip", CLIP, "--before", ink]
        self.ok("eval", *args, "--report", "page.html")
        with open(self.path("page.html")) as file:
            text = file.read()
        for part in ("5 pictures, 5 references.", "CLIP score", "CMMD", "drift", "Each picture"):
            self.assertIn(part, text)
        for name in EXPECTED["names"]:
            self.assertIn(name, text)
        self.assertEqual(text.count("<img "), 5)
        self.refused(IO, "no/page.html", "eval", *args, "--report", "no/page.html")

    def test_page_that_fails(self):
        """On a disk that is full by then the numbers are printed all the same."""
        ink = self.folder_of("ink", "ink-reference")
        os.mkdir(self.path("out"))
        args = ["-i", ink, "--clip", CLIP, "--report", self.path("out", "page.html"), "--json"]
        out = self.path("out")
        whole = self.ok("eval", *args)
        os.remove(self.path("out", "page.html"))
        last = self.count(out, "eval", *args)
        os.remove(self.path("out", "page.html"))
        failing = self.shim(out, at=last - 2, number=errno.ENOSPC, sticky=True)
        result = self.sara("eval", *args, env=failing)
        self.assertEqual((result.code, result.out), (IO, whole.out), result.err)
        self.assertIn("page.html", result.errors()[0])
        self.assertEqual(os.listdir(out), [])

    def test_prompts_instead_of_captions(self):
        ink = self.folder_of("ink", "ink-reference")
        with open(os.path.join(ink, "metadata.jsonl")) as file:
            texts = {row["file_name"]: row["text"] for row in map(json.loads, file)}
        os.remove(os.path.join(ink, "metadata.jsonl"))
        lines = "\ufeff" + "\r\n\r\n".join(texts[name] for name in EXPECTED["names"])
        report = self.report("--images", ink, "--clip", CLIP, "--prompts", self.prompts(lines))
        self.near(report["clip_score"]["each"], EXPECTED["clip_score"])
        self.refused(INPUT, ["2 prompts", "5 pictures"], "eval", "--images", ink, "--clip", CLIP,
                     "--prompts", self.prompts())

    def test_without_captions(self):
        """References can be measured all the same; a score alone cannot."""
        ink = self.folder_of("ink", "ink-reference")
        os.remove(os.path.join(ink, "metadata.jsonl"))
        result = self.ok("eval", "-i", ink, "--references", ink, "--clip", CLIP, "--json")
        self.assertRegex(result.err, "no CLIP score: .* by --prompts")
        self.assertNotIn("clip_score", json.loads(result.out))
        self.refused(INPUT, "caption", "eval", "-i", ink, "--clip", CLIP)

    def test_name_that_is_no_text(self):
        """JSON cannot have it: it is written as messages write it, and none is missing."""
        ink = self.folder_of("ink", "ink-reference")
        first, *rest = EXPECTED["names"]
        bad = os.path.join(os.fsencode(ink), b"a\xe9.png")
        os.rename(os.path.join(os.fsencode(ink), os.fsencode(first)), bad)
        os.remove(os.path.join(ink, "metadata.jsonl"))
        report = self.report("-i", ink, "--before", ink, "--clip", CLIP)
        self.assertEqual(report["names"], ["a\\xe9.png", *rest])
        self.assertEqual(len(report["drift"]["each"]), len(EXPECTED["names"]))

    def test_one_picture(self):
        ink = self.folder_of("ink", "ink-reference")
        one = self.path("one")
        os.mkdir(one)
        shutil.copy(os.path.join(ink, EXPECTED["names"][0]), one)
        report = self.report("-i", ink, "--references", one, "--clip", CLIP)
        self.assertNotIn("fid", report)
        self.assertNotIn("kid", report)
        self.assertIn("clip_i", report)
        self.refused(INPUT, ["FID of 5 and 1 pictures"], "eval", "-i", ink, "--references", one,
                     "--clip", CLIP, "--fid", "clip")


class Drawn(EvalCase):
    def train(self, method):
        ink = self.folder_of("ink", "ink-reference")
        self.ok("train", "-m", BASE, "--train_data_dir", ink, "-o", "run", "--train_batch_size",
                "1", "--max_train_steps", "1", "--learning_rate", "0.01", "--method", method)

    def test_folder_of_drawn(self):
        """Kept pictures are a folder that is measured to the same bits."""
        ink = self.folder_of("ink", "ink-reference")
        args = ["--prompts", self.prompts(), "--prompt_prefix", "ink style, ", "-b", "2"]
        out = self.path("drawn")
        drawn = self.ok("eval", *DRAW, *args, "--references", ink, "-o", out, "--json").out
        again = ["--clip", CLIP, "--references", ink, "--json"]
        self.assertEqual(self.ok("eval", "--images", out, *again).out, drawn)
        with open(os.path.join(out, "metadata.jsonl")) as file:
            rows = [json.loads(line) for line in file]
        self.assertEqual(
            rows,
            [
                {"file_name": f"00000{i}.png", "text": text, "prompt": f"ink style, {text}",
                 "seed": 42 + i}
                for i, text in enumerate(["a fox", "a fox", "sunset", "sunset"])
            ],
        )
        self.ok("generate", "-m", BASE, "--steps", "2", "-p", "ink style, sunset", "-s", "45",
                "-o", "one.png")
        with open(self.path("one.png"), "rb") as one, open(f"{out}/000003.png", "rb") as kept:
            self.assertEqual(one.read(), kept.read())

    def test_drift(self):
        """None of an adapter of strength 0; the same whether the base's pictures are kept first or
        drawn beside."""
        prompts = ["--prompts", self.prompts()]
        self.train("sara")
        adapter = self.path("run", "adapter.safetensors")
        before = self.path("before")
        self.ok("eval", *DRAW, *prompts, "-o", before)
        zero = self.report(*DRAW, *prompts, "--adapter", f"{adapter}:0", "--drift")
        self.assertEqual(zero["drift"]["each"], [0, 0])
        beside = self.report(*DRAW, *prompts, "--adapter", adapter, "--drift")
        kept = self.report(*DRAW, *prompts, "--adapter", adapter, "--before", before)
        self.assertEqual(beside, kept)
        self.assertGreater(min(beside["drift"]["each"]), 1e-4)

    def test_drift_of_a_denoiser(self):
        """The base is the model with its own."""
        self.train("full")
        args = [*DRAW, "--prompts", self.prompts()]
        self.ok("eval", *args, "-o", "before")
        args += ["--denoiser", self.path("run", "unet")]
        beside = self.report(*args, "--drift")
        self.assertEqual(beside, self.report(*args, "--before", self.path("before")))
        self.assertGreater(min(beside["drift"]["each"]), 1e-4)

    def test_interrupted(self):
        """What was drawn is in the folder, with its captions."""
        lines = "".join(f"emoji {i}\n" for i in range(400))
        process = subprocess.Popen(
            [PROGRAM, "eval", *DRAW, "--prompts", self.prompts(lines), "-o", "drawn"],
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        rows = self.path("drawn", "metadata.jsonl")
        while process.poll() is None and not (os.path.exists(rows) and os.path.getsize(rows)):
            pass
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        self.assertEqual((process.returncode, out), (INTERRUPTED, ""), err)
        self.assertIn("of 400 pictures, which are in drawn", err)
        with open(rows) as file:
            names = [json.loads(line)["file_name"] for line in file]
        self.assertEqual(sorted(os.listdir(self.path("drawn"))), names + ["metadata.jsonl"])
        self.ok("eval", "-i", "drawn", "--clip", CLIP)


class ToldEarly(EvalCase):
    def test_contradictions(self):
        ink = self.folder_of("ink", "ink-reference")
        prompts = self.prompts()
        folder, model = ["-i", ink], ["-m", BASE, "--prompts", prompts]
        clip = ["--clip", CLIP]
        for words, args in [
            ("no pictures given", clip),
            ("--images", [*folder, "-m", BASE, *clip]),
            ("no prompts given", ["-m", BASE, *clip]),
            ("nothing to measure with", folder),
            ("--adapter: goes with --model", [*folder, *clip, "--adapter", f"{CLIP}/config.json"]),
            ("--denoiser: goes with --model", [*folder, *clip, "--denoiser", BASE]),
            ("--vae: goes with --model", [*folder, *clip, "--vae", "x"]),
            ("--weight_dtype: goes with --model", [*folder, *clip, "--weight_dtype", "fp16"]),
            ("--force: goes with --model", [*folder, *clip, "--force"]),
            ("--output: goes with --model", [*folder, *clip, "-o", "x"]),
            ("--prompt_prefix: goes with --model", [*folder, *clip, "--prompt_prefix", "x"]),
            ("drawn with: goes with --model", [*folder, *clip, "--steps", "3"]),
            ("--drift: goes with --model", [*folder, *clip, "--drift"]),
            ("give one of them", [*model, *clip, "--before", ink, "--drift"]),
            ("--before", [*folder, "--before", ink]),
            ("--fid x: expected", [*folder, *clip, "--fid", "x"]),
            ("--fid clip: goes with --references", [*folder, *clip, "--fid", "clip"]),
            ("--fid clean: goes with --inception",
             [*folder, *clip, "--references", ink, "--fid", "clean"]),
            ("--dino x: measures nothing", [*folder, "--dino", "x"]),
            ("--inception x: is of no use with --fid clip",
             [*folder, *clip, "--inception", "x", "--references", ink, "--fid", "clip"]),
            ("--clip_resize 5: goes with --clip",
             [*folder, "--dino", "x", "--before", ink, "--clip_resize", "5"]),
            ("--clip_tokenizer x: goes with --clip",
             [*folder, "--dino", "x", "--before", ink, "--clip_tokenizer", "x"]),
            ("holds 6 entries", [*model, *clip, "-o", ink]),
            ("is within", [*model, *clip, "--references", ink, "-o", f"{ink}/new"]),
        ]:
            with self.subTest(words):
                self.refused(USAGE, words, "eval", *args)

    def test_files(self):
        """Nothing is left of an output that nothing came into."""
        ink = self.folder_of("ink", "ink-reference")
        prompts = self.prompts()
        model = ["-m", BASE, "--prompts", prompts, "-o", "drawn", "--steps", "2"]
        self.write("bad.png", "no picture")
        os.mkdir(self.path("bad"))
        shutil.move(self.path("bad.png"), self.path("bad"))
        shutil.copytree(ink, self.path("fewer"))
        os.remove(self.path("fewer", EXPECTED["names"][2]))
        os.remove(self.path("fewer", "metadata.jsonl"))
        adapter = os.path.join(GOLDEN, "lora_sd1.safetensors")
        for code, words, args in [
            (IO, "none.txt", ["-m", BASE, "--prompts", "none.txt", "--clip", CLIP]),
            (INPUT, "holds no prompt",
             ["-m", BASE, "--prompts", self.write("empty", "\n \n"), "--clip", CLIP]),
            (INPUT, "UTF-8", ["-m", BASE, "--prompts", self.write("b", b"\xff"), "--clip", CLIP]),
            (IO, "none", [*model, "--clip", "none"]),
            (IO, "none", [*model, "--clip", CLIP, "--references", "none"]),
            (IO, "--adapter none", [*model, "--clip", CLIP, "--adapter", "none"]),
            (INPUT, "lora_sd1", [*model, "--clip", CLIP, "--adapter", adapter]),
            (IO, "none", ["-m", "none", "--prompts", prompts, "--clip", CLIP, "-o", "drawn"]),
            (INPUT, "bad.png", [*model, "--clip", CLIP, "--references", "bad"]),
            (INPUT, ["--before", EXPECTED["names"][2]],
             ["-i", ink, "--clip", CLIP, "--before", "fewer"]),
            (USAGE, "steps 1001",
             ["-m", BASE, "--prompts", prompts, "--clip", CLIP, "--steps", "1001"]),
            (USAGE, "<lora:x:1>",
             ["-m", BASE, "--prompts", self.write("tags", "a <lora:x:1>\n"), "--clip", CLIP]),
        ]:
            with self.subTest(words):
                self.refused(code, words, "eval", *args)
                self.assertFalse(os.path.exists(self.path("drawn")))


if __name__ == "__main__":
    unittest.main()
