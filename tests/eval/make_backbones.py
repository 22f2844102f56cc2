#!/usr/bin/env python3
"""Records what transformers makes of pictures and texts: tests/eval/make_backbones.py (in an
environment with torch, transformers, pillow, safetensors), writes tests/eval/data/:

preprocess/NAME/preprocessor_config.json and preprocess.safetensors, NAME/WIDTHxHEIGHT: pixel values
  of pictures that the test makes by the same formula, by the processors with PIL.
models/NAME/: tiny models with random weights, and models.safetensors, NAME/WIDTHxHEIGHT: their
  features of the same pictures, clip/texts of texts with the tokenizer of tests/golden/pipeline.
emoji.safetensors: features of examples/emoji/clip, of pictures of examples/emoji/ink-reference and
  of texts, and the logits between them.
"""
import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import (CLIPConfig, CLIPModel, CLIPTokenizer, Dinov2Config,
                          Dinov2ForImageClassification, Dinov2Model, Dinov2WithRegistersConfig,
                          Dinov2WithRegistersModel, ViTConfig, ViTModel)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
EMOJI = HERE.parent.parent / "examples" / "emoji"
TEXTS = ["sunset", "Globe showing Europe-Africa!", "", "crocodile " * 40]
PICTURES = ["u1f307", "u1f30d", "u1f313"]


def formula(width, height):
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return ((x * 7 + y * 13 + c * 29 + x * y % 251) & 255).astype(np.uint8)


def values(processor, picture):
    return np.array(processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0])


# ---------------------------------------------------------------------------------- preprocessing

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CONFIGS = {  # name: (class, what its file has); "bare" names have no file
    "clip_old": (CLIPImageProcessorPil, {"feature_extractor_type": "CLIPFeatureExtractor",
                                         "size": 16, "crop_size": 16, "resample": 3}),
    "clip_new": (CLIPImageProcessorPil, {"image_processor_type": "CLIPImageProcessor",
                                         "size": {"shortest_edge": 19},
                                         "crop_size": {"height": 16, "width": 13}}),
    "clip_pad": (CLIPImageProcessorPil, {"image_processor_type": "CLIPImageProcessorFast",
                                         "do_resize": False, "do_rescale": False,
                                         "crop_size": 16}),
    "clip_raw": (CLIPImageProcessorPil, {"size": 12, "do_center_crop": False,
                                         "do_normalize": False, "rescale_factor": 0.01,
                                         "resample": 1}),
    "vit_old": (ViTImageProcessorPil, {"feature_extractor_type": "ViTFeatureExtractor",
                                       "size": 16, **IMAGENET}),
    "vit_new": (ViTImageProcessorPil, {"image_processor_type": "ViTImageProcessor",
                                       "size": {"height": 9, "width": 16}, "resample": 3}),
    "bit": (BitImageProcessorPil, {"image_processor_type": "BitImageProcessor",
                                   "size": {"shortest_edge": 20}, **IMAGENET,
                                   "crop_size": {"height": 14, "width": 14}}),
}
SIZES = [(37, 29), (29, 61), (200, 21), (7, 5)]


def preprocess():
    tensors = {}
    for name, (kind, config) in CONFIGS.items():
        folder = DATA / "preprocess" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "preprocessor_config.json").write_text(json.dumps(config) + "\n")
        processor = kind.from_pretrained(folder)
        # All sizes for two; what is not square, and for what pads a tiny one, for the others.
        sizes = {"clip_old": SIZES, "vit_new": SIZES, "clip_pad": SIZES[::3]}.get(name, SIZES[:2])
        for width, height in sizes:
            tensors[f"{name}/{width}x{height}"] = values(processor, formula(width, height))
    for name, kind, side in (("clip", CLIPImageProcessorPil, 15),
                             ("bit", BitImageProcessorPil, 14)):
        processor = kind(size={"shortest_edge": side}, crop_size=side)
        tensors[f"bare_{name}/37x29"] = values(processor, formula(37, 29))
    processor = ViTImageProcessorPil(size={"height": 15, "width": 15})
    tensors["bare_vit/37x29"] = values(processor, formula(37, 29))
    save_file(tensors, DATA / "preprocess.safetensors")


# ------------------------------------------------------------------------------------ tiny models

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PIPELINE = HERE.parent / "golden" / "pipeline" / "tokenizer"


