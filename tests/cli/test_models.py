"""inspect and merge as their users call them."""

import json
import math
import os
import shutil
import struct
import unittest

from support import BASE, GOLDEN, INPUT, UNET, USAGE, Case, files_below, read_safetensors

PARAMETERS = {"unet": 8788228, "vae": 1524703, "text_encoder": 1208064}


class Merge(Case):
    def test_dtypes(self):
        """Every file of the model is there; bf16 and fp32 values are those of the fp16 base."""
        source = read_safetensors(
            os.path.join(BASE, "unet", "diffusion_pytorch_model.safetensors")
        )[0]
        for dtype, name in [("fp32", "F32"), ("fp16", "F16"), ("bf16", "BF16")]:
            self.assertEqual(
                self.ok("merge", "-m", BASE, "-o", dtype, "--dtype", dtype).out, dtype + "\n"
            )
            self.assertEqual(files_below(self.path(dtype)), files_below(BASE))
            merged = read_safetensors(
                self.path(dtype, "unet", "diffusion_pytorch_model.safetensors")
            )[0]
            self.assertEqual(
                {key: info[1] for key, info in merged.items()},
                {key: info[1] for key, info in source.items()},
            )
            self.assertEqual({info[0] for info in merged.values()}, {name})
            if dtype == "fp16":
                self.assertEqual(merged, source)
            if dtype == "fp32":
                halves = [v for (v,) in struct.iter_unpack("<e", source["conv_in.weight"][2])]
                self.assertEqual(
                    [v for (v,) in struct.iter_unpack("<f", merged["conv_in.weight"][2])], halves
                )

    def test_what_is_no_file(self):
        """Of a model's folder, is left behind with a warning."""
        shutil.copytree(BASE, self.path("model"))
        os.symlink("nowhere", self.path("model", "notes.txt"))
        os.mkfifo(self.path("model", "tokenizer", "pipe"))
        err = self.ok("merge", "-m", "model", "-o", "out").err
        for name in ("model/notes.txt", "model/tokenizer/pipe"):
            self.assertIn(f"warning: {name}: is no file", err)
        self.assertEqual(files_below(self.path("out")), files_below(BASE))

    def test_denoiser_of_another_family(self):
        """The folder says Stable Diffusion, its U-Net is SDXL's."""
        shutil.copytree(BASE, self.path("model"))
        shutil.rmtree(self.path("model", "unet"))
        os.symlink(os.path.join(GOLDEN, "families", "sdxl", "unet"), self.path("model", "unet"))
        self.refused(INPUT, ["model/unet/config.json", "a UNet2DConditionModel of another kind"],
                     "merge", "-m", "model", "-o", "out")

    def test_default_is_the_base(self):
        self.ok("merge", "-m", BASE, "-o", "new/deep/out/")
        for part in ("unet", "vae"):
            name = os.path.join(part, "diffusion_pytorch_model.safetensors")
            self.assertEqual(
                read_safetensors(self.path("new/deep/out", name))[0],
                read_safetensors(os.path.join(BASE, name))[0],
            )

    def test_unet_only(self):
        self.ok("merge", "--unet-only", UNET, "-o", "out", "--dtype", "bf16")
        self.assertIn("diffusion_pytorch_model.safetensors", files_below(self.path("out")))
        report = json.loads(self.ok("inspect", "--unet-only", "out", "--json").out)
        self.assertEqual(
            [(part["name"], part["dtype"], part["parameters"]) for part in report["components"]],
            [("unet", "BF16", 942196)],
        )

    def test_existing(self):
        os.mkdir(self.path("empty"))
        self.ok("merge", "--unet-only", UNET, "-o", "empty")
        self.refused(USAGE, "empty", "merge", "--unet-only", UNET, "-o", "empty")
        self.write("file", "x")
        self.refused(USAGE, "file", "merge", "--unet-only", UNET, "-o", "file")


