#!/usr/bin/env python3
"""Keeps every 35th entry of a golden file's large gradients, so that the tree stays small; those of
variants/ are whole, but for unet_lists and unet_odd. Needs safetensors and torch:
tests/golden/thin_golden.py FILE LARGE"""
import sys

from safetensors.torch import load_file, save_file

STRIDE = 35  # it shares no factor with kernel sizes or channel counts


def main():
    tensors, large = load_file(sys.argv[1]), int(sys.argv[2])
    for name, t in tensors.items():
        if name.startswith("grad.") and t.numel() > large:
            tensors[name] = t.flatten()[::STRIDE].clone()
    save_file(tensors, sys.argv[1], {"gradient_stride": str(STRIDE), "gradient_large": str(large)})


if __name__ == "__main__":
    main()
