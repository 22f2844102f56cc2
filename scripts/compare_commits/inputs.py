"""The small models, images and adapters that both programs get. A model is a folder of golden
parts; what those lack is made of fixed pseudo-random bytes."""

import json
import os
import random
import shutil
import struct
import zlib

from formats import SIZES, read_safetensors, write_safetensors

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDEN = os.path.join(TOP, "tests", "golden")
EMOJI = os.path.join(TOP, "examples", "emoji")
UNET = "diffusion_pytorch_model.safetensors"
# Sign and mantissa are drawn; the exponent is that of 2^-5.
BITS = {"F32": (0x807fffff, 0x3d000000), "F16": (0x83ff, 0x2800), "BF16": (0x807f, 0x3d00)}


def noise(rng, dtype, shape):
    """A tensor of values from 2^-5 to 2^-4 of either sign."""
    count = 1
    for size in shape:
        count *= size
    kept, exponent = (int.from_bytes(bits.to_bytes(SIZES[dtype], "little") * count, "little")
                      for bits in BITS[dtype])
    drawn = int.from_bytes(rng.randbytes(count * SIZES[dtype]), "little")
    return dtype, shape, (drawn & kept | exponent).to_bytes(count * SIZES[dtype], "little")


def read_json(*path):
    with open(os.path.join(*path)) as file:
        return json.load(file)


def write_json(value, *path):
    with open(os.path.join(*path), "w") as file:
        json.dump(value, file, indent=2)


def change_json(path, **values):
    write_json({**read_json(path), **values}, path)


def make_text_encoder(folder, rng, width, dtype, **config):
    """Two layers of CLIP for the golden pipeline's tokenizer."""
    inner = 2 * width
    shapes = {"embeddings.position_embedding.weight": [16, width],
              "embeddings.token_embedding.weight": [514, width]}
    for layer in ("encoder.layers.0.", "encoder.layers.1."):
        shapes |= {f"{layer}self_attn.{x}_proj.weight": [width, width]
                   for x in ("q", "k", "v", "out")}
        shapes |= {f"{layer}layer_norm{i}.weight": [width] for i in (1, 2)}
        shapes |= {f"{layer}mlp.fc1.weight": [inner, width],
                   f"{layer}mlp.fc2.weight": [width, inner]}
    shapes["final_layer_norm.weight"] = [width]
    shapes |= {name.replace(".weight", ".bias"): shape[:1] for name, shape in shapes.items()
               if "embedding" not in name}
    change_json(os.path.join(folder, "config.json"), hidden_size=width, intermediate_size=inner,
                num_hidden_layers=2, num_attention_heads=width // 64, **config)
    write_safetensors(os.path.join(folder, "model.safetensors"),
                      {name: noise(rng, dtype, shape) for name, shape in shapes.items()})


def make_unet(folder, rng, golden, width):
    """The golden U-Net with wider states."""
    tensors, metadata = read_safetensors(os.path.join(GOLDEN, golden, UNET))
    for name, (dtype, shape, _) in tensors.items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            tensors[name] = noise(rng, dtype, [shape[0], width])
    write_safetensors(os.path.join(folder, UNET), tensors, metadata)
    config = read_json(GOLDEN, golden, "config.json")
    write_json({**config, "cross_attention_dim": width}, folder, "config.json")


def make_model(folder, golden, width, dtype, scheduler, **text):
    """A whole folder around a golden U-Net, as wide as the family is known by."""
    rng = random.Random(golden)
    shutil.copytree(os.path.join(GOLDEN, "pipeline"), folder)
    os.remove(os.path.join(folder, "expected.safetensors"))
    os.remove(os.path.join(folder, "unet", "golden.safetensors"))
    make_unet(os.path.join(folder, "unet"), rng, golden, width)
    make_text_encoder(os.path.join(folder, "text_encoder"), rng, width, dtype, **text)
    path = os.path.join(folder, "scheduler", "scheduler_config.json")
    change_json(path, clip_sample=False, steps_offset=1, **scheduler)
    index = read_json(folder, "model_index.json")
    write_json({**index, "scheduler": ["diffusers", scheduler["_class_name"]]}, folder,
               "model_index.json")


def make_variant(folder, of, **changes):
    """The same model with other values in a config; changes: {path: {key: value}}"""
    shutil.copytree(of, folder)
    for path, values in changes.items():
        change_json(os.path.join(folder, path), **values)


def write_picture(path, rng, width, height):
    """A smooth RGB picture."""
    waves = [[rng.uniform(0.02, 0.3) for _ in range(4)] for _ in range(3)]
    rows = b""
    for y in range(height):
        row = [int(127.5 + 63 * ((x * a + y * b) % 2 - 1) + 63 * ((x * c - y * d) % 2 - 1)) & 255
               for x in range(width) for a, b, c, d in waves]
        rows += b"\0" + bytes(row)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
                           (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(body)) + kind + body
                       + struct.pack(">I", zlib.crc32(kind + body)))


CAPTIONS = ["a fox", "night with stars", "a (red:1.4) tree and a very long story of it " * 3,
            "a fox", "snow, calm", ""]


