"""Triton's kernels: what they compute, by Triton's interpreter in processes of their own and on a
GPU if there is one (triton_checks.py, triton_training.py); that they compile; when torch's are
taken."""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import warnings
from unittest import mock

import torch
import triton  # comes with torch; that it is missing is an error
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import sara
from sara import _triton, _triton_kernels
from support import Net, TestCase, torch_path, train

TESTS = pathlib.Path(__file__).parent
PACKAGE = str(pathlib.Path(sara.__file__).parents[1])
TYPES = {"positions": "*i32", "owners": "*i32", "count": "i32", "size": "i32", "rank_first": "i32",
         "rank_count": "i32", "marks": "*i64", "table": "*i64", "result": "*i64", "sums": "*fp64",
         "skipped": "*fp32", "rank": "*fp32", "steps": "*fp32", "values": "*fp32",
         "gradient": "*fp32", "moment1": "*fp32", "moment2": "*fp32", "clip": "*fp64"}


def run(arguments, **environment):
    path = os.pathsep.join([PACKAGE, str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path,
                                                             **environment},
                          capture_output=True, text=True)


class Results(unittest.TestCase):
    def check(self, **environment):
        for file in ("triton_checks.py", "triton_training.py"):
            result = run([str(TESTS / file)], **environment)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertRegex(result.stderr, r"Ran [1-9]\d* tests")

    def test_by_the_interpreter(self):
        self.check(TRITON_INTERPRET="1")

    @unittest.skipUnless(torch.cuda.is_available(), "no GPU")
    def test_on_a_gpu(self):
        self.check(TRITON_INTERPRET="0")


class Compiling(unittest.TestCase):
    """For devices that this machine need not have."""

    def compile(self, kernel, capability, **constants):
        types = {name: "constexpr" if name in constants else TYPES.get(name, "fp32")
                 for name in kernel.arg_names}
        if "dense" in types:
            types["dense"] = {torch.float32: "*fp32", torch.bfloat16: "*bf16",
                              torch.float16: "*fp16"}[constants.pop("dtype")]
        made = triton.compile(ASTSource(kernel, types, constants),
                              target=GPUTarget("cuda", capability, 32))
        self.assertIn("cubin", made.asm)

    def test_all(self):
        k, block = _triton_kernels, {"BLOCK": 256}
        with tempfile.TemporaryDirectory() as folder, \
                mock.patch.dict(os.environ, TRITON_CACHE_DIR=folder):
            self.compile(k.squares, 90, SPAN=4096)
            self.compile(k.marks, 90, **block)
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                T = {"T": getattr(tl, str(dtype).split(".")[1])}
                for capability in (80, 90):
                    for adds in (True, False):
                        self.compile(k.gather, capability, dtype=dtype, ADDS=adds, SPAN=1024)
                    self.compile(k.follow, capability, **T, **block)
                    self.compile(k.adamw, capability, **T, **block)
                    self.compile(k.adamw, capability, clip=None, skipped=None, rank=None, **T,
                                 **block)


class Choice(TestCase):
    def train(self):
        model = Net()
        optimizer = sara.adamw(model, threshold=0.01, lr=1e-3)
        train(model, optimizer, 2)
        return model, optimizer

    def test_a_kernel_that_fails(self):
        """Triton has no device for CPU tensors: torch's operations go on, and one line says why."""
        with torch_path():
            expected = self.train()
            with mock.patch.object(_triton, "_on_device", lambda tensor: True), \
                    mock.patch.object(_triton, "_off", False), \
                    warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                own = self.train()
                self.assertTrue(_triton._off)
        self.assertSameRun(own, expected)
        lines = [str(w.message) for w in caught if "sara goes on" in str(w.message)]
        self.assertEqual(len(lines), 1, lines)
        self.assertRegex(lines[0], r"Triton does not run here: \w+: .*(driver|Pointer)")

    def test_memory_that_is_missing(self):
        """That is no fault of Triton's."""
        kernels = mock.Mock()
        kernels.marks.__getitem__ = mock.Mock(side_effect=torch.cuda.OutOfMemoryError("full"))
        with mock.patch.object(_triton, "_on_device", lambda tensor: True), \
                mock.patch.object(_triton, "_off", False), \
                mock.patch.object(_triton, "_kernels", lambda: kernels):
            with self.assertRaisesRegex(torch.cuda.OutOfMemoryError, "full"):
                _triton.marks(torch.zeros(256))
            self.assertFalse(_triton._off)

    def test_what_is_left_to_torch(self):
        with mock.patch.object(_triton, "_launch") as launch:
            self.assertFalse(_triton.gather(torch.ones(4), torch.ones(2, dtype=torch.int32),
                                            torch.zeros(2), True))  # on the CPU
            with mock.patch.object(_triton, "_on_device", lambda tensor: True):
                for dense in (torch.ones(4, 4, dtype=torch.float64), torch.ones(4, 4).t()):
                    self.assertFalse(_triton.gather(dense, torch.ones(2, dtype=torch.int32),
                                                    torch.zeros(2), True))
        launch.assert_not_called()

    def found(self, before="", **environment):
        """Whether there are kernels to use; what was warned of."""
        code = (f"import sys\n{before}\nimport torch\nfrom sara import _triton\n"
                "_triton._on_device = lambda tensor: True\n"
                "print(_triton._usable(torch.zeros(1)), 'triton' in sys.modules)")
        result = run(["-c", code], **environment)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.split(), result.stderr

    def test_turned_off(self):
        self.assertEqual(self.found()[0], ["True", "True"])
        self.assertEqual(self.found(SARA_TRITON="0"), (["False", "False"], ""))

    def test_missing_or_broken(self):
        self.assertEqual(self.found("sys.modules['triton'] = None"), (["False", "True"], ""))
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "triton.py").write_text("raise OSError('no libcuda')")
            (usable, _), told = self.found(f"sys.path.insert(0, {folder!r})")
        self.assertEqual(usable, "False")
        self.assertRegex(told, "Triton does not run here: OSError: no libcuda")


if __name__ == "__main__":
    unittest.main()
