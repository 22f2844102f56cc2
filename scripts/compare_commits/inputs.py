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


TUNING = ("--learning_rate 1e-2 --lambda_rank 0.05 --max_train_steps 2 --train_batch_size 2 "
          "--trainable {budget} --seed {seed}").format


def make_with_program(paths, sara):
    """Adapters, single files and tuned models. sara: runs the commit before"""
    adapters, made = paths["adapters"], {}
    os.mkdir(adapters)
    for name, model, budget, seed in (("sd1a", "sd1", "10%", 1), ("sd1b", "sd1", "4%", 2),
                                      ("sd2a", "sd2", "10%", 3), ("emojia", "emoji", "10%", 4),
                                      ("emojib", "emoji", "2%", 5)):
        if model not in paths:
            continue
        run = os.path.join(adapters, name + "-run")
        sara("train", "-m", paths[model], "--train_data_dir", paths["squares"], "-o", run,
             *TUNING(budget=budget, seed=seed).split())
        made[name] = os.path.join(adapters, name + ".safetensors")
        os.rename(os.path.join(run, "adapter.safetensors"), made[name])
        shutil.rmtree(run)
    for model in ("sd1", "sd2", "emoji"):
        if model in paths:
            made[model + "_file"] = paths[model + "_folder"] + ".safetensors"
            made[model + "_tuned"] = paths[model + "_folder"] + "-tuned"
            sara("merge", "-m", paths[model], "-o", made[model + "_file"])
            sara("merge", "-m", paths[model], "--adapter", made[model + "a"], "-o",
                 made[model + "_tuned"])
    made["sd1_half"] = paths["sd1"] + "-half"
    sara("merge", "-m", paths["sd1"], "--dtype", "bf16", "-o", made["sd1_half"])
    return made


def make(folder, sara):
    """What cases name in braces: a path each. sara: runs the commit before"""
    paths = {name: os.path.join(folder, name) for name in (
        "sd1", "sd2", "old", "zero_snr", "flow", "squares", "odd", "csv", "folders", "latents",
        "adapters")}
    make_model(paths["sd1"], "unet_sd1", 768, "F16", {
        "_class_name": "PNDMScheduler", "prediction_type": "epsilon", "skip_prk_steps": True})
    make_model(paths["sd2"], "unet_sd2", 1024, "BF16", {
        "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}, hidden_act="gelu")
    pipeline = os.path.join(GOLDEN, "pipeline")
    make_variant(paths["old"], pipeline, **{"unet/config.json": {"_diffusers_version": "0.6.0"}})
    make_variant(paths["zero_snr"], pipeline, **{"scheduler/scheduler_config.json": {
        "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "steps_offset": 1,
        "prediction_type": "v_prediction"}})
    make_variant(paths["flow"], pipeline, **{
        "model_index.json": {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}})
    write_json({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000,
                "shift": 3.0}, paths["flow"], "scheduler", "scheduler_config.json")
    make_pictures(paths["squares"], [(64, 64)] * 6, "metadata")
    make_pictures(paths["odd"], [(96, 64), (64, 80), (100, 100), (64, 64), (71, 130)], "files")
    make_pictures(paths["csv"], [(80, 80)] * 4, "csv")
    make_pictures(paths["folders"], [(64, 64), (64, 96)], "folder")
    make_latents(paths["latents"], 2, 16)
    paths |= {"pipeline": pipeline, "golden": GOLDEN}
    paths["tokenizer"] = os.path.join(pipeline, "tokenizer")
    if os.path.exists(EMOJI):
        paths |= {"emoji": os.path.join(EMOJI, "base"), "ink": os.path.join(EMOJI, "ink")}
    for model in ("sd1", "sd2", "emoji"):
        paths[model + "_folder"] = os.path.join(folder, model)
    return paths | make_with_program(paths, sara)
