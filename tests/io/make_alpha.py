"""Records the alpha of the image fixtures, as Pillow has it: make_alpha.py tests/io/data

alpha.safetensors gets, for each file of images.safetensors whose alpha is not 255 throughout, that
of ImageOps.exif_transpose(Image.open(file)).convert("RGBA"). Run with Pillow 13.0.0.
"""
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.numpy import save_file


def main():
    folder = Path(sys.argv[1])
    found = {}
    warnings.simplefilter("ignore")
    with safe_open(folder / "images.safetensors", "numpy") as file:
        for name in file.keys():
            if "/" in name:
                continue
            image = ImageOps.exif_transpose(Image.open(folder / "images" / name)).convert("RGBA")
            alpha = np.asarray(image)[:, :, 3]
            if alpha.min() < 255:
                found[name] = np.ascontiguousarray(alpha)
    print(len(found), *found)
    save_file(found, folder / "alpha.safetensors")


main()
