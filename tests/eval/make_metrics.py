"""Writes recorded_metrics.h: FID and KID by torch-fidelity, CMMD as its authors' code computes it.

    python3 make_metrics.py recorded_metrics.h

torch-fidelity 0.4.0's functions are given features in double, so that what is recorded is exact.
"""
import pathlib
import sys

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd

from formula import formula

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "core"))
from make_draws import below  # noqa: E402

SUBSET = 14  # the place in sara_purpose
# name: pictures of both sets, width, and how the second set's features become less than they are
SETS = {"plain": (60, 60, 8, None), "few": (7, 12, 40, None), "mixed": (9, 50, 16, None),
        "mixed_turned": (50, 9, 16, None), "singular": (50, 40, 12, "copied"),
        "constant": (40, 40, 6, "constant"), "equal": (30, 30, 10, "equal"),
        "equal_few": (8, 8, 24, "equal"), "two": (2, 2, 5, None), "many": (11600, 12, 2, None)}


def features(count, width, stream):
    """Each is a mix of two draws, so that covariances are not diagonal."""
    x = formula(count * width, stream).reshape(count, width)
    return x + np.float32(2) * x[:, ::-1] + np.float32(0.25 * stream)


def sets(name):
    n, m, width, how = SETS[name]
    a, b = features(n, width, 1), features(m, width, 2)
    if how == "copied":
        b[:, 5:] = b[:, :1]
    elif how == "constant":
        a[:, 1], b[:, :3] = 0.5, 0.5
    elif how == "equal":
        b = a.copy()
    return a, b


def fid(a, b):
    stats = [fid_features_to_statistics(torch.from_numpy(x.astype(np.float64))) for x in (a, b)]
    return fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]


def kernel(a, b):
    return kernel_mmd(a.astype(np.float64), b.astype(np.float64), kid_kernel="poly",
                      kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None,
                      kid_kernel_poly_coef0=1.0)


def shuffled(ids, size, seed, index):
    for i in range(size):
        other = i + below(len(ids) - i, SUBSET, i, index, seed)[0]
        ids[i], ids[other] = ids[other], ids[i]
    return ids[:size]


def kid(a, b, size, subsets, seed):
    in_a, in_b, values = list(range(len(a))), list(range(len(b))), []
    for s in range(subsets):
        taken = shuffled(in_a, size, seed, 2 * s), shuffled(in_b, size, seed, 2 * s + 1)
        values.append(kernel(a[taken[0]], b[taken[1]]))
    return np.mean(values), np.std(values)


def cmmd(x, y, sigma=10, scale=1000):
    """distance.py's mmd() of google-research/cmmd, after embedding.py's unit length."""
    x, y = (v.astype(float) for v in (x, y))
    x, y = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y))
    gamma = 1 / (2 * sigma ** 2)

    def mean(a, b):
        squares = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1)[None]
        return np.mean(np.exp(-gamma * (-2 * a @ b.T + squares)))

    return scale * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def main(path):
    lines = ["/* By make_metrics.py: what torch-fidelity and CMMD's formula say of sets. kid: of",
             " * one subset of the smaller set's size where both are of it, else of 3 of 10 with",
             " * seed 7. cmmd: of the first 1000. */",
             "static const struct {", "    const char *name;", "    int n, m, width;",
             "    double fid, kid, deviation, cmmd;", "} recorded[] = {"]
    for name, (n, m, width, how) in SETS.items():
        a, b = sets(name)
        values = fid(a, b), *(kid(a, b, min(n, m, 10), 3, 7) if n != m else (kernel(a, b), 0)), \
            cmmd(a[:1000], b[:1000])
        lines.append(f'    {{"{name}", {n}, {m}, {width},')
        lines.append("     " + ", ".join(f"{float(v):.12g}" for v in values) + "},")
    pathlib.Path(path).write_text("\n".join(lines + ["};", ""]))


if __name__ == "__main__":
    main(sys.argv[1])
