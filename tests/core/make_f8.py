"""Writes f8_values.h: what PyTorch reads in each of the 256 codes of its two 8-bit floating
types."""

import pathlib

import torch

codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
lines = ["/* Bits of the float32 values of torch's 8-bit types, by code; made by make_f8.py. */"]
for name, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
    bits = codes.view(dtype).to(torch.float32).view(torch.int32).tolist()
    lines.append(f"static const uint32_t f8_{name}[256] = {{")
    for at in range(0, 256, 8):
        lines.append("    " + " ".join(f"0x{b & 0xFFFFFFFF:08X}," for b in bits[at : at + 8]))
    lines.append("};")
pathlib.Path(__file__).with_name("f8_values.h").write_text("\n".join(lines) + "\n")
