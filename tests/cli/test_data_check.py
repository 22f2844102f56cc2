"""`sara data check`: all that would be refused, what is worth a look, and the contact sheet."""

import json
import os
import shutil
import struct
import unittest
import zlib

from pages import check_page
from support import BASE, EMOJI, INPUT, IO, TOP, USAGE, Case

IMAGES = os.path.join(TOP, "tests", "io", "data", "images")
INK = os.path.join(EMOJI, "ink")


def png(width, height, pixel, alpha=None):
    """An RGB image, or with alpha(x, y) an RGBA one, of pixel(x, y) = (r, g, b)."""
    def row(y):
        return b"".join(bytes((*pixel(x, y), *([] if alpha is None else [alpha(x, y)])))
                        for x in range(width))

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2 if alpha is None else 6, 0, 0, 0)
    rows = b"".join(b"\0" + row(y) for y in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def waves(a, b):
    """Pictures that differ from one another in low frequencies."""
    return lambda x, y: ((x * a + y * b) % 256, (x * b) % 256, (y * a) % 256)


class DataCheck(Case):
    def fill(self, name, content, caption=None):
        path = self.path("data", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(content, str) and os.path.isabs(content):
            shutil.copy(content, path)
        else:
            self.write(path, content)
        if caption is not None:
            self.write(os.path.splitext(path)[0] + ".txt", caption)

    def check(self, *args, code=0, what="data"):
        """The report, and the page."""
        result = self.sara("data", "check", what, *args, "--json")
        self.assertEqual((result.code, result.errors()), (code, []), result.err)
        report = json.loads(result.out)
        with open(self.path(report["page"]), encoding="utf-8") as file:
            return report, check_page(self, file.read())

    def kinds(self, report):
        return {(os.path.basename(w["path"] or ""), w["kind"]) for w in report["warnings"]}


class Refused(DataCheck):
    def test_all_that_is_wrong(self):
        """Each is told with its file, where training stops at the first."""
        self.fill("good.png", png(64, 64, waves(3, 7)), "a picture")
        self.fill("cut.webp", os.path.join(IMAGES, "bad-cut.webp"), "cut")
        self.fill("sum.png", os.path.join(IMAGES, "bad-checksum.png"), "sum")
        self.fill("none.png", png(64, 64, waves(5, 2)))
        self.fill("latin.png", png(64, 64, waves(9, 1)), b"caf\xe9")
        self.fill("two.png", png(64, 64, waves(1, 11)), "one")
        self.write(self.path("data", "two.caption"), "other")
        report, page = self.check(code=INPUT)
        told = {os.path.basename(r["path"]): r["text"] for r in report["refused"]}
        self.assertEqual(set(told), {"cut.webp", "sum.png", "none.png", "latin.png", "two.png"})
        for name, word in [("none.png", "no caption"), ("latin.png", "not UTF-8"),
                           ("two.png", "two captions"), ("cut.webp", "WebP"),
                           ("sum.png", "PNG")]:
            self.assertIn(word, told[name])
        self.assertEqual((report["usable"], report["in_epoch"]), (1, 1))
        self.assertIn("Would be refused", page.texts)
        self.assertEqual(sum("not UTF-8" in text for text in page.texts), 1)

    def test_masks(self):
        """Missing ones, one of another size, and one that is black."""
        for name, seed in [("a", 3), ("b", 5), ("c", 7), ("d", 9)]:
            self.fill(f"{name}.png", png(64, 64, waves(seed, 2)), name * 3)
        self.fill("../masks/a.png", png(64, 64, lambda x, y: (255, 0, 0)))
        self.fill("../masks/b.png", png(32, 64, lambda x, y: (255, 0, 0)))
        self.fill("../masks/d.png", png(64, 64, lambda x, y: (0, 0, 0)))
        report, _ = self.check("--masked_loss", "--conditioning_data_dir", "masks", code=INPUT)
        told = {os.path.basename(r["path"]): r["text"] for r in report["refused"]}
        self.assertEqual(set(told), {"b.png", "c.png"})
        self.assertIn("32x64", told["b.png"])
        self.assertIn("has no mask", told["c.png"])
        self.assertIn(("d.png", "mask"), self.kinds(report))

    def test_masks_in_capitals(self):
        for name, extension in [("a", "PNG"), ("b", "png")]:
            self.fill(f"{name}.png", png(64, 64, waves(3 + ord(name), 2)), name * 3)
            self.fill(f"../masks/{name}.{extension}", png(64, 64, lambda x, y: (255, 0, 0)))
        report, _ = self.check("--masked_loss", "--conditioning_data_dir", "masks")
        self.assertEqual((report["usable"], report["refused"]), (2, []))

    def test_masks_of_a_configuration(self):
        """alpha_mask is enough, as in kohya's scripts; what has no effect is refused."""
        self.fill("a.png", png(64, 64, waves(3, 7), lambda x, y: 0), "abc")
        subset = "[[datasets]]\n[[datasets.subsets]]\nimage_dir='data'\n"
        self.write("alpha.toml", subset + "alpha_mask=true\n")
        for more in [[], ["--masked_loss"]]:
            report, _ = self.check(*more, what="alpha.toml")
            self.assertIn(("a.png", "mask"), self.kinds(report))
        self.write("none.toml", subset)
        self.write("files.toml", subset + "conditioning_data_dir='data'\n")
        self.check("--masked_loss", what="files.toml")
        for file, option, word in [("none.toml", "--masked_loss", "where are the masks"),
                                   ("none.toml", "--with_prior_preservation", "is_reg"),
                                   ("files.toml", "--random_flip", "goes with --masked_loss")]:
            for command in [("data", "check", file),
                            ("train", "-m", BASE, "-o", "run", "--dataset_config", file)]:
                self.refused(USAGE, [file, word], *command, option)
        self.assertFalse(os.path.exists(self.path("run")))

    def test_caption_of_a_refused_image(self):
        """It has its image, whatever is wrong with it."""
        self.fill("latin.png", png(64, 64, waves(9, 1)), b"caf\xe9")
        self.fill("alone.txt", "of nothing")
        told = self.sara("data", "check", "data").err
        self.assertIn("captions without an image: 1 (alone.txt)", told)

    def test_page_over_what_is_looked_at(self):
        self.fill("a.png", png(64, 64, waves(3, 7)), "abc")
        self.write("sets.toml", "[[datasets]]\n[[datasets.subsets]]\nimage_dir='data'\n")
        for page in ["data/a.png", "sets.toml", ""]:
            self.refused(USAGE, f"--page {page}: expected a page's name", "data", "check",
                         "sets.toml", "--page", page)
        self.check(what="sets.toml")

    def test_buckets_of_a_configuration(self):
        self.fill("a.png", png(64, 64, waves(3, 7)), "abc")
        self.write("sets.toml", "[[datasets]]\nresolution=64\nenable_bucket=true\n"
                   "[[datasets.subsets]]\nimage_dir='data'\n")
        for command in [("data", "check", "sets.toml"),
                        ("train", "-m", BASE, "-o", "run", "--dataset_config", "sets.toml")]:
            self.refused(INPUT, ["sets.toml: datasets[0]: min_bucket_reso 256", "64"], *command)

    def test_metadata(self):
        self.fill("a.png", png(64, 64, waves(3, 7)))
        self.fill("metadata.jsonl", '{"file_name": "a.png", "text": "one"}\n'
                  '{"file_name": "b.png", "text": "two"}\n{"file_name": "a.png"}\n')
        report, _ = self.check(code=INPUT)
        lines = [r["text"] for r in report["refused"]]
        self.assertEqual([("line 2" in a, "line 3" in a) for a in lines],
                         [(True, False), (False, True)])

    def test_names_of_other_encodings(self):
        """A name that is no UTF-8 is escaped; nothing else is lost."""
        os.makedirs(self.path("data"))
        folder = os.fsencode(self.path("data"))
        for name, content in [(b"caf\xe9.png", png(64, 64, waves(3, 7))), (b"caf\xe9.txt", b"abc")]:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)
        report, _ = self.check()
        self.assertEqual([i["path"] for i in report["images"]], ["data/caf\\xe9.png"])

    def test_nothing_there(self):
        os.mkdir(self.path("data"))
        report, page = self.check(code=INPUT)
        self.assertIn("no images", report["refused"][0]["text"])
        self.assertEqual((report["usable"], report["images"]), (0, []))
        report, _ = self.check(code=INPUT, what="nowhere")
        self.assertIn("nowhere", report["refused"][0]["text"])

    def test_names_that_are_no_text(self):
        """As old archives leave them; JSON has no such bytes."""
        self.fill("caf\udce9.png", png(64, 64, waves(3, 7)), "good")
        self.fill("z\udcff.png", png(64, 64, waves(5, 2)))
        report, page = self.check(code=INPUT)
        self.assertEqual([i["path"] for i in report["images"]],
                         ["data/caf\\xe9.png", "data/z\\xff.png"])
        self.assertEqual([r["path"] for r in report["refused"]], ["data/z\\xff.png"])
        self.assertIn("no caption", report["refused"][0]["text"])

    def test_all_of_the_subject(self):
        """That class images are left says nothing of is_reg."""
        self.fill("latin.png", png(64, 64, waves(9, 1)), b"caf\xe9")
        self.fill("../dogs/a.png", png(64, 64, waves(3, 7)))
        report, _ = self.check("--class_data_dir", "dogs", "--class_prompt", "dog", code=INPUT)
        self.assertEqual([r["path"] for r in report["refused"]], ["data/latin.png"])

    def test_settings_that_cannot_be_read(self):
        self.write("data.toml", "[[datasets]]\n[[datasets.subsets]]\nimage_dir='x'\nnum_repeat=2\n")
        self.refused(INPUT, ["data.toml", "num_repeat"], "data", "check", "data.toml")
        self.refused(USAGE, "--resolution", "data", "check", "data", "--resolution", "x")
        self.refused(USAGE, "expected sara data check", "data", "look")
        self.refused(USAGE, "--train_data_dir", "data", "check")
        self.refused(USAGE, ["a", "b", "give one"], "data", "check", "a", "--train_data_dir", "b")
        self.fill("a.png", png(64, 64, waves(3, 7)), "abc")
        self.refused(IO, "nodir", "data", "check", "data", "--page", "nodir/x.html")
        self.refused(IO, "nomodel", "data", "check", "data", "-m", "nomodel")

    def test_sizes_that_the_model_refuses(self):
        """As training: in the same words."""
        self.fill("a.png", png(64, 64, waves(3, 7)), "abc")
        self.refused(USAGE, "--resolution", "data", "check", "data", "-m", BASE, "--resolution",
                     "63")
        buckets = ["--enable_bucket", "--resolution", "72", "--min_bucket_reso", "30",
                   "--bucket_reso_steps", "10"]
        report, _ = self.check("-m", BASE, *buckets, code=INPUT)
        line = self.sara("train", "-m", BASE, "--train_data_dir", "data", "-o", "run",
                         *buckets).errors()[0]
        self.assertEqual(line, "sara train: " + report["refused"][0]["text"])


class ClassImages(DataCheck):
    """Those that sara train draws before it begins."""

    def setUp(self):
        super().setUp()
        self.fill("a.png", png(64, 64, waves(3, 7)), "abc")

    def told(self, *args):
        result = self.sara("data", "check", "data", "--class_data_dir", "dogs", "--class_prompt",
                           "a dog", "--json", *args)
        self.assertEqual((result.code, result.errors()), (0, []), result.err)
        return json.loads(result.out), result.err

    def test_none_is_there(self):
        for folder in [False, True]:
            if folder:
                os.mkdir(self.path("dogs"))
            report, told = self.told("--with_prior_preservation")
            self.assertEqual((report["usable"], report["class_usable"]), (1, 0))
            self.assertIn("100 class images are not in dogs yet", told)

    def test_some_are_there(self):
        self.fill("../dogs/b.png", png(64, 64, waves(5, 2)))
        self.fill("../dogs/class-000001.png", png(64, 64, waves(9, 1)))
        report, told = self.told("--num_class_images", "4")
        self.assertEqual((report["class_usable"], report["refused"]), (2, []))
        self.assertIn("2 class images are not in dogs yet", told)
        self.assertNotIn("not in dogs", self.told("--num_class_images", "1")[1])
        self.assertNotIn("not in dogs", self.told()[1])

    def test_none_is_drawn(self):
        report, _ = self.check("--class_data_dir", "dogs", "--class_prompt", "dog", code=INPUT)
        self.assertEqual([r["path"] for r in report["refused"]], ["dogs"])

    def test_folder_within(self):
        self.refused(USAGE, ["data/dogs", "lies in the other"], "data", "check", "data",
                     "--class_data_dir", "data/dogs", "--class_prompt", "dog")


class WorthALook(DataCheck):
    def test_each_kind(self):
        self.fill("clear.png", png(96, 96, waves(3, 7), lambda x, y: 0 if x < 48 else 255), "half")
        self.fill("small.png", png(24, 24, waves(30, 11)), "a small one")
        self.fill("wide.png", png(200, 50, waves(2, 13)), "a wide one")
        self.fill("dot.png", png(64, 64, waves(17, 5)), ".")
        self.fill("long.png", png(64, 64, waves(7, 19)), "many words " * 40)
        self.fill("copy.png", png(64, 64, waves(7, 19)), "the same bytes")
        self.fill("fine.png", png(64, 64, waves(1, 3)), "fine")
        self.fill("kanji.png", png(64, 64, waves(11, 23)), "絵画")
        report, page = self.check("--resolution", "64")
        self.assertEqual(report["refused"], [])
        self.assertEqual(self.kinds(report), {
            ("clear.png", "alpha"), ("small.png", "enlarged"), ("wide.png", "cropped"),
            ("dot.png", "caption"), ("long.png", "tokens"), ("long.png", "duplicate")})
        text = {w["kind"]: w["text"] for w in report["warnings"]}
        self.assertIn("50 %", text["alpha"])
        self.assertIn("2.7 times", text["enlarged"])
        self.assertIn("75 %", text["cropped"])
        self.assertIn("is the same file as data/copy.png", text["duplicate"])
        self.assertIn("82 tokens for CLIP, which is cut at 77", text["tokens"])
        self.assertIn("Worth a look", page.texts)

    def test_alike(self):
        """Another size of the picture, other bytes; another picture is not alike."""
        self.fill("a.png", png(128, 128, waves(1, 2)), "one")
        self.fill("b.png", png(64, 64, lambda x, y: waves(1, 2)(2 * x, 2 * y)), "two")
        self.fill("c.png", png(128, 128, waves(2, 1)), "three")
        report, _ = self.check()
        alike = [w for w in report["warnings"] if w["kind"] == "duplicate"]
        self.assertEqual([w["text"] for w in alike], ["looks the same as data/a.png"])
        self.assertEqual(alike[0]["path"], "data/b.png")

    def test_alike_in_large(self):
        """A large picture and its small copy, which is looked at as it is."""
        self.fill("a.png", png(1000, 250, lambda x, y: waves(3, 5)(x // 10, y // 10)), "large")
        self.fill("b.png", png(100, 25, waves(3, 5)), "small")
        report, _ = self.check()
        self.assertIn(("b.png", "duplicate"), self.kinds(report))

    def test_alike_by_imagehash(self):
        """Of the emoji these two pairs alone have hashes (imagehash 4.3.2) of 4 bits' distance;
        the next ones differ in 8."""
        report, _ = self.check("--resolution", "64", what=INK)
        alike = {os.path.basename(w["path"]): os.path.basename(w["text"])
                 for w in report["warnings"] if w["kind"] == "duplicate"}
        self.assertEqual(alike, {"u1f62a.png": "u1f625.png", "u1f62e.png": "u1f61b.png"})

    def test_captions_as_they_come(self):
        """Prefix and suffix count; nothing is left out."""
        self.fill("a.png", png(64, 64, waves(1, 2)), "red, green")
        report, _ = self.check("--caption_prefix", "ink", "--caption_suffix", "end",
                               "--caption_dropout_rate", "1")
        self.assertEqual(report["images"][0]["caption"], "ink red, green end")
        self.assertEqual(report["images"][0]["tokens"], 7)

    def test_names_are_escaped(self):
        name = "<script>alert(1)</script> & 'x'.png".replace("/", "_")
        self.fill(name, png(64, 64, waves(1, 2)), "<img src=x onerror=y> \x07 & \"q\"")
        report, page = self.check()
        self.assertEqual(report["images"][0]["path"], "data/" + name)
        self.assertNotIn("script", page.tags)
        self.assertTrue(any("<script>" in text for text in page.texts))
        self.assertTrue(any("<img src=x onerror=y>" in text for text in page.texts))


class AsTraining(DataCheck):
    """Sizes, counts and crops are those of a run."""

    def test_shapes(self):
        for index, (width, height) in enumerate([(64, 64), (96, 48), (48, 96), (80, 64), (64, 80),
                                                 (40, 40)]):
            self.fill(f"{index}.png", png(width, height, waves(3 + 2 * index, 7)), "a picture")
        buckets = ["--enable_bucket", "--resolution", "64", "--min_bucket_reso", "32",
                   "--max_bucket_reso", "96", "--bucket_reso_steps", "8",
                   "--train_batch_size", "2"]
        report, page = self.check("-m", BASE, *buckets)
        run = self.ok("train", "-m", BASE, "--train_data_dir", "data", "-o", "run", *buckets,
                      "--num_train_epochs", "1")
        told = next(line for line in run.err.splitlines() if "shapes with their numbers" in line)
        shapes = ", ".join(f"{b['width']}x{b['height']} {b['images']}" for b in report["buckets"])
        self.assertTrue(told.endswith(": " + shapes), (told, shapes))
        batches = sum(b["micro_batches"] for b in report["buckets"])
        self.assertIn(f"{batches} steps done", run.out)
        frames = [v for v in page.values("style") if v.startswith("left:")]
        cropped = [i for i in report["images"] if i["bucket"] != i["resized"]]
        self.assertEqual(len(frames), len(cropped))
        self.assertGreater(len(frames), 0)

    def test_crop_is_the_middle(self):
        self.fill("a.png", png(128, 64, waves(1, 2)), "a wide one")
        report, page = self.check("--resolution", "64")
        self.assertEqual([v for v in page.values("style") if v.startswith("left:")],
                         ["left:25.00%;top:0.00%;width:50.00%;height:100.00%"])
        self.assertEqual(report["images"][0]["resized"], [128, 64])

    def test_repeats_and_class(self):
        """kohya's folders; the class apart."""
        for i in range(3):
            self.fill(f"4_toy/{i}.png", png(64, 64, waves(1 + 2 * i, 5)))
        self.fill("../reg/2_thing/a.png", png(64, 64, waves(9, 2)))
        report, _ = self.check("--reg_data_dir", "reg", "--resolution", "64")
        self.assertEqual((report["usable"], report["in_epoch"]), (3, 12))
        self.assertEqual((report["class_usable"], report["class_in_epoch"]), (1, 2))
        self.assertEqual([b["class"] for b in report["buckets"]], [False, True])

    def test_configuration(self):
        self.fill("a.png", png(64, 64, waves(1, 2)), "one")
        self.write("data.toml", "[general]\nenable_bucket = true\n[[datasets]]\n"
                   "resolution = [64, 96]\nmin_bucket_reso = 32\nbucket_reso_steps = 16\n"
                   "[[datasets.subsets]]\nimage_dir = 'data'\nnum_repeats = 5\n")
        report, _ = self.check(what="data.toml")
        self.assertEqual(report["in_epoch"], 5)
        self.assertEqual(report["buckets"][0]["width"] % 16, 0)

    def test_a_command_line_of_training(self):
        """`data check` in the place of `train`; nothing of a run is written."""
        args = ["-m", BASE, "--train_data_dir", INK, "-o", "run", "--method", "lora",
                "--max_train_steps", "3"]
        result = self.ok("data", "check", *args)
        self.assertIn("240 images, 240 in an epoch", result.out)
        self.assertIn("page: data-check.html", result.out)
        self.assertEqual(sorted(os.listdir(self.folder)), ["data-check.html"])

    def test_threads(self):
        """Report, errors and warnings do not depend on how many threads look at images."""
        for i in range(30):
            self.fill(f"{i:02}.png", png(64, 64, waves(i + 1, 2)), "a picture")
        for name in ["bad-cut.webp", "bad-checksum.png"]:
            self.fill(f"09-{name}", os.path.join(IMAGES, name), "a picture")
        for name in ["rgb-420.jpg", "rgb-444.jpg"]:  # of a JFIF that libjpeg does not know
            with open(os.path.join(IMAGES, name), "rb") as file:
                self.fill(name, file.read().replace(b"JFIF\0\1", b"JFIF\0\x09"), "a picture")
        args = ("data", "check", "data", "--json", "-t")
        one, four = self.sara(*args, "1"), self.sara(*args, "4")
        self.assertEqual((one.code, four.code), (INPUT, INPUT))
        self.assertEqual(one.out, four.out)
        self.assertEqual(one.err, four.err)
        warned = [line for line in one.err.splitlines() if "JFIF revision" in line]
        self.assertEqual(["420" in line for line in warned], [True, False])
        self.assertEqual(len(json.loads(one.out)["refused"]), 2)

    def test_many(self):
        """The page holds a thousand images and says so; those with faults come first."""
        picture = png(16, 16, waves(5, 9))
        for i in range(1003):
            self.fill(f"{i:04}.png", picture, "many of them")
        self.write(self.path("data", "1002.txt"), b"\xff")
        report, page = self.check("--resolution", "16", code=INPUT)
        self.assertEqual(len(report["images"]), 1003)
        self.assertEqual(page.tags.count("img"), 1000)
        self.assertTrue(any("not UTF-8" in text for text in page.texts))
        self.assertTrue(any("The first 999 of 1001" in text for text in page.texts))


if __name__ == "__main__":
    unittest.main()
