#!/usr/bin/env python3
"""Makes a second data set for `sara compare` out of Tux Paint's stamps, photographs and drawings of
animals, plants, food, vehicles and household things with one-sentence captions in English:

    apt-get install tuxpaint-stamps-default python3-pil
    examples/stamps/make_data.py stamps

writes stamps/train/ and stamps/reference/ (64x64 PNG on white, with metadata.jsonl),
stamps/prompts.txt (the references' captions) and stamps/tuning_prompts.txt (captions of training
images, for choosing learning rates). The stamps are licensed under the GPL, version 2: they are no
part of sara."""
import argparse
import hashlib
import json
import os
import sys

from PIL import Image

SOURCE = "/usr/share/tuxpaint/stamps"
SUBJECTS = ("animals", "clothes", "food", "hobbies", "household", "medical", "people", "plants",
            "seasonal", "space", "sports", "town/houses", "vehicles")  # no letters, coins, flags
SIDE = 64


def caption(path):
    """The English sentence as the names of emoji are: without article and full stop."""
    with open(path, encoding="utf-8") as f:
        words = f.readline().strip().rstrip(".!").split()
    if words and words[0].lower() in ("a", "an", "the"):
        words = words[1:]
    return " ".join(words).lower()


def draw(path):
    """On white, in the middle of a square with a margin of one sixteenth."""
    stamp = Image.open(path).convert("RGBA")
    box = stamp.getchannel("A").getbbox()
    if box is None:
        return None
    stamp = stamp.crop(box)
    room = SIDE - SIDE // 8
    scale = room / max(stamp.size)
    size = [max(1, round(scale * side)) for side in stamp.size]
    stamp = stamp.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(stamp, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square.convert("RGB")


def stamps():
    """(name, caption, picture), each caption once, in the order of the paths."""
    seen = set()
    for subject in SUBJECTS:
        for folder, folders, names in os.walk(os.path.join(SOURCE, subject)):
            folders.sort()
            for name in sorted(names):
                stem, ending = os.path.splitext(os.path.join(folder, name))
                text = stem + ".txt"
                if ending != ".png" or not os.path.exists(text):
                    continue
                words = caption(text)
                picture = draw(stem + ".png") if words and words not in seen else None
                if picture:
                    seen.add(words)
                    yield os.path.relpath(stem, SOURCE).replace("/", "-"), words, picture


def is_held_out(words):
    """Three in ten captions, whatever the package's other contents."""
    return hashlib.sha256(words.encode()).digest()[0] % 10 < 3


def write(folder, items):
    os.makedirs(folder)
    with open(os.path.join(folder, "metadata.jsonl"), "w", encoding="utf-8") as f:
        for name, words, picture in items:
            picture.save(os.path.join(folder, name + ".png"))
            f.write(json.dumps({"file_name": name + ".png", "text": words}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", help="a new folder")
    folder = parser.parse_args().folder
    if not os.path.isdir(SOURCE):
        sys.exit(f"{SOURCE} is not there: apt-get install tuxpaint-stamps-default")
    everything = list(stamps())
    train = [item for item in everything if not is_held_out(item[1])]
    reference = [item for item in everything if is_held_out(item[1])]
    write(os.path.join(folder, "train"), train)
    write(os.path.join(folder, "reference"), reference)
    for name, items in (("prompts.txt", reference), ("tuning_prompts.txt", train[::5])):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.writelines(words + "\n" for _, words, _ in items)
    print(f"{folder}: {len(train)} training images, {len(reference)} references")


if __name__ == "__main__":
    main()
