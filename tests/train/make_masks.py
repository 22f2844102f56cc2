"""Records masks brought to the size of latents: make_masks.py ../golden/masks.safetensors

mask.WxH.wxh: torch's interpolate(mode="area") of a ramp of bytes / 255 with W x H pixels to w x h,
as kohya's apply_masked_loss has it.
"""
import sys

import torch
from safetensors.torch import save_file

SIZES = [(32, 32, 4, 4), (48, 32, 6, 4), (10, 7, 3, 2), (9, 16, 9, 5)]


def ramp(width, height):
    return (torch.arange(width * height) * 37 % 256).reshape(height, width)


def main():
    made = {}
    for width, height, w, h in SIZES:
        mask = ramp(width, height).float()[None, None] / 255
        area = torch.nn.functional.interpolate(mask, size=(h, w), mode="area")[0, 0]
        made[f"mask.{width}x{height}.{w}x{h}"] = area.contiguous()
    save_file(made, sys.argv[1])


main()
