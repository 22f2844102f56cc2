"""What the tests of the command line share: the program, temporary folders, safetensors files."""

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import unittest

from formats import OTHER_SIZES, SIZES, read_png, read_safetensors  # noqa: F401
from formats import write_png, write_safetensors  # noqa: F401

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

    def shim(self, under, at=0, number=0, sticky=False, count=None, log=None, reads=False):
        return {
            "LD_PRELOAD": os.environ["SARA_FAIL_IO"],
            "FAIL_IO_UNDER": under,
            "FAIL_IO_AT": str(at),
            "FAIL_IO_ERRNO": str(number),
            "FAIL_IO_STICKY": "1" if sticky else "0",
            "FAIL_IO_READS": "1" if reads else "0",
            "FAIL_IO_COUNT": count or "/dev/null",
            "FAIL_IO_LOG": log or "/dev/null",
        }

    def count(self, under, *args, reads=False):
        """How many calls a run makes that can fail."""
        self.ok(*args, env=self.shim(under, count=self.path("count"), reads=reads))
        with open(self.path("count")) as file:
            return int(file.read())


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def as_others():
    """Before the program: permissions hold for root, too, without CAP_DAC_OVERRIDE and
    CAP_DAC_READ_SEARCH."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


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
