"""Triton's kernels against torch's operations and libsara. test_triton.py runs this in a process of
its own, by Triton's interpreter on CPU tensors; without TRITON_INTERPRET=1 it runs on a GPU."""
import contextlib
import copy
import os
import unittest
from unittest import mock

import torch

import sara
from sara import _kernels as kernels
from sara import _triton
from sara._flat import Flat, Part
from support import TestCase, bits, relative, torch_path

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COUNTS = (1, 0, 255, 256, 257, 700)  # of a parameter's entries
NUMBERS = kernels.AdamW(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)


@contextlib.contextmanager
def triton_path():
    """Everything as on a CUDA device. A kernel that fails is an error."""
    def fail(error):
        raise error
    with torch_path(), mock.patch.object(_triton, "_on_device", lambda tensor: True), \
            mock.patch.object(_triton, "_turn_off", fail):
        yield


def random(size, dtype=torch.float32, scale=0.01):
    return (torch.randn(size) * scale).to(dtype).to(DEVICE)


def subset(size, count):
    return torch.randperm(size)[:count].sort().values.to(torch.int32).to(DEVICE)


class Case:
    """A flat and its parameters, which hold its values rounded."""

    def __init__(self, dtype):
        self.parameters = [random((2 * count + 1,), dtype) for count in COUNTS]
        pieces = [{"positions": subset(len(p), count), "values": random(count),
                   "gradient": random(count), "exp_avg": random(count),
                   "exp_avg_sq": random(count).square()}
                  for p, count in zip(self.parameters, COUNTS)]
        self.names = [str(i) for i in range(len(COUNTS))]
        self.flat = Flat(sara._flat.Group(), self.names, pieces, torch.device(DEVICE))
        self.flat.steps.fill_(7)
        self.put()
        size = self.flat.starts[-1]
        self.part = Part(False, dtype, self.names, 0, slice(0, size),
                         slice(0, size // kernels.lib.BLOCK))

    def put(self):
        for p, positions, values in zip(self.parameters, *map(self.flat.views.get,
                                                              ("positions", "values"))):
            kernels.put(p, positions, values)

    def write(self):
        """Into the model and, here and there, into the optimiser's tensors."""
        for p in self.parameters:
            p[::3].mul_(1.5)
        self.flat.views["values"][4][-1:].add_(1)  # the second block of it
        self.flat.views["values"][5][300:302].zero_()

    def places(self):
        return [slice(start, start + count) for start, count in zip(self.flat.starts, COUNTS)]

    def entries(self, i, rank=None):
        views = {key: view[i] for key, view in self.flat.views.items()}
        block = self.flat.starts[i] // kernels.lib.BLOCK
        return kernels.Entries(str(i), self.parameters[i], views["positions"], views["values"],
                               views["exp_avg"], views["exp_avg_sq"], views["gradient"], rank,
                               self.flat.marks[block:])

    def state(self):
        return [*self.flat.tensors.values(), self.flat.marks, *self.parameters]


def on_cpu(case):
    """A copy for libsara."""
    result = copy.deepcopy(case)
    flat = result.flat
    flat.tensors = {key: tensor.cpu() for key, tensor in flat.tensors.items()}
    flat.views = {key: flat.of(tensor) for key, tensor in flat.tensors.items()}
    flat.marks, result.parameters = flat.marks.cpu(), [p.cpu() for p in result.parameters]
    return result


class Kernels(TestCase):
    def assertSame(self, one, other):
        self.assertEqual([bits(t.cpu()) for t in one], [bits(t.cpu()) for t in other])

    def test_gather(self):
        for dtype in DTYPES:
            for count in (*COUNTS, 1024, 2500):
                dense = random((3, count + 5), dtype)
                positions, gradient = subset(dense.numel(), count), random(count)
                chosen = dense.view(-1)[positions.long()].float()
                for adds, expected in ((True, gradient + chosen), (False, chosen)):
                    own = gradient.clone()
                    with triton_path():
                        self.assertTrue(_triton.gather(dense, positions, own, adds))
                    self.assertSame([own], [expected])

    def test_norm(self):
        for size in (256, 4096, 4352, 20480):
            gradient = random(size, scale=1e15)  # whose squares float32 has not
            expected = torch.linalg.vector_norm(gradient, dtype=torch.float64)
            with triton_path():
                own = kernels.norm_torch(gradient)
                self.assertEqual(own.dtype, torch.float64)
                self.assertLessEqual(abs(own / expected - 1).item(), 1e-14)
                gradient[-1] = torch.nan
                self.assertTrue(kernels.norm_torch(gradient).isnan())

    def test_marks(self):
        values = random(256 * 9, scale=1e6)
        values[5], values[256:512], values[600] = torch.nan, 0, -torch.inf
        expected = kernels.marks(values.cpu())
        with triton_path():
            self.assertSame([_triton.marks(values)], [expected])

    def test_rounding(self):
        """Also halfway between two numbers of the dtype, below its normal ones and beyond its
        largest."""
        coarse = torch.arange(0, 2 ** 16, 31).to(torch.int32) << 16  # bfloat16's bits
        half = torch.arange(2 ** 16).to(torch.int16).view(torch.float16).float()
        between = ((half[:-1] + half[1:]) / 2)[::31]
        values = torch.cat([(coarse + 0x8000).view(torch.float32), (coarse + 1).view(torch.float32),
                            half[::31], between, torch.nextafter(between, between * 2),
                            torch.tensor([65519.9, 65520.0, 3.4e38, 1e-45, -0.0])])
        values = values[values.isfinite()]
        chosen = torch.arange(len(values), dtype=torch.int32)
        for dtype in DTYPES:
            p = torch.zeros(len(values), dtype=dtype, device=DEVICE)
            flat = Flat(sara._flat.Group(), ["p"], [{"positions": chosen, "values": values}],
                        torch.device(DEVICE))
            part = Part(False, dtype, ["p"], 0, slice(0, flat.starts[-1]),
                        slice(0, len(flat.marks)))
            flat.steps.fill_(1)
            with triton_path():
                numbers = NUMBERS._replace(weight_decay=0)
                self.assertTrue(_triton.adamw(flat, part, [p], [True], numbers, 1.0, None, None))
                self.assertSame([p], [values.to(dtype)])
                self.assertTrue(_triton.follow(flat, part, [p]))
            self.assertSame(flat.views["values"], [values])  # where nothing was written

    def test_follow(self):
        for dtype in DTYPES:
            case = Case(dtype)
            case.write()
            one, two = on_cpu(case), on_cpu(case)
            kernels.follow([one.entries(i) for i in range(len(COUNTS))])
            with torch_path():
                kernels.follow_torch(two.parameters, two.flat.views["positions"],
                                     two.flat.tensors["values"], two.flat.marks, two.places())
            before = case.flat.tensors["values"].clone()
            with triton_path():
                self.assertTrue(_triton.follow(case.flat, case.part, case.parameters))
            self.assertSame(case.state(), one.state())
            self.assertSame([case.flat.tensors["values"]], [two.flat.tensors["values"]])
            self.assertGreater((case.flat.tensors["values"] != before).sum().item(), 300)

    def update(self, dtype, clip, skipped=None, trained=None, step=7):
        """A case before and after a step of the kernel, with a gradient of the low-rank term."""
        case = Case(dtype)
        case.flat.steps.fill_(step)
        if trained:
            case.flat.marks.zero_()  # of those that are not, it stays so
        trained = trained or [True] * len(COUNTS)
        before, rank = copy.deepcopy(case), random(COUNTS[4])
        with triton_path():
            done = _triton.adamw(case.flat, case.part, case.parameters, trained, NUMBERS, clip,
                                 skipped, (case.flat.starts[4], rank, 0.5))
        self.assertTrue(done)
        return case, before, rank.cpu()

    def assertStep(self, case, before, other):
        """Both changed the same; the parameters are the values rounded."""
        for key in ("values", "exp_avg", "exp_avg_sq"):
            start = before.flat.tensors[key].cpu().double()
            own, theirs = (c.flat.tensors[key].cpu().double() - start for c in (case, other))
            self.assertLessEqual(relative(own, theirs), 1e-6, key)
        values = case.flat.views["values"]
        with torch_path():
            self.assertSame([case.flat.marks], [kernels.marks(case.flat.tensors["values"])])
        for p, was, positions, own in zip(case.parameters, before.parameters,
                                          case.flat.views["positions"], values):
            was[positions.long()] = own.to(was.dtype)
            self.assertSame([p], [was])

    def test_adamw_as_libsara(self):
        for dtype in DTYPES:
            for step in (1, 20000):
                for clip in (0.37, torch.tensor(0.37, dtype=torch.float64, device=DEVICE)):
                    case, before, rank = self.update(dtype, clip, step=step)
                    other = on_cpu(before)
                    items = [other.entries(i, rank * 0.5 if i == 4 else None)
                             for i in range(len(COUNTS))]
                    kernels.adamw(items, NUMBERS, 0.37, step)
                    self.assertStep(case, before, other)

    def test_adamw_as_torch(self):
        for skip in (None, 0.0, 1.0):
            skipped = None if skip is None else torch.tensor(skip, device=DEVICE)
            case, before, rank = self.update(torch.bfloat16, 0.37, skipped)
            other = on_cpu(before)
            own, first = other.flat.tensors, other.flat.starts[4]
            gradient = own["gradient"] * 0.37
            gradient[first:first + len(rank)].add_(rank, alpha=0.5)
            with torch_path():
                if not skip:
                    kernels.adamw_torch(own["values"], gradient, own["exp_avg"], own["exp_avg_sq"],
                                        NUMBERS, other.flat.steps, None)
            self.assertStep(case, before, other)
            if skip:
                self.assertSame(case.state(), before.state())

    def test_frozen(self):
        trained = [True, True, False, True, True, False]
        case, before, _ = self.update(torch.float32, 1.0, trained=trained)
        for i, own in enumerate(trained):
            held = [[c.parameters[i], *(c.flat.views[key][i] for key in
                                        ("values", "exp_avg", "exp_avg_sq"))]
                    for c in (case, before)]
            same = {torch.equal(a, b) for a, b in zip(*held)}
            self.assertEqual(same, {not own or COUNTS[i] == 0}, i)
        with torch_path():
            marks = kernels.marks(case.flat.tensors["values"])
        for own, start, end in zip(trained, case.flat.starts, case.flat.starts[1:]):
            blocks = slice(start // kernels.lib.BLOCK, end // kernels.lib.BLOCK)
            self.assertSame([case.flat.marks[blocks]], [marks[blocks] * own])


if __name__ == "__main__":
    unittest.main()
