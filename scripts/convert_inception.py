#!/usr/bin/env python3
"""Makes of InceptionV3's weights for FID what `sara eval --inception` reads:

    scripts/convert_inception.py weights-inception-2015-12-05-6726825d.pth inception.safetensors

The file is torch-fidelity's (its releases have it); pytorch-fid's of the same date has the same
names. Needs torch and safetensors. docs/evaluation.md tells more.
"""
import argparse
import os
import sys

import torch
from safetensors.torch import save_file

STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
A = ["branch1x1", "branch5x5_1", "branch5x5_2", "branch3x3dbl_1", "branch3x3dbl_2",
     "branch3x3dbl_3", "branch_pool"]
B = ["branch3x3", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]
C = ["branch1x1", "branch7x7_1", "branch7x7_2", "branch7x7_3", "branch7x7dbl_1", "branch7x7dbl_2",
     "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5", "branch_pool"]
D = ["branch3x3_1", "branch3x3_2", "branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3",
     "branch7x7x3_4"]
E = ["branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_1",
     "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"]
BLOCKS = {"5b": A, "5c": A, "5d": A, "6a": B, "6b": C, "6c": C, "6d": C, "6e": C, "7a": D, "7b": E,
          "7c": E}
TENSORS = ["conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]

CLASSES = 1008  # TensorFlow's; torchvision's have 1000


def names():
    layers = STEM + [f"Mixed_{block}.{name}" for block, rows in BLOCKS.items() for name in rows]
    return [f"{layer}.{tensor}" for layer in layers for tensor in TENSORS]


def convert(source, target):
    state = torch.load(source, map_location="cpu", weights_only=True)
    missing = [name for name in names() if name not in state]
    if missing:
        rest = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        sys.exit(f"{source}: these are not InceptionV3's weights for FID: it lacks "
                 f"{', '.join(missing[:5])}{rest}")
    classes = len(state["fc.bias"]) if "fc.bias" in state else CLASSES
    if classes != CLASSES:
        sys.exit(f"{source}: a classifier of {classes}, expected {CLASSES}: these are "
                 "torchvision's weights, not FID's")
    partial = f"{target}.partial"
    save_file({name: state[name].float().contiguous() for name in names()}, partial)
    os.replace(partial, target)


def main():
    arguments = argparse.ArgumentParser(description=__doc__,
                                        formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("source", help="torch-fidelity's .pth")
    arguments.add_argument("target", help="a new .safetensors")
    arguments = arguments.parse_args()
    convert(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
