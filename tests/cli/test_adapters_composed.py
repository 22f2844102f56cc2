"""Several adapters at once: composed, named by tags in the prompt; LoRA files among them."""

import hashlib
import json
import math
import os
import shutil
import struct
import unittest

from support import BASE, INPUT, IO, USAGE, read_png, read_safetensors, sha256, write_safetensors
from support_adapters import Adapters, NAMES


class Compose(Adapters):
    def setUp(self):
        super().setUp()
        os.makedirs(self.path("loras", "in"))
        names = [n for n in self.base if n.startswith(("up_blocks", "conv_out")) and "weight" in n]
        self.ink = self.adapter("loras/ink.safetensors", names[:20], 3, 0.05)
        self.wash = self.adapter("loras/in/wash.safetensors", names[10:30], 4, -0.03)

    def picture(self, *args):
        options = ("--steps", "2", "-t", "1", "-o", "x.png", "--lora-model-dir", "loras")
        self.ok("generate", "-m", BASE, *options, *args)
        return hashlib.sha256(b"".join(read_png(self.path("x.png"))[2])).hexdigest()

    def text(self):
        return read_png(self.path("x.png"))[3]["parameters"]

    def test_tags(self):
        plain = self.picture("-p", "a fox")
        ink = self.picture("-p", "a fox", "--adapter", self.ink)
        half = self.picture("-p", "a fox", "--adapter", self.ink + ":0.5")
        self.assertEqual(len({plain, ink, half}), 3)
        self.assertEqual(self.picture("-p", "a <lora:ink:1>fox"), ink)
        self.assertEqual(self.picture("-p", "<lora:ink>a fox"), ink)
        self.assertEqual(self.picture("-p", "a fox<lora:ink:0.5>"), half)
        self.assertEqual(self.picture("-p", "a fox<lora:ink:0.75><lora:ink:-.25>"), half)
        self.assertEqual(self.picture("-p", "a fox<lora:ink:0>"), plain)
        self.assertEqual(self.picture("-p", "a fox", "-n", "<lora:ink:0.5>"), half)
        self.assertEqual(self.picture("-p", "a fox<lora:ink:0.25>", "-n", "<lora:ink:0.25>"), half)

    def test_order(self):
        """Overlapping ones add up to the same bits in any order, also with 16-bit weights."""
        for kind in ("f32", "bf16", "f16"):
            a, b = ("--adapter", self.ink + ":0.8"), ("--adapter", self.wash + ":0.6")
            both = self.picture("-p", "a fox", "--type", kind, *a, *b)
            first = sha256(self.path("x.png"))
            self.assertEqual(self.picture("-p", "a fox", "--type", kind, *b, *a), both)
            self.assertEqual(sha256(self.path("x.png")), first)
            tags = ["<lora:ink:0.8>", "<lora:in/wash:0.6>"]
            for order in (tags, tags[::-1]):
                prompt = f"{order[0]}a {order[1]}fox"
                self.assertEqual(self.picture("-p", prompt, "--type", kind), both)
            self.assertEqual(self.picture("-p", "a fox" + tags[1], "--type", kind, *a), both)
            self.assertNotEqual(self.picture("-p", "a fox", "--type", kind, *a), both)

    def test_each_prompt_has_its_own(self):
        names = ["x.png", "x_2.png", "x_3.png"]
        plain, ink = self.picture("-p", "a fox"), self.picture("-p", "a fox<lora:ink>")
        self.picture("-p", "a fox<lora:ink>", "-p", "a fox", "-p", "a fox<lora:ink>")
        rows = [b"".join(read_png(self.path(name))[2]) for name in names]
        self.assertEqual([hashlib.sha256(r).hexdigest() for r in rows], [ink, plain, ink])

    def test_text(self):
        self.picture("-p", "a <lora:ink:.5>fox", "-n", "red<lora:ink>", "--adapter",
                     self.wash + ":0.6")  # fmt: skip
        lines = self.text().split("\n")
        self.assertEqual(lines[:2], ["a <lora:ink:.5>fox", "Negative prompt: red<lora:ink>"])
        self.assertIn(
            f'Model hash: {self.hash[:10]}, Model: base, Adapters: "ink: 1.5, wash: 0.6", Version',
            lines[2],
        )
        self.picture("-p", "a fox")
        self.assertNotIn("Adapters", self.text())
        os.mkdir(self.path("loras", "sub"))
        shutil.copy(self.ink, self.path("loras", "sub", "deep.safetensors"))
        self.picture("-p", "a fox<lora:sub/deep>")
        self.assertIn('Adapters: "deep: 1"', self.text())

    def test_compare(self):
        """Above the base alone, below with the tags' adapters."""
        self.picture("-p", "a fox<lora:ink>", "--compare")
        rows = read_png(self.path("x.png"))[2]
        half = len(rows) // 2
        self.picture("-p", "a fox", "--adapter", self.ink, "--compare")
        self.assertEqual(read_png(self.path("x.png"))[2], rows)
        self.assertNotEqual(rows[: half - 2], rows[half + 2 :])

    def test_refused(self):
        base = ["generate", "-m", BASE, "--lora-model-dir", "loras", "-p"]
        self.refused(IO, ["loras/none.safetensors", "<lora:none:1>"], *base, "<lora:none:1>")
        self.refused(USAGE, ["<lora:ink:x>", "weight x"], *base, "<lora:ink:x>")
        self.refused(USAGE, ["negative prompt", "<lora:ink:x>"], *base, "a", "-n", "<lora:ink:x>")
        self.refused(USAGE, ["<lora:../ink:1>", "leads out"], *base, "<lora:../ink:1>")
        self.refused(USAGE, ["<lora:ink", "without its >"], *base, "<lora:ink")
        self.refused(IO, "nowhere", *base, "a", "--lora-model-dir", "nowhere")
        lora = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": ("F32", [1], [0.0])}
        write_safetensors(self.path("loras", "kohya.safetensors"), lora, {"ss_v2": "False"})
        self.refused(
            INPUT, ["loras/kohya.safetensors", "lora_down.weight", "is missing"], *base,
            "a<lora:kohya:1>"
        )
        self.adapter("loras/other.safetensors", NAMES, 7, 0.5, **{"sara.base_sha256": "0" * 64})
        self.refused(INPUT, ["other.safetensors", "made for the base"], *base, "a<lora:other>")
        self.picture("-p", "a<lora:other:0.01>", "--force")
        self.assertFalse(os.path.exists(self.path("output.png")))

    def test_missing(self):
        """One fault, one exit code, by whichever way a file is named."""
        draw = ("generate", "-m", BASE, "--lora-model-dir", "loras", "-p")
        self.refused(IO, "loras/none.safetensors", *draw, "a<lora:none>")
        self.refused(IO, "loras/none.safetensors", *draw, "a", "--adapter",
                     "loras/none.safetensors")

    def test_too_small(self):
        """A strength that changes nothing gives the base's bits and says so."""
        for strength in ("1e-300", "0"):
            out = self.ok("merge", "-m", BASE, "--adapter", f"{self.ink}:{strength}", "--dtype",
                          "fp32", "-o", "out" + strength).out  # fmt: skip
            self.assertEqual(out, f"out{strength}\n0 entries changed (L2 0)\n")
        unet = os.path.join("unet", "diffusion_pytorch_model.safetensors")
        self.assertEqual(*(sha256(self.path(out, unet)) for out in ("out0", "out1e-300")))

    def test_from_config(self):
        self.write("options.json", json.dumps({"lora_model_dir": "loras", "prompt": "a<lora:ink>"}))
        self.ok("generate", "-m", BASE, "--config", "options.json", "--steps", "1", "-o", "c.png")
        shutil.rmtree(self.path("loras"))
        self.refused(IO, "loras", "generate", "-m", BASE, "--config", "options.json")



