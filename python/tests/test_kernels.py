"""The method's arithmetic: libsara's and torch's against each other, and against LAPACK and plain indexing."""
import contextlib
import math
import unittest
from unittest import mock

import torch
import torch.nn.functional as F

import reference
import sara
from sara import _kernels as kernels
from support import THRESHOLD, Net, TestCase, bits, relative, torch_path, train, weights

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BOTH = {"libsara": kernels.nuclear_norm, "torch": kernels.nuclear_norm_torch}


def sampled(shape, density, seed, scale=1.0):
    """A matrix of normal noise at so many of its entries, their positions, and their values."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density) * scale
    positions = matrix.flatten().nonzero().view(-1).int()
    return matrix, positions, matrix.flatten()[positions.long()]


class NuclearNorm(TestCase):
    def check(self, matrix, positions, values, say):
        """Value within 1e-4, cosine of the subgradient at the positions at least 0.9999, entries bounded."""
        value, dense = reference.nuclear_norm(matrix)
        expected = dense.flatten()[positions.long()]
        for name, function in BOTH.items():
            with self.subTest(say, kernel=name):
                got, gradient = function(tuple(matrix.shape), positions, values)
                self.assertAlmostEqual(got / value, 1, delta=1e-4)
                self.assertGreaterEqual(F.cosine_similarity(gradient.double(), expected, dim=0).item(), 0.9999)
                self.assertAlmostEqual((gradient.norm() / expected.norm()).item(), 1, delta=1e-2)
                self.assertEqual((gradient.dtype, gradient.shape), (torch.float32, positions.shape))

    def test_against_lapack(self):
        """Square, wide and tall, from a few entries to all of them."""
        for shape, density in (((80, 80), 0.058), ((65, 65), 1), ((200, 200), 0.5), ((320, 320), 0.058), ((96, 400), 0.058), ((400, 96), 0.058),
                               ((65, 900), 0.02), ((300, 260), 0.006), ((70, 1000), 1), ((240, 240), 0.02)):
            self.check(*sampled(shape, density, 1), (shape, density))

    def test_small_singular_values_count_too(self):
        """Each is a direction of its own: square matrices of noise have some near nothing. Those of 1e-5 of the largest, say."""
        self.check(*sampled((128, 128), 1, 41128), "found among a hundred")
        for smallest in (-2, -4, -5):
            generator = torch.Generator().manual_seed(2)
            u, v = (torch.linalg.qr(torch.randn(100, 100, generator=generator, dtype=torch.float64))[0] for _ in range(2))
            matrix = (u @ torch.diag(torch.logspace(0, smallest, 100, dtype=torch.float64)) @ v).float()
            self.check(matrix, torch.arange(10000, dtype=torch.int32), matrix.flatten(), smallest)
        for seed in range(40):
            self.check(*sampled((80, 80), 0.1, 100 + seed), seed)

    def test_at_any_scale(self):
        for scale in (1e-30, 1e-12, 1e-3, 1e12, 1e18):
            self.check(*sampled((100, 90), 0.1, 4, scale), scale)

    def test_rank_deficient_matrices(self):
        """Finite, the value right, singular values of the whole subgradient at most 1.01."""
        ones, generator = torch.ones(100, 80), torch.Generator().manual_seed(3)
        low = torch.randn(90, 3, generator=generator) @ torch.randn(3, 120, generator=generator)
        single, double = torch.zeros(70, 70), torch.randn(80, 66, generator=generator)
        single[3, 4], double[40:] = -2, double[:40]
        for matrix in (ones, low, low.T.contiguous(), single, double, ones * 1e-20):
            positions = torch.arange(matrix.numel(), dtype=torch.int32)
            for name, function in BOTH.items():
                with self.subTest(shape=matrix.shape, kernel=name):
                    value, gradient = function(tuple(matrix.shape), positions, matrix.flatten())
                    self.assertAlmostEqual(value / reference.nuclear_norm(matrix)[0], 1, delta=1e-4)
                    self.assertTrue(gradient.isfinite().all())
                    self.assertLessEqual(torch.linalg.svdvals(gradient.view(matrix.shape).double()).max().item(), 1.01)

    def test_zero_matrices_and_no_entries(self):
        for name, function in BOTH.items():
            for count in (5, 0):
                value, gradient = function((70, 80), torch.arange(count, dtype=torch.int32), torch.zeros(count))
                self.assertEqual(value, 0.0, name)
                self.assertEqual(len(gradient), count)
                self.assertTrue((gradient.abs() <= 1.01).all(), name)

    def test_values_that_are_not_finite(self):
        """Neither hides them."""
        for name, function in BOTH.items():
            for bad in (math.nan, math.inf):
                _, positions, values = sampled((70, 70), 0.1, 0)
                values[7] = bad
                self.assertFalse(math.isfinite(function((70, 70), positions, values)[0]), (name, bad))

    def test_under_autocast(self):
        """torch's matrix products would be bfloat16's there."""
        matrix, positions, values = sampled((120, 120), 0.1, 5)
        outside = kernels.nuclear_norm_torch((120, 120), positions, values)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = kernels.nuclear_norm_torch((120, 120), positions, values)
        self.assertEqual(inside[0], outside[0])
        self.assertTrue(torch.equal(inside[1], outside[1]))


class AdamW(TestCase):
    def entries(self, dtype, seed=0):
        """One with both gradients, one with the low-rank term's alone, one with none; each for one of the two kernels."""
        result = []
        for index in range(3):
            generator = torch.Generator().manual_seed(10 * seed + index)
            tensor = (torch.randn(40, 50, generator=generator) * 0.02).to(dtype)
            positions = (tensor.flatten().float().abs() < THRESHOLD).nonzero().view(-1).int()
            values = tensor.flatten()[positions.long()].float()
            gradient = torch.randn(len(values), generator=generator) if index == 0 else None
            rank = torch.randn(len(values), generator=generator) * 0.1 if index < 2 else None
            values.grad = gradient
            state = dict(positions=positions, exp_avg=torch.zeros_like(values), exp_avg_sq=torch.zeros_like(values))
            result.append((f"p{index}", tensor, values, state, rank))
        return result

    def test_torch_is_libsara(self):
        for dtype in DTYPES:
            own, theirs = self.entries(dtype), self.entries(dtype)
            start = [values.clone() for _, _, values, _, _ in own]
            for step in range(1, 21):
                arguments = (1e-3, (0.9, 0.99), 1e-8, 0.1, 0.15, step)
                kernels.adamw(own, *arguments)
                with mock.patch.object(kernels, "_native", lambda tensor: False):
                    kernels.adamw(theirs, *arguments)
            for (name, tensor, a, ours, _), (_, other, b, states, _), first in zip(own, theirs, start):
                self.assertLessEqual(relative(b - first, a - first), 1e-6, (dtype, name))
                for key in ("exp_avg", "exp_avg_sq"):
                    self.assertLessEqual(relative(states[key], ours[key]), 1e-6, (dtype, name, key))
                for parameter, values in ((tensor, a), (other, b)):
                    self.assertTrue(torch.equal(parameter.flatten()[ours["positions"].long()], values.to(dtype)))

    def test_against_torchs_own(self):
        """Without the low-rank term it is torch.optim.AdamW on the selected entries."""
        name, tensor, values, state, _ = self.entries(torch.float32)[0]
        leaf = values.clone().requires_grad_()
        leaf.grad = values.grad * 0.5
        other = torch.optim.AdamW([leaf], lr=1e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
        start = leaf.detach().clone()
        for step in range(1, 11):
            kernels.adamw([(name, tensor, values, state, None)], 1e-3, (0.8, 0.95), 1e-6, 0.1, 0.5, step)
            other.step()
        self.assertLessEqual(relative(values - start, leaf.detach() - start), 1e-5)


class MovingEntries(TestCase):
    def layouts(self, dtype):
        base = torch.randn(6, 8, 3, 3).to(dtype)
        return {"contiguous": base, "channels_last": base.to(memory_format=torch.channels_last), "transposed": base.transpose(0, 1),
                "strided": torch.randn(6, 16, 3, 3).to(dtype)[:, ::2], "flat_strided": torch.randn(90).to(dtype)[::3]}

    def test_gathering(self):
        for dtype in (*DTYPES, torch.float64):
            layouts = self.layouts(dtype)
            layouts["expanded"] = torch.randn(1).to(dtype).expand(40)
            for layout, dense in layouts.items():
                positions = (torch.rand(dense.numel()) < 0.4).nonzero().view(-1).int()
                for forced in (False, True):
                    with self.subTest(dtype=dtype, layout=layout, forced=forced), mock.patch.object(
                            kernels, "_native", (lambda t: False) if forced else kernels._native):
                        added, set_ = torch.full([len(positions)], 0.5), torch.full([len(positions)], float("nan"))
                        kernels.gather([("p", dense, positions, added, True), ("q", dense, positions, set_, False)])
                        chosen = dense.reshape(-1)[positions.long()].double()
                        self.assertTrue(torch.equal(added, (0.5 + chosen).float()))
                        self.assertTrue(torch.equal(set_, chosen.float()))

    def test_putting(self):
        """Values from float32, rounded to nearest even, at the shape's positions whatever the strides; nothing else moves."""
        for dtype in DTYPES:
            for layout, tensor in self.layouts(dtype).items():
                positions = (torch.rand(tensor.numel()) < 0.4).nonzero().view(-1).int()
                values = torch.randn(len(positions))
                expected = tensor.reshape(-1).clone()
                expected[positions.long()] = values.to(dtype)
                strides, address = tensor.stride(), tensor.data_ptr()
                kernels.put(tensor, positions, values)
                self.assertEqual(bits(tensor.reshape(-1)), bits(expected), (dtype, layout))
                self.assertEqual((tensor.stride(), tensor.data_ptr()), (strides, address))

    def test_the_norm(self):
        gradients = [torch.randn(n) for n in (0, 1, 3, 6, 500, 40001)]
        self.assertAlmostEqual(kernels.norm(gradients) / torch.cat(gradients).double().norm().item(), 1, delta=1e-12)
        self.assertAlmostEqual(kernels.norm([torch.full([100], 1e30)]) / 1e31, 1, delta=1e-6)  # beyond float32's squares
        self.assertEqual(kernels.norm([]), 0.0)
        for bad in (math.inf, -math.inf, math.nan):
            for at in range(7):
                gradient = torch.ones(7)
                gradient[at] = bad
                self.assertFalse(math.isfinite(kernels.norm([gradients[0], gradient])))


class WholeRuns(TestCase):
    def test_torch_is_libsara(self):
        """Each a run of its own, over reselection and with the low-rank term; the difference is that of rounding."""
        for layout in (torch.contiguous_format, torch.channels_last):
            ends = []
            for path in (contextlib.nullcontext, torch_path):
                model = Net().to(memory_format=layout)
                start = weights(model)
                with path():
                    optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-3, eps=1e-4, max_grad_norm=0.05, lambda_rank=0.02, progressive_iter=4)
                    train(model, optimizer, 8)
                ends.append(torch.cat([(p.detach() - start[name]).flatten() for name, p in model.named_parameters()]))
            self.assertFalse(torch.equal(*ends))  # another path was taken
            self.assertLessEqual(relative(ends[1], ends[0]), 1e-4)


if __name__ == "__main__":
    unittest.main()
