"""A model folder of Stable Diffusion 3 medium's or SDXL's real shape whose weights are all zero, in
float16: sparse files that take no room on the disk. Memory does not depend on the weights' values.

    python sparse_model.py sd3-medium|sdxl|t5-xxl DIR

t5-xxl is T5 alone of its real shape, in a folder of tests/golden/sd3_tiny whose transformer takes
its states. Names and shapes are those of diffusers' and transformers' classes.
"""
import json
import os
import shutil
import struct
import sys

import diffusers
import torch
import transformers

from peer_family import SD3_MEDIUM, SDXL
from peer_step import VAE

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
CLIP_TOKENIZER = os.path.join(TOP, "examples/emoji/base/tokenizer")
SD3_TINY = os.path.join(TOP, "tests/golden/sd3_tiny")
CLIP = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            projection_dim=768, hidden_act="quick_gelu")
BIG_CLIP = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                num_attention_heads=20, projection_dim=1280, hidden_act="gelu")
CLIP_COMMON = dict(vocab_size=49408, bos_token_id=49406, eos_token_id=2, pad_token_id=1)
T5 = dict(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
          feed_forward_proj="gated-gelu")
FLOW = "FlowMatchEulerDiscreteScheduler"


def save(folder, name, model):
    """The class's config and a file of zeros."""
    part = os.path.join(folder, name)
    os.makedirs(part)
    is_diffusers = isinstance(model, diffusers.ModelMixin)
    if is_diffusers:
        model.save_config(part)
    else:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(part)
    header, at = {}, 0
    for key, tensor in model.state_dict().items():
        if key == "encoder.embed_tokens.weight":  # is `shared`
            continue
        header[key] = dict(dtype="F16", shape=list(tensor.shape),
                           data_offsets=[at, at + 2 * tensor.numel()])
        at += 2 * tensor.numel()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file_name = "diffusion_pytorch_model" if is_diffusers else "model"
    with open(os.path.join(part, file_name + ".safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + at)


def clip(kind, shape):
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**CLIP_COMMON, **shape))


def t5():
    return transformers.T5EncoderModel(transformers.T5Config(**T5))


def sdxl(folder):
    save(folder, "unet", diffusers.UNet2DConditionModel(**SDXL))
    save(folder, "vae", diffusers.AutoencoderKL(**{**VAE, "scaling_factor": 0.13025}))
    save(folder, "text_encoder", clip("CLIPTextModel", CLIP))
    save(folder, "text_encoder_2", clip("CLIPTextModelWithProjection", BIG_CLIP))
    return dict(_class_name="StableDiffusionXLPipeline", force_zeros_for_empty_prompt=True,
                unet=["diffusers", "UNet2DConditionModel"], vae=["diffusers", "AutoencoderKL"],
                text_encoder=["transformers", "CLIPTextModel"],
                text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
                scheduler=["diffusers", "EulerDiscreteScheduler"])


def sd3(folder):
    more = dict(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609,
                use_quant_conv=False, use_post_quant_conv=False)
    save(folder, "transformer", diffusers.SD3Transformer2DModel(**SD3_MEDIUM))
    save(folder, "vae", diffusers.AutoencoderKL(**{**VAE, **more}))
    save(folder, "text_encoder", clip("CLIPTextModelWithProjection", CLIP))
    save(folder, "text_encoder_2", clip("CLIPTextModelWithProjection", BIG_CLIP))
    save(folder, "text_encoder_3", t5())
    shutil.copytree(os.path.join(SD3_TINY, "tokenizer_3"), os.path.join(folder, "tokenizer_3"))
    with open(os.path.join(SD3_TINY, "model_index.json")) as file:
        return json.load(file)


def t5_xxl(folder):
    shutil.copytree(SD3_TINY, folder, dirs_exist_ok=True)
    for part in ("text_encoder_3", "transformer"):
        shutil.rmtree(os.path.join(folder, part))
    with open(os.path.join(SD3_TINY, "transformer/config.json")) as file:
        config = {**json.load(file), "joint_attention_dim": T5["d_model"]}
    save(folder, "text_encoder_3", t5())
    save(folder, "transformer", diffusers.SD3Transformer2DModel.from_config(config))


def scheduler_of(name):
    scheduler = getattr(diffusers, name)
    if name == FLOW:
        return scheduler(shift=3.0)
    return scheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                     steps_offset=1)


def main():
    kind, folder = sys.argv[1:]
    os.makedirs(folder)
    with torch.device("meta"):
        index = {"sdxl": sdxl, "sd3-medium": sd3, "t5-xxl": t5_xxl}[kind](folder)
    if not index:
        return
    scheduler_of(index["scheduler"][1]).save_pretrained(os.path.join(folder, "scheduler"))
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(CLIP_TOKENIZER, os.path.join(folder, name))
        index[name] = ["transformers", "CLIPTokenizer"]
    with open(os.path.join(folder, "model_index.json"), "w") as file:
        json.dump(index, file, indent=2)


if __name__ == "__main__":
    main()