def make_pictures(folder, sizes, captions):
    """captions: "metadata" (metadata.jsonl), "csv", "files" (beside the pictures) or "folder" """
    rng = random.Random(captions)
    below = os.path.join(folder, "3_ink style") if captions == "folder" else folder
    os.makedirs(below)
    for i, (width, height) in enumerate(sizes):
        write_picture(os.path.join(below, f"{i}.png"), rng, width, height)
        if captions == "files":
            with open(os.path.join(folder, f"{i}.txt"), "w") as file:
                file.write(CAPTIONS[i] + "\n")
    lines = {"metadata": [json.dumps({"file_name": f"{i}.png", "text": CAPTIONS[i]})
                          for i in range(len(sizes))],
             "csv": ["file_name,caption", *(f'{i}.png,"{CAPTIONS[i]}"' for i in range(len(sizes)))]}
    names = {"metadata": "metadata.jsonl", "csv": "metadata.csv"}
    if captions in names:
        with open(os.path.join(folder, names[captions]), "w") as file:
            file.write("\n".join(lines[captions]) + "\n")


def make_latents(path, count, side):
    write_safetensors(path, {"latents": noise(random.Random(path), "F32", [count, 4, side, side])})


ADAPTERS = {"sd1a": ("sd1", "10%"), "sd1b": ("sd1", "4%"), "sd2a": ("sd2", "10%"),
            "emojia": ("emoji", "10%"), "emojib": ("emoji", "2%")}
TUNING = ("--learning_rate 1e-2 --lambda_rank 0.05 --max_train_steps 2 --train_batch_size 2 "
          "--trainable").split()
PIPELINE = os.path.join(GOLDEN, "pipeline")
SCHEDULER = "scheduler/scheduler_config.json"


def make_flow(path):
    name = "FlowMatchEulerDiscreteScheduler"
    make_variant(path, PIPELINE, **{"model_index.json": {"scheduler": ["diffusers", name]}})
    write_json({"_class_name": name, "num_train_timesteps": 1000, "shift": 3.0}, path, SCHEDULER)


def make_named_variant(path):
    """The weights of two parts have the variant's name, others are plain."""
    shutil.copytree(PIPELINE, path)
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        os.rename(os.path.join(path, part, stem + ".safetensors"),
                  os.path.join(path, part, stem + ".fp16.safetensors"))


def add_averages(path, source):
    """A single file with averages of the U-Net's weights, as LDM's training leaves them."""
    tensors, metadata = read_safetensors(source)
    rng, start = random.Random("averages"), "model.diffusion_model."
    for name, (dtype, shape, _) in list(tensors.items()):
        if name.startswith(start):
            averaged = "model_ema." + name[len("model."):].replace(".", "")
            tensors[averaged] = noise(rng, dtype, shape)
    write_safetensors(path, tensors, metadata)


MAKERS = {
    "sd1": lambda path: make_model(path, "unet_sd1", 768, "F16", {
        "_class_name": "PNDMScheduler", "prediction_type": "epsilon", "skip_prk_steps": True}),
    "sd2": lambda path: make_model(path, "unet_sd2", 1024, "BF16", {
        "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}, hidden_act="gelu"),
    "old": lambda path: make_variant(path, PIPELINE, **{
        "unet/config.json": {"_diffusers_version": "0.6.0"}}),
    "zero_snr": lambda path: make_variant(path, PIPELINE, **{SCHEDULER: {
        "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "steps_offset": 1,
        "prediction_type": "v_prediction"}}),
    "flow": make_flow,
    "variant": make_named_variant,
    "squares": lambda path: make_pictures(path, [(64, 64)] * 6, "metadata"),
    "odd": lambda path: make_pictures(
        path, [(96, 64), (64, 80), (100, 100), (64, 64), (71, 130)], "files"),
    "csv": lambda path: make_pictures(path, [(80, 80)] * 4, "csv"),
    "folders": lambda path: make_pictures(path, [(64, 64), (64, 96)], "folder"),
    "latents": lambda path: make_latents(path, 2, 16),
}


class Inputs:
    """The paths of what cases name in braces; each is made when it is first asked for."""

    def __init__(self, folder, sara):
        """sara: runs the commit before"""
        self.folder, self.sara = folder, sara
        self.paths = {"golden": GOLDEN, "pipeline": PIPELINE,
                      "tokenizer": os.path.join(PIPELINE, "tokenizer"),
                      "emoji": os.path.join(EMOJI, "base"), "ink": os.path.join(EMOJI, "ink")}
        os.makedirs(folder)

    def __getitem__(self, name):
        if name not in self.paths:
            path = os.path.join(self.folder, name)
            self.paths[name] = self.make(name, path) or path
        return self.paths[name]

    def make(self, name, path):
        """Where it lies, if not at the path."""
        model, _, kind = name.partition("_")
        if name in MAKERS:
            MAKERS[name](path)
        elif name in ADAPTERS:
            return self.make_adapter(name, path)
        elif name == "adapters":  # the folder that has both of SD1's
            return os.path.commonpath([self["sd1a"], self["sd1b"]])
        elif kind == "file":
            self.sara("merge", "-m", self[model], "-o", path + ".safetensors")
            return path + ".safetensors"
        elif kind == "averaged":
            add_averages(path + ".safetensors", self[model + "_file"])
            return path + ".safetensors"
        elif kind == "tuned":
            self.sara("merge", "-m", self[model], "--adapter", self[model + "a"], "-o", path)
        elif kind == "half":
            self.sara("merge", "-m", self[model], "--dtype", "bf16", "-o", path)
        else:
            raise KeyError(name)
        return None

    def make_adapter(self, name, path):
        model, budget = ADAPTERS[name]
        self.sara("train", "-m", self[model], "--train_data_dir", self["squares"], "-o", path,
                  *TUNING, budget, "--seed", str(list(ADAPTERS).index(name)))
        os.rename(os.path.join(path, "adapter.safetensors"), path + ".safetensors")
        return path + ".safetensors"
