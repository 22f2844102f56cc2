"""Adapters of sara on the embedded base, written by hand."""

import functools
import hashlib
import os
import struct

from support import BASE, Case, read_safetensors, write_safetensors


def varints(positions):
    out, last = bytearray(), -1
    for position in positions:
        value, last = position - last - 1, position
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)


def base_hash(tensors):
    digest = hashlib.sha256()
    for name in sorted(tensors, key=str.encode):
        _, shape, data = tensors[name]
        values = [v for (v,) in struct.iter_unpack("<e", data)]
        digest.update(f"{name}\n{'x'.join(map(str, shape))}\n".encode())
        digest.update(struct.pack(f"<{len(values)}f", *values))
    return digest.hexdigest()


@functools.cache
def read_base():
    path = os.path.join(BASE, "unet", "diffusion_pytorch_model.safetensors")
    tensors = read_safetensors(path)[0]
    return tensors, base_hash(tensors)


class Adapters(Case):
    @classmethod
    def setUpClass(cls):
        cls.base, cls.hash = read_base()

    def values(self, name):
        return [v for (v,) in struct.iter_unpack("<e", self.base[name][2])]

    def adapter(self, file, tensors, step, shift, **metadata):
        """Every step-th entry of these tensors, moved by shift."""
        content = {}
        for name in tensors:
            values = self.values(name)
            positions = list(range(0, len(values), step))
            packed = varints(positions)
            content[name + ".positions"] = ("U8", [len(packed)], packed)
            moved = [values[p] + shift for p in positions]
            content[name + ".values"] = ("F32", [len(moved)], moved)
        said = {"sara.format": "1", "sara.target": "unet", "sara.base_sha256": self.hash}
        write_safetensors(self.path(file), content, {**said, **metadata})
        return self.path(file)


NAMES = ["conv_in.weight", "conv_out.weight", "down_blocks.0.resnets.0.conv1.weight",
         "up_blocks.1.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.bias"]  # fmt: skip
