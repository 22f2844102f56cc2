"""A family of models that exists in tests alone (tests/family/), through the program's own
commands: its record is all that the program, linked with a table of its own, is told of it."""

import array
import hashlib
import json
import os
import re
import shutil
import struct
import unittest

import support
from support import BASE, EMOJI, INPUT, MEMORY, USAGE, Case, read_png, read_safetensors
from support import sha256, write_safetensors

support.PROGRAM = os.environ["SARA_FAMILY_PROGRAM"]

WIDTH, STATES, LAYERS = 32, 128, 2
INDEX = {
    "_class_name": "TestMixerPipeline",
    "mixer": ["diffusers", "TestMixer"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "vae": ["diffusers", "AutoencoderKL"],
}
CONFIG = {
    "_class_name": "TestMixer",
    "in_channels": 4,
    "layers": LAYERS,
    "pooled_width": STATES,
    "sample_size": 4,
    "state_width": STATES,
    "width": WIDTH,
}
TRAIN = ("--train_data_dir", os.path.join(EMOJI, "ink"), "--resolution", "32", "--train_batch_size",
         "2", "--center_crop", "--trainable", "20%", "--learning_rate", "1e-2", "-t", "1")


def numbers(salt, count, scale=1.0):
    """From a hash, between -scale and scale."""
    stream = b"".join(
        hashlib.sha256(f"{salt} {i}".encode()).digest() for i in range((count + 7) // 8)
    )
    return [scale * (x / 2**31 - 1) for (x,) in struct.iter_unpack("<I", stream)][:count]


def weights():
    """The tensors of a denoiser, by name."""
    tensors = {}

    def layer(name, out, width, bias=True):
        values = numbers(name, out * width, width**-0.5)
        tensors[f"{name}.weight"] = ("F32", [out, width], values)
        if bias:
            tensors[f"{name}.bias"] = ("F32", [out], numbers(name + "b", out, 0.1))

    def norm(name):
        tensors[f"{name}.weight"] = ("F32", [WIDTH], [1.0] * WIDTH)
        tensors[f"{name}.bias"] = ("F32", [WIDTH], [0.0] * WIDTH)

    layer("time_in", WIDTH, 8)
    layer("pooled_in", WIDTH, STATES)
    layer("proj_in", WIDTH, 4)
    for i in range(LAYERS):
        norm(f"layers.{i}.norm1")
        norm(f"layers.{i}.norm2")
        layer(f"layers.{i}.attn.to_q", WIDTH, WIDTH, False)
        layer(f"layers.{i}.attn.to_k", WIDTH, STATES, False)
        layer(f"layers.{i}.attn.to_v", WIDTH, STATES, False)
        layer(f"layers.{i}.attn.to_out", WIDTH, WIDTH)
        layer(f"layers.{i}.fc1", 2 * WIDTH, WIDTH)
        layer(f"layers.{i}.fc2", WIDTH, 2 * WIDTH)
    norm("norm_out")
    layer("proj_out", 4, WIDTH)
    return tensors


class Family(Case):
    def setUp(self):
        super().setUp()
        self.model = self.path("model")
        os.makedirs(os.path.join(self.model, "mixer"))
        os.mkdir(os.path.join(self.model, "scheduler"))
        for part in ("text_encoder", "tokenizer", "vae"):
            os.symlink(os.path.join(BASE, part), os.path.join(self.model, part))
        self.put(INDEX, "model_index.json")
        self.put({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "scheduler",
                 "scheduler_config.json")
        self.put(CONFIG, "mixer", "config.json")
        self.tensors = weights()
        write_safetensors(
            os.path.join(self.model, "mixer", "diffusion_pytorch_model.safetensors"), self.tensors
        )

    def put(self, data, *names):
        with open(os.path.join(self.model, *names), "w") as file:
            json.dump(data, file)

    def train(self, run, *args, steps=4):
        return self.ok("train", "-m", self.model, *TRAIN, "--max_train_steps", str(steps), "-o",
                       run, *args)

    def adapter(self, run):
        return self.path(run, "adapter.safetensors")

    def draw(self, name, *args):
        """The picture's rows and its text."""
        self.ok("generate", "-m", self.model, "-p", "cat face", "--steps", "3", "-o", name, *args)
        _, _, rows, texts = read_png(self.path(name))
        return rows, texts["parameters"]

    def test_runs(self):
        """Trained with validation pictures; what the run leaves says of which family it is."""
        done = self.train("run", "--validation_prompt", "a cat", "--validation_steps", "2")
        self.assertIn("memory: weights", done.err)
        tensors, metadata = read_safetensors(self.adapter("run"))
        self.assertEqual(metadata["sara.target"], "mixer")
        self.assertEqual(metadata["modelspec.architecture"], "test-mixer/sara")
        self.assertEqual(metadata["modelspec.prediction_type"], "flow_prediction")
        self.assertGreater(self.largest_change(tensors, "pooled_in.weight"), 1e-2)
        self.assertGreater(self.largest_change(tensors, "layers.1.attn.to_k.weight"), 1e-2)
        with open(self.path("run", "checkpoint-4", "manifest.json")) as file:
            run = json.load(file)["run"]
        self.assertEqual(run["mixer_settings"], {"layers": LAYERS})
        self.assertIn("text_encoder_sha256", run)
        for step in (2, 4):
            self.assertEqual(read_png(self.path("run", "samples", f"step-00000{step}-0.png"))[:2],
                             (16, 16))
        losses = []
        with open(self.path("run", "log.jsonl")) as file:
            losses = [json.loads(line).get("loss") for line in file]
        self.assertEqual(len([x for x in losses if x is not None]), 4)

    def largest_change(self, tensors, name):
        """Of the entries that an adapter has of a tensor; without a gradient it is the decay."""
        base = self.tensors[name][2]
        values = array.array("f", tensors[f"{name}.values"][2])
        coded = iter(tensors[f"{name}.positions"][2])
        positions, at = [], -1
        for byte in coded:  # LEB128 of the gaps: docs/formats.md
            gap, shift = byte & 127, 7
            while byte & 128:
                byte = next(coded)
                gap |= (byte & 127) << shift
                shift += 7
            at += gap + 1
            positions.append(at)
        return max(abs(value - base[i]) for i, value in zip(positions, values))

    def test_learns(self):
        self.train("run", "--trainable", "100%", "--learning_rate", "1e-2", steps=200)
        with open(self.path("run", "log.jsonl")) as file:
            losses = [x["loss"] for x in map(json.loads, file) if "loss" in x]
        self.assertLess(sum(losses[-50:]), 0.9 * sum(losses[:50]))

    def test_same_bits(self):
        """Resumed, recomputed in backward, with more threads."""
        self.train("whole")
        expected = sha256(self.adapter("whole"))
        self.train("levels", "--gradient_checkpointing_levels", "1")
        self.train("all", "--gradient_checkpointing")
        self.train("parts", "--checkpointing_steps", "2")
        os.remove(self.adapter("parts"))
        shutil.rmtree(self.path("parts", "checkpoint-4"))
        self.train("parts", "--checkpointing_steps", "2", "--resume_from_checkpoint", "latest")
        for run in ("levels", "all", "parts"):
            self.assertEqual(sha256(self.adapter(run)), expected, run)
        self.refused(USAGE, "the mixer has 2", "train", "-m", self.model, *TRAIN, "-o", "other",
                     "--gradient_checkpointing_levels", "3")

    def test_adaptformer(self):
        """A denoiser without feed-forwards: told before anything is encoded."""
        line = "--method adaptformer: the mixer has no feed-forward"
        done = self.refused(USAGE, line, "train", "-m", self.model, *TRAIN[:-6], "-t", "1",
                            "--method", "adaptformer", "--max_train_steps", "1", "-o", "run")
        self.assertNotIn("encod", done.err)

    def test_full(self):
        """Full fine-tuning writes the denoiser's folder under its own name."""
        done = self.ok("train", "-m", self.model, *TRAIN[:-6], "-t", "1", "--method", "full",
                       "--max_train_steps", "2", "-o", "run")
        self.assertIn("weights: run/mixer\n", done.out)
        with open(self.path("run", "mixer", "config.json")) as file:
            self.assertEqual(json.load(file), CONFIG)
        self.ok("merge", "--unet-only", self.path("run", "mixer"), "-o", "copy")
        self.ok("extract", "--unet-only", "--base", os.path.join(self.model, "mixer"), "--tuned",
                self.path("run", "mixer"), "--top_fraction", "0.1", "-o", "e.safetensors")
        self.assertEqual(read_safetensors(self.path("e.safetensors"))[1]["sara.target"], "mixer")

    def test_drawn_and_merged(self):
        self.train("run")
        plain, text = self.draw("plain.png")
        self.assertIn("CFG scale: 3,", text)
        self.assertEqual(self.draw("same.png", "--cfg-scale", "3")[0], plain)
        self.assertNotEqual(self.draw("other.png", "--cfg-scale", "2")[0], plain)
        adapted, _ = self.draw("adapted.png", "--adapter", self.adapter("run"))
        self.assertNotEqual(adapted, plain)
        self.ok("merge", "-m", self.model, "--adapter", self.adapter("run"), "-o", "merged")
        with open(self.path("merged", "model_index.json")) as file:
            self.assertEqual(json.load(file), INDEX)
        self.model = self.path("merged")
        self.assertEqual(self.draw("merged.png")[0], adapted)

    def test_sizes_told(self):
        """Each number reaches the denoiser; what is not given is the picture's own size, and
        without the prompt all is as with it unless something is given."""
        self.take_time_ids()
        plain, _ = self.draw("plain.png")
        own = ("--original_size", "16,16", "--crops_coords_top_left", "0,0", "--target_size",
               "16,16")
        self.assertEqual(self.draw("own.png", *own)[0], plain)
        drawn = [plain]
        for option in ("original_size", "crops_coords_top_left", "target_size"):
            for value in ("16,900", "900,16"):
                for side in ("", "negative_"):
                    drawn.append(self.draw("a.png", f"--{side}{option}", value)[0])
        for i, rows in enumerate(drawn):
            self.assertNotIn(rows, drawn[:i], i)
        both = [x for option in ("original_size", "target_size")
                for x in (f"--{option}", "700,500", f"--negative_{option}", "700,500")]
        self.assertEqual(self.draw("both.png", *both)[0],
                         self.draw("one.png", *both[:2], *both[4:6])[0])
        alone = ("--cfg-scale", "1", "--original_size", "700,500")
        self.assertEqual(self.draw("alone.png", *alone)[0],
                         self.draw("no.png", *alone, "--negative_original_size", "1,1")[0])

    def test_sizes_refused(self):
        draw = ("generate", "-m", self.model, "-p", "a", "-o", "a.png")
        for option in ("original_size", "crops_coords_top_left", "negative_target_size"):
            self.refused(USAGE, [f"{option} 20,10", "the mixer is told no sizes"], *draw,
                         f"--{option}", "20,10")
        for value in ("20", "20,", "20,10,3", "0,10", "20,70000", "20x10", ",5", "20,1e9"):
            self.refused(USAGE, [f"--original_size {value}:", "expected H,W"], *draw,
                         "--original_size", value)

    def test_trained_with_sizes(self):
        """Validation pictures are drawn, and what the denoiser learns is of the sizes too."""
        self.take_time_ids()
        self.train("run", "--validation_prompt", "a cat", "--validation_steps", "2")
        tensors, _ = read_safetensors(self.adapter("run"))
        self.assertGreater(self.largest_change(tensors, "time_ids_in.weight"), 1e-3)

    def test_inspected(self):
        self.train("run")
        model = json.loads(self.ok("inspect", "-m", self.model, "--json").out)
        self.assertEqual(model["architecture"], "test-mixer")
        self.assertEqual([part["name"] for part in model["components"]],
                         ["mixer", "vae", "text_encoder"])
        self.assertEqual(model["components"][0]["class"], "TestMixer")
        self.assertIn("The mixer's parameters", self.ok("inspect", "-m", self.model).out)
        adapter = json.loads(self.ok("inspect", "-m", self.model, "--adapter", self.adapter("run"),
                                     "--json").out)
        self.assertEqual([block["name"] for block in adapter["blocks"]],
                         ["layers.0", "layers.1", "others"])

    def test_exported(self):
        """Formats with diffusers' names hold it; single files have no names for it."""
        self.train("run")
        args = ("export", "-m", self.model, "--adapter", self.adapter("run"), "-o")
        self.ok(*args, "lora", "--format", "peft", "--rank", "2")
        self.refused(INPUT, ["TestMixer", "no names"], *args, "c.safetensors", "--format",
                     "comfyui")
        self.refused(INPUT, ["TestMixer", "no names"], "merge", "-m", self.model, "-o",
                     "m.safetensors")

    def take_time_ids(self):
        """From now on the denoiser is one that takes time ids, which are in the thousands."""
        self.tensors["time_ids_in.weight"] = ("F32", [WIDTH, 6], numbers("ids", WIDTH * 6, 1e-3))
        self.put({**CONFIG, "time_ids": True}, "mixer", "config.json")
        write_safetensors(
            os.path.join(self.model, "mixer", "diffusion_pytorch_model.safetensors"), self.tensors
        )

    def replay(self, pooled=STATES, time_ids=0, **others):
        def tensor(name, *shape):
            count = 1
            for side in shape:
                count *= side
            return ("F32", list(shape), numbers(name, count))

        tensors = {
            "latents": tensor("latents", 2, 1, 4, 4, 4),
            "noise": tensor("noise", 2, 1, 4, 4, 4),
            "timesteps": ("I64", [2, 1], [999, 20]),
            "encoder_hidden_states": tensor("states", 2, 1, 3, STATES),
        }
        if pooled:
            tensors["pooled"] = tensor("pooled", 2, 1, pooled)
        if time_ids:
            tensors["time_ids"] = tensor("time_ids", 2, 1, time_ids)
        tensors.update(others)
        write_safetensors(self.path("replay.safetensors"), tensors)
        return ("train", "--unet-only", os.path.join(self.model, "mixer"), "--replay",
                "replay.safetensors", "--trainable", "20%", "--learning_rate", "1e-3")

    def test_replayed(self):
        """A denoiser alone, trained on recorded micro-batches with pooled states."""
        self.ok(*self.replay(), "-o", "run")
        self.assertEqual(read_safetensors(self.adapter("run"))[1]["modelspec.prediction_type"],
                         "flow_prediction")
        self.refused(INPUT, ["pooled", "64", "128"], *self.replay(64), "-o", "other")
        self.refused(INPUT, "pooled", *self.replay(0), "-o", "other")
        self.take_time_ids()
        self.ok(*self.replay(time_ids=6), "-o", "sized")
        tensors, _ = read_safetensors(self.adapter("sized"))
        self.assertGreater(self.largest_change(tensors, "time_ids_in.weight"), 1e-4)
        self.refused(INPUT, ["time_ids", "5", "6"], *self.replay(time_ids=5), "-o", "other")
        self.refused(INPUT, "no tensor time_ids", *self.replay(), "-o", "other")

    def losses(self, run):
        with open(self.path(run, "log.jsonl")) as file:
            return [x["loss"] for x in map(json.loads, file) if "loss" in x]

    def first_loss(self, run, *args, **tensors):
        self.ok(*self.replay(**tensors), "--max_train_steps", "1", "-o", run, *args)
        return self.losses(run)[0]

    def test_replayed_noise_levels(self):
        """Timesteps of a flow are any numbers, which noise levels of their own overrule."""
        whole = self.first_loss("whole")
        self.assertEqual(self.first_loss("float", timesteps=("F32", [2, 1], [999.0, 20.0])), whole)
        level = ("F32", [2, 1], [0.999, 0.02])
        self.assertEqual(self.first_loss("same", sigmas=level), whole)
        other = self.first_loss("other", sigmas=("F32", [2, 1], [0.3, 0.02]))
        self.assertGreater(abs(other / whole - 1), 1e-3)
        last = ("F32", [2, 1], [1000.0, 62.5])
        self.assertNotEqual(self.first_loss("last", timesteps=last), whole)
        self.ok(*self.replay(sigmas=("F32", [2, 1], [0.999, 0.7])), "-o", "second")
        self.ok(*self.replay(), "-o", "both")
        second, both = self.losses("second"), self.losses("both")
        self.assertEqual((second[0], len(second)), (both[0], 2))
        self.assertGreater(abs(second[1] / both[1] - 1), 1e-3)
        late = ("F32", [2, 1], [1000.5, 20])
        for tensors, words in (({"timesteps": late}, "timesteps[0] is 1000.5"),
                               ({"sigmas": ("F32", [2, 1], [0.5, 1.5])}, "sigmas[1] is 1.5"),
                               ({"sigmas": ("F32", [2, 2], [0.5] * 4)}, "sigmas"),
                               ({"timesteps": ("I64", [2, 2], [0] * 4)}, "timesteps")):
            self.refused(INPUT, words, *self.replay(**tensors), "-o", "wrong")

    def test_weighted(self):
        """The loss of x0 is the velocity's times sigma squared; schemes weigh by sigma too."""
        plain = self.first_loss("plain")
        for run, args, weight in (("x0", ("--precondition_outputs", "1"), 0.999**2),
                                  ("sqrt", ("--weighting_scheme", "sigma_sqrt"), 0.999**-2),
                                  ("mode", ("--weighting_scheme", "mode", "--mode_scale", "1"), 1),
                                  ("both", ("--weighting_scheme", "sigma_sqrt",
                                            "--precondition_outputs", "1"), 1)):
            self.assertAlmostEqual(self.first_loss(run, *args) / plain, weight, delta=1e-6)

    def test_noise_levels_drawn(self):
        """Each scheme is another run, which its adapter tells; what goes with none is refused."""
        adapters = set()
        for i, args in enumerate(((), ("--weighting_scheme", "logit_normal", "--logit_std", "1"),
                                  ("--weighting_scheme", "uniform"), ("--logit_mean", "2"),
                                  ("--weighting_scheme", "mode"),
                                  ("--weighting_scheme", "mode", "--mode_scale", "-0.5"))):
            self.train(f"run{i}", *args, steps=2)
            adapters.add(sha256(self.adapter(f"run{i}")))
            metadata = read_safetensors(self.adapter(f"run{i}"))[1]
            scheme = ("logit_normal", "logit_normal", "none", "logit_normal", "mode", "mode")[i]
            self.assertEqual(metadata["sara.weighting_scheme"], scheme)
            self.assertEqual(metadata["sara.precondition_outputs"], "0")
            self.assertEqual("sara.logit_std" in metadata, scheme == "logit_normal")
            self.assertEqual("sara.mode_scale" in metadata, scheme == "mode")
        self.assertEqual(len(adapters), 5)  # the first two are one
        with open(self.path("run5", "checkpoint-2", "manifest.json")) as file:
            settings = json.load(file)["run"]["noise_settings"]
        self.assertEqual(settings["sigmas"], ["1", "0.75", "0.00299401"])  # shift 3
        with open(self.path("run5", "report.html")) as file:
            self.assertIn("Noise levels", file.read())
        for args, words in ((("--weighting_scheme", "sqrt"), "--weighting_scheme sqrt: expected"),
                            (("--mode_scale", "1"),
                             "--mode_scale 1: goes with --weighting_scheme mode"),
                            (("--weighting_scheme", "none", "--logit_mean", "1"),
                             "--logit_mean 1: goes with --weighting_scheme logit_normal"),
                            (("--logit_std", "0"), "--logit_std 0"),
                            (("--precondition_outputs", "2"), "--precondition_outputs 2")):
            self.refused(USAGE, words, "train", "-m", self.model, *TRAIN, "-o", "none", *args)
        self.refused(USAGE, "logit_mean", "train", "-m", self.model, *TRAIN, "--max_train_steps",
                     "3", "-o", "run0", "--resume_from_checkpoint", "latest", "--logit_mean", "1")
        for args in (("--weighting_scheme", "none"), ("--precondition_outputs", "1")):
            self.refused(USAGE, [args[0], "rectified flow", BASE], "train", "-m", BASE, *TRAIN,
                         "-o", "none", *args)

    def test_flow_samplers(self):
        """A flow's own, by the names of programs and of diffusers."""
        drawn = [self.draw(f"{i}.png", "--sampling-method", name)[0] for i, name in enumerate(
            ("euler", "heun", "dpm++2m", "flow_heun", "DPMSolverMultistepScheduler"))]
        self.assertEqual((drawn[3], drawn[4]), (drawn[1], drawn[2]))
        self.assertEqual(self.draw("own.png")[0], drawn[0])
        self.assertEqual(len({bytes(rows) if isinstance(rows, bytes) else str(rows)
                              for rows in drawn}), 3)
        for args, words in ((("--sampling-method", "ddim"), "expected euler, heun or dpm++2m"),
                            (("--sampling-method", "dpm++2m", "--scheduler", "karras"),
                             "dpm++2m of a flow has no Karras sigmas")):
            self.refused(USAGE, words, "generate", "-m", self.model, "-p", "a", "-o", "a.png",
                         *args)

    def test_timed(self):
        report = json.loads(self.ok("bench", "--shape", "mixer", "--latent", "4", "--steps", "1",
                                    "--json").out)
        self.assertGreater(report["memory"]["activations"], 0)
        self.refused(USAGE, "expected mixer, sd15, sd21, sdxl or tiny", "bench", "--shape", "none")

    def test_planned(self):
        """The plan knows the denoiser's activations, and what makes them fit."""
        result = self.refused(MEMORY, ["training needs ", "--latent "], "bench", "--shape", "mixer",
                              "--latent", "4096", "--batch", "1024", "--steps", "1")
        self.assertRegex(result.err, r"(?m)^memory: weights .*, peak \d+\.\d+ GiB in training$")
        wide = self.peak("--train_batch_size", "4096")
        self.assertLess(self.peak("--train_batch_size", "4096", "--gradient_checkpointing"), wide)

    def peak(self, *args):
        """The plan's, in GiB, of a run that is too large or does not come to its first step."""
        done = self.sara("train", "-m", self.model, *TRAIN, "--max_train_steps", "1", "-o", "huge",
                         "--resolution", "2048", *args)
        self.assertEqual(done.code, MEMORY, done.err)
        found = re.search(r"(?m)^memory: weights .*, peak (\d+\.\d+) GiB in training$", done.err)
        return float(found.group(1))

    def test_others_adapters(self):
        """An adapter of another denoiser is none of this one's."""
        self.train("run")
        self.refused(INPUT, ["sara.target is mixer", "unet"], "generate", "-m", BASE, "-p", "a",
                     "--adapter", self.adapter("run"), "-o", "a.png")

    def test_others_models(self):
        """The families that the program always has are there beside it."""
        self.ok("generate", "-m", BASE, "-p", "cat face", "--steps", "2", "-W", "32", "-H", "32",
                "-o", "a.png")
        self.put({**INDEX, "_class_name": "FluxPipeline"}, "model_index.json")
        self.refused(INPUT, ["FluxPipeline", "TestMixerPipeline or StableDiffusionPipeline",
                             "Mixer, SD1.x, SD2.x"], "inspect", "-m", self.model)


if __name__ == "__main__":
    unittest.main()
