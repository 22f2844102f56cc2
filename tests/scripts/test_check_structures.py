"""scripts/check_structures.py finds where the Python package's structures are not the headers'."""
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(__file__), "..", "..", "scripts", "check_structures.py")
HEADER = """typedef struct sara_a {
    size_t size; /* of it; not more */
    const char *name, *other;
    double x, y;
    sara_log_fn log; /* NULL: silent */
    int64_t step;
} sara_a;
"""
MODULE = """A = _structure("sara_a", size=c_size_t, name=c_char_p, other=c_void_p, x=c_double,
               y=c_double, log=c_void_p, step=c_int64)
"""


class Check(unittest.TestCase):
    def check(self, header, module):
        """Whether they agree; what was printed."""
        with tempfile.TemporaryDirectory() as folder:
            for path, text in (("include/sara.h", header), ("include/sara_tensors.h", ""),
                               ("python/sara/_library.py", module)):
                os.makedirs(os.path.join(folder, os.path.dirname(path)), exist_ok=True)
                with open(os.path.join(folder, path), "w", encoding="utf-8") as file:
                    file.write(text)
            done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True,
                                  check=False)
            self.assertEqual(done.stderr, "")
            return done.returncode == 0, done.stdout

    def test_agreeing(self):
        self.assertEqual(self.check(HEADER, MODULE), (True, "structures: sara_a agree\n"))

    def test_differing(self):
        for old, new in (("size=c_size_t, ", ""), ("c_int64", "c_int"), ("x=", "z="),
                         ("log=c_void_p", "log=c_double"), ("sara_a", "sara_b")):
            with self.subTest(old):
                agree, told = self.check(HEADER, MODULE.replace(old, new, 1))
                self.assertFalse(agree)
                self.assertRegex(told, "^sara_[ab]: .* in python/sara/_library.py, ")
        self.assertFalse(self.check(HEADER, "")[0])


if __name__ == "__main__":
    unittest.main()
