"""extract and export as their users call them."""

import errno
import json
import os
import shutil
import struct
import unittest

from support import BASE, GOLDEN, INPUT, IO, SANITIZE, UNET, USAGE, Case, files_below
from support import read_safetensors, remains, sha256, write_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Tuned(Case):
    """Copies of UNET: tuned differs in every fifth entry of two tensors, dense in all of them."""

    CHANGED = {"conv_in.weight": 5, "mid_block.resnets.0.conv1.bias": 5}

    def setUp(self):
        super().setUp()
        tensors = read_safetensors(os.path.join(UNET, WEIGHTS))[0]
        self.values = {
            name: [v for (v,) in struct.iter_unpack("<f", data)]
            for name, (_, _, data) in tensors.items()
        }
        self.shapes = {name: shape for name, (_, shape, _) in tensors.items()}
        self.entries = sum(map(len, self.values.values()))
        self.tuned = self.model("tuned", self.CHANGED)
        self.dense = self.model("dense", dict.fromkeys(self.values, 1))

    def model(self, name, strides):
        os.mkdir(self.path(name))
        shutil.copy(os.path.join(UNET, "config.json"), self.path(name))
        write_safetensors(
            self.path(name, WEIGHTS),
            {
                tensor: (
                    "F32",
                    self.shapes[tensor],
                    [
                        v + 0.5 if tensor in strides and i % strides[tensor] == 0 else v
                        for i, v in enumerate(values)
                    ],
                )
                for tensor, values in self.values.items()
            },
        )
        return self.path(name)

    def extract(self, *args):
        return ("extract", "--unet-only", "--base", UNET, "--tuned", *args)

    def adapter(self):
        self.ok(*self.extract(self.tuned, "-o", "a.safetensors"))
        return self.path("a.safetensors")


class Others(Case):
    """What an adapter does not hold is told."""

    def setUp(self):
        super().setUp()
        self.weights = os.path.join("vae", WEIGHTS)
        self.vae = read_safetensors(os.path.join(BASE, self.weights))[0]

    def tuned(self, name, vae=None, **scheduler):
        shutil.copytree(BASE, self.path(name))
        unet = self.path(name, "unet", WEIGHTS)
        tensors, metadata = read_safetensors(unet)
        kind, shape, data = tensors["conv_in.bias"]
        tensors["conv_in.bias"] = (kind, shape, bytes(len(data)))
        write_safetensors(unet, tensors, metadata)
        if vae:
            write_safetensors(self.path(name, self.weights), vae)
        config = self.path(name, "scheduler", "scheduler_config.json")
        with open(config, encoding="ascii") as file:
            values = json.load(file)
        with open(config, "w", encoding="ascii") as file:
            json.dump({**values, **scheduler}, file)
        return self.path(name)

    def extract(self, tuned):
        return self.ok("extract", "--base", BASE, "--tuned", tuned, "-o",
                       tuned + ".safetensors").err

    def test_vae_under_old_names(self):
        olds = {
            ".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."
        }
        renamed, moved = {}, {}
        for name, (kind, shape, data) in self.vae.items():
            old = name
            for piece, other in olds.items():
                old = old.replace(piece, other)
            renamed[old] = moved[old] = (kind, shape, data)
            if old.endswith(".query.bias"):
                moved[old] = (kind, shape, bytes([data[0] ^ 1]) + data[1:])
        self.assertNotEqual(set(renamed), set(self.vae))
        self.assertNotIn("VAE", self.extract(self.tuned("renamed", renamed)))
        self.assertIn("its VAE is another than the base's (2 tensors",
                      self.extract(self.tuned("moved", moved)))

    def test_prediction_type(self):
        self.assertNotIn("predicts", self.extract(self.tuned("same")))
        told = self.extract(self.tuned("v", prediction_type="v_prediction"))
        self.assertIn("predicts v_prediction, the base epsilon", told)

    def test_metadata(self):
        """Only a prediction type that is known and has a name there is told."""
        base = self.tuned("sample", _class_name="DDIMScheduler", prediction_type="sample")
        for args, expected in (
            (("--base", BASE, "--tuned", base), "epsilon"),
            (("--base", base, "--tuned", BASE), None),
            (("--unet-only", "--base", BASE + "/unet", "--tuned", base + "/unet"), None),
        ):
            out = self.path("a.safetensors")
            self.ok("extract", *args, "-o", out)
            self.assertEqual(read_safetensors(out)[1].get("modelspec.prediction_type"), expected)
            os.remove(out)


