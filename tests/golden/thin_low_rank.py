#!/usr/bin/env python3
"""Keeps of low_rank.safetensors what its test reads: each matrix's entries that are not zero, and
the polar factor's at their positions. Needs safetensors and torch:
tests/golden/thin_low_rank.py FILE"""
import sys

import torch
from safetensors.torch import load_file, save_file


def main():
    tensors, kept = load_file(sys.argv[1]), {}
    for name, t in tensors.items():
        kind, number = name.split("_")
        if kind == "matrix":
            at = t.flatten().nonzero().flatten()
            kept[f"shape_{number}"] = torch.tensor(t.shape, dtype=torch.int32)
            kept[f"positions_{number}"] = at.int()
            kept[name] = t.flatten()[at].clone()
            kept[f"polar_{number}"] = tensors[f"polar_{number}"].flatten()[at].clone()
        elif kind == "nuclear":
            kept[name] = t
    save_file(kept, sys.argv[1])


if __name__ == "__main__":
    main()
