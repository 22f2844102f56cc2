#!/usr/bin/env python3
"""Records what transformers makes of pictures and texts: tests/eval/make_backbones.py (in an
environment with torch, transformers, pillow, safetensors), writes tests/eval/data/:

preprocess/NAME/preprocessor_config.json and preprocess.safetensors, NAME/WIDTHxHEIGHT: pixel values
  of pictures that the test makes by the same formula, by the processors with PIL.
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
from transformers import CLIPModel, CLIPTokenizer
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
        for width, height in SIZES if name != "clip_raw" else SIZES[:2]:
            tensors[f"{name}/{width}x{height}"] = values(processor, formula(width, height))
    for name, kind, side in (("clip", CLIPImageProcessorPil, 15), ("bit", BitImageProcessorPil, 14)):
        processor = kind(size={"shortest_edge": side}, crop_size=side)
        tensors[f"bare_{name}/37x29"] = values(processor, formula(37, 29))
    processor = ViTImageProcessorPil(size={"height": 15, "width": 15})
    tensors["bare_vit/37x29"] = values(processor, formula(37, 29))
    save_file(tensors, DATA / "preprocess.safetensors")


# ---------------------------------------------------------------------------------- examples/emoji


def emoji():
    model = CLIPModel.from_pretrained(EMOJI / "clip", torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(EMOJI / "clip")
    tensors = {}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64)
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
    save_file({k: v.detach().numpy().copy() for k, v in tensors.items()}, DATA / "emoji.safetensors")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    preprocess()
    emoji()