class Extract(Tuned):
    def test_exact(self):
        """What it prints; base and adapter merged are the tuned model."""
        result = self.ok(*self.extract(self.tuned, "-o", "a.safetensors"))
        count = sum(len(self.values[n][::s]) for n, s in self.CHANGED.items())
        self.assertRegex(
            result.out,
            rf"^a.safetensors\n{count} of {self.entries} entries \([\d.]+ %\); "
            r"change L2 [\d.]+, all of it kept\n$",
        )
        tensors, metadata = read_safetensors(self.path("a.safetensors"))
        self.assertEqual(
            set(tensors), {n + e for n in self.CHANGED for e in (".positions", ".values")}
        )
        self.assertEqual(metadata["sara.method"], "extract")
        self.assertEqual(metadata["sara.selected"], str(count))
        self.ok("merge", "--unet-only", UNET, "--adapter", "a.safetensors", "-o", "again")
        self.assertEqual(
            read_safetensors(self.path("again", WEIGHTS))[0],
            read_safetensors(os.path.join(self.tuned, WEIGHTS))[0],
        )

    def test_names_of_others(self):
        """kohya's names of the options give the same file."""
        self.adapter()
        self.ok(
            *("extract", "--unet-only", "--model_org", UNET, "--model-tuned", self.tuned),
            *("--save_to", "b.safetensors", "-t", "1"),
        )
        self.ok("extract", "--unet-only", "-m", UNET, "--tuned", self.tuned, "-o", "c.safetensors")
        for name in ("b.safetensors", "c.safetensors"):
            self.assertEqual(sha256(self.path(name)), sha256(self.path("a.safetensors")))

    def test_parts(self):
        self.refused(
            USAGE,
            [f"of {self.entries} entries differ (100.0 %)", "top_fraction", "tolerance"],
            *self.extract(self.dense, "-o", "a"),
        )
        out = self.ok(*self.extract(self.dense, "-o", "a", "--top_fraction", "0.01")).out
        self.assertIn(f"\n{round(self.entries / 100)} of {self.entries} entries (1.00 %) of ", out)
        self.assertRegex(out, r", left out 0\.99\d of it \(relative L2\)\n$")
        out = self.ok(*self.extract(self.dense, "-o", "b", "--tolerance", "0.49")).out
        self.assertIn(f"\n{self.entries} of {self.entries} entries (100.00 %); ", out)
        self.refused(
            USAGE,
            "tolerance 0.6 keeps nothing",
            *self.extract(self.dense, "-o", "c", "--tolerance", "0.6"),
        )
        self.ok(*self.extract(self.tuned, "-o", "half", "--save_precision", "bf16"))
        values = read_safetensors(self.path("half"))[0]["conv_in.weight.values"]
        self.assertEqual(values[0], "BF16")

    def test_refused(self):
        self.refused(INPUT, "no entry differs", *self.extract(UNET, "-o", "a"))
        other = os.path.join(GOLDEN, "variants", "unet_tiny")
        self.refused(INPUT, "in the base", *self.extract(other, "-o", "a"))
        self.refused(USAGE, "no base model", "extract", "--tuned", UNET, "-o", "a")
        self.refused(USAGE, "no tuned model", "extract", "--base", UNET, "-o", "a")
        self.refused(USAGE, "no output", "extract", "--base", UNET, "--tuned", UNET)
        for option, value in (("top_fraction", "0"), ("top_fraction", "1.1"), ("tolerance", "-1")):
            self.refused(
                USAGE,
                f"--{option} {value}",
                *self.extract(self.tuned, "-o", "a", f"--{option}", value),
            )
        self.refused(
            USAGE,
            ["top_fraction", "tolerance", "one of them"],
            *self.extract(self.tuned, "-o", "a", "--top_fraction", "0.1", "--tolerance", "1"),
        )
        self.refused(USAGE, "fp8", *self.extract(self.tuned, "-o", "a", "--save_precision", "fp8"))
        line = "rank 4: sara's adapter keeps entries"
        self.refused(USAGE, line, *self.extract(self.tuned, "-o", "a", "--dim", "4"))
        self.refused(USAGE, "--tolerance", *self.extract(self.tuned, "-o", "a", "--min_diff", "1"))
        self.refused(IO, "none", *self.extract("none", "-o", "a"))
        self.refused(IO, "none/a", *self.extract(self.tuned, "-o", "none/a"))
        self.refused(IO, "/proc/a", *self.extract(self.tuned, "-o", "/proc/a"))
        self.assertEqual(sorted(os.listdir(self.folder)), ["dense", "tuned"])
        path = self.write("a", "precious")
        self.refused(USAGE, f"{path}: exists", *self.extract(self.tuned, "-o", path))


