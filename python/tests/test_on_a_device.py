"""Where the host does not wait for the device (torch's operations, clipping by the script or a
GradScaler): what is skipped is decided and counted there."""
import contextlib
import unittest
from types import SimpleNamespace
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import sara
from sara import _update
from sara._flat import Part
from support import THRESHOLD, Net, TestCase, batch, leaves, loss_of, snapshot, torch_path, train

INF = float("inf")
OPTIONS = dict(threshold=THRESHOLD, lr=2e-3, lambda_rank=0, progressive_iter=3)


def run(broken, steps=6, scaled=True, asked=False, model=None, optimizer=None, **options):
    """Steps by torch's operations, before which broken ones are tried. asked: `last` is read after
    each."""
    model = Net() if model is None else model
    options = {**OPTIONS, "max_grad_norm": 0.05 if scaled else 0, **options}
    optimizer = optimizer or sara.adamw(model, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000, enabled=scaled)
    skipped = []
    for step in range(*steps) if isinstance(steps, tuple) else range(steps):
        for value in [INF] * broken.count(step) + [1]:
            scaler.scale(loss_of(model, batch(step)) * value).backward()
            scaler.step(optimizer)
            scaler.update(4.0)
            optimizer.zero_grad()
            if asked:
                skipped.append(optimizer.last["skipped"])
    return model, optimizer, skipped


class Skipping(TestCase):
    def setUp(self):
        super().setUp()
        path = torch_path()
        path.__enter__()
        self.addCleanup(path.__exit__, None, None, None)

    def without_draws(self, pair):
        parts, counters, groups = snapshot(*pair)
        counters.pop("draws", None)
        return parts, counters, groups

    def test_as_if_they_had_not_been(self):
        """Before, at and after the reselection, several at once; whether `last` was read or not."""
        for scaled in (True, False):
            plain = self.without_draws(run([], scaled=scaled)[:2])
            for broken in ([0], [1, 1], [2, 3, 3], [3], [4], [0, 1, 2, 3, 4, 5]):
                for asked in (False, True):
                    with self.subTest(scaled=scaled, broken=broken, asked=asked):
                        model, optimizer, skipped = run(broken, scaled=scaled, asked=asked)
                        self.assertEqual(self.without_draws((model, optimizer)), plain)
                        if asked:
                            self.assertEqual(skipped.count(True), len(broken))

    def test_what_last_tells(self):
        model, optimizer, _ = run([], 2)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        scaler.scale(loss_of(model, batch(2)) * INF).backward()
        before = snapshot(model, optimizer)
        scaler.step(optimizer)
        last = optimizer.last
        self.assertTrue(last["skipped"])
        self.assertFalse(last["grad_norm"] < INF)
        self.assertEqual(optimizer.state_dict()["sara"]["step"], 2)
        self.assertEqual(snapshot(model, optimizer)[0], before[0])

    def test_resumed(self):
        """Also where steps were skipped before, and the low-rank term is drawn."""
        options = dict(lambda_rank=0.02)
        model, optimizer, _ = run([1, 1], (0, 4), **options)
        state, weights = optimizer.state_dict(), model.state_dict()
        other = Net()
        other.load_state_dict(weights)
        resumed = sara.adamw(other, **{**OPTIONS, **options})
        resumed.load_state_dict(state)
        one = run([], (4, 6), model=model, optimizer=optimizer)[:2]
        two = run([], (4, 6), model=other, optimizer=resumed)[:2]
        self.assertSameRun(two, one)


class Changing(TestCase):
    def test_from_libsara_to_torch(self):
        """As when the model is moved: steps are counted on."""
        runs = []
        for paths in ((contextlib.nullcontext, torch_path), (torch_path, torch_path)):
            model = Net()
            optimizer = sara.adamw(model, **{**OPTIONS, "max_grad_norm": 0, "progressive_iter": 5})
            for half, path in enumerate(paths):
                with path():
                    train(model, optimizer, 4, first=4 * half)
                    self.assertEqual(optimizer.state_dict()["sara"]["step"], 4 * half + 4)
            runs.append((model, optimizer))
        for (a, _), (b, _) in zip(leaves(runs[0][1]).values(), leaves(runs[1][1]).values()):
            self.assertLessEqual(float((a - b).detach().norm()), 1e-6)

    def test_several_devices(self):
        """What is decided on the first reaches the others."""
        with FakeTensorMode(), mock.patch.object(_update, "_operations") as operations, \
                mock.patch.object(_update.fast, "adamw", lambda *arguments: False), \
                mock.patch.object(_update, "_numbers"):
            gradient = torch.ones(256, device="cuda:1")
            flat = SimpleNamespace(device=gradient.device, tensors={"gradient": gradient},
                                   steps=torch.zeros((), device="cuda:1"))
            part = Part(False, torch.float32, [], 0, slice(0, 256), slice(0, 1))
            clip, skipped = torch.ones(2, device="cuda:0").unbind()
            _update._torch(SimpleNamespace(chosen={}), flat, part, clip, skipped, "", None)
        self.assertEqual(operations.call_args.args[3].device, gradient.device)


if __name__ == "__main__":
    unittest.main()