UNET_LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT_LAYER = "encoder.layers.0.self_attn.q_proj"


class Lora(Adapters):
    """A file as kohya's trainer writes it: a layer of the U-Net and one of the text encoder."""

    picture, text = Compose.picture, Compose.text

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("loras"))
        self.lora("loras/tune.safetensors")

    def factors(self, key, out, into, tensors):
        down = [0.25 * math.sin(i + 1) for i in range(2 * into)]
        up = [0.25 * math.cos(i + 1) for i in range(out * 2)]
        tensors[key + ".lora_down.weight"] = ("F32", [2, into], down)
        tensors[key + ".lora_up.weight"] = ("F32", [out, 2], up)
        tensors[key + ".alpha"] = ("F32", [], [1.0])
        return lambda row, col: 0.5 * sum(up[row * 2 + k] * down[k * into + col] for k in (0, 1))

    def lora(self, file, *others):
        tensors = {}
        shape = self.base[UNET_LAYER + ".weight"][1]
        text = os.path.join(BASE, "text_encoder", "model.safetensors")
        self.texts = read_safetensors(text)[0]
        self.text_name = next(n for n in self.texts if n.endswith(TEXT_LAYER + ".weight"))
        kohya = "lora_unet_" + UNET_LAYER.replace(".", "_")
        self.unet_change = self.factors(kohya, *shape, tensors)
        kohya = "lora_te_text_model_" + TEXT_LAYER.replace(".", "_")
        self.text_change = self.factors(kohya, *self.texts[self.text_name][1], tensors)
        for other in others:
            self.factors(other, 4, 4, tensors)
        write_safetensors(self.path(file), tensors, {"ss_v2": "False"})

    def changed(self, before, after, change, strength):
        """The entries of a weight, of which the last ones are looked at."""
        _, (rows, cols), data = before
        dtype, _, new = after
        self.assertEqual(dtype, "F32")
        for col in range(cols - 20, cols):
            at = (rows - 1) * cols + col
            want = struct.unpack_from("<e", data, 2 * at)[0] + strength * change(rows - 1, col)
            self.assertAlmostEqual(struct.unpack_from("<f", new, 4 * at)[0], want, delta=1e-6)

    def test_merged(self):
        out = self.ok("merge", "-m", BASE, "--adapter", "loras/tune.safetensors:0.5", "--dtype",
                      "fp32", "-o", "out").out  # fmt: skip
        unet = read_safetensors(self.path("out/unet/diffusion_pytorch_model.safetensors"))[0]
        text = read_safetensors(self.path("out/text_encoder/model.safetensors"))[0]
        name = UNET_LAYER + ".weight"
        self.changed(self.base[name], unet[name], self.unet_change, 0.5)
        self.changed(self.texts[self.text_name], text[self.text_name], self.text_change, 0.5)
        entries = sum(math.prod(t[1]) for t in (self.base[name], self.texts[self.text_name]))
        self.assertIn(f"{entries} entries changed", out)

    def test_drawn(self):
        plain = self.picture("-p", "a fox")
        tuned = self.picture("-p", "a fox", "--adapter", "loras/tune.safetensors:0.5")
        self.assertNotEqual(plain, tuned)
        self.assertIn('Adapters: "tune: 0.5"', self.text())
        self.assertEqual(self.picture("-p", "a <lora:tune:0.5>fox"), tuned)
        own = self.adapter("own.safetensors", NAMES, 7, 0.5)
        rows = []
        for adapter in ("loras/tune.safetensors:0.5", own):
            self.picture("-p", "a fox", "--adapter", adapter, "--compare")
            rows.append(read_png(self.path("x.png"))[2])
        half = len(rows[0]) // 2 - 2  # the base's row knows nothing of the text encoder's change
        self.assertEqual(rows[0][:half], rows[1][:half])
        self.assertNotEqual(rows[0][-half:], rows[1][-half:])

    def test_layers_missing(self):
        self.lora("loras/more.safetensors", "lora_unet_nowhere", "lora_unet_elsewhere")
        draw = ("merge", "-m", BASE, "--adapter", "loras/more.safetensors", "-o", "out")
        self.refused(INPUT, ["loras/more.safetensors", "2 of its layers", "lora_unet_elsewhere"],
                     *draw)  # fmt: skip
        self.assertIn("2 layers that the model does not have", self.ok(*draw, "--force").err)


if __name__ == "__main__":
    unittest.main()
