"""Writes recorded_pooling.h: what torch pools of x[i] = (i * 37 + 11) % 64, counted in [N,H,W,C].

    python3 make_pooling.py recorded_pooling.h
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

# name: N, H, W, C, height, width, stride, padding
CASES = {"pad": (2, 5, 4, 2, 3, 3, 1, 1), "stride": (1, 7, 6, 2, 3, 3, 2, 0),
         "wide": (2, 3, 5, 1, 1, 4, 1, 0), "whole": (2, 4, 3, 2, 4, 3, 1, 0),
         "far": (1, 4, 5, 2, 5, 4, 3, 2)}


def main(path):
    lines = ["/* By make_pooling.py: what torch pools. */", "static const struct {",
             "    const char *name;", "    int n, h, w, c;", "    sara_pooling_options options;",
             "    int oh, ow;", "    double max[80], average[80];", "} recorded[] = {"]
    for name, (n, h, w, c, kh, kw, stride, padding) in CASES.items():
        x = (torch.arange(n * h * w * c) * 37 + 11) % 64
        x = x.double().reshape(n, h, w, c).permute(0, 3, 1, 2)
        most = F.max_pool2d(x, (kh, kw), stride, padding)
        mean = F.avg_pool2d(x, (kh, kw), stride, padding, count_include_pad=False)
        lines.append(f'    {{"{name}", {n}, {h}, {w}, {c}, {{{kh}, {kw}, {stride}, {padding}}}, '
                     f"{most.shape[2]}, {most.shape[3]},")
        for values, end in ((most, ","), (mean, "},")):
            texts = [f"{v:.9g}" for v in values.permute(0, 2, 3, 1).flatten().tolist()]
            rows = [", ".join(texts[i:i + 8]) for i in range(0, len(texts), 8)]
            lines.append("     {" + ",\n      ".join(rows) + "}" + end)
    pathlib.Path(path).write_text("\n".join(lines + ["};", ""]))


if __name__ == "__main__":
    main(sys.argv[1])
