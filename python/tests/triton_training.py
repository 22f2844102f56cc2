"""sara.adamw as a whole with Triton's kernels; as triton_checks.py, run by test_triton.py."""
import unittest
from unittest import mock

import torch

import sara
import test_operations as operations
from sara import _triton
from support import (Lockstep, Net, TestCase, batch, bits, leaves, loss_of, relative, torch_path,
                     weights)
from triton_checks import DEVICE, triton_path


class Training(TestCase):
    """sara.adamw as a whole."""

    def run_of(self, path, dtype=torch.float32, steps=2, **options):
        model = Net().to(DEVICE).to(dtype)
        optimizer = sara.adamw(model, threshold=0.01, lr=1e-3, **options)
        with path():
            self.loop(model, optimizer, steps)
        return model, optimizer

    def assertHeld(self, model, optimizer):
        """The model has the optimiser's values, rounded."""
        for name, (leaf, state) in leaves(optimizer).items():
            flat = dict(model.named_parameters())[name].detach().reshape(-1)
            held = flat[state["positions"].long()]
            self.assertEqual(bits(held.cpu()), bits(leaf.to(flat.dtype).cpu()), name)

    def loop(self, model, optimizer, steps, first=0):
        for step in range(first, first + steps):
            dtype = next(model.parameters()).dtype
            data = [part.to(DEVICE) for part in batch(step, dtype=dtype)]
            for part in (data, [tensor.flip(0) for tensor in data]):  # accumulates
                loss_of(model, part).backward()
            optimizer.step()
            optimizer.zero_grad()

    def test_as_the_reference(self):
        with triton_path():
            together = Lockstep(self, Net().to(DEVICE), threshold=0.01, progressive_iter=2)
            for step in range(3):
                together.step([[part.to(DEVICE) for part in batch(step)]])

    def test_as_torch(self):
        for options in ({"max_grad_norm": 0}, {}):
            start = weights(Net().to(DEVICE))
            one, own = self.run_of(triton_path, **options)
            other, _ = self.run_of(torch_path, **options)
            for name, before in start.items():
                a, b = (dict(m.named_parameters())[name] - before for m in (one, other))
                self.assertLessEqual(relative(a, b), 1e-6, name)
            self.assertGreater(own.last["rank_loss"], 0)

    def test_narrow_weights(self):
        self.assertHeld(*self.run_of(triton_path, torch.bfloat16))

    def test_weights_of_two_dtypes(self):
        """They lie in one flat, of which each dtype is a part."""
        changes = []
        for path in (triton_path, torch_path):
            model = Net().to(DEVICE)
            for module in (model.conv, model.to_q, model.layer_norm):
                module.to(torch.bfloat16)
            optimizer = sara.adamw(model, threshold=0.01, lr=1e-3, lambda_rank=0)
            before = {n: leaf.detach().clone() for n, (leaf, _) in leaves(optimizer).items()}
            generator = torch.Generator().manual_seed(0)
            with path():
                for _ in range(2):
                    for p in filter(lambda p: p.requires_grad, model.parameters()):
                        p.grad = torch.randn(p.shape, generator=generator).to(p.device, p.dtype)
                    optimizer.step()
                    optimizer.zero_grad()
            flat, = optimizer._training.flats
            self.assertEqual(len(list(flat.parts(optimizer._training.local()))), 2)
            self.assertHeld(model, optimizer)
            changes.append({n: leaf - before[n] for n, (leaf, _) in leaves(optimizer).items()})
        for name, expected in changes[1].items():
            self.assertLessEqual(relative(changes[0][name], expected), 1e-6, name)

    def test_a_step_that_is_not_finite(self):
        """The device skips it; the host learns of it when it asks."""
        model, optimizer = self.run_of(triton_path, max_grad_norm=0)
        before = weights(model)
        with triton_path():
            (loss_of(model, [part.to(DEVICE) for part in batch(9)]) * torch.inf).backward()
            optimizer.step()
            optimizer.zero_grad()
            self.assertTrue(optimizer.last["skipped"])
            self.assertEqual({n: bits(p.cpu()) for n, p in before.items()},
                             {n: bits(p.cpu()) for n, p in weights(model).items()})
            self.loop(model, optimizer, 1, 10)
            self.assertFalse(optimizer.last["skipped"])
        self.assertEqual(optimizer.state_dict()["sara"]["step"], 3)

    def test_what_others_write(self):
        """Weights loaded into the model go on from there; the optimiser's tensors reach it."""
        (model, optimizer), (other, theirs) = self.run_of(torch_path), self.run_of(torch_path)
        for path, m, o in ((triton_path, model, optimizer), (torch_path, other, theirs)):
            with path():
                m.load_state_dict(Net(3).state_dict())
                leaf = leaves(o)["conv.weight"][0]
                leaf.data.mul_(0.5)
                self.loop(m, o, 1, 7)
        for name, before in weights(Net(3).to(DEVICE)).items():
            a, b = (dict(m.named_parameters())[name] - before for m in (model, other))
            self.assertLessEqual(relative(a, b), 1e-6, name)

    def test_operations(self):
        """No operation of torch reads or writes a parameter, each kernel is launched once, and the
        host reads once, or never where the caller clips."""
        for clip, reads in ((1.0, 1), (0, 0)):
            model, optimizer = self.run_of(triton_path, max_grad_norm=clip)
            with triton_path():
                loss_of(model, [part.to(DEVICE) for part in batch(7)]).backward()
                with operations.Counting() as counting, \
                        mock.patch.object(_triton, "_launch", wraps=_triton._launch) as launch:
                    optimizer.step()
            counts = counting.counts
            self.assertEqual(sum(counts[name] for name in operations.READS), reads, counts)
            for name in ("aten::index_select", "aten::index_put_"):  # the low-rank term's
                self.assertEqual(counts[name], 1, counts)
            self.assertEqual([call.args[0] for call in launch.call_args_list],
                             ["squares", "follow", "adamw"])

    def test_autograd_notices(self):
        model, optimizer = self.run_of(triton_path, steps=1)
        data = [part.to(DEVICE) for part in batch(2)]
        loss = loss_of(model, data)
        with triton_path():
            loss_of(model, data).backward()
            optimizer.step()
            with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
                loss.backward()


if __name__ == "__main__":
    unittest.main()