def draw(model, seed):
    """Values that differ enough for a mistake to be seen, whatever the layer."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim == 2 or p.ndim == 4:
            noise = noise / p[0].numel() ** 0.5
        elif name.endswith("norm.weight") or "norm" in name and name.endswith("weight"):
            noise = 1 + 0.2 * noise
        else:
            noise = 0.5 * noise
        p.data = noise.half().float()
    return model


def save(model, name, processor):
    folder = DATA / "models" / name
    model.half().save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor) + "\n")
    return folder


def features(kind, folder, processor):
    """Of one picture each; in float32 from the stored half precision."""
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    out = {}
    for width, height in SIZES[:3]:
        pixels = torch.from_numpy(values(processor, formula(width, height)))[None]
        if kind is CLIPModel:
            result = model.get_image_features(pixels).pooler_output
        else:
            result = model(pixels).last_hidden_state[:, 0]
        out[f"{folder.name}/{width}x{height}"] = result[0].detach().numpy().copy()
    return model, out


def clip_models(tensors):
    text = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
                vocab_size=514, max_position_embeddings=20, hidden_act="gelu", eos_token_id=513,
                bos_token_id=512)
    vision = dict(SMALL, intermediate_size=24, image_size=15, patch_size=4, layer_norm_eps=1e-3)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    folder = save(draw(CLIPModel(config), 1), "clip", None)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 15}, crop_size=15)
    model, out = features(CLIPModel, folder, processor)
    tensors.update(out)
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE)
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=16, return_tensors="pt")
    tensors["clip/texts"] = model.get_text_features(**inputs).pooler_output.detach().numpy().copy()


def vit_models(tensors):
    square = {"image_size": 20, "patch_size": 4}
    vit = ViTModel(ViTConfig(**SMALL, **square, intermediate_size=24, layer_norm_eps=1e-3,
                             qkv_bias=False))
    processor = {"feature_extractor_type": "ViTFeatureExtractor", "size": 20, **IMAGENET}
    folder = save(draw(vit, 2), "vit", processor)
    tensors.update(features(ViTModel, folder, ViTImageProcessorPil.from_pretrained(folder))[1])

    def bit(height, width):
        return {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 24},
                "crop_size": {"height": height, "width": width}, **IMAGENET}

    def add(name, model, kind, seed, processor):
        folder = save(draw(model, seed), name, processor)
        tensors.update(features(kind, folder, BitImageProcessorPil.from_pretrained(folder))[1])

    # 5x5 positions for 3x7 patches, and pixels beyond the last patch
    add("dinov2", Dinov2Model(Dinov2Config(**SMALL, **square, mlp_ratio=2)), Dinov2Model, 3,
        bit(14, 30))
    # names as of a model with a head
    add("dinov2_swiglu", Dinov2ForImageClassification(
        Dinov2Config(**SMALL, **square, mlp_ratio=3, use_swiglu_ffn=True, num_labels=2)),
        Dinov2Model, 4, bit(20, 20))
    add("dinov2_registers", Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SMALL, **square, mlp_ratio=2, num_register_tokens=3)),
        Dinov2WithRegistersModel, 5, bit(12, 28))


# ---------------------------------------------------------------------------------- examples/emoji


def emoji():
    model = CLIPModel.from_pretrained(EMOJI / "clip", torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(EMOJI / "clip")
    tensors = {}
    processor = CLIPImageProcessorPil.from_pretrained(EMOJI / "clip")
    pictures = [Image.open(EMOJI / "ink-reference" / f"{name}.png").convert("RGB")
                for name in PICTURES]
    for key, resize in (("images", 0), ("images_512", 512)):
        if resize:
            pictures = [p.resize((resize, resize), Image.Resampling.BICUBIC) for p in pictures]
        pixels = processor(pictures, return_tensors="pt")["pixel_values"]
        tensors[key] = model.get_image_features(pixels).pooler_output
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt")
    tensors["texts"] = model.get_text_features(**inputs).pooler_output
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    tensors["logits_per_image_512"] = model(pixel_values=pixels, **inputs).logits_per_image
    save_file({k: v.detach().numpy().copy() for k, v in tensors.items()},
              DATA / "emoji.safetensors")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    preprocess()
    emoji()
    found = {}
    clip_models(found)
    vit_models(found)
    save_file(found, DATA / "models.safetensors")
