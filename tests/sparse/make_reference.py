"""Makes data/optimizer.safetensors: `python make_reference.py REFERENCE.py
data/optimizer.safetensors`.

REFERENCE.py is the definition of the method in PyTorch (class Sara). Two runs on small random
tensors are recorded; their gradients come from an integer hash that test_optimizer.c computes
itself, so that the file holds only the weights, the results and the runs' numbers.
"""
import importlib.util
import json
import sys

import numpy as np
import torch
from safetensors.torch import save_file

SHAPES = {
    "conv.weight": (8, 6, 3, 3),
    "conv.bias": (8,),
    "narrow.weight": (64, 80),
    "norm.weight": (80,),
    "to_q.bias": (80,),
    "to_q.weight": (80, 72),
    "to_v.weight": (66, 90),
}
THRESHOLD = 0.01
STEPS = 12
MICRO_BATCHES = 2
RUNS = {
    "clipped": dict(lr=8e-4, max_grad_norm=0.25, lambda_rank=0.02, progressive_iter=5),
    "free": dict(lr=3e-4, max_grad_norm=0.0, lambda_rank=0.0, progressive_iter=-1,
                 betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
}
RANK_NAMES = ["to_q.weight", "to_v.weight", "", "to_v.weight"]


def noise(tensor, step, micro, count):
    """float32 in [-1, 1) from (tensor, step, micro, entry), by uint32 arithmetic."""
    x = np.arange(count, dtype=np.uint32)
    x = x * np.uint32(2654435761) + np.uint32((tensor * 131 + step * 17 + micro) * 40503 &
                                              0xFFFFFFFF)
    for _ in range(2):
        x ^= x >> np.uint32(16)
        x = x * np.uint32(0x45D9F3B)
    x ^= x >> np.uint32(16)
    return (x >> np.uint32(9)).astype(np.float32) / np.float32(2 ** 22) - np.float32(1)


def gradients(step):
    """The mean of the micro-batches; every third step is large enough to be clipped."""
    scale = np.float32(2.0 ** -6 if step % 3 == 0 else 2.0 ** -10)
    result = {}
    for i, (name, shape) in enumerate(sorted(SHAPES.items())):
        total = np.zeros(int(np.prod(shape)), np.float32)
        for micro in range(MICRO_BATCHES):
            total = total + noise(i, step, micro, total.size) * scale
        result[name] = torch.from_numpy(total * np.float32(1 / MICRO_BATCHES)).reshape(shape)
    return result


def main(reference_path, out):
    spec = importlib.util.spec_from_file_location("reference", reference_path)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    torch.manual_seed(7)
    tensors, info = {}, {"threshold": str(THRESHOLD), "steps": str(STEPS)}
    for name, shape in sorted(SHAPES.items()):
        tensors["start." + name] = torch.randn(shape) * 0.02
    for run, options in RUNS.items():
        parameters = {name: tensors["start." + name].clone() for name in sorted(SHAPES)}
        sara = reference.Sara(parameters, THRESHOLD, **options)
        norms, ranks, active, scales = [], [], [], []
        for step in range(STEPS):
            scale = reference.cosine(step, STEPS)
            name = RANK_NAMES[step % len(RANK_NAMES)] or None
            norm, rank = sara.step(gradients(step), scale,
                                   name if options["lambda_rank"] > 0 else None)
            norms.append(norm)
            ranks.append(rank)
            scales.append(scale)
            active.append(sum(int(m.sum()) for m in sara.masks.values()))
        for name, p in parameters.items():
            tensors[f"{run}.{name}"] = p
        for key, values in (("norms", norms), ("ranks", ranks), ("scales", scales)):
            tensors[f"{run}.{key}"] = torch.tensor(values, dtype=torch.float64)
        tensors[f"{run}.active"] = torch.tensor(active, dtype=torch.int64)
        print(run, norms, ranks, active)
    info["runs"] = json.dumps(RUNS)
    save_file(tensors, out, metadata=info)


if __name__ == "__main__":
    main(*sys.argv[1:])