class Export(Tuned):
    def export(self, *args):
        return ("export", "a.safetensors", "--unet-only", UNET, *args)

    def test_dense(self):
        self.adapter()
        for form in ("comfyui", "a1111"):
            file = form + ".safetensors"
            out = self.ok(
                *self.export("--format", form, "-o", file, "--save_precision", "fp32")
            ).out
            self.assertTrue(out.startswith(file + "\n"), out)
            self.assertRegex(out, r"changed entries \(L2 [\d.]+\) in 2 layers; ")
            tensors, metadata = read_safetensors(self.path(file))
            weight, norm = {
                "comfyui": (
                    "diffusion_model.input_blocks.0.0",
                    "diffusion_model.middle_block.0.in_layers.2",
                ),
                "a1111": ("lora_unet_conv_in", "lora_unet_mid_block_resnets_0_conv1"),
            }[form]
            names = {f"{weight}.diff", f"{norm}.diff_b"}
            if form == "a1111":
                names.add(f"{norm}.diff")
            self.assertEqual(set(tensors), names)
            dtype, shape, data = tensors[f"{weight}.diff"]
            self.assertEqual((dtype, shape), ("F32", self.shapes["conv_in.weight"]))
            for i, (diff,) in enumerate(struct.iter_unpack("<f", data)):
                self.assertAlmostEqual(diff, 0 if i % 5 else 0.5, places=6)
            self.assertEqual(metadata["ss_v2"], "False")
            self.assertRegex(metadata["modelspec.date"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$")

    def test_default_precision(self):
        self.adapter()
        self.ok(*self.export("--format", "a1111", "-o", "x.safetensors"))
        tensors = read_safetensors(self.path("x.safetensors"))[0]
        self.assertEqual({info[0] for info in tensors.values()}, {"F16"})

    def test_strength(self):
        """An adapter at a strength, given either way; two of them."""
        self.adapter()
        base = ["export", "--unet-only", UNET, "--format", "comfyui", "--save_precision", "fp32"]
        self.ok(*base, "a.safetensors:0.5", "-o", "x.safetensors")
        quarter = "a.safetensors:0.25"
        self.ok(*base, "--adapter", quarter, quarter, "-o", "y.safetensors")
        for name in ("x.safetensors", "y.safetensors"):
            data = read_safetensors(self.path(name))[0]["diffusion_model.input_blocks.0.0.diff"][2]
            self.assertAlmostEqual(struct.unpack_from("<f", data)[0], 0.25, places=6)

    def test_lora(self):
        self.adapter()
        result = self.ok(*self.export("--format", "lora", "--rank", "4", "-o", "x.safetensors"))
        bias = len(self.values["mid_block.resnets.0.conv1.bias"][::5])
        self.assertRegex(
            result.out,
            r"^x.safetensors\n\d+ changed entries \(L2 [\d.]+\) in 1 layers; rank 4 keeps [\d.]+ % "
            rf"of the change \(Frobenius norm\), leaves out [\d.]+ of it \(relative L2\)\n{bias} "
            r"entries of biases and norms are left out: ",
        )
        tensors, metadata = read_safetensors(self.path("x.safetensors"))
        out, into, high, wide = self.shapes["conv_in.weight"]
        self.assertEqual(
            {name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()},
            {
                "lora_unet_conv_in.lora_down.weight": ("F16", [4, into, high, wide]),
                "lora_unet_conv_in.lora_up.weight": ("F16", [out, 4, 1, 1]),
                "lora_unet_conv_in.alpha": ("F32", []),
            },
        )
        self.assertEqual(metadata["ss_network_dim"], "4")
        self.assertEqual(metadata["ss_output_name"], "x")

    def test_peft(self):
        self.adapter()
        os.mkdir(self.path("empty"))
        for folder in ("new", "empty"):
            self.ok(*self.export("--format", "peft", "--rank", "3", "-o", folder))
            self.assertEqual(
                files_below(self.path(folder)), ["adapter_config.json", "adapter_model.safetensors"]
            )
            with open(self.path(folder, "adapter_config.json")) as file:
                config = json.load(file)
            self.assertEqual((config["r"], config["target_modules"]), (3, ["conv_in"]))
            self.assertEqual(
                set(read_safetensors(self.path(folder, "adapter_model.safetensors"))[0]),
                {f"base_model.model.conv_in.lora_{x}.weight" for x in "AB"},
            )

    def test_refused(self):
        self.adapter()
        os.mkdir(self.path("y.safetensors"))
        before = sorted(os.listdir(self.folder))
        for words, args in (
            (["no format", "comfyui, a1111, lora, peft or shira"], ["-o", "x"]),
            (["format diffusers", "expected comfyui"], ["-o", "x", "--format", "diffusers"]),
            (["format lora", "no rank"], ["-o", "x", "--format", "lora"]),
            (["rank 4", "a1111"], ["-o", "x", "--format", "a1111", "--rank", "4"]),
            (["--rank 0"], ["-o", "x", "--format", "lora", "--rank", "0"]),
            (["--dim", "--rank"], ["-o", "x", "--format", "lora", "--dim", "4"]),
            (["fp8"], ["-o", "x", "--format", "a1111", "--save_precision", "fp8"]),
            (["no output"], ["--format", "a1111"]),
            (["y.safetensors: exists"], ["-o", "y.safetensors", "--format", "a1111"]),
            (["tuned: format a1111 is a file", "tuned.safetensors"],
             ["-o", "tuned", "--format", "a1111"]),
            (["x.safetensors: format peft is a folder", "name it x"],
             ["-o", "x.safetensors", "--format", "peft", "--rank", "4"]),
            (["--tokenizer", "U-Net alone"],
             ["-o", "x.safetensors", "--format", "a1111", "--tokenizer", "t"]),
            (["tuned: exists", "2 entries"], ["-o", "tuned", "--format", "peft", "--rank", "4"]),
            (["a.safetensors: exists"], ["-o", "a.safetensors", "--format", "a1111"]),
        ):
            self.refused(USAGE, words, *self.export(*args))
        self.refused(USAGE, "no adapter", "export", "--unet-only", UNET, "-o", "x")
        self.refused(USAGE, '""', "export", "")
        dense = ["--format", "a1111", "-o"]
        self.refused(USAGE, "no model", "export", "a.safetensors", *dense, "x.safetensors")
        self.refused(IO, "none/x", *self.export(*dense, "none/x.safetensors"))
        self.refused(IO, "/proc/x", *self.export(*dense, "/proc/x.safetensors"))
        self.refused(
            IO, "/proc/x", *self.export("--format", "peft", "--rank", "1", "-o", "/proc/x")
        )
        dense.append("x.safetensors")
        self.refused(IO, "nowhere", "export", "nowhere", "--unet-only", UNET, *dense)
        self.refused(
            USAGE,
            "nothing to export",
            *("export", "a.safetensors:0", "--unet-only", UNET),
            *dense,
        )
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_another_base(self):
        self.adapter()
        other = self.model("other", {"conv_out.bias": 1})
        args = ["export", "a.safetensors", "--unet-only", other, "--format", "a1111"]
        args += ["-o", "x.safetensors"]
        self.refused(INPUT, ["a.safetensors", "made for the base"], *args)
        self.assertFalse(os.path.exists(self.path("x.safetensors")))
        self.ok(*args, "--force")


class SingleFiles(Case):
    """A checkpoint of one file is as good as the folder it was made of."""

    def test_both(self):
        config = ["--model_config", BASE]
        self.ok("merge", "-m", BASE, "-o", "base.safetensors")
        tensors, metadata = read_safetensors(self.path("base.safetensors"))
        name = "model.diffusion_model.out.2.bias"
        self.assertEqual(tensors[name][0], "F16")
        with open(self.path("base.safetensors"), "rb") as file:
            tuned = bytearray(file.read())
        at = tuned.index(tensors[name][2])
        tuned[at : at + 2] = b"\x00\x3c"
        self.write("tuned.safetensors", bytes(tuned))
        for base in (BASE, "base.safetensors"):
            self.ok("extract", "--base", base, "--tuned", "tuned.safetensors", "-o", "a", *config)
            tensors = read_safetensors(self.path("a"))[0]
            self.assertEqual(tensors["conv_out.bias.values"][2], struct.pack("<f", 1))
            own = config if base != BASE else []
            self.ok("export", "a", "-m", base, "--format", "comfyui", "-o", "x.safetensors", *own)
            self.assertEqual(
                list(read_safetensors(self.path("x.safetensors"))[0]),
                ["diffusion_model.out.2.diff_b"],
            )
            os.remove(self.path("a"))
            os.remove(self.path("x.safetensors"))


class Failures(Tuned):
    """Writing fails at every place: nothing is left, or the whole."""

    def check(self, *args):
        shim = {
            "LD_PRELOAD": os.environ["SARA_FAIL_IO"],
            "FAIL_IO_UNDER": self.path("out"),
            "FAIL_IO_ERRNO": str(errno.ENOSPC),
            "FAIL_IO_STICKY": "1",
        }
        os.mkdir(self.path("out"))
        self.ok(*args, env={**shim, "FAIL_IO_AT": "0", "FAIL_IO_COUNT": self.path("count")})
        whole = files_below(self.path("out"))
        with open(self.path("count")) as file:
            calls = int(file.read())
        self.assertGreaterEqual(calls, 6)
        for at in range(1, calls + 1, 5 if SANITIZE else 1):
            shutil.rmtree(self.path("out"))
            os.mkdir(self.path("out"))
            result = self.sara(*args, env={**shim, "FAIL_IO_AT": str(at)})
            self.check_refused(result, IO, [self.path("out"), os.strerror(errno.ENOSPC)], at)
            self.assertIn(files_below(self.path("out")), ([], whole), at)
            self.assertEqual(remains(self.path("out")), [])
        shutil.rmtree(self.path("out"))

    def test_all(self):
        adapter = self.adapter()
        out = self.path("out", "x")
        self.check(*self.extract(self.tuned, "-o", out))
        export = ["export", adapter, "--unet-only", UNET, "-t", "1", "--format"]
        self.check(*export, "a1111", "-o", out + ".safetensors")
        self.check(*export, "lora", "--rank", "2", "-o", out + ".safetensors")
        self.check(*export, "peft", "--rank", "2", "-o", out)


if __name__ == "__main__":
    unittest.main()
