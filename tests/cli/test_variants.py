"""Folders of which some parts have their weights in a variant (*.fp16.safetensors)."""

import json
import os
import shutil
import unittest

from support import BASE, INPUT, Case, files_below, read_safetensors, sha256

WEIGHTS = "diffusion_pytorch_model"
STEMS = {"unet": WEIGHTS, "vae": WEIGHTS, "text_encoder": "model"}


class Variants(Case):
    def setUp(self):
        super().setUp()
        shutil.copytree(BASE, self.path("m"))

    def rename(self, part, variant="fp16", model="m"):
        stem = self.path(model, part, STEMS[part])
        os.rename(stem + ".safetensors", f"{stem}.{variant}.safetensors")

    def plain_line(self, parts, *args):
        """The one line that tells which parts are read from plain files."""
        err = self.ok(*args).err
        lines = [line for line in err.splitlines() if "variant" in line]
        self.assertEqual(
            lines, [f"m: variant fp16: not of {parts}, read from the plain weight files"], err
        )

    def test_each_part_alone(self):
        """Diffusers takes the variant where there is one, and the plain file elsewhere."""
        base = json.loads(self.ok("inspect", "-m", BASE, "--json").out)
        others = {"unet": "vae, text_encoder", "vae": "unet, text_encoder",
                  "text_encoder": "unet, vae"}  # fmt: skip
        for part, plain in others.items():
            self.rename(part)
            here = json.loads(self.ok("inspect", "-m", "m", "--variant", "fp16", "--json").out)
            self.assertEqual(here, base, part)
            self.plain_line(plain, "inspect", "-m", "m", "--variant", "fp16")
            self.refused(INPUT, ["m/" + part, "there is the variant fp16: --variant fp16 reads it"],
                         "inspect", "-m", "m")  # fmt: skip
            shutil.rmtree(self.path("m"))
            shutil.copytree(BASE, self.path("m"))

    def test_all_parts(self):
        for part in STEMS:
            self.rename(part)
        self.assertNotIn("variant", self.ok("inspect", "-m", "m", "--variant", "fp16").err)

    def test_none(self):
        """A variant that no part has: what there is instead."""
        self.rename("vae")
        self.refused(
            INPUT,
            "m: no weight files of the variant bf16; there are (unet: plain; vae: fp16; "
            "text_encoder: plain)",
            "inspect", "-m", "m", "--variant", "bf16",
        )  # fmt: skip
        unet = self.path("m", "unet")
        self.refused(INPUT, "variant fp16; there are (unet: plain)", "inspect", "--unet-only", unet,
                     "--variant", "fp16")  # fmt: skip
        shutil.copy(os.path.join(unet, WEIGHTS + ".safetensors"),
                    os.path.join(unet, WEIGHTS + ".non_ema.safetensors"))  # fmt: skip
        self.ok("inspect", "--unet-only", unet, "--variant", "non_ema")
        self.refused(INPUT, "(unet: plain, non_ema; vae: fp16; text_encoder: plain)", "inspect",
                     "-m", "m", "--variant", "bf16")  # fmt: skip

    def test_neither(self):
        """A part with another variant alone, beside parts with the one asked for."""
        self.rename("unet")
        self.rename("vae", "bf16")
        self.refused(INPUT, ["m/vae", "there is the variant bf16"], "inspect", "-m", "m",
                     "--variant", "fp16")  # fmt: skip

    def test_commands(self):
        self.rename("unet")
        self.rename("text_encoder")
        variant = ("--variant", "fp16")
        for output in ("out", "out.safetensors"):
            self.ok("merge", "-m", "m", *variant, "-o", output)
            self.ok("merge", "-m", BASE, "-o", "plain-" + output)
        self.assertEqual(files_below(self.path("out")), files_below(BASE))
        for name in files_below(BASE):
            self.assertEqual(
                sha256(self.path("out", name)), sha256(self.path("plain-out", name)), name
            )
        self.assertEqual(
            sha256(self.path("out.safetensors")), sha256(self.path("plain-out.safetensors"))
        )
        self.ok("generate", "-m", "m", *variant, "-p", "a fox", "--steps", "1")
        self.ok("bench", "-m", "m", *variant, "--steps", "1", "--latent", "8")

    def test_bench_of_a_plain_unet(self):
        self.rename("vae")
        bench = ("bench", "-m", "m", "--steps", "1", "--latent", "8", "--variant")
        self.ok(*bench, "fp16")
        self.refused(INPUT, "no weight files of the variant bf16", *bench, "bf16")

    def test_extract(self):
        """Of either model the variant where there is one; one of neither is refused."""
        shutil.copytree(BASE, self.path("base"))
        path = self.path("m", "unet", WEIGHTS + ".safetensors")
        with open(path, "r+b") as file:
            file.seek(-2, os.SEEK_END)
            last = file.read(2)
            file.seek(-2, os.SEEK_END)
            file.write(bytes([last[0] ^ 1, last[1]]))
        extract = ("extract", "--base", "base", "--tuned", "m", "-o")
        self.ok(*extract, "plain.safetensors")
        self.rename("unet")
        self.ok(*extract, "a.safetensors", "--variant", "fp16")
        self.assertEqual(sha256(self.path("a.safetensors")), sha256(self.path("plain.safetensors")))
        self.refused(INPUT, "base: no weight files of the variant bf16", *extract, "b",
                     "--variant", "bf16")  # fmt: skip

    def test_other_parts_of_the_folder(self):
        """Merging writes plain names, also of what is carried along; nothing is lost."""
        self.rename("unet")
        os.mkdir(self.path("m", "safety_checker"))
        for name in ("model.fp16.safetensors", "model.bf16.safetensors", "config.json"):
            self.write(os.path.join("m", "safety_checker", name), name)
        for name in (".index.fp16.json", ".fp16.index.json", ".index.json"):
            self.write(os.path.join("m", "unet", WEIGHTS + ".safetensors" + name), "{}")
        self.ok("merge", "-m", "m", "--variant", "fp16", "-o", "out")
        extra = [os.path.join("safety_checker", name) for name in
                 ("config.json", "model.bf16.safetensors", "model.safetensors")]  # fmt: skip
        self.assertEqual(files_below(self.path("out")), sorted(files_below(BASE) + extra))
        tensors = read_safetensors(self.path("out", "unet", WEIGHTS + ".safetensors"))[0]
        source = read_safetensors(os.path.join(BASE, "unet", WEIGHTS + ".safetensors"))[0]
        self.assertEqual(tensors, source)


if __name__ == "__main__":
    unittest.main()
