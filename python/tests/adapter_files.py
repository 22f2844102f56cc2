"""Adapter files by their description, models to train and apply them on, and what tests of them
share."""
import contextlib
import hashlib
import json
import os
import pathlib
import struct
import tempfile
import unittest

import torch
from torch import nn

import sara


class Small(nn.Module):
    """All kinds of tensors, the scalar and the tied one among them; the norm has a frozen bias."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.table = nn.Embedding(10, 96)
        self.wide = nn.Linear(288, 96)
        self.head = nn.Linear(96, 10, bias=False)
        self.head.weight = self.table.weight
        self.gain = nn.Parameter(torch.tensor(0.001))
        self.norm.bias.requires_grad_(False)

    def forward(self, x, labels):
        x = torch.tanh(self.wide(torch.tanh(self.norm(self.conv(x))).flatten(1))
                       + self.table(labels))
        return self.head(x * 0.1) * (1 + self.gain)


class Thing3DTransformer(Small):
    pass


def trained(model, steps=3, data=0, **options):
    """The model after some steps, and its optimiser."""
    optimizer = sara.adamw(model, **{"fraction": 0.2, "lr": 1e-2, "lambda_rank": 0.01, **options})
    dtype = model.conv.weight.dtype
    for step in range(steps):
        g = torch.Generator().manual_seed(100 * data + step)
        x = torch.randn(4, 3, 6, 6, generator=g).to(dtype)
        labels = torch.randint(0, 10, (4,), generator=g)
        nn.functional.cross_entropy(model(x, labels).float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def bits(tensor):
    return tensor.contiguous().view(-1).view({4: torch.int32,
                                              2: torch.int16}[tensor.element_size()])


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def tensors_of(path):
    """name -> the tensor's bytes, and the metadata, by the safetensors format alone."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__")
    return {name: data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]
            for name, t in header.items()}, metadata


def decoded(data):
    positions, value, shift, at = [], 0, 0, -1
    for byte in data:
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            at += value + 1
            positions.append(at)
            value = shift = 0
    return positions


def hashed(model):
    """sara.base_sha256 as docs/formats.md has it."""
    digest = hashlib.sha256()
    for name, p in sorted(model.named_parameters(), key=lambda pair: pair[0].encode()):
        digest.update(f"{name}\n{'x'.join(str(n) for n in p.shape)}\n".encode())
        digest.update(struct.pack(f"<{p.numel()}f", *p.detach().float().flatten().tolist()))
    return digest.hexdigest()


def write_file(path, parts, base, **metadata):
    """An adapter by the format's description: name -> {position: value}, without sara's code."""
    header = {"__metadata__": {"sara.format": "1", "sara.target": "unet", "sara.method": "sara",
                               "sara.base_sha256": base, **metadata}}
    data = b""
    for name, part in parts.items():
        values = struct.pack(f"<{len(part)}f", *part.values())
        gaps = [at - before - 1 for before, at in zip([-1, *part], part)]
        encoded = b"".join(map(varint, gaps))
        for suffix, kind, shape, more in (("values", "F32", len(part), values),
                                          ("positions", "U8", len(encoded), encoded)):
            header[f"{name}.{suffix}"] = {"dtype": kind, "shape": [shape],
                                          "data_offsets": [len(data), len(data) + len(more)]}
            data += more
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


class AdapterCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.path = os.path.join(self.folder, "adapter.safetensors")

    def saved(self, name, base=Small, **options):
        path = os.path.join(self.folder, f"{name}.safetensors")
        trained(base(), **options)[1].save(path)
        return path

    def check_same(self, model, expected):
        now = weights(model)
        self.assertEqual(now.keys(), expected.keys())
        for name, value in expected.items():
            self.assertEqual(now[name].dtype, value.dtype)
            self.assertTrue(torch.equal(bits(now[name]), bits(value)), name)

    @contextlib.contextmanager
    def refused(self, kind, *words):
        with self.assertRaises(kind) as caught:
            yield
        for word in words:
            self.assertIn(word, str(caught.exception))
