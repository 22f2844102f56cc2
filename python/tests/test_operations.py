"""What a step costs on a device: operations, reads by the host and copies between devices, counted
where every operation passes, with libsara's path off; and that they do not grow with the model."""
import collections
import traceback
import unittest
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import sara
from support import TestCase, fill, leaves, torch_path

MOST = 25  # operations of a step, gathers and scatters apart
READS = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::equal")
WEIGHTS, BIASES = 3, 4  # of a block


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.out = nn.Linear(72, 80), nn.Linear(80, 72)
        self.mix, self.norm = nn.Conv1d(72, 72, 3, padding=1), nn.LayerNorm(72)

    def forward(self, x):  # [B, 5, 72]
        x = x + self.out(torch.tanh(self.q(self.norm(x))))
        return x + self.mix(x.transpose(1, 2)).transpose(1, 2)


def net(blocks, dtype=torch.float32):
    model = nn.Sequential(*(Block() for _ in range(blocks)))
    fill(model, 0)
    for block in model:
        nn.init.constant_(block.norm.weight, 0.005)  # all of them are selected
    return model.to(dtype)


class Counting(TorchDispatchMode):
    """Operations that are no views, by name."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        aliases = [a.alias_info for a in function._schema.returns]
        view = any(a is not None and not a.is_write for a in aliases)
        if not view and not name.startswith("profiler::"):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))

    def __repr__(self):
        return repr(dict(self.counts))


class Gathering(Counting):
    """Of backward, those alone that the optimiser's hooks make."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(frame.name == "take" for frame in traceback.extract_stack(limit=6)):
            return super().__torch_dispatch__(function, types, args, kwargs)
        return function(*args, **(kwargs or {}))


def loss_of(model):
    return model(torch.ones(2, 5, 72, dtype=next(model.parameters()).dtype)).square().sum()


class Operations(TestCase):
    def count(self, blocks, dtype=torch.float32, way="plain", steps=3, **options):
        """Counts of backward and of the step, of the last of some; how many parameters have
        entries."""
        model = net(blocks, dtype)
        clip = 0 if way == "clipped" else 1.0
        counting = [Counting(), Counting()]
        original = sara._update.step

        def counted(*arguments):  # without what GradScaler does before
            with counting[1]:
                original(*arguments)
        with torch_path(), mock.patch.object(sara._update, "step", counted):
            optimizer = sara.adamw(model, threshold=0.01, lr=1e-3, max_grad_norm=clip, **options)
            scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=way == "scaled")
            for _ in range(steps):
                counting[1].counts.clear()
                loss = scaler.scale(loss_of(model))
                counting[0] = Gathering()
                with counting[0]:
                    loss.backward()
                if way == "clipped":
                    nn.utils.clip_grad_norm_([leaf for leaf, _ in leaves(optimizer).values()], 1.0)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        self.assertFalse(optimizer.last["skipped"])
        self.assertGreater(optimizer.last["rank_loss"], 0)
        return [c.counts for c in counting], len(leaves(optimizer))

    def check(self, counts, parameters, reads):
        counts = collections.Counter(counts)
        # The low-rank term's matrix takes one of each beside the parameters'.
        self.assertEqual(counts.pop("aten::index_select"), parameters + 1)
        self.assertEqual(counts.pop("aten::index_put_"), parameters + 1)
        self.assertEqual(sum(counts[name] for name in READS), reads, counts)
        self.assertLessEqual(counts.total(), MOST, counts)

    def test_a_step(self):
        for dtype in (torch.float32, torch.bfloat16):
            for way, reads in (("plain", 1), ("clipped", 0), ("scaled", 0)):
                with self.subTest(dtype=dtype, way=way):
                    (_, counts), parameters = self.count(4, dtype, way)
                    self.assertEqual(parameters, 4 * (WEIGHTS + BIASES + 1))
                    self.check(counts, parameters, reads)

    def test_twice_the_model(self):
        for way in ("plain", "clipped", "scaled"):
            (_, small), one = self.count(3, way=way)
            (_, large), two = self.count(6, way=way)
            self.assertEqual(two, 2 * one)
            for name in ("aten::index_select", "aten::index_put_"):
                self.assertEqual(large.pop(name) - small.pop(name), one)
            self.assertEqual(large, small)

    def test_backward(self):
        """One gather a parameter, nothing else; of a second micro-batch one addition of many."""
        for dtype in (torch.float32, torch.bfloat16):
            (counts, _), parameters = self.count(4, dtype)
            self.assertEqual(counts.pop("aten::index_select"), parameters)
            self.assertLessEqual(counts.pop("aten::_foreach_copy_", 0), dtype == torch.bfloat16)
            self.assertEqual(counts.total(), 0, counts)

    def test_the_low_rank_term(self):
        """Its products lie in one operator, which is counted by itself."""
        matrix = torch.randn(80, 72)
        with Counting() as counting:
            sara._polar.polar._init_fn(matrix)
        self.assertEqual(sum(counting.counts[f"aten::{name}"] for name in ("mm", "addmm")), 34)
        self.assertLessEqual(counting.counts.total(), 34 + 9, counting.counts)
        self.assertEqual(sum(counting.counts[name] for name in READS), 0)


if __name__ == "__main__":
    unittest.main()
