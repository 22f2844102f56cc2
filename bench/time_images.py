"""How long `sara generate` takes for an image: one process draws two, and the files' times tell
when each was done.

    python3 time_images.py SARA MODEL_DIR WORK_DIR [--size 512] [--steps 20]

Prints one JSON object. `seconds` holds two: from the start of the process (with loading) to the
first image, and from there to the second. `best` is the second, which is drawn with everything
loaded: text encoder, denoising, VAE decoder, PNG.
"""
import argparse
import json
import os
import subprocess
import sys
import time


def parse_arguments():
    a = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("sara")
    a.add_argument("model")
    a.add_argument("work")
    a.add_argument("--size", type=int, default=512)
    a.add_argument("--steps", type=int, default=20)
    return a.parse_args()


def draw(a):
    """Seconds to the first image and from there to the second."""
    files = [os.path.join(a.work, name) for name in ("image.png", "image_2.png")]
    prompt = ["-p", "a red barn"]
    start = time.time_ns()
    size = ["-W", str(a.size), "-H", str(a.size)]
    code = subprocess.call([a.sara, "generate", "-m", a.model, *prompt, *prompt, *size, "--steps",
                            str(a.steps), "--sampling-method", "ddim", "--cfg-scale", "7.5", "-o",
                            files[0]], stdout=subprocess.DEVNULL)
    if code:
        sys.exit(f"time_images: sara generate: exit code {code}")
    first, second = (os.stat(file).st_mtime_ns for file in files)
    return [(first - start) / 1e9, (second - first) / 1e9]


def main():
    a = parse_arguments()
    seconds = draw(a)
    print(json.dumps(dict(method="generate", size=a.size, steps=a.steps,
                          seconds=[round(s, 3) for s in seconds], best=round(seconds[1], 3))))


if __name__ == "__main__":
    main()