class Inspect(Case):
    def values(self):
        tensors = read_safetensors(os.path.join(UNET, "diffusion_pytorch_model.safetensors"))[0]
        return [
            abs(v)
            for dtype, _, data in tensors.values()
            for (v,) in struct.iter_unpack({"F32": "<f", "F16": "<e"}[dtype], data)
        ]

    def test_components(self):
        report = json.loads(self.ok("inspect", "-m", BASE, "--json").out)
        self.assertEqual(
            {part["name"]: part["parameters"] for part in report["components"]}, PARAMETERS
        )
        self.assertEqual(len(report["base_sha256"]), 64)
        # neither SD1's width nor SD2's
        self.assertEqual(report["architecture"], "stable-diffusion")
        with open(os.path.join(BASE, "scheduler", "scheduler_config.json")) as file:
            own = json.load(file)["prediction_type"]
        self.assertEqual(report["prediction_type"], own)
        forced = self.ok("inspect", "-m", BASE, "--json", "--prediction_type", "v_prediction").out
        self.assertEqual(json.loads(forced)["prediction_type"], "v_prediction")
        alone = self.ok("inspect", "--unet-only", UNET, "--json").out
        self.assertIsNone(json.loads(alone)["prediction_type"])
        self.assertEqual(sum(b["count"] for b in report["histogram"]), PARAMETERS["unet"])
        for part in report["components"]:
            folder = os.path.join(BASE, part["name"])
            tensors = {}
            for name in os.listdir(folder):
                if name.endswith(".safetensors"):
                    tensors = read_safetensors(os.path.join(folder, name))[0]
            self.assertLessEqual(part["tensors"], len(tensors))
            self.assertEqual(
                {info[0] for info in tensors.values() if info[0][0] == "F"}, {part["dtype"]}
            )

    def test_counts(self):
        """Every count of the report, counted again."""
        report = json.loads(self.ok("inspect", "--unet-only", UNET, "--json").out)
        values = self.values()
        self.assertEqual(report["components"][0]["parameters"], len(values))
        thresholds = [entry["threshold"] for entry in report["thresholds"]]
        self.assertEqual(thresholds, sorted(thresholds))
        self.assertGreaterEqual(len(thresholds), 10)
        for entry in report["thresholds"]:
            limit = struct.unpack("<f", struct.pack("<f", entry["threshold"]))[0]
            self.assertEqual(entry["selected"], sum(v < limit for v in values), entry)
            self.assertAlmostEqual(entry["fraction"], entry["selected"] / len(values), places=8)
        bins = report["histogram"]
        self.assertEqual(len(bins), 24)
        for before, after in zip(bins, bins[1:]):
            self.assertEqual(before["to"], after["from"])
        for number, entry in enumerate(bins):
            low = 0 if number == 0 else entry["from"]
            high = math.inf if number == 23 else entry["to"]
            # The edges are printed with 9 digits and no value is that close to one.
            self.assertEqual(entry["count"], sum(low <= v < high for v in values), entry)

    def test_text(self):
        text = self.ok("inspect", "-m", BASE).out
        report = json.loads(self.ok("inspect", "-m", BASE, "--json").out)
        self.assertIn(report["base_sha256"], text)
        kind = f"{report['architecture']}, predicts {report['prediction_type']}"
        self.assertRegex(text, f"(?m)^architecture  {kind}$")
        for part in report["components"]:
            self.assertRegex(text, rf"(?m)^{part['name']} .* {part['parameters']} parameters$")
        for entry in report["thresholds"]:
            self.assertRegex(text, rf"(?m)^ +[\d.]+ +{entry['selected']} ")
        self.assertLessEqual(max(map(len, text.splitlines())), 100)

    def test_tokenize(self):
        """The ids that transformers gives for the same texts."""
        with open(os.path.join(GOLDEN, "tokens.json"), encoding="utf-8") as file:
            rows = json.load(file)
        self.assertGreater(len(rows), 50)
        known = 0
        for row in rows[:: max(1, len(rows) // 40)]:
            if "\0" in row["text"]:
                continue  # no argument can hold it
            with self.subTest(row["text"]):
                result = self.ok("inspect", "-m", BASE, "--tokenize", row["text"], "--json")
                self.assertEqual(json.loads(result.out), {"ids": row["ids"]})
                known += 1
        self.assertGreater(known, 30)
        plain = self.ok("inspect", "-m", BASE, "--tokenize", rows[0]["text"]).out
        self.assertEqual([int(word) for word in plain.split()], rows[0]["ids"])
        self.refused(USAGE, "text encoder", "inspect", "--unet-only", UNET, "--tokenize", "x")

    def test_tokenize_by_several(self):
        """Of SD3 both CLIPs' and T5's, of SDXL both CLIPs', as transformers has them."""
        names = {"ids": "tokens.json", "tokenizer_2": "families/tokens_clip_2.json",
                 "tokenizer_3": "families/tokens_t5.json"}
        recorded = {}
        for key, name in names.items():
            with open(os.path.join(GOLDEN, name), encoding="utf-8") as file:
                recorded[key] = {row["text"]: row for row in json.load(file)}
        for model, keys in (("sd3_tiny", list(names)), ("families/sdxl", list(names)[:2])):
            counts = dict.fromkeys(keys, 0)
            texts = [text for key in keys[1:] for text in recorded[key] if "\0" not in text]
            for text in texts[:: len(texts) // 24]:
                result = self.ok("inspect", "-m", os.path.join(GOLDEN, model), "--tokenize", text,
                                 "--json")
                shown = json.loads(result.out)
                self.assertEqual(list(shown), keys)
                for key in keys:
                    ids = shown[key] if key == "ids" else shown[key]["ids"]
                    row = recorded[key].get(text)
                    if row and key == "tokenizer_3":  # recorded padded to 24, and whole
                        full = row["full"]
                        whole = full[:255] + full[-1:] if len(full) > 256 else full
                        self.assertEqual(ids, whole + [0] * (256 - len(whole)), (model, text))
                    elif row:
                        self.assertEqual(ids, row["ids"], (model, key, text))
                    counts[key] += row is not None
            for key in keys[1:]:
                self.assertGreater(counts[key], 5, key)
        lines = self.ok("inspect", "-m", os.path.join(GOLDEN, "sd3_tiny"), "--tokenize",
                        "a").out.splitlines()
        for line, (key, name) in zip(lines, (("ids", "tokenizer"), ("tokenizer_2", "tokenizer_2"),
                                             ("tokenizer_3", "tokenizer_3")), strict=True):
            full = " ".join(map(str, recorded[key]["a"]["full"])) if "a" in recorded[key] else ""
            self.assertTrue(line.startswith(f"{name}: {full}"), line)


class OtherScheduler(Case):
    def test_no_sampler(self):
        """Its config goes along; pictures and training are those of the same betas."""
        model = self.path("unipc")
        shutil.copytree(BASE, model, copy_function=shutil.copyfile)
        for name in ["model_index.json", os.path.join("scheduler", "scheduler_config.json")]:
            with open(os.path.join(model, name), "r+", encoding="utf-8") as file:
                text = file.read().replace("DPMSolverMultistep", "UniPCMultistep")
                file.seek(0)
                file.truncate()
                file.write(text)
        self.ok("inspect", "-m", model)
        self.ok("merge", "-m", model, "-o", "merged")
        for folder in [model, self.path("merged")]:
            path = os.path.join(folder, "scheduler", "scheduler_config.json")
            with open(path, encoding="utf-8") as file:
                self.assertEqual(json.load(file), json.loads(text))
        draw = ["-p", "cat", "--steps", "2", "-o"]
        hint = "UniPCMultistepScheduler; --sampling-method NAME picks another: ddim, "
        self.refused(INPUT, hint, "generate", "-m", model, *draw, "none.png")
        pictures = []
        for name, folder in [("a", model), ("b", BASE)]:
            self.ok("generate", "-m", folder, "--sampling-method", "euler", *draw, name + ".png")
            with open(self.path(name + ".png"), "rb") as file:
                pictures.append(file.read().partition(b"IDAT")[2])
        self.assertEqual(pictures[0], pictures[1])


if __name__ == "__main__":
    unittest.main()
