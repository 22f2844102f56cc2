"""Whatever happens to files of a cache, and whenever a run ends while it writes them: the next run
comes to what one without a cache does, names what it makes anew, and leaves whole files alone
behind. With SARA_LONG=1 each damage of each file, each byte flipped, and every call that changes
something made to fail."""

import errno
import os
import random
import re
import shutil
import stat
import subprocess
import unittest

from support import IO, PROGRAM, SANITIZE, SLOW, as_others, remains
from support_caches import Everything

LONG = os.environ.get("SARA_LONG") == "1"


def cut(where):
    return lambda data: data[: where(data)]


def header_size(data):
    return 8 + int.from_bytes(data[:8], "little")


def flip(where, bit=1):
    """A bit of the byte at `where`, a function of the content."""
    def damage(data):
        at = where(data)
        return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
    return damage


def behind(text, more=0):
    return lambda data: data.index(text) + len(text) + more


CONTENTS = {
    "empty": cut(lambda data: 0),
    "cut in the size": cut(lambda data: 7),
    "cut behind the size": cut(lambda data: 8),
    "cut in the header": cut(lambda data: header_size(data) // 2),
    "cut behind the header": cut(header_size),
    "cut in the values": cut(lambda data: (header_size(data) + len(data)) // 2),
    "cut by a byte": cut(lambda data: -1),
    "longer": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "header's size": flip(lambda data: 0),
    "header's size, far": flip(lambda data: 7),
    "its name": flip(behind(b'"name":"', 5)),
    "its hash": flip(behind(b'"sha256":"', 63)),
    "a type": flip(behind(b'"dtype":"', 1)),
    "a shape": flip(behind(b'"shape":[')),
    "an offset": flip(behind(b'"data_offsets":[')),
    "a tensor's name": flip(lambda data: re.search(rb'"(moments|encoder_hid)', data).start() + 2),
    "the first value": flip(header_size),
    "the last value": flip(lambda data: -1 % len(data), 128),
}


def replace(make):
    def damage(path):
        os.unlink(path)
        make(path)
    return damage


PLACES = {
    "a folder": replace(os.mkdir),
    "a pipe": replace(os.mkfifo),
    "a socket": replace(lambda path: os.mknod(path, stat.S_IFSOCK | 0o600)),
    "a circle of links": replace(lambda path: os.symlink(path, path)),
    "a link to nothing": replace(lambda path: os.symlink("nothing", path)),
    "unreadable": lambda path: os.chmod(path, 0),
}


class Faults(Everything):
    expected = None  # of all tests: the result without a cache, and the files of a whole one

    def setUp(self):
        super().setUp()
        self.kept = self.path("kept")
        if not Faults.expected:
            self.train("plain")
            self.train("whole", cache=self.kept)
            Faults.expected = self.result("plain"), self.files()
            self.assert_whole("whole", self.expected)
        for kind in ("latents", "states"):
            os.makedirs(os.path.join(self.kept, kind), exist_ok=True)
        for name, data in self.expected[1].items():
            self.put(name, data)

    def put(self, name, data):
        with open(os.path.join(self.kept, name), "wb") as file:
            file.write(data)


class Damaged(Faults):
    def find(self, names, what):
        """A run that finds these files damaged."""
        done = self.train("again", cache=self.kept, limit=as_others)
        told = re.findall(r"warning: (.*); it is made anew", done.err)
        for name in names:
            self.assertEqual(sum(name in line for line in told), 1, (name, what, done.err))
        self.assertEqual(len(told), len(names), (what, done.err))
        self.assert_whole("again", self.expected, what=what)

    def foreign(self, name):
        """The content of another file that has the same tensors."""
        files, kind = self.expected[1], name.split(os.sep)[0]
        return next((data for other, data in sorted(files.items())
                     if other != name and other.startswith(kind) and
                     data[: data.index(b"sha256")].split(b'"name"')[0] ==
                     files[name][: files[name].index(b"sha256")].split(b'"name"')[0] and
                     len(data) == len(files[name]) and
                     data[header_size(data):] != files[name][header_size(files[name]):]), None)

    def test_damaged(self):
        """Each file in another way, in each round in the next one."""
        ways = [*CONTENTS, "another's", *PLACES]
        names = sorted(self.expected[1])
        self.assertGreaterEqual(len(names), len(ways) - 3)
        for first in range(0, len(ways), 1 if LONG else 9):
            hurt = {}
            for index, name in enumerate(names):
                way = ways[(first + index) % len(ways)]
                data = self.expected[1][name]
                if way in CONTENTS:
                    self.put(name, CONTENTS[way](data))
                elif way in PLACES:
                    PLACES[way](os.path.join(self.kept, name))
                elif self.foreign(name):
                    self.put(name, self.foreign(name))
                else:
                    continue
                hurt[name] = way
            self.find(hurt, hurt)

    def test_others(self):
        """Files of other images, captions and, by another VAE or encoder, of other models."""
        for name in self.expected[1]:
            if self.foreign(name):
                self.put(name, self.foreign(name))
        self.find([name for name in self.expected[1] if self.foreign(name)], "foreign")
        self.train("other", "--encoder_dtype", "bf16", cache=self.path("other-kept"))
        other = self.files("other-kept")
        hurt = {}
        for name, data in self.expected[1].items():
            alike = [x for x in other if len(other[x]) == len(data) and x[:4] == name[:4]]
            if alike:
                hurt[name] = alike[0]
                self.put(name, other[alike[0]])
        self.assertGreater(len(hurt), 10)
        self.find(hurt, "of another model")

    def test_away(self):
        """Every second file: of some images the one of two."""
        for first in range(2):
            for name in sorted(self.expected[1])[first::2]:
                os.unlink(os.path.join(self.kept, name))
            self.find([], "away")

    def test_full_folder(self):
        """What somebody has put there is no cache's to remove."""
        name = sorted(self.expected[1])[0]
        path = os.path.join(self.kept, name)
        os.unlink(path)
        os.mkdir(path)
        self.write(os.path.join(path, "mine"), "mine")
        self.refused(IO, [path, "remove it"], *self.arguments("full", cache=self.kept))
        self.assertEqual(os.listdir(path), ["mine"])

    @unittest.skipUnless(LONG, "SARA_LONG=1")
    def test_each_byte(self):
        """Of all files at once; of long ones some bytes."""
        files = self.expected[1]
        sizes = {len(data) for data in files.values()}
        for at in [*range(max(x for x in sizes if x < 2000)), *range(2000, max(sizes), 61)]:
            hurt = [name for name, data in files.items() if at < len(data)]
            for name in hurt:
                self.put(name, flip(lambda data: at, 1 << at % 8)(files[name]))
            self.find(hurt, at)


class Ends(Faults):
    """A run ends while it fills the cache."""

    def fails(self, number, sticky=False, some=8):
        arguments = self.arguments("run", cache=self.kept)
        shutil.rmtree(self.kept)
        calls = self.count(self.kept, *arguments)
        self.assertGreater(calls, 100)
        for at in range(1, calls + 1, 1 if LONG else calls // some * (3 if SANITIZE else 1)):
            what = f"call {at} of {calls}, {number}"
            for folder in ("kept", "run"):
                shutil.rmtree(self.path(folder), ignore_errors=True)
            result = self.sara(*arguments, env=self.shim(self.kept, at, number, sticky))
            if number:
                self.check_refused(result, IO, [self.kept, os.strerror(number)], what)
                self.assertEqual(remains(self.kept) if os.path.isdir(self.kept) else [], [], what)
            else:
                self.assertEqual(result.code, -9, what)
            done = self.train("again", cache=self.kept)
            self.assertNotIn("made anew", done.err, what)
            self.assert_whole("again", self.expected, what=what)

    def test_killed(self):
        self.fails(0)

    def test_disk_full(self):
        self.fails(errno.ENOSPC, sticky=True)

    def test_input_output_error(self):
        self.fails(errno.EIO, some=4)

    def test_remains_of_others(self):
        """What a killed run was writing goes with the next one, whatever that needs."""
        for name in self.expected[1]:
            if name.startswith("latents"):
                os.unlink(os.path.join(self.kept, name))
        self.sara(*self.arguments("run", cache=self.kept), env=self.shim(self.kept, 4))
        left = remains(self.kept)
        self.assertEqual(len(left), 1, left)
        self.train("other", "--encoder_dtype", "bf16", "--max_train_steps", "1", cache=self.kept)
        self.assertEqual(remains(self.kept), [])


class Together(Faults):
    def start(self, run, env=None):
        shutil.rmtree(self.path(run), ignore_errors=True)
        return subprocess.Popen([PROGRAM, *self.arguments(run, cache=self.kept)],
                                cwd=self.folder, env={**os.environ, **(env or {})},
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE)

    def end(self, process):
        err = process.communicate(timeout=120 * SLOW)[1].decode()
        self.assertNotIn("made anew", err)
        return process.returncode, err

    def test_at_once(self):
        """Three runs on an empty folder."""
        for number in range(30 if LONG else 2):
            shutil.rmtree(self.kept)
            runs = [f"run{i}" for i in range(3)]
            for process in [self.start(run) for run in runs]:
                code, err = self.end(process)
                self.assertEqual(code, 0, err)
            for run in runs:
                self.assert_whole(run, self.expected, what=number)

    def test_while_another_is_killed(self):
        draw = random.Random(3)
        calls = self.count(self.path("counted"),
                           *self.arguments("run", cache=self.path("counted")))
        for number in range(60 if LONG else 3):
            shutil.rmtree(self.kept)
            at = draw.randrange(1, calls)
            killed = self.start("killed", self.shim(self.kept, at))
            code, err = self.end(self.start("run"))
            self.assertEqual(code, 0, err)
            self.end(killed)
            self.assertEqual(self.result("run"), self.expected[0], at)
            self.train("next", cache=self.kept)
            self.assert_whole("next", self.expected, what=at)


if __name__ == "__main__":
    unittest.main()
