"""The method's arithmetic: libsara's and torch's against each other, and against LAPACK and plain
indexing."""
import contextlib
import math
import operator
import unittest
from unittest import mock

import torch
import torch.nn.functional as F

import reference
import sara
from sara import _kernels as kernels
from sara._library import BLOCK
from support import THRESHOLD, Net, TestCase, bits, relative, torch_path, train, weights

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BOTH = {"libsara": kernels.nuclear_norm, "torch": kernels.nuclear_norm_torch}


def sampled(shape, density, seed, scale=1.0):
    """A matrix of normal noise at so many of its entries, their positions, and their values."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape,
                         generator=generator) * (torch.rand(shape, generator=generator)
                                                 < density) * scale
    positions = matrix.flatten().nonzero().view(-1).int()
    return matrix, positions, matrix.flatten()[positions.long()]


class NuclearNorm(TestCase):
    def check(self, matrix, positions, values, say):
        """Value within 1e-4, cosine of the subgradient at the positions at least 0.9999, entries
        bounded."""
        value, dense = reference.nuclear_norm(matrix)
        expected = dense.flatten()[positions.long()]
        for name, function in BOTH.items():
            with self.subTest(say, kernel=name):
                got, gradient = function(tuple(matrix.shape), positions, values)
                self.assertAlmostEqual(got / value, 1, delta=1e-4)
                self.assertGreaterEqual(F.cosine_similarity(gradient.double(), expected,
                                                            dim=0).item(), 0.9999)
                self.assertAlmostEqual((gradient.norm() / expected.norm()).item(), 1, delta=1e-2)
                self.assertEqual((gradient.dtype, gradient.shape), (torch.float32, positions.shape))

    def test_against_lapack(self):
        """Square, wide and tall, from a few entries to all of them."""
        for shape, density in (((80, 80), 0.058), ((65, 65), 1), ((200, 200), 0.5),
                               ((320, 320), 0.058), ((96, 400), 0.058), ((400, 96), 0.058),
                               ((65, 900), 0.02), ((300, 260), 0.006), ((70, 1000), 1),
                               ((240, 240), 0.02)):
            self.check(*sampled(shape, density, 1), (shape, density))

    def test_small_singular_values_count_too(self):
        """Each is a direction of its own: square matrices of noise have some near nothing. Those of
        1e-5 of the largest, say."""
        self.check(*sampled((128, 128), 1, 41128), "found among a hundred")
        for smallest in (-2, -4, -5):
            generator = torch.Generator().manual_seed(2)
            u, v = (torch.linalg.qr(torch.randn(100, 100, generator=generator,
                                                dtype=torch.float64))[0] for _ in range(2))
            matrix = (u @ torch.diag(torch.logspace(0, smallest, 100, dtype=torch.float64))
                      @ v).float()
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
                    largest = torch.linalg.svdvals(gradient.view(matrix.shape).double()).max()
                    self.assertLessEqual(largest.item(), 1.01)

    def test_zero_matrices_and_no_entries(self):
        for name, function in BOTH.items():
            for count in (5, 0):
                value, gradient = function((70, 80), torch.arange(count, dtype=torch.int32),
                                           torch.zeros(count))
                self.assertEqual(value, 0.0, name)
                self.assertEqual(len(gradient), count)
                self.assertTrue((gradient.abs() <= 1.01).all(), name)

    def test_values_that_are_not_finite(self):
        """Neither hides them."""
        for name, function in BOTH.items():
            for bad in (math.nan, math.inf):
                _, positions, values = sampled((70, 70), 0.1, 0)
                values[7] = bad
                self.assertFalse(math.isfinite(function((70, 70), positions, values)[0]),
                                 (name, bad))

    def test_under_autocast(self):
        """torch's matrix products would be bfloat16's there."""
        matrix, positions, values = sampled((120, 120), 0.1, 5)
        outside = kernels.nuclear_norm_torch((120, 120), positions, values)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = kernels.nuclear_norm_torch((120, 120), positions, values)
        self.assertEqual(inside[0], outside[0])
        self.assertTrue(torch.equal(inside[1], outside[1]))


class AdamW(TestCase):
    numbers = kernels.AdamW(1e-3, (0.9, 0.99), 1e-8, 0.1)
    clip = 0.15

    def entries(self, dtype, seed=0):
        """A weight with 800 entries or so, its positions and values, moments, gradients."""
        generator = torch.Generator().manual_seed(seed)
        tensor = (torch.randn(40, 50, generator=generator) * 0.02).to(dtype)
        positions = (tensor.flatten().float().abs() < THRESHOLD).nonzero().view(-1).int()
        values = tensor.flatten()[positions.long()].float()
        gradient, rank = torch.randn(2, len(values), generator=generator)
        zeros = torch.zeros(2, len(values))
        return kernels.Entries("p", tensor, positions, values, *zeros, gradient, 0.1 * rank,
                               torch.zeros(-(-len(values) // BLOCK), dtype=torch.int64))

    def marked(self, item):
        """Its marks, as the flat that it would lie in has them."""
        padded = torch.zeros(len(item.marks) * BLOCK)
        padded[:len(item.values)] = item.values
        item.marks.copy_(kernels.marks(padded))

    def test_torch_is_libsara(self):
        """Both gradients, the low-rank term's alone, and none."""
        for dtype in DTYPES:
            for gone in ((), ("gradient",), ("gradient", "rank")):
                own, other = (self.entries(dtype)._replace(**dict.fromkeys(gone)) for _ in "ab")
                start = own.values.clone()
                self.marked(own)
                for step in range(1, 21):
                    kernels.adamw([own], self.numbers, self.clip, step)
                    g = torch.zeros_like(start) if other.gradient is None else other.gradient
                    g = g * self.clip + (0 if other.rank is None else other.rank)
                    kernels.adamw_torch(other.values, g, other.exp_avg, other.exp_avg_sq,
                                        self.numbers, torch.tensor(float(step)), None)
                    kernels.put(other.parameter, other.positions, other.values)
                say = (dtype, gone)
                self.assertLessEqual(relative(other.values - start, own.values - start), 2e-6, say)
                for key in ("exp_avg", "exp_avg_sq"):
                    self.assertLessEqual(relative(getattr(other, key), getattr(own, key)), 1e-6,
                                         say)
                for item in (own, other):
                    self.assertTrue(torch.equal(item.parameter.flatten()[item.positions.long()],
                                                item.values.to(dtype)))

    def test_where_torch_has_it_not_in_one_operation(self):
        one, other = self.entries(torch.float32), self.entries(torch.float32)
        start = one.values.clone()
        for step in range(1, 11):
            for item, fused in ((one, {"cpu"}), (other, set())):
                with mock.patch.object(kernels, "_FUSED", fused):
                    kernels.adamw_torch(item.values, item.gradient, item.exp_avg, item.exp_avg_sq,
                                        self.numbers, torch.tensor(float(step)),
                                        torch.tensor(float(step in (1, 4))))
        self.assertLessEqual(relative(other.values - start, one.values - start), 1e-6)

    def test_what_is_skipped_changes_nothing(self):
        for fused in ({"cpu"}, set()):
            item = self.entries(torch.float32)
            item.gradient[5] = math.inf
            before = [bits(t) for t in (item.values, item.exp_avg, item.exp_avg_sq)]
            with mock.patch.object(kernels, "_FUSED", fused):
                kernels.adamw_torch(item.values, item.gradient, item.exp_avg, item.exp_avg_sq,
                                    self.numbers, torch.tensor(1.0), torch.tensor(1.0))
            self.assertEqual([bits(t) for t in (item.values, item.exp_avg, item.exp_avg_sq)],
                             before)

    def test_against_torchs_own(self):
        """Without the low-rank term it is torch.optim.AdamW on the selected entries."""
        item = self.entries(torch.float32)._replace(rank=None)
        self.marked(item)
        leaf = item.values.clone().requires_grad_()
        leaf.grad = item.gradient * 0.5
        other = torch.optim.AdamW([leaf], lr=1e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
        start = leaf.detach().clone()
        for step in range(1, 11):
            kernels.adamw([item], kernels.AdamW(1e-3, (0.8, 0.95), 1e-6, 0.1), 0.5, step)
            other.step()
        self.assertLessEqual(relative(item.values - start, leaf.detach() - start), 1e-5)


class Marks(TestCase):
    def test_both_paths_give_the_same(self):
        values = torch.randn(4 * BLOCK)
        own = kernels.marks(values)
        with torch_path():
            self.assertTrue(torch.equal(kernels.marks(values), own))
        weights = [((i * 2654435761) % 2 ** 31) | 1 for i in range(1, BLOCK + 1)]
        for block, mark in zip(values.view(torch.int32).view(-1, BLOCK).tolist(), own.tolist()):
            total = sum(map(operator.mul, block, weights)) & (2 ** 64 - 1)
            self.assertEqual(mark & (2 ** 64 - 1), total)

    def test_what_is_written_is_seen(self):
        """A last bit, signs, an exchange, in any block and at any place."""
        for change in (lambda v: v.view(torch.int32)[700].add_(1), lambda v: v.neg_(),
                       lambda v: v[2:4].copy_(v[2:4].flip(0).clone()), lambda v: v[-1].mul_(2)):
            values = torch.randn(4 * BLOCK)
            before = kernels.marks(values)
            change(values)
            self.assertFalse(torch.equal(kernels.marks(values), before))

    def test_following(self):
        """What was written to the tensor is taken, but not where the values were written."""
        for dtype in DTYPES:
            for forced in (False, True):
                tensor = torch.randn(3 * BLOCK).to(dtype)
                positions = torch.arange(0, 3 * BLOCK, 2, dtype=torch.int32)
                values = torch.zeros(2 * BLOCK)
                rounded = dtype != torch.float32
                values[:len(positions)] = tensor[::2].float() * (1 + 1e-4 * rounded)
                kernels.put(tensor, positions, values[:len(positions)])
                marks, expected = kernels.marks(values), values.clone()
                values[300] += 1                   # the second block's
                expected[300] += 1
                tensor[[4, 5, 620]] = 7.0          # the first block's, none, the second's
                expected[2] = 7.0
                if forced:
                    kernels.follow_torch([tensor], [positions], values, marks,
                                         [slice(0, len(positions))])
                else:
                    zeros = torch.zeros(len(positions))
                    kernels.follow([kernels.Entries("p", tensor, positions, values[:len(positions)],
                                                    zeros, zeros, None, None, marks)])
                self.assertEqual(bits(values), bits(expected), (dtype, forced))


class MovingEntries(TestCase):
    def layouts(self, dtype):
        base = torch.randn(6, 8, 3, 3).to(dtype)
        return {"contiguous": base, "channels_last": base.to(memory_format=torch.channels_last),
                "transposed": base.transpose(0, 1),
                "strided": torch.randn(6, 16, 3, 3).to(dtype)[:, ::2],
                "flat_strided": torch.randn(90).to(dtype)[::3]}

    def test_gathering(self):
        for dtype in (*DTYPES, torch.float64):
            layouts = self.layouts(dtype)
            layouts["expanded"] = torch.randn(1).to(dtype).expand(40)
            for layout, dense in layouts.items():
                positions = (torch.rand(dense.numel()) < 0.4).nonzero().view(-1).int()
                for forced in (False, True):
                    with self.subTest(dtype=dtype, layout=layout, forced=forced), mock.patch.object(
                            kernels, "_native", (lambda t: False) if forced else kernels._native):
                        added = torch.full([len(positions)], 0.5)
                        set_ = torch.full([len(positions)], float("nan"))
                        kernels.gather([("p", dense, positions, added, True),
                                        ("q", dense, positions, set_, False)])
                        chosen = dense.reshape(-1)[positions.long()].double()
                        self.assertTrue(torch.equal(added, (0.5 + chosen).float()))
                        self.assertTrue(torch.equal(set_, chosen.float()))

    def test_putting(self):
        """Values from float32, rounded to nearest even, at the shape's positions whatever the
        strides; nothing else moves."""
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
        self.assertAlmostEqual(kernels.norm(gradients)
                               / torch.cat(gradients).double().norm().item(), 1, delta=1e-12)
        self.assertAlmostEqual(kernels.norm([torch.full([100], 1e30)]) / 1e31, 1,
                               delta=1e-6)  # beyond float32's squares
        self.assertEqual(kernels.norm([]), 0.0)
        for bad in (math.inf, -math.inf, math.nan):
            for at in range(7):
                gradient = torch.ones(7)
                gradient[at] = bad
                self.assertFalse(math.isfinite(kernels.norm([gradients[0], gradient])))


class WholeRuns(TestCase):
    def test_torch_is_libsara(self):
        """Each a run of its own, over reselection and with the low-rank term; the difference is
        that of rounding."""
        for layout in (torch.contiguous_format, torch.channels_last):
            ends = []
            for path in (contextlib.nullcontext, torch_path):
                model = Net().to(memory_format=layout)
                start = weights(model)
                with path():
                    optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-3, eps=1e-4,
                                           max_grad_norm=0.05, lambda_rank=0.02, progressive_iter=4)
                    train(model, optimizer, 8)
                ends.append(torch.cat([(p.detach() - start[name]).flatten()
                                       for name, p in model.named_parameters()]))
            self.assertFalse(torch.equal(*ends))  # another path was taken
            self.assertLessEqual(relative(ends[1], ends[0]), 1e-4)


if __name__ == "__main__":
    unittest.main()
