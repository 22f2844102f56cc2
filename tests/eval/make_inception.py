"""Writes recorded_inception.h: the features that torch-fidelity's InceptionV3 has of pictures, with
weights by a formula, and the pixels that it and clean-fid's mode "clean" make of them before.

    python3 make_inception.py recorded_inception.h

Needs torch, torch-fidelity 0.4.0 and clean-fid 0.1.35. clean-fid runs the same network, as
TorchScript, on (x - 128) / 128 of what its resizer gives (its inception_torchscript.py).
"""
import pathlib
import sys

import numpy as np
import torch
from cleanfid.resize import build_resizer
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from formula import formula
from inception_weights import extractor
from make_backbones import formula as picture
from make_metrics import fid, kernel

SIZES = [(37, 53), (299, 120), (310, 700), (3, 2), (640, 299), (1, 1)]
NETWORK = 3  # of the first so many pictures features are recorded
SIDE, SAMPLES, FIRST, SUMS = 299, 40, 40, 8
REFERENCES = [(50, 41), (64, 64), (20, 90)]


def torch_fidelity(x):
    x = torch.from_numpy(x).permute(2, 0, 1)[None].float()
    x = interpolate_bilinear_2d_like_tensorflow1x(x, size=(SIDE, SIDE), align_corners=False)
    return x[0].permute(1, 2, 0).numpy()


def clean(x):
    return build_resizer("clean")(x)


RESIZES = {"torch-fidelity": torch_fidelity, "clean": clean}


def features(net, resized):
    """The class's own forward pass, whose resize of a picture of the right size changes nothing;
    it takes bytes alone, so its check is told that these are."""
    x = torch.from_numpy((resized.astype(np.float32))).permute(2, 0, 1)[None]

    class Bytes(torch.Tensor):
        dtype = torch.uint8

        def to(self, dtype):
            return torch.Tensor(self.as_subclass(torch.Tensor)).to(dtype)

    return net(x.as_subclass(Bytes))[0][0].numpy()


def numbers(values):
    texts = [f"{float(v):.9g}f" if "." in f"{float(v):.9g}" or "e" in f"{float(v):.9g}"
             else f"{float(v):.9g}" for v in values]
    return "{" + ",\n      ".join(", ".join(texts[i:i + 6]) for i in range(0, len(texts), 6)) + "}"


def main(path):
    net = extractor()
    lines = ["/* By make_inception.py. pixels: number i is at i * 7919 % (299 * 299 * 3) of",
             " * [299][299][3]. features: the first; sums: of all with formula i less 1/2. */",
             "static const struct {", "    const char *convention;", "    int width, height;",
             f"    float pixels[{SAMPLES}];", "    bool has_features;",
             f"    float features[{FIRST}], sums[{SUMS}];", "} recorded[] = {"]
    for name, resize in RESIZES.items():
        for i, (width, height) in enumerate(SIZES):
            resized = resize(picture(width, height))
            assert resized.shape == (SIDE, SIDE, 3) and resized.dtype == np.float32
            x = (resized.astype(np.float32) - np.float32(128)) / np.float32(128)
            at = np.arange(SAMPLES) * 7919 % x.size
            lines.append(f'    {{"{name}", {width}, {height},\n     {numbers(x.flatten()[at])},')
            if i >= NETWORK:
                lines.append("     false, {0}, {0}},")
                continue
            f = features(net, resized)
            sums = [np.dot(f.astype(float), formula(f.size, s).astype(float) - 0.5)
                    for s in range(SUMS)]
            lines.append(f"     true,\n     {numbers(f[:FIRST])},\n     {numbers(sums)}}},")
    lines += ["};", "/* Of these first pictures and references. */", "static const struct {",
              "    const char *convention;", "    double fid, kid;", "} distances[] = {"]
    for name, resize in RESIZES.items():
        a, b = (np.stack([features(net, resize(picture(*size))) for size in sizes])
                for sizes in (SIZES[:NETWORK], REFERENCES))
        lines.append(f'    {{"{name}", {fid(a, b):.9g}, {kernel(a, b):.9g}}},')
    pathlib.Path(path).write_text("\n".join(lines + ["};", ""]))


if __name__ == "__main__":
    main(sys.argv[1])
