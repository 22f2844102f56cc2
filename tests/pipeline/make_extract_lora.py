#!/usr/bin/env python3
"""What numpy's singular value decompositions say of a LoRA of test_extract_lora.c's two models: the
share of the change that ranks keep (Frobenius norm), into extract_lora.json. Needs numpy and
safetensors: tests/pipeline/make_extract_lora.py"""
import json
import os

import numpy as np
from safetensors.numpy import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = ("unet/diffusion_pytorch_model", "text_encoder/model")


def difference(weight):
    """As the test moves it."""
    i = np.arange(weight.size, dtype=np.int64)
    moved = weight.ravel() + (((i * 7 + i * i % 13) % 11 - 5) / 64).astype(np.float32)
    return (moved - weight.ravel()).reshape(weight.shape[0], -1).astype(np.float64)


def main():
    squares, layers, entries = [], 0, 0
    for part in PARTS:
        tensors = load_file(f"{HERE}/../golden/pipeline/{part}.safetensors")
        for name, weight in tensors.items():
            if weight.ndim < 2 or "embedding" in name:
                continue
            change = difference(weight)
            squares.append(np.linalg.svd(change, compute_uv=False) ** 2)
            layers += 1
            entries += int(np.count_nonzero(change))
    total = sum(s.sum() for s in squares)
    kept = {str(rank): float(np.sqrt(sum(s[:rank].sum() for s in squares) / total))
            for rank in (1, 3)}
    with open(f"{HERE}/extract_lora.json", "w") as file:
        json.dump({"layers": layers, "entries": entries, "norm": float(np.sqrt(total)),
                   "kept": kept}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
