"""What is said of single files that are not whole, or not what they seem: names are the file's."""

import json
import os
import unittest

from support import BASE, INPUT, UNET as SMALL, USAGE, Case, read_safetensors, write_safetensors

TOKENIZER = ("--tokenizer", os.path.join(BASE, "tokenizer"))
UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."


class SingleRefused(Case):
    def setUp(self):
        super().setUp()
        self.file = self.path("base.safetensors")
        self.ok("merge", "-m", BASE, "-o", self.file)
        self.tensors, self.metadata = read_safetensors(self.file)

    def save(self, tensors, metadata=None):
        path = self.path("changed.safetensors")
        write_safetensors(path, tensors, metadata)
        return path

    def check(self, words, tensors, *options, metadata=None):
        """Refused in one line."""
        self.refused(INPUT, words, "inspect", "-m", self.save(tensors, metadata), *TOKENIZER,
                     *options)

    def without(self, *starts):
        kept = {name: t for name, t in self.tensors.items() if not name.startswith(starts)}
        self.assertLess(len(kept), len(self.tensors))
        return kept

    def test_many_missing(self):
        """The first five and the number."""
        block = UNET + "output_blocks.1.0."
        gone = [name for name in self.tensors if name.startswith(block)]
        self.assertGreater(len(gone), 5)
        path = self.save(self.without(block), self.metadata)
        line = self.refused(INPUT, f"{len(gone)} missing ({block}", "inspect", "-m", path).err
        listed = line[line.index("(") + 1 : line.index(", ...)")].split(", ")
        self.assertEqual(len(listed), 5, line)
        self.assertLessEqual(set(listed), set(gone))

    def test_extra(self):
        more = {**self.tensors, UNET + "input_blocks.1.1.lora.weight": ("F32", [1], [0.0])}
        self.check(f"1 not expected ({UNET}input_blocks.1.1.lora.weight)", more,
                   metadata=self.metadata)
        more = {**self.tensors, VAE + "decoder.mid.attn_1.to_q.weight": ("F32", [1], [0.0])}
        self.check(f"1 not expected ({VAE}decoder.mid.attn_1.to_q.weight)", more,
                   metadata=self.metadata)

    def test_one_tensor_under_two_names(self):
        bias = self.tensors[CLIP + "text_model.final_layer_norm.bias"]
        more = {**self.tensors, CLIP + "final_layer_norm.bias": bias}
        self.check(["1 not expected (" + CLIP, "final_layer_norm.bias)"], more,
                   metadata=self.metadata)

    def test_text_encoder_without_its_stem(self):
        bare = {
            name.replace(".transformer.text_model.", ".transformer."): t
            for name, t in self.without(CLIP + "text_model.encoder.layers.1.mlp.fc1.").items()
        }
        names = f"{CLIP}encoder.layers.1.mlp.fc1.weight, {CLIP}encoder.layers.1.mlp.fc1.bias"
        self.check(f"2 missing ({names})", bare, metadata=self.metadata)

    def test_vae_without_encoder(self):
        for configs in ({"metadata": self.metadata}, {}):
            options = () if configs else ("--model_config", BASE)
            self.check(
                f"its VAE has no encoder (no tensor {VAE}encoder.*)",
                self.without(VAE + "encoder."), *options, **configs,
            )
        self.refused(
            INPUT, "its VAE has no encoder",
            *("generate", "-m", self.path("changed.safetensors"), *TOKENIZER, *options, "-p",
              "cat"),
        )
        self.check("holds no VAE", self.without(VAE), metadata=self.metadata)
        self.ok("inspect", "--unet-only", self.path("changed.safetensors"))

    def test_values_that_are_no_numbers(self):
        wrong = {**self.tensors, UNET + "out.2.bias": ("I64", [4], [0] * 4)}
        self.check([f"{UNET}out.2.bias", "I64"], wrong, metadata=self.metadata)
        wrong = {**self.tensors, UNET + "out.2.bias": ("F8_E8M0", [4], bytes(4))}
        self.check(f"{UNET}out.2.bias: dtype F8_E8M0, expected F32", wrong, metadata=self.metadata)

    def test_values_that_are_not_finite(self):
        """Training and inspecting tell of the file and of the tensor as it is called there."""
        name = UNET + "out.2.bias"
        wrong = {**self.tensors, name: ("F32", [4], [0.0, float("nan"), 0.0, 0.0])}
        words = f"changed.safetensors: {name}: entry 1 is NaN"
        self.check(words, wrong, metadata=self.metadata)
        self.ok("merge", "--unet-only", SMALL, "-o", "small.safetensors")
        small, metadata = read_safetensors(self.path("small.safetensors"))
        path = self.save({**small, name: wrong[name]}, metadata)
        replay = self.write_replay("replay.safetensors", 2)
        self.refused(INPUT, words, "train", "--unet_only", path, "--replay", replay, "-o", "run")

    def test_inpainting(self):
        dtype, (out, _, *kernel), data = self.tensors[UNET + "input_blocks.0.0.weight"]
        for channels, what in ((9, "an inpainting model"), (8, "an edit model (InstructPix2Pix)")):
            weight = (dtype, [out, channels, *kernel], bytes(len(data) // 4 * channels))
            more = {**self.tensors, UNET + "input_blocks.0.0.weight": weight}
            words = [f"{UNET}input_blocks.0.0.weight takes {channels} channels, expected 4", what]
            self.check(words, more)
            self.check(words, more, "--model_config", BASE)
            self.check(words, more, metadata=self.metadata)

    def test_config_of_another_network(self):
        """Missing are the names that the config makes, not those of the file's own numbering."""
        config = json.loads(self.metadata["sara.config.unet"])
        config["layers_per_block"] += 1
        metadata = {**self.metadata, "sara.config.unet": json.dumps(config)}
        block = config["layers_per_block"]
        self.check(f"({UNET}input_blocks.{block}.0.in_layers.0.weight, ", self.tensors,
                   metadata=metadata)

    def test_prediction_type(self):
        """One meaning in files and folders, and the help lists what is accepted."""
        help_text = " ".join(self.ok("generate", "--help").out.split())
        self.assertIn("epsilon, v_prediction or v, sample, flow_prediction (", help_text)
        for model in ((self.file, *TOKENIZER), (BASE,)):
            for given, meant in (("v", "v_prediction"), ("sample", "sample"),
                                 ("epsilon", "epsilon")):
                report = self.ok("inspect", "-m", *model, "--json", "--prediction_type", given).out
                self.assertEqual(json.loads(report)["prediction_type"], meant)
            for wrong, words in (("V", ["expected one of", "flow_prediction, v"]),
                                 ("flow_prediction", "does not go with")):
                self.refused(USAGE, words, "inspect", "-m", *model, "--prediction_type", wrong)


if __name__ == "__main__":
    unittest.main()
