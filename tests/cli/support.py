"""What the tests of the command line share: the program, temporary folders, safetensors files."""

import array
import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
GOLDEN = os.path.join(TOP, "tests", "golden")
EMOJI = os.path.join(TOP, "examples", "emoji")
BASE = os.path.join(EMOJI, "base")
UNET = os.path.join(GOLDEN, "unet_sd1")
PROGRAM = os.environ["SARA_PROGRAM"]
SANITIZE = os.environ.get("SARA_SANITIZE") == "1"
SLOW = 10 if SANITIZE else 1  # factor on time limits; none is ever measured

USAGE, INPUT, IO, MEMORY, DIVERGED, INTERRUPTED, DEVICE = 2, 3, 4, 5, 6, 7, 8


def processor_has(flag):
    """Whether the processor has what Linux calls by that name."""
    try:
        with open("/proc/cpuinfo") as file:
            return any(flag in line.split() for line in file if line.startswith("flags"))
    except OSError:
        return False


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def errors(self):
        """The lines that the program itself begins with its name."""
        return [line for line in self.err.splitlines() if line.startswith("sara")]


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="sara-cli-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def sara(self, *args, env=None, limit=None, text=True):
        """Runs the program to its end."""
        done = subprocess.run(
            [PROGRAM, *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **(env or {})},
            cwd=self.folder,
            preexec_fn=limit,
            timeout=120 * SLOW,
        )
        out = done.stdout.decode("utf-8") if text else done.stdout
        return Result(done.returncode, out, done.stderr.decode("utf-8"))

    def ok(self, *args, **options):
        result = self.sara(*args, **options)
        self.assertEqual((result.code, result.errors()), (0, []), result.err)
        return result

    def refused(self, code, words, *args, **options):
        """Exit code, one error line that holds all the words, nothing on stdout."""
        result = self.sara(*args, **options)
        self.check_refused(result, code, words, args)
        return result

    def check_refused(self, result, code, words, what=None):
        self.assertEqual(result.code, code, (what, result.err))
        self.assertEqual(len(result.errors()), 1, (what, result.err))
        self.assertEqual(result.out, "", what)
        for word in [words] if isinstance(words, str) else words:
            self.assertIn(word, result.errors()[0], what)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        return self.path(name)

    def write_replay(self, name, steps, nan=False):
        """Micro-batches for tests/golden/unet_sd1, small ones; numbers from a hash."""

        def numbers(salt, count):
            stream = b"".join(
                hashlib.sha256(b"%s %d" % (salt, i)).digest() for i in range((count + 7) // 8)
            )
            return [x / 2**31 - 1 for (x,) in struct.iter_unpack("<I", stream)][:count]

        size = steps * 4 * 8 * 8
        latents = numbers(b"latents", size)
        if nan:
            latents = [float("nan")] * size
        timesteps = [int(500 + 499 * x) for x in numbers(b"timesteps", steps)]
        write_safetensors(
            self.path(name),
            {
                "latents": ("F32", [steps, 1, 4, 8, 8], latents),
                "noise": ("F32", [steps, 1, 4, 8, 8], numbers(b"noise", size)),
                "timesteps": ("I64", [steps, 1], timesteps),
                "encoder_hidden_states": (
                    "F32",
                    [steps, 1, 8, 40],
                    numbers(b"states", steps * 8 * 40),
                ),
            },
        )
        return self.path(name)


class Shim(Case):
    """A program whose calls that change files are counted, noted or made to fail: see fail_io.c."""

    def shim(self, under, at=0, number=0, sticky=False, count=None, log=None):
        return {
            "LD_PRELOAD": os.environ["SARA_FAIL_IO"],
            "FAIL_IO_UNDER": under,
            "FAIL_IO_AT": str(at),
            "FAIL_IO_ERRNO": str(number),
            "FAIL_IO_STICKY": "1" if sticky else "0",
            "FAIL_IO_COUNT": count or "/dev/null",
            "FAIL_IO_LOG": log or "/dev/null",
        }

    def count(self, under, *args):
        """How many calls a run makes that can fail."""
        self.ok(*args, env=self.shim(under, count=self.path("count")))
        with open(self.path("count")) as file:
            return int(file.read())


CODES = {"F32": "f", "I64": "q", "U8": "B"}
# are only copied
OTHER_SIZES = {"U64": 8, "C64": 8, "U32": 4, "U16": 2, "F8_E8M0": 1, "F8_E4M3": 1, "F8_E5M2": 1}
SIZES = {
    "F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1, **OTHER_SIZES
}


def write_safetensors(path, tensors, metadata=None):
    """tensors: name -> (dtype, shape, values or their bytes)"""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, shape, values) in sorted(tensors.items(), key=lambda t: -SIZES[t[1][0]]):
        content = (values if isinstance(values, bytes) else
                   array.array(CODES[dtype], values).tobytes())
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


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


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def files_below(folder):
    """Paths below a folder, hidden ones too."""
    found = []
    for where, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(where, name), folder) for name in names]
    return sorted(found)


def remains(folder):
    """What a run must not leave behind: temporary files and half-written checkpoints."""
    return [
        name
        for name in files_below(folder)
        if any(part.startswith(".") and part != ".lock" for part in name.split(os.sep))
    ]
