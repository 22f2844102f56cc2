"""TensorBoard's event files, read by the formats of TFRecord and protobuf alone."""

import os
import struct


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def message(data):
    """[(field, value)]: whole numbers, bytes, floats by their wire types."""
    fields, at = [], 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
            assert len(value) == size
        else:
            size, code = {1: (8, "<d"), 5: (4, "<f")}[key & 7]
            value, at = struct.unpack(code, data[at:at + size])[0], at + size
        fields.append((key >> 3, value))
    return fields


def records(path):
    with open(path, "rb") as file:
        data = file.read()
    at = 0
    while at < len(data):
        size, check = struct.unpack("<QI", data[at:at + 12])
        assert check == masked(data[at:at + 8])
        body = data[at + 12:at + 12 + size]
        assert len(body) == size
        assert struct.unpack("<I", data[at + 12 + size:at + 16 + size])[0] == masked(body)
        at += 16 + size
        yield message(body)


def read_events(folder):
    """All of a folder in the order of names: (step, fields by number), values of summaries parsed
    to {tag: number or (width, height, bytes)}."""
    events = []
    for name in sorted(os.listdir(folder)):
        assert "tfevents" in name, name
        for fields in records(os.path.join(folder, name)):
            event = dict(fields)
            values = {}
            for _, value in message(event.get(5, b"")):
                parts = dict(message(value))
                if 4 in parts:
                    image = dict(message(parts[4]))
                    assert image[3] == 3
                    values[parts[1].decode()] = (image[2], image[1], image[4])
                else:
                    values[parts[1].decode()] = parts[2]
            events.append((event[2], event, values))
    return events
