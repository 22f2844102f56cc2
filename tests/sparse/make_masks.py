#!/usr/bin/env python3
"""Entries that the masks take of the golden U-Nets, chosen by NumPy: SHA-256 of counts and
positions of each tensor, in masks.h. Needs numpy and safetensors: tests/sparse/make_masks.py"""
import hashlib
import os

import numpy as np
from safetensors.numpy import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden")
THRESHOLDS = (0.005, 0.0175)
SEED, PURPOSE = 43 + (7 << 40), 13  # SARA_DRAW_MASK
RANK = 5


def philox(counter, key):
    """Philox 4x32-10 of arrays of four words."""
    c = [np.asarray(x, np.uint64) for x in counter]
    k = list(key)
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), p1 & low,
             (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), p0 & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, 1).astype(np.uint32)


def draws(tensor, count):
    """30 bits for each entry."""
    block = np.arange((count + 3) // 4)
    bits = philox((block, np.full(block.shape, PURPOSE << 24), np.full(block.shape, tensor),
                   np.zeros(block.shape)), (SEED & 0xFFFFFFFF, SEED >> 32))
    return (bits.reshape(-1)[:count] >> 2).astype(np.int64)


def largest(scores, most):
    """Positions of the largest, of equal ones the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:most])


def over_all(scores, most):
    """The same over several arrays, one after the other."""
    ends = np.cumsum([s.size for s in scores])
    chosen = largest(np.concatenate(scores), most)
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    return [part - (end - s.size) for part, end, s in zip(parts, ends, scores)]


def lifted(tensors, most):
    entries = sum(t.size for t in tensors if t.ndim > 1)
    total, passed, given, margin, result = min(most, entries), 0, 0, 1, []
    for t in tensors:
        if t.ndim < 2:
            result.append(np.zeros(0, np.int64))
            continue
        passed += t.size
        now = int(np.floor(float(total) * (passed / entries)))
        u, s, v = np.linalg.svd(t.reshape(t.shape[0], -1).astype(np.float64), full_matrices=False)
        r = min(RANK, s.size)
        scores = np.abs((u[:, :r] * s[:r]) @ v[:r]).astype(np.float32).reshape(-1)
        result.append(largest(scores, now - given))
        order = np.sort(scores)[::-1]
        if 0 < now - given < order.size:
            margin = min(margin, 1 - order[now - given] / order[now - given - 1])
        given = now
    assert margin > 1e-6, margin  # so that rounding decides nothing
    return result


def digest(selected):
    sha = hashlib.sha256()
    for positions in selected:
        sha.update(np.uint32(len(positions)).tobytes())
        sha.update(positions.astype(np.uint32).tobytes())
    return sha.hexdigest()


def rows(kind):
    file = load_file(f"{GOLDEN}/unet_{kind}/diffusion_pytorch_model.safetensors")
    tensors = [file[name] for name in sorted(file)]
    for threshold in THRESHOLDS:
        most = sum(int((np.abs(t) < np.float32(threshold)).sum()) for t in tensors)
        magnitudes = [np.abs(t).reshape(-1) for t in tensors]
        masks = {
            "smallest": [np.flatnonzero(m < np.float32(threshold)) for m in magnitudes],
            "largest": over_all(magnitudes, most),
            "random": over_all([draws(i, t.size) for i, t in enumerate(tensors)], most),
            "lift": lifted(tensors, most),
        }
        for name, selected in masks.items():
            assert sum(map(len, selected)) == most
            yield f'    {{"{kind}", "{name}", {threshold}, {most},\n     "{digest(selected)}"}},'


def main():
    with open(f"{HERE}/masks.h", "w") as out:
        out.write("/* Made by make_masks.py. */\n")
        out.write(f"#define MASKS_SEED {SEED}ull\n#define MASKS_RANK {RANK}\n")
        out.write("static const struct {\n    const char *kind, *mask;\n    double threshold;\n"
                  "    int64_t total;\n    const char *sha256;\n} recorded_masks[] = {\n")
        out.write("\n".join(row for kind in ("sd1", "sd2") for row in rows(kind)) + "\n};\n")


if __name__ == "__main__":
    main()
