"""Reads a sara adapter with numpy and safetensors alone (docs/formats.md):

    python read_adapter.py ADAPTER.safetensors [UNET.safetensors [CHANGED.safetensors]]

Prints each tensor's entries and, with the base's U-Net, the norm of their change; CHANGED: the
U-Net with them, in float32."""
import sys

import numpy as np
from safetensors import deserialize
from safetensors.numpy import save_file

KINDS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}  # numpy has no bfloat16

def load(path):  # name -> array, floats as float32
    with open(path, "rb") as file:
        tensors = dict(deserialize(file.read()))
    for name, t in tensors.items():
        array = np.frombuffer(t["data"], KINDS[t["dtype"]]).reshape(t["shape"])
        if t["dtype"] == "BF16":
            array = (array.astype("<u4") << 16).view("<f4")
        tensors[name] = array if t["dtype"] == "U8" else array.astype("<f4")
    return tensors

def positions(data):  # LEB128 varints: the distance to the position before, minus 1
    ends = np.flatnonzero(data < 128) + 1
    starts = np.append(0, ends)[:-1]
    shifts = 7 * (np.arange(len(data)) - np.repeat(starts, ends - starts))
    return np.cumsum(np.add.reduceat((data & 127).astype(np.int64) << shifts, starts) + 1) - 1

adapter, base = load(sys.argv[1]), load(sys.argv[2]) if len(sys.argv) > 2 else {}
for name in sorted(key[:-10] for key in adapter if key.endswith(".positions")):
    at, values = positions(adapter[name + ".positions"]), adapter[name + ".values"]
    flat = base[name].reshape(-1) if base else None  # what is assigned to it is in base[name] too
    print(name, len(at), *([f"{np.linalg.norm(values - flat[at]):.6g}"] if base else []))
    if base:
        flat[at] = values
if len(sys.argv) > 3:
    save_file(base, sys.argv[3])
