"""Safetensors files and PNGs, read and written as the program does, with nothing but the standard
library."""

import array
import json
import struct
import zlib

CODES = {"F32": "f", "I64": "q", "U8": "B"}
# are only copied
OTHER_SIZES = {"U64": 8, "C64": 8, "U32": 4, "U16": 2, "F8_E8M0": 1, "F8_E4M3": 1, "F8_E5M2": 1}
SIZES = {
    "F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1, **OTHER_SIZES
}


def write_safetensors(path, tensors, metadata=None):
    """tensors: name -> (dtype, shape, values or their bytes)"""
    header, parts, end = {"__metadata__": metadata} if metadata else {}, [], 0
    for name, (dtype, shape, values) in sorted(tensors.items(), key=lambda t: -SIZES[t[1][0]]):
        content = (values if isinstance(values, bytes) else
                   array.array(CODES[dtype], values).tobytes())
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [end, end + len(content)],
        }
        parts.append(content)
        end += len(content)
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(b"".join([struct.pack("<Q", len(text)), text, *parts]))


def read_safetensors(path):
    """name -> (dtype, shape, bytes), and the metadata"""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header, data = json.loads(file.read(size)), file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        tensors[name] = (info["dtype"], info["shape"], data[begin:end])
    return tensors, metadata


def read_png(path):
    """width, height, rows of RGB bytes, texts"""
    with open(path, "rb") as file:
        data = file.read()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", path
    at, texts, packed = 8, {}, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert (
            zlib.crc32(kind + body)
            == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        )
        at += 12 + length
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 2), (depth, colour)
        elif kind == b"IDAT":
            packed += body
        elif kind == b"tEXt":
            key, value = body.split(b"\0", 1)
            texts[key.decode()] = value.decode("latin-1")
        elif kind == b"iTXt":
            key, rest = body.split(b"\0", 1)
            texts[key.decode()] = rest[2:].split(b"\0", 2)[2].decode()
    return width, height, unfilter(zlib.decompress(packed), width, height), texts


def write_png(path, width, height, data, channels=3):
    """data: rows of RGB or, of four channels, RGBA bytes"""
    stride = width * channels
    rows = b"".join(b"\0" + data[y * stride : (y + 1) * stride] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 6 if channels == 4 else 2, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(body)) + kind + body)
            file.write(struct.pack(">I", zlib.crc32(kind + body)))


def unfilter(data, width, height):
    rows, stride = [], width * 3
    above = bytes(stride)
    for y in range(height):
        kind, row = data[y * (stride + 1)], bytearray(
            data[y * (stride + 1) + 1 : (y + 1) * (stride + 1)]
        )
        for i in range(stride):
            left, up = row[i - 3] if i >= 3 else 0, above[i]
            corner = above[i - 3] if i >= 3 else 0
            row[i] = (row[i] + [0, left, up, (left + up) // 2, paeth(left, up, corner)][kind]) & 255
        rows.append(bytes(row))
        above = row
    return rows


def paeth(left, up, corner):
    guess = left + up - corner
    return min((left, up, corner), key=lambda x: abs(guess - x))
