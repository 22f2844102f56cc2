#!/usr/bin/env python3
"""What diffusers' train_text_to_image_sdxl.py takes for the sizes and crops of pictures, as
test_time_ids.c has it. Needs pillow and torchvision. What is cut off is an even number of pixels:
else that script tells the same of a mirrored picture, whose crop in sara lies a pixel beside."""

from PIL import Image
from torchvision import transforms

SIDE = 32
SIZES = [(64, 32), (32, 64), (97, 61), (61, 97), (200, 200), (40, 75)]

for size in SIZES:
    image = Image.new("RGB", size)
    original = (image.height, image.width)
    image = transforms.Resize(SIDE, interpolation=transforms.InterpolationMode.LANCZOS)(image)
    y1 = max(0, int(round((image.height - SIDE) / 2.0)))
    x1 = max(0, int(round((image.width - SIDE) / 2.0)))
    assert (image.height - SIDE) % 2 == (image.width - SIDE) % 2 == 0
    ids = ", ".join(map(str, (*original, y1, x1, SIDE, SIDE)))
    print(f"        {{{size[0]}, {size[1]}, {{{ids}}}}},")

# As kohya's trainer without buckets: resized to cover WIDE, then cropped in the middle.
WIDE = (48, 32)

print()
for size in [(64, 32), (32, 64), (100, 64), (200, 200), (96, 64), (60, 32)]:
    scale = max(WIDE[0] / size[0], WIDE[1] / size[1])
    resized = [int(side * scale + 0.5) for side in size]
    image = Image.new("RGB", size).resize(resized, Image.LANCZOS)
    y1 = max(0, int(round((image.height - WIDE[1]) / 2.0)))
    x1 = max(0, int(round((image.width - WIDE[0]) / 2.0)))
    assert (image.height - WIDE[1]) % 2 == (image.width - WIDE[0]) % 2 == 0
    ids = ", ".join(map(str, (size[1], size[0], y1, x1, WIDE[1], WIDE[0])))
    print(f"        {{{size[0]}, {size[1]}, {{{ids}}}}},")
