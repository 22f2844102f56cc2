"""What two runs of a case left behind: equal to the bit, or where not."""

import json
import os
import re
import struct

from formats import SIZES, read_png, read_safetensors

# Metadata keys and words of a picture's text that tell the program's version, nothing else.
VERSION_KEYS = {"sara.version", "modelspec.date"}
VERSION_IN_PICTURE = re.compile(r", Version: sara [^,\n]*")
# Hashes of files that are compared themselves, and of the manifest that holds them.
MANIFEST_HASHES = {"sha256", "files"}
TIMES_IN_LOG = {"seconds"}
SETTING = re.compile(r"<tr><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>")
PAGE_TIME = re.compile(r"[\d.]+ s a step")
FORMATS = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "U64": "Q", "U32": "I",
           "U16": "H"}


class Findings:
    """Differences, and the keys that only the second side has, which are none."""

    def __init__(self):
        self.differences, self.new_keys = [], set()

    def differ(self, what, before, after):
        self.differences.append(f"{what}: {shorten(before)} and {shorten(after)}")


def shorten(value):
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    text = text.replace("\n", "\\n")
    return text if len(text) <= 120 else text[:80] + "..." + text[-37:]


def compare_keys(found, what, before, after, free=()):
    """Objects: whatever the first has; of the second's own keys the names are noted."""
    for key in sorted(set(before) - set(free)):
        where = f"{what} {key}"
        if key not in after:
            found.differ(where, before[key], "no such key")
        elif isinstance(before[key], dict) and isinstance(after[key], dict):
            compare_keys(found, where, before[key], after[key])
        elif before[key] != after[key]:
            found.differ(where, before[key], after[key])
    found.new_keys |= {f"{what} {key}" for key in set(after) - set(before) - set(free)}


def number_at(tensor, at):
    dtype, _, data = tensor
    piece = data[at * SIZES[dtype]:(at + 1) * SIZES[dtype]]
    if dtype == "BF16":
        return struct.unpack("<f", b"\0\0" + piece)[0]
    if dtype in FORMATS:
        return struct.unpack("<" + FORMATS[dtype], piece)[0]
    return piece.hex()


def compare_tensor(found, what, before, after):
    """(dtype, shape, bytes) each"""
    if before[:2] != after[:2]:
        found.differ(what, f"{before[0]} {before[1]}", f"{after[0]} {after[1]}")
    elif before[2] != after[2]:
        size = SIZES[before[0]]
        apart = [i for i in range(len(before[2]) // size)
                 if before[2][i * size:(i + 1) * size] != after[2][i * size:(i + 1) * size]]
        count, first = len(before[2]) // size, apart[0]
        found.differ(f"{what}: {len(apart)} of {count} entries, the first [{first}]",
                     number_at(before, first), number_at(after, first))


def compare_safetensors(found, what, before, after):
    """Whether the files should have equal bytes; likewise for pictures."""
    (before, before_metadata), (after, after_metadata) = map(read_safetensors, (before, after))
    compare_keys(found, what + ": metadata", before_metadata, after_metadata, VERSION_KEYS)
    if list(before) != list(after):
        lost, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
        found.differ(f"{what}: names of tensors", lost or "their order", new or "another order")
    for name in before:
        if name in after:
            compare_tensor(found, f"{what}: {name}", before[name], after[name])
    return before_metadata == after_metadata


def compare_png(found, what, before, after):
    before, after = read_png(before), read_png(after)
    if before[:2] != after[:2]:
        found.differ(f"{what}: size", before[:2], after[:2])
    elif before[2] != after[2]:
        pairs = list(zip(b"".join(before[2]), b"".join(after[2])))
        apart = [abs(a - b) for a, b in pairs if a != b]
        found.differ(f"{what}: {len(apart)} of {len(pairs)} colours, at most {max(apart)} apart",
                     *next((a, b) for a, b in pairs if a != b))
    texts = [{key: VERSION_IN_PICTURE.sub("", text) for key, text in side[3].items()}
             for side in (before, after)]
    if texts[0] != texts[1]:
        found.differ(f"{what}: texts", *texts)
    return before[3] == after[3]


def read(path):
    with open(path, "rb") as file:
        return file.read()


def read_json(text):
    """An object; its numbers as they are written."""
    value = json.loads(text, parse_float=str, parse_int=str)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def compare_log(found, what, before, after):
    lines = [read(path).decode().splitlines() for path in (before, after)]
    if len(lines[0]) != len(lines[1]):
        found.differ(f"{what}: lines", len(lines[0]), len(lines[1]))
    for number, pair in enumerate(zip(*lines)):
        compare_keys(found, f"{what}:{number + 1}", *map(read_json, pair), TIMES_IN_LOG)


def compare_manifest(found, what, before, after):
    sides = [read_json(read(path)) for path in (before, after)]
    compare_keys(found, what, *sides, MANIFEST_HASHES)


def compare_report(found, what, before, after):
    sides = [PAGE_TIME.sub("", read(path).decode()) for path in (before, after)]
    if ("<main>" in sides[0]) != ("<main>" in sides[1]):
        return  # a page that was laid out otherwise
    compare_keys(found, what, *(dict(SETTING.findall(side)) for side in sides))
    rest = [SETTING.sub("", side) for side in sides]
    if rest[0] != rest[1]:
        found.differ(f"{what} without its settings", *apart_at(*rest))


def apart_at(before, after):
    """Both from shortly before the first place where they differ."""
    at = len(os.path.commonprefix([before, after]))
    return before[max(0, at - 20):at + 60], after[max(0, at - 20):at + 60]


def compare_text(found, what, before, after):
    """What a command printed; JSON may have further keys."""
    before, after = read(before).decode(), read(after).decode()
    try:
        compare_keys(found, what, read_json(before), read_json(after))
    except ValueError:
        found.differ(what, *apart_at(before, after))


def compare_file(found, what, before, after):
    contents = read(before), read(after)
    if contents[0] == contents[1]:
        return
    name, known = os.path.basename(what), len(found.differences)
    kinds = {"stdout": compare_text, "log.jsonl": compare_log, "manifest.json": compare_manifest,
             "report.html": compare_report, ".safetensors": compare_safetensors,
             ".latents": compare_safetensors, ".png": compare_png}
    kind = kinds.get(name) or kinds.get(os.path.splitext(name)[1])
    if not kind or (kind(found, what, before, after) and len(found.differences) == known):
        found.differ(f"{what}: bytes", *apart_at(*map(repr, contents)))


def compare_folders(found, before, after):
    sides = []
    for folder in (before, after):
        sides.append({os.path.relpath(os.path.join(where, name), folder)
                      for where, _, names in os.walk(folder) for name in names})
    for name in sorted(sides[0] ^ sides[1]):
        has = ["there" if name in side else "not there" for side in sides]
        found.differ(name, *has)
    for name in sorted(sides[0] & sides[1]):
        compare_file(found, name, os.path.join(before, name), os.path.join(after, name))
    if not sides[0]:
        found.differ("files", "none", "none")
