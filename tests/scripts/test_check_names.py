"""scripts/check_names.py finds file-local functions of one name in several files."""
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPTS = os.path.join(os.path.dirname(__file__), "..", "..", "scripts")
sys.path.insert(0, SCRIPTS)

import check_names  # noqa: E402

DEFINED = [
    "static int name(void)\n{\n}", "static inline const char *name(int a, char b)\n{",
    "static sara_status\nname(int a,\n     int b)\n{", "static void name(int (*f)(int), int b) {",
    "static int name(void) __attribute__((cold))\n{", "/* x */ \nstatic float *name(void)\n{",
]
OTHERS = [
    "int name(void)\n{", "static int name(void);", "static int name = 3;",
    "/* static int name(void) { */", '"\nstatic int name(void) {"', "    name(1);",
    "static const int name[] = {1};", "#define X \\\nstatic int name(void) {",
    "static int (*name)(void) = other;",
]


class Check(unittest.TestCase):
    def test_functions(self):
        for text in DEFINED:
            with self.subTest(text):
                self.assertEqual(check_names.functions(text), {"name"})
        for text in OTHERS:
            with self.subTest(text):
                self.assertEqual(check_names.functions(text), set())

    def test_program(self):
        for names, code in [(("one", "two"), 0), (("one", "one"), 1), ((), 1)]:
            with tempfile.TemporaryDirectory() as folder:
                for i, name in enumerate(names):
                    os.makedirs(os.path.join(folder, str(i)))
                    with open(os.path.join(folder, str(i), "x.c"), "w", encoding="utf-8") as file:
                        file.write(f"static int {name}(void)\n{{\n}}\n")
                done = subprocess.run(
                    [sys.executable, os.path.join(SCRIPTS, "check_names.py"), folder],
                    capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, code, done.stdout)
                self.assertEqual("one: in 0/x.c, 1/x.c" in done.stdout, names == ("one", "one"))


if __name__ == "__main__":
    unittest.main()
