"""What the built library holds: no writable data of its own, no network, nothing that prints or
ends the process, and no names but sara_*. The layers' rules of the sources (by which one file
starts processes, for sara_compare()), and README's copy of an example."""

import os
import re
import subprocess
import sys
import unittest

from support import PROGRAM, SANITIZE, TOP

LIBRARY = os.environ["SARA_LIBRARY"]
SKIP = (
    "the sanitizers' runtime belongs to the library then"
    if SANITIZE
    else "an archive has no symbols of its own" if LIBRARY.endswith(".a") else None
)
FORBIDDEN = set(
    """socket connect bind listen accept send sendto recv recvfrom getaddrinfo gethostbyname
    system popen fork vfork execv execve execvp execl dlopen
    printf puts putchar vprintf perror stdout stderr exit _exit abort __assert_fail
    setlocale localeconv atof sscanf __isoc99_sscanf strcasecmp tolower toupper
    rand srand random gets strcpy strcat sprintf tmpnam mktemp""".split()
)
PROGRAMS_OWN = set("stdout stderr printf puts putchar _exit strcasecmp".split())
# What compiler and start-up code put into any library.
FOREIGN = re.compile(
    r"^(completed\.\d+|__dso_handle|__TMC_(END|LIST)__|__cpu_model|__cpu_features2|_edata|_end|"
    r"__bss_start|__data_start|data_start|_IO_stdin_used|DW\.ref\.__gxx_personality_v0)$"
)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def undefined(path):
    return {
        line.split()[-1].split("@")[0]
        for line in run("nm", "-D", "--undefined-only", path).splitlines()
    }


def writable_objects(path):
    """Names of the objects in sections that stay writable once the program runs."""
    writable = set()
    for number, name, flags in re.findall(
        r"\[ *(\d+)\] (\S+) +\S+ +[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ [0-9a-f]+ +([A-Za-z]*)",
        run("readelf", "-SW", path),
    ):
        if "W" in flags and not re.match(
            r"\.(data\.rel\.ro|dynamic|got|init_array|fini_array)", name
        ):
            writable.add(number)
    assert writable, path
    found = []
    for line in run("readelf", "-sW", path).splitlines():
        fields = line.split()
        if len(fields) == 8 and fields[3] in ("OBJECT", "TLS") and fields[6] in writable:
            found.append(fields[7])
    return {name.split("@")[0] for name in found if not FOREIGN.match(name.split("@")[0])}


class Library(unittest.TestCase):
    def test_layers(self):
        done = subprocess.run(
            [sys.executable, os.path.join(TOP, "scripts", "check_layers.py")],
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_readme_script(self):
        """README shows the example as it is, its docstring apart."""
        with open(os.path.join(TOP, "examples", "train_pytorch.py"), encoding="utf-8") as file:
            script = file.read().split('"""', 2)[2].strip()
        with open(os.path.join(TOP, "README.md"), encoding="utf-8") as file:
            self.assertIn(f"```python\n{script}\n```", file.read())

    @unittest.skipIf(SKIP, SKIP)
    def test_calls(self):
        names = undefined(LIBRARY)
        self.assertIn("fsync", names)
        self.assertEqual(names & FORBIDDEN, set())
        self.assertEqual(undefined(PROGRAM) & FORBIDDEN - PROGRAMS_OWN, set())

    @unittest.skipIf(SKIP, SKIP)
    def test_no_globals(self):
        self.assertEqual(writable_objects(LIBRARY), set())
        # The signal handler's, which can have them nowhere else.
        own = {name.split(".")[0] for name in writable_objects(PROGRAM)}
        signals = {"interrupted_context", "interrupted", "notice", "signal_stack"}
        self.assertEqual(own, signals | {"stdout", "stderr"})

    @unittest.skipIf(SKIP, SKIP)
    def test_names(self):
        names = [
            line.split()[-1] for line in run("nm", "-D", "--defined-only", LIBRARY).splitlines()
        ]
        self.assertGreater(len(names), 20)
        self.assertEqual([name for name in names if not name.startswith("sara_")], [])
        header = ""
        for public in ("sara.h", "sara_train.h", "sara_data.h", "sara_eval.h", "sara_tensors.h"):
            with open(os.path.join(TOP, "include", public)) as file:
                header += file.read()
        self.assertEqual([name for name in names if not re.search(rf"\b{name}\(", header)], [])


if __name__ == "__main__":
    unittest.main()
