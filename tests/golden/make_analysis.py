"""Records what `sara inspect --analyze` tells of unet_sd1: kinds by diffusers' modules, numbers by
numpy. tests/golden/make_analysis.py, with diffusers"""
import json
import os

import numpy as np
from diffusers import UNet2DConditionModel
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
BUDGETS, THRESHOLDS = [0.006, 0.023, 0.058], [2e-4, 8e-4, 2e-3]
EDGES = np.float32(10.0 ** (np.arange(-64, 9) / 8))


def kind_of(model, name):
    """By the innermost module that says it, from the parameter's own outwards."""
    path, leaf = name.rsplit(".", 1)
    modules = dict(model.named_modules())
    parts = path.split(".")
    chain = [(part, modules[".".join(parts[:i + 1])]) for i, part in enumerate(parts)]
    module = chain[-1][1]
    if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
        return "norms"
    if leaf == "bias":
        return "biases"
    if "time_emb_proj" in parts or any(isinstance(m, TimestepEmbedding) for _, m in chain):
        return "time embedding"
    for _, outer in chain:
        if isinstance(outer, Attention):
            cross = outer.to_k.in_features == model.config.cross_attention_dim and \
                outer.is_cross_attention
            role = {outer.to_q: "query", outer.to_k: "key", outer.to_v: "value"}.get(module, "out")
            return f"{'cross' if cross else 'self'}-attention {role}"
        if isinstance(outer, FeedForward):
            return "feed-forward"
    if parts[-1] in ("proj_in", "proj_out"):
        return "transformer projections"
    assert isinstance(module, nn.Conv2d), name
    return "convolutions"


def block_of(name):
    parts = name.split(".")
    return parts[0] if parts[0] == "mid_block" else ".".join(parts[:2]) \
        if parts[0] in ("down_blocks", "up_blocks") else "others"


def describe(values, thresholds):
    doubles, magnitudes = values.astype(np.float64), np.abs(values)
    away = doubles - doubles.mean()
    bins = np.clip(np.searchsorted(EDGES, magnitudes, side="right") - 1, 0, len(EDGES) - 2)
    return {"entries": len(values), "mean": doubles.mean(), "deviation": doubles.std(),
            "mean_magnitude": np.abs(doubles).mean(),
            "excess_kurtosis":
                (away**4).mean() / (away**2).mean()**2 - 3 if doubles.std() else None,
            "within_1e-3": int((magnitudes < np.float32(1e-3)).sum()),
            "selected": [int((magnitudes < np.float32(t)).sum()) for t in thresholds],
            "histogram": np.bincount(bins, minlength=len(EDGES) - 1).tolist()}


def groups(parameters, name_of, thresholds):
    found = {}
    for name, values in parameters.items():
        found.setdefault(name_of(name), []).append(values)
    return {name: {"tensors": len(lists), **describe(np.concatenate(lists), thresholds)}
            for name, lists in found.items()}


def main():
    model = UNet2DConditionModel.from_pretrained(os.path.join(HERE, "unet_sd1"))
    parameters = {n: p.detach().numpy().ravel() for n, p in model.named_parameters()}
    whole = np.concatenate(list(parameters.values()))
    ordered = np.sort(np.abs(whole))
    # below the threshold are so many entries, rounded
    thresholds = [float(ordered[round(b * len(whole))]) for b in BUDGETS] + THRESHOLDS
    doubles = whole.astype(np.float64)
    reach = 5 * doubles.std()
    parts = np.histogram(doubles, 100, (doubles.mean() - reach, doubles.mean() + reach))[0]
    result = {"thresholds": thresholds, "whole": describe(whole, thresholds),
              "kinds": groups(parameters, lambda name: kind_of(model, name), thresholds),
              "blocks": groups(parameters, block_of, thresholds), "distribution": parts.tolist()}
    with open(os.path.join(HERE, "analysis_sd1.json"), "w") as file:
        json.dump(result, file, indent=None, separators=(",", ":"))
        file.write("\n")


main()
