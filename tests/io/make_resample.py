#!/usr/bin/env python3
"""Records Pillow's bilinear and bicubic resizes of pictures that test_image_resize.c makes by the
same formula: tests/io/make_resample.py tests/io/data (in an environment with numpy, pillow,
safetensors). Names are RESAMPLE/FROM/TO with PIL's number of the filter."""
import sys

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

SIZES = [((37, 29), (18, 14)), ((37, 29), (47, 35)), ((37, 29), (37, 12)), ((37, 29), (9, 29)),
         ((37, 29), (1, 1)), ((37, 29), (5, 60)), ((29, 37), (26, 7)), ((1000, 700), (32, 32)),
         ((1000, 700), (45, 3)), ((3, 2), (16, 11))]


def formula(width, height):
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return ((x * 7 + y * 13 + c * 29 + x * y % 251) & 255).astype(np.uint8)


def main():
    tensors = {}
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        for size, to in SIZES:
            name = f"{int(resample)}/{size[0]}x{size[1]}/{to[0]}x{to[1]}"
            tensors[name] = np.array(Image.fromarray(formula(*size)).resize(to, resample))
    save_file(tensors, f"{sys.argv[1]}/resample.safetensors")


main()
