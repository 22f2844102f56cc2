"""Models with 8-bit floating weights, plain and with scales beside them."""

import array
import json
import os
import shutil
import struct
import unittest

from support import BASE, INPUT, UNET, Case, read_safetensors, write_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
TOKENIZER = ("--tokenizer", os.path.join(BASE, "tokenizer"))
FILES = (("unet", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model.safetensors"))
CODES = {"F32": "<f", "F16": "<e"}


def decode_e4m3(code):
    """OCP's 8-bit type with four bits of exponent; tests/core holds what PyTorch reads."""
    sign, exponent, fraction = -1 if code & 128 else 1, code >> 3 & 15, code & 7
    return sign * (fraction * 2**-9 if exponent == 0 else (1 + fraction / 8) * 2 ** (exponent - 7))


def floats(values):
    return array.array("f", values).tobytes()


def as_e5m2(tensors):
    """Cut to the upper byte of fp16, and the same values in fp16."""
    cut, same = {}, {}
    for name, (dtype, shape, data) in tensors.items():
        assert dtype == "F16", name
        upper = data[1::2]
        cut[name] = ("F8_E5M2", shape, upper)
        same[name] = ("F16", shape, bytes(b for byte in upper for b in (0, byte)))
    return cut, same


class Whole(Case):
    def setUp(self):
        super().setUp()
        for name in ("eight", "half"):
            shutil.copytree(BASE, self.path(name))
        for part, file in FILES:
            tensors = read_safetensors(os.path.join(BASE, part, file))[0]
            for name, some in zip(("eight", "half"), as_e5m2(tensors)):
                write_safetensors(self.path(name, part, file), some)

    def report(self, *model):
        return json.loads(self.ok("inspect", *model, "--json").out)

    def test_folder(self):
        """The same model as in fp16: hash, precision, pictures with 16-bit weights too."""
        eight, half = self.report("-m", "eight"), self.report("-m", "half")
        self.assertEqual({part["dtype"] for part in eight["components"]}, {"F8_E5M2"})
        for key in ("base_sha256", "base_precision", "histogram", "thresholds"):
            self.assertEqual(eight[key], half[key], key)
        self.assertEqual(eight["base_precision"], "fp16")
        for kind in ("fp32", "auto", "bf16"):
            for name in ("eight", "half"):
                self.ok("generate", "-m", name, "-p", "a fox", "--steps", "1",
                        "--weight_dtype", kind,
                        "--save-latents", name + ".safetensors")  # fmt: skip
            self.assertEqual(
                *(read_safetensors(self.path(n + ".safetensors"))[0] for n in ("eight", "half"))
            )

    def test_merge(self):
        """The U-Net is written in fp16, as 8 bits would not hold changes; the rest is copied."""
        self.ok("merge", "-m", "eight", "-o", "out")
        for part, file, source in (("unet", WEIGHTS, "half"), ("vae", WEIGHTS, "eight"),
                                   ("text_encoder", "model.safetensors", "eight")):  # fmt: skip
            self.assertEqual(
                read_safetensors(self.path("out", part, file))[0],
                read_safetensors(self.path(source, part, file))[0],
            )
        self.ok("merge", "-m", "eight", "-o", "one.safetensors")
        self.ok("merge", "-m", "eight", "-o", "fp16.safetensors", "--dtype", "fp16")
        self.ok("merge", "-m", "half", "-o", "half.safetensors")
        self.assertEqual(
            read_safetensors(self.path("fp16.safetensors")),
            read_safetensors(self.path("half.safetensors")),
        )
        half = self.report("-m", "half")["base_sha256"]
        self.assertEqual(self.report("-m", "out")["base_sha256"], half)
        self.assertEqual(self.report("-m", "one.safetensors", *TOKENIZER)["base_sha256"], half)
        self.ok("merge", "-m", "one.safetensors", *TOKENIZER, "-o", "back")
        self.assertEqual(
            read_safetensors(self.path("back", "vae", WEIGHTS))[0],
            read_safetensors(self.path("eight", "vae", WEIGHTS))[0],
        )

    def test_extract(self):
        extract = ("extract", "-o", "x.safetensors")
        self.refused(INPUT, "no entry differs", *extract, "--base", "half", "--tuned", "eight")


class Scaled(Case):
    """One layer of a bare U-Net in 8 bits."""

    layer, count, rows = "conv_in", 32 * 4 * 9, 32

    def setUp(self):
        super().setUp()
        shutil.copytree(UNET, self.path("unet"))
        self.file = self.path("unet", WEIGHTS)
        self.tensors = read_safetensors(self.file)[0]
        self.shape = self.tensors[self.layer + ".weight"][1]
        self.rows, self.count = self.shape[0], 1
        for side in self.shape:
            self.count *= side
        self.codes = bytes((7 * i) % 120 | (i % 2) << 7 for i in range(self.count))
        self.values = [decode_e4m3(code) for code in self.codes]

    def put(self, extra, dtype="F8_E4M3"):
        weight = {self.layer + ".weight": (dtype, self.shape, self.codes)}
        write_safetensors(self.file, {**self.tensors, **weight, **extra})

    def hash(self):
        return json.loads(self.ok("inspect", "--unet-only", "unet", "--json").out)["base_sha256"]

    def expected(self, values):
        """The hash where the layer is stored in float32."""
        weight = {self.layer + ".weight": ("F32", self.shape, floats(values))}
        write_safetensors(self.file, {**self.tensors, **weight})
        return self.hash()

    def scaled(self, scales):
        row = self.count // len(scales)
        return [struct.unpack("f", struct.pack("f", v * scales[i // row]))[0]
                for i, v in enumerate(self.values)]  # fmt: skip

    def test_plain(self):
        self.put({})
        own = self.hash()
        self.assertEqual(own, self.expected(self.values))

    def test_scales_are_multiplied_in(self):
        one, many = [0.0625 + 2**-20], [(i + 1) / 64 for i in range(self.rows)]
        scalar = ("F32", [], floats(one))
        rows = ("F32", [self.rows, 1, 1, 1], floats(many))
        half = ("F16", [1], struct.pack("<e", 0.125))
        marker = {"scaled_fp8": ("F8_E4M3", [0], b"")}
        layer = self.layer
        for extra, scales in (
            ({layer + ".scale_weight": scalar}, one),
            ({layer + ".scale_weight": scalar, layer + ".scale_input": scalar, **marker}, one),
            ({layer + ".weight_scale": half, layer + ".input_scale": scalar}, [0.125]),
            ({layer + ".weight_scale": rows}, many),
        ):
            self.put(extra)
            own = self.hash()
            self.ok("merge", "--unet-only", "unet", "-o", "out")
            merged = read_safetensors(self.path("out", WEIGHTS))[0]
            shutil.rmtree(self.path("out"))
            self.assertEqual(own, self.expected(self.scaled(scales)), extra)
            self.assertEqual(set(merged), set(self.tensors))
            self.assertEqual(merged[layer + ".weight"][::2], ("F32", floats(self.scaled(scales))))

    def test_refused(self):
        scalar = ("F32", [], floats([0.5]))
        layer = self.layer
        for words, extra in (
            ([layer + ".weight: F8_E4M3 without a scale", "scaled_fp8"],
             {"scaled_fp8": ("F8_E4M3", [0], b"")}),
            ([layer + ".scale_weight: shape [3]", "one for each row"],
             {layer + ".scale_weight": ("F32", [3], floats([1, 1, 1]))}),
            ([layer + ".scale_weight: entry 0 is nan"],
             {layer + ".scale_weight": ("F32", [], floats([float("nan")]))}),
            ([layer + ".scale_weight: dtype I32"],
             {layer + ".scale_weight": ("I32", [], bytes(4))}),
            (["nothing.scale_weight: a scale, and there is no weight"],
             {"nothing.scale_weight": scalar}),
            (["two scales"], {layer + ".scale_weight": scalar, layer + ".weight_scale": scalar}),
            ([layer + ".weight_scale_inv"], {layer + ".weight_scale_inv": scalar}),
            ([layer + ".comfy_quant", "quantisation (comfy_quant) is not read", "fp16"],
             {layer + ".comfy_quant": ("U8", [2], b"{}")}),
        ):  # fmt: skip
            self.put(extra)
            self.refused(INPUT, words, "inspect", "--unet-only", "unet")

    def test_other_spellings(self):
        self.put({}, "F8_E8M0")
        self.refused(INPUT, [self.layer + ".weight", "F8_E8M0"], "inspect", "--unet-only", "unet")
        self.put({})
        with open(self.file, "rb") as file:
            data = file.read()
        size = struct.unpack("<Q", data[:8])[0]
        header = data[8 : 8 + size].replace(b'"F8_E4M3"', b'"F8_E4M3FN"')
        self.write(self.file, struct.pack("<Q", len(header)) + header + data[8 + size :])
        self.refused(INPUT, [self.layer + ".weight", '"F8_E4M3FN"'], "inspect", "--unet-only",
                     "unet")  # fmt: skip

    def test_not_a_number(self):
        """As everywhere: what trains refuses it by name."""
        self.codes = b"\x7f" + self.codes[1:]
        self.put({})
        self.refused(INPUT, self.layer + ".weight", "inspect", "--unet-only", "unet")

    def test_marker_above_a_part(self):
        """It goes for all names that begin like it, whatever they become inside."""
        self.ok("merge", "-m", BASE, "-o", "plain.safetensors")
        tensors, metadata = read_safetensors(self.path("plain.safetensors"))
        unet = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
        text = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
        for name, above in ((text, "cond_stage_model."), (unet, "model."),
                            (unet, "model.diffusion_model.input_blocks."), (text, ""),
                            (text, "cond_stage_model.transformer.")):  # fmt: skip
            dtype, shape, data = tensors[name]
            eight = {name: ("F8_E4M3", shape, bytes(byte & 119 for byte in data[::2]))}
            for start in ("first_stage_model.", above):
                marker = {start + "scaled_fp8": ("F8_E4M3", [0], b"")}
                some = {**tensors, **eight, **marker}
                write_safetensors(self.path("x.safetensors"), some, metadata)
                inspect = ("inspect", "-m", "x.safetensors", *TOKENIZER)
                if start == above:
                    self.refused(INPUT, [name + ": F8_E4M3 without a scale"], *inspect)
                else:
                    self.ok(*inspect)

    def test_projection_that_is_left_out(self):
        """CLIP's projection is no part of the model, and nor is its scale."""
        self.ok("merge", "-m", BASE, "-o", "x.safetensors")
        tensors, metadata = read_safetensors(self.path("x.safetensors"))
        layer = "cond_stage_model.transformer.text_projection"
        for name in (layer + ".weight", layer + ".scale_weight"):
            tensors[name] = ("F32", [1], floats([0.5]))
        write_safetensors(self.path("x.safetensors"), tensors, metadata)
        self.ok("inspect", "-m", "x.safetensors", *TOKENIZER)

    def test_part_of_a_single_file(self):
        """Scales under a prefix and LDM's names, in a file that is copied otherwise."""
        self.ok("merge", "-m", BASE, "-o", "plain.safetensors")
        tensors, metadata = read_safetensors(self.path("plain.safetensors"))
        prefix, name = "model.diffusion_model.", "input_blocks.0.0"
        vae, text = "first_stage_model.encoder.conv_in", "cond_stage_model.transformer.text_model."
        text += "encoder.layers.0.mlp.fc1"
        twice = dict(tensors)
        layers = [prefix + name, vae, text]
        for layer in layers:
            dtype, shape, data = tensors[layer + ".weight"]
            values = [v for (v,) in struct.iter_unpack(CODES[dtype], data)]
            codes = bytes(8 * (i % 14) + i % 5 for i in range(len(values)))
            tensors[layer + ".weight"] = ("F8_E4M3", shape, codes)
            tensors[layer + ".scale_weight"] = ("F32", [], floats([0.03125]))
            products = [decode_e4m3(code) * 0.03125 for code in codes]
            twice[layer + ".weight"] = ("F32", shape, floats(products))
        tensors[prefix + "scaled_fp8"] = ("F8_E4M3", [0], b"")
        write_safetensors(self.path("eight.safetensors"), tensors, metadata)
        write_safetensors(self.path("same.safetensors"), twice, metadata)
        for name in ("eight", "same"):
            merge = ("merge", "-m", name + ".safetensors", *TOKENIZER, "-o")
            self.ok(*merge, name + "-out.safetensors")
            self.ok(*merge, name)
        self.assertEqual(
            *(read_safetensors(self.path(n + "-out.safetensors")) for n in ("eight", "same"))
        )
        for part, file in FILES:
            self.assertEqual(
                *(read_safetensors(self.path(n, part, file))[0] for n in ("eight", "same")), part
            )


if __name__ == "__main__":
    unittest.main()
