#!/usr/bin/env python3
"""Perceptual hashes of the emoji examples by imagehash (4.3), for test_hash.c:
tests/check/make_hashes.py > tests/check/hashes.txt"""
import os
import sys

import imagehash
from PIL import Image

FOLDER = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "emoji", "ink")

for name in sorted(os.listdir(FOLDER))[::8]:
    if name.endswith(".png"):
        image = Image.open(os.path.join(FOLDER, name)).convert("RGB")
        sys.stdout.write(f"{name} {imagehash.phash(image)}\n")
