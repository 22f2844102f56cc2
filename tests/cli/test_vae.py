"""Another VAE than the model's own (--vae), and parts that a single file lacks."""

import hashlib
import json
import os
import shutil
import struct
import unittest

from support import BASE, EMOJI, INPUT, IO, UNET, USAGE, Case, files_below, read_png
from support import read_safetensors, sha256, write_safetensors

PREFIX = "first_stage_model."
TEXT = "cond_stage_model."
TOKENIZER = ("--tokenizer", os.path.join(BASE, "tokenizer"))
VAE_FILE = os.path.join("vae", "diffusion_pytorch_model.safetensors")


class OtherVae(Case):
    def setUp(self):
        """other/: BASE with a VAE whose values differ."""
        super().setUp()
        shutil.copytree(BASE, self.path("other"))
        tensors = read_safetensors(self.path("other", VAE_FILE))[0]
        for name, (dtype, shape, data) in tensors.items():
            if len(shape) == 4:
                changed = bytes([data[0] ^ 1]) + data[1:-1] + bytes([data[-1] ^ 128])
                tensors[name] = (dtype, shape, changed)
        write_safetensors(self.path("other", VAE_FILE), tensors)
        self.vae = tensors

    def json(self, *names):
        with open(self.path(*names)) as file:
            return json.load(file)

    def pixels(self, *args):
        self.ok("generate", "-p", "a fox", "--steps", "1", "-o", "x.png", *args)
        return hashlib.sha256(b"".join(read_png(self.path("x.png"))[2])).hexdigest()

    def spellings(self):
        """The VAE as each kind of file and folder that holds one."""
        self.ok("merge", "-m", "other", "-o", "whole.safetensors")
        whole, metadata = read_safetensors(self.path("whole.safetensors"))
        ldm = {n: t for n, t in whole.items() if n.startswith(PREFIX)}
        config = {"sara.config.vae": metadata["sara.config.vae"]}
        write_safetensors(self.path("prefixed.safetensors"), ldm, config)
        bare = {n[len(PREFIX) :]: t for n, t in ldm.items()}
        bare["model_ema.decay"] = bare["loss.logvar"] = ("F32", [], bytes(4))
        write_safetensors(self.path("bare.safetensors"), bare, config)
        os.mkdir(self.path("beside"))
        shutil.copy(self.path("other", "vae", "config.json"), self.path("beside"))
        shutil.copy(self.path("other", VAE_FILE), self.path("beside", "vae-ft.safetensors"))
        return ("other", "other/", os.path.join("other", "vae"), "whole.safetensors",
                "prefixed.safetensors", "bare.safetensors",
                "beside/vae-ft.safetensors")  # fmt: skip

    def test_spellings(self):
        own, expected = self.pixels("-m", BASE), self.pixels("-m", "other")
        self.assertNotEqual(own, expected)
        for vae in self.spellings():
            self.assertEqual(self.pixels("-m", BASE, "--vae", vae), expected, vae)

    def test_derived_config(self):
        """Of a file alone: its shapes tell it, the model's own VAE or --model_config the rest."""
        self.ok("merge", "-m", "other", "-o", "whole.safetensors")
        whole, metadata = read_safetensors(self.path("whole.safetensors"))
        bare = {n[len(PREFIX) :]: t for n, t in whole.items() if n.startswith(PREFIX)}
        write_safetensors(self.path("ldm.safetensors"), bare)
        shutil.copy(self.path("other", VAE_FILE), self.path("diffusers.safetensors"))
        config = self.json("other", "vae", "config.json")
        unet = {n: t for n, t in whole.items() if not n.startswith(PREFIX)}
        del metadata["sara.config.vae"]
        write_safetensors(self.path("unet.safetensors"), unet, metadata)
        keys = ("block_out_channels", "latent_channels", "layers_per_block", "norm_num_groups",
                "scaling_factor")  # fmt: skip
        for vae in ("ldm.safetensors", "diffusers.safetensors"):
            for model in ((BASE,), ("unet.safetensors", "--model_config", "other")):
                self.ok("merge", "-m", *model, "--vae", vae, "-o", "out")
                written = self.json("out", "vae", "config.json")
                for key in keys:
                    self.assertEqual(written[key], config[key], key)
                self.assertEqual(read_safetensors(self.path("out", VAE_FILE))[0], self.vae)
                shutil.rmtree(self.path("out"))

    def test_no_warning_of_the_own_config(self):
        """Neither numbers that went through a file nor rounded ones are another kind's."""
        self.ok("merge", "-m", "other", "-o", "other.safetensors")
        path = self.path("other", "vae", "config.json")
        config = self.json("other", "vae", "config.json")
        for scaling in (config["scaling_factor"], round(config["scaling_factor"], 7)):
            with open(path, "w") as file:
                json.dump({**config, "scaling_factor": scaling}, file)
            for vae in ("other", "other.safetensors"):
                self.assertNotIn("another kind", self.ok("inspect", "-m", BASE, "--vae", vae).err)

    def test_merge(self):
        """What is written holds the other VAE, and all else as before."""
        self.ok("merge", "-m", BASE, "-o", "base.safetensors")
        self.ok("merge", "-m", "other", "-o", "other.safetensors")
        expected = read_safetensors(self.path("other.safetensors"))
        models = ((BASE,), ("base.safetensors", *TOKENIZER))
        for model in models:
            merge = ("merge", "-m", *model, "-o")
            for vae in ("other", "other.safetensors"):
                self.ok(*merge, "out.safetensors", "--vae", vae)
                self.assertEqual(read_safetensors(self.path("out.safetensors")), expected, vae)
                os.remove(self.path("out.safetensors"))
                self.ok(*merge, "out", "--vae", vae)
                self.assertEqual(read_safetensors(self.path("out", VAE_FILE))[0], self.vae)
                written = self.json("out", "vae", "config.json")
                if vae == "other":
                    self.assertEqual(written, self.json("other", "vae", "config.json"))
                unet = os.path.join("unet", "diffusion_pytorch_model.safetensors")
                self.assertEqual(
                    read_safetensors(self.path("out", unet))[0],
                    read_safetensors(os.path.join(BASE, unet))[0],
                )
                shutil.rmtree(self.path("out"))

    def test_half_a_vae(self):
        half = {n: t for n, t in self.vae.items() if not n.startswith("encoder.")}
        write_safetensors(self.path("half.safetensors"), half)
        result = self.refused(INPUT, ["half.safetensors: its VAE has no encoder",
                                      "a VAE with encoder and decoder"], "inspect", "-m", BASE,
                              "--vae", "half.safetensors")  # fmt: skip
        self.assertNotIn("--vae", result.err)

    def test_without_quant_conv(self):
        """A file without these layers is the folder whose config says that it has none."""
        kept = {n: t for n, t in self.vae.items() if "quant_conv." not in n}
        config = self.json("other", "vae", "config.json")
        config.update(use_quant_conv=False, use_post_quant_conv=False)
        with open(self.path("other", "vae", "config.json"), "w") as file:
            json.dump(config, file)
        for path in (self.path("other", VAE_FILE), self.path("file.safetensors")):
            write_safetensors(path, kept)
        expected = self.pixels("-m", BASE, "--vae", "other")
        self.assertEqual(self.pixels("-m", BASE, "--vae", "file.safetensors"), expected)
        kept["quant_conv.bias"] = self.vae["quant_conv.bias"]
        write_safetensors(self.path("file.safetensors"), kept)
        self.refused(INPUT, ["3 missing", "quant_conv.weight"], "inspect", "-m", BASE, "--vae",
                     "file.safetensors")  # fmt: skip

    def test_doubles(self):
        """The file that holds them is named."""
        dtype, shape, data = self.vae["decoder.conv_in.bias"]
        values = struct.unpack(f"<{shape[0]}{'e' if dtype == 'F16' else 'f'}", data)
        double = ("F64", shape, struct.pack(f"<{shape[0]}d", *values))
        write_safetensors(self.path("x.safetensors"), {**self.vae, "decoder.conv_in.bias": double})
        err = self.ok("inspect", "-m", BASE, "--vae", "x.safetensors").err
        self.assertIn("x.safetensors: 1 tensors are float64", err)
        self.assertNotIn(BASE + ": 1 tensors", err)

    def test_picture_text(self):
        self.ok("merge", "-m", "other", "-o", "a,b.safetensors")
        self.pixels("-m", BASE, "--vae", "a,b.safetensors")
        text = read_png(self.path("x.png"))[3]["parameters"]
        short = sha256(self.path("a,b.safetensors"))[:10]
        self.assertIn(f', Model: base, VAE hash: {short}, VAE: "a,b.safetensors", Version', text)
        self.pixels("-m", BASE, "--vae", "other/vae/")
        self.assertIn(", Model: base, VAE: vae, Ver", read_png(self.path("x.png"))[3]["parameters"])

    def test_refused(self):
        inspect = ("inspect", "-m", BASE, "--vae")
        self.refused(IO, ["vae nothing", "no such file or folder"], *inspect, "nothing")
        self.refused(INPUT, ["holds no VAE", "decoder.conv_in.weight"], *inspect,
                     os.path.join(BASE, "unet", "diffusion_pytorch_model.safetensors"))  # fmt: skip
        self.refused(USAGE, "the U-Net alone", "inspect", "--unet-only", UNET, "--vae", "other")
        self.refused(USAGE, "goes with a model", "inspect", "--adapter", "x", "--vae", "other")
        self.refused(USAGE, "leave it out", "export", "x", "--vae", "other")
        path = self.path("other", "vae", "config.json")
        config = self.json("other", "vae", "config.json")

        def put(**changes):
            with open(path, "w") as file:
                json.dump({**config, **changes}, file)

        put(_class_name="AutoencoderTiny")
        self.refused(INPUT, ["AutoencoderTiny", "AutoencoderKL"], *inspect, "other")
        channels, levels = config["latent_channels"], config["block_out_channels"]
        self.ok("merge", "-m", BASE, "-o", "wide")
        factor = 2 ** (len(levels) - 1)
        own = self.json("wide", "vae", "config.json")
        own["block_out_channels"] = levels + levels[-1:]
        with open(self.path("wide", "vae", "config.json"), "w") as file:
            json.dump(own, file)
        put()
        self.refused(INPUT, [f"a VAE of factor {factor}", f"has {2 * factor}: they must agree"],
                     "inspect", "-m", "wide", "--vae", "other")  # fmt: skip
        put(scaling_factor=0.13025)
        err = self.ok(*inspect, "other").err
        self.assertIn("scaling_factor 0.13025", err)
        tensors = dict(self.vae)
        name = "decoder.conv_in.weight"
        dtype, shape, data = tensors[name]
        tensors[name] = (dtype, [shape[0], 2 * channels, *shape[2:]], data * 2)
        write_safetensors(self.path("x.safetensors"), tensors)
        self.refused(INPUT, ["x.safetensors", "do not fit"], *inspect, "x.safetensors")

    def test_save_latents_stay_away(self):
        self.refused(USAGE, "is within the model", "generate", "-m", BASE, "--vae", "other", "-p",
                     "x", "--save-latents", "other/" + VAE_FILE)  # fmt: skip

    def test_train(self):
        """A run knows which VAE encoded its images: another one cannot go on with it."""
        os.mkdir(self.path("images"))
        ink = os.path.join(EMOJI, "ink")
        for name in sorted(n for n in os.listdir(ink) if n.endswith(".png"))[:2]:
            shutil.copy(os.path.join(ink, name), self.path("images"))
        train = ("train", "-m", BASE, "--train_data_dir", "images", "--instance_prompt", "x",
                 "--output_dir", "run", "--max_train_steps", "2", "--train_batch_size", "1",
                 "--resolution", "64", "--checkpointing_steps", "1")  # fmt: skip
        self.ok(*train, "--vae", "other")
        checkpoint = os.path.join("run", "checkpoint-1")
        adapter = sha256(self.path("run", "adapter.safetensors"))
        resume = ("--resume_from_checkpoint", checkpoint)
        self.refused(USAGE, ["vae_sha256"], *train, *resume)
        self.ok("merge", "-m", "other", "-o", "other.safetensors")
        self.ok(*train, *resume, "--vae", "other.safetensors")  # the same VAE, from a file
        self.assertEqual(sha256(self.path("run", "adapter.safetensors")), adapter)

    def test_train_settings(self):
        """The same weights under another config, or other tokens, make another run."""
        os.mkdir(self.path("images"))
        ink = os.path.join(EMOJI, "ink")
        name = sorted(n for n in os.listdir(ink) if n.endswith(".png"))[0]
        shutil.copy(os.path.join(ink, name), self.path("images"))
        shutil.copytree(BASE, self.path("own"))
        train = ("train", "-m", "own", "--train_data_dir", "images", "--instance_prompt", "a fox",
                 "--output_dir", "run", "--max_train_steps", "2", "--train_batch_size", "1",
                 "--resolution", "64", "--checkpointing_steps", "1")  # fmt: skip
        self.ok(*train)
        adapter = sha256(self.path("run", "adapter.safetensors"))
        metadata = read_safetensors(self.path("run", "adapter.safetensors"))[1]
        self.assertFalse([k for k in metadata if "settings" in k or "tokens" in k])
        resume = ("--resume_from_checkpoint", os.path.join("run", "checkpoint-1"))
        heads = self.json("own", "text_encoder", "config.json")["num_attention_heads"]
        for part, file, key, change in (
            ("vae", "config.json", "scaling_factor", 0.5),
            ("text_encoder", "config.json", "num_attention_heads", 2 * heads),
            ("text_encoder", "config.json", "layer_norm_eps", 1e-3),
            ("unet", "config.json", "freq_shift", 1),
            ("scheduler", "scheduler_config.json", "beta_end", 0.02),
        ):
            config = self.json("own", part, file)
            self.write(os.path.join("own", part, file), json.dumps({**config, key: change}))
            word = "noise" if part == "scheduler" else part
            self.refused(USAGE, [f"the run has {word}_settings = ", "now it is"], *train, *resume)
            self.write(os.path.join("own", part, file), json.dumps(config))
        vocabulary = self.json("own", "tokenizer", "vocab.json")
        swapped = {"a</w>": vocabulary["o</w>"], "o</w>": vocabulary["a</w>"]}
        vocab = os.path.join("own", "tokenizer", "vocab.json")
        self.write(vocab, json.dumps({**vocabulary, **swapped}))
        self.refused(USAGE, ["the run has tokens_sha256 = "], *train, *resume)
        self.write(vocab, json.dumps(vocabulary))
        self.ok(*train, *resume)
        self.assertEqual(sha256(self.path("run", "adapter.safetensors")), adapter)


