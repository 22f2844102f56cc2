#!/usr/bin/env python3
"""Records what transformers and numpy make of ten emoji: tests/cli/make_eval.py (in an environment
with torch, transformers, pillow), writes tests/cli/eval_expected.json. Features are of
examples/emoji/clip, the pictures measured of ink-reference, with its captions, the references the
pictures of the same names in noto-reference; DINO's are of the small ViTModel
tests/eval/data/models/vit.
"""
import json
import os

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer, ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

HERE = os.path.dirname(os.path.abspath(__file__))
EMOJI = os.path.join(HERE, "..", "..", "examples", "emoji")
VIT = os.path.join(HERE, "..", "eval", "data", "models", "vit")
COUNT = 5


def captions(folder):
    with open(f"{EMOJI}/{folder}/metadata.jsonl") as file:
        rows = map(json.loads, file)
        return {row["file_name"]: row["text"] for row in rows}


def pixel_values(processor, folder, names):
    pictures = [Image.open(f"{EMOJI}/{folder}/{name}").convert("RGB") for name in names]
    return torch.tensor(np.stack(processor(images=pictures, return_tensors="np")["pixel_values"]))


def dino_features(folder, names):
    model = ViTModel.from_pretrained(VIT, dtype=torch.float32).eval()
    pixels = pixel_values(ViTImageProcessorPil.from_pretrained(VIT), folder, names)
    return model(pixels).last_hidden_state[:, 0].double().numpy()


def features(model, folder, names):
    processor = CLIPImageProcessorPil.from_pretrained(f"{EMOJI}/clip")
    pixels = pixel_values(processor, folder, names)
    pooled = model.vision_model(pixel_values=pixels).pooler_output
    return model.visual_projection(pooled).double().numpy()


def text_features(model, texts):
    tokenizer = CLIPTokenizer.from_pretrained(f"{EMOJI}/clip")
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt",
                    max_length=model.config.text_config.max_position_embeddings)
    pooled = model.text_model(**ids).pooler_output
    return model.text_projection(pooled).double().numpy()


def unit(a):
    return a / np.linalg.norm(a, axis=1, keepdims=True)


def root(a):
    values, vectors = np.linalg.eigh(a)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def fid(a, b):
    mean = a.mean(0) - b.mean(0)
    va, vb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    between = np.linalg.eigvalsh(root(va) @ vb @ root(va))
    return mean @ mean + np.trace(va + vb) - 2 * np.sqrt(np.clip(between, 0, None)).sum()


def kid(a, b):
    n = len(a)

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x):
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (n * (n - 1))
    return within(a) + within(b) - 2 * kernel(a, b).mean()


def cmmd(a, b):
    a, b = unit(a), unit(b)

    def mean(x, y):
        return np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / (2 * 10**2)).mean()
    return 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))


@torch.no_grad()
def main():
    ink = captions("ink-reference")
    names = sorted(set(ink) & set(captions("noto-reference")))[:COUNT]
    model = CLIPModel.from_pretrained(f"{EMOJI}/clip", dtype=torch.float32).eval()
    a = features(model, "ink-reference", names)
    b = features(model, "noto-reference", names)
    cosines = (unit(a) * unit(text_features(model, [ink[name] for name in names]))).sum(1)
    pairs = (unit(a) * unit(b)).sum(1)
    c, d = dino_features("ink-reference", names), dino_features("noto-reference", names)
    expected = {
        "names": names,
        "clip_score": (cosines * model.logit_scale.exp().item()).tolist(),
        "clip_cosine": cosines.mean(),
        "fid": fid(a, b),
        "kid": kid(a, b),
        "cmmd": cmmd(a, b),
        "clip_i": (unit(a) @ unit(b).T).mean(),
        "drift": (1 - pairs).tolist(),
        "dino": (unit(c) @ unit(d).T).mean(),
        "dino_fid": fid(c, d),
        "dino_drift": (1 - (unit(c) * unit(d)).sum(1)).tolist(),
    }
    with open(f"{HERE}/eval_expected.json", "w") as file:
        json.dump(expected, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
