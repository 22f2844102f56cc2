#!/usr/bin/env python3
"""Records which buckets kohya's sd-scripts give to images: make_buckets.py > buckets.txt

The algorithm is that of library/train_util.py (BucketManager) and library/model_util.py
(make_bucket_resolutions) as docs/train_README.md describes it, written anew. A line of settings
(width, height, min, max, steps, no_upscale, buckets), a line for each of its buckets, then one for
each image: its size, the bucket's, and the size to which it is resized before it is cropped.
"""
import math
import random

SETTINGS = [(512, 512, 256, 1024, 64, 0), (1024, 1024, 512, 2048, 64, 0),
            (768, 512, 320, 1280, 32, 0), (512, 512, 256, 1024, 8, 0),
            (512, 512, 256, 1024, 64, 1), (1024, 768, 256, 2048, 32, 1)]
IMAGES = 200


def resolutions(width, height, least, most, steps):
    area = width * height
    side = int(math.sqrt(area) // steps) * steps
    found = {(side, side)}
    for one in range(least, most + 1, steps):
        other = min(most, int((area // one) // steps) * steps)
        if other >= least:
            found |= {(one, other), (other, one)}
    return sorted(found)


def down(value, steps):
    value = int(value + 0.5)
    return value - value % steps


def shrink(w, h, area, steps):
    ratio = w / h
    wide = math.sqrt(area * ratio)
    high = area / wide
    by_width = down(wide, steps)
    by_height = down(high, steps)
    error_width = abs(by_width / down(by_width / ratio, steps) - ratio)
    error_height = abs(down(by_height * ratio, steps) / by_height - ratio)
    if error_width < error_height:
        return by_width, int(by_width / ratio + 0.5)
    return int(by_height * ratio + 0.5), by_height


def bucket(w, h, setting, sizes):
    width, height, _, _, steps, no_upscale = setting
    ratio = w / h
    if no_upscale:
        resized = shrink(w, h, width * height, steps) if w * h > width * height else (w, h)
        return tuple(side - side % steps for side in resized), resized
    size = (w, h) if (w, h) in sizes else min(sizes, key=lambda s: abs(s[0] / s[1] - ratio))
    scale = size[1] / h if ratio > size[0] / size[1] else size[0] / w
    return size, (int(w * scale + 0.5), int(h * scale + 0.5))


def main():
    random.seed(20)
    for setting in SETTINGS:
        sizes = [] if setting[5] else resolutions(*setting[:5])
        print("setting", *setting, len(sizes))
        for size in sizes:
            print("bucket", *size)
        for _ in range(IMAGES):
            w, h = random.randint(80, 3000), random.randint(80, 3000)
            if random.random() < 0.3:
                w, h = (64 * (side // 64) or 64 for side in (w, h))
            if max(w, h) > 4 * min(w, h):
                w = h = min(w, h)
            size, resized = bucket(w, h, setting, sizes)
            print(w, h, *size, *resized)


main()