class Lacking(Case):
    """A single file without its VAE or its text encoder."""

    def setUp(self):
        super().setUp()
        self.ok("merge", "-m", BASE, "-o", "whole.safetensors")
        self.tensors, self.metadata = read_safetensors(self.path("whole.safetensors"))

    def without(self, *prefixes):
        kept = {n: t for n, t in self.tensors.items() if not n.startswith(prefixes)}
        write_safetensors(self.path("file.safetensors"), kept, self.metadata)

    def test_vae(self):
        self.without(PREFIX)
        self.refused(INPUT, ["file.safetensors: holds no VAE", "--vae PATH", "--model_config DIR"],
                     "inspect", "-m", "file.safetensors", *TOKENIZER)  # fmt: skip
        for extra in (("--vae", BASE), ("--vae", "whole.safetensors"), ("--model_config", BASE)):
            result = self.ok("merge", "-m", "file.safetensors", *TOKENIZER, *extra, "-o",
                             "out.safetensors")  # fmt: skip
            self.assertEqual(read_safetensors(self.path("out.safetensors"))[0], self.tensors, extra)
            os.remove(self.path("out.safetensors"))
            self.assertEqual("holds no VAE, which is read from" in result.err,
                             extra[0] == "--model_config")  # fmt: skip

    def test_text_encoder(self):
        self.without(TEXT)
        self.refused(INPUT, ["file.safetensors: holds no text encoder", "--model_config DIR"],
                     "inspect", "-m", "file.safetensors", *TOKENIZER)  # fmt: skip
        merge = ("merge", "-m", "file.safetensors", "--model_config", BASE, "-o")
        self.assertIn("holds no text encoder, which is read from",
                      self.ok(*merge, "out.safetensors").err)  # fmt: skip
        self.assertEqual(read_safetensors(self.path("out.safetensors"))[0], self.tensors)
        self.ok(*merge, "out")
        for name in files_below(BASE):
            if name.endswith(".safetensors"):
                self.assertEqual(
                    read_safetensors(self.path("out", name))[0],
                    read_safetensors(os.path.join(BASE, name))[0],
                )

    def test_configs_alone(self):
        """A folder of configs that does not have the part either."""
        self.without(PREFIX, TEXT)
        shutil.copytree(BASE, self.path("configs"))
        os.remove(self.path("configs", VAE_FILE))
        self.refused(INPUT, ["holds no VAE, nor does the folder configs", "--vae PATH"], "inspect",
                     "-m", "file.safetensors", "--model_config", "configs")  # fmt: skip
        self.ok("inspect", "-m", "file.safetensors", "--model_config", "configs", "--vae", BASE)
        os.rename(self.path("configs", "text_encoder", "model.safetensors"),
                  self.path("configs", "text_encoder", "model.fp16.safetensors"))  # fmt: skip
        inspect = ("inspect", "-m", "file.safetensors", "--model_config", "configs", "--vae", BASE)
        self.refused(INPUT, ["holds no text encoder, and configs/text_encoder only as the variant "
                             "fp16: --variant fp16 reads it"], *inspect)  # fmt: skip
        self.ok(*inspect, "--variant", "fp16")

    def test_metadata_of_the_lacking_vae(self):
        """What shapes do not tell of another VAE, the metadata of the file without one does."""
        self.without(PREFIX)
        vae = {n[len(PREFIX) :]: t for n, t in self.tensors.items() if n.startswith(PREFIX)}
        write_safetensors(self.path("vae.safetensors"), vae)
        self.ok("merge", "-m", "file.safetensors", *TOKENIZER, "--vae", "vae.safetensors", "-o",
                "out")  # fmt: skip
        for key in ("scaling_factor", "norm_num_groups"):
            values = []
            for folder in (self.path("out"), BASE):
                with open(os.path.join(folder, "vae", "config.json")) as file:
                    values.append(json.load(file)[key])
            self.assertEqual(*values, key)


if __name__ == "__main__":
    unittest.main()
