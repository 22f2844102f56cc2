"""Step by step against the definition of the method (reference.py)."""
import math
import unittest

import torch

import reference
import sara
from support import (RANKED, THRESHOLD, Lockstep, Net, TestCase, batch, leaves, loss_of, relative,
                     torch_path, train, weights)


class AgainstTheReference(TestCase):
    def test_all_parts_together(self):
        """Clipping that bites, the low-rank term, a changing learning rate, reselection in the
        middle."""
        run = Lockstep(self, Net(), max_grad_norm=0.05, progressive_iter=4, **RANKED)
        seen, active = set(), []
        for step in range(9):
            last = run.step([batch(step)], lr_scale=1 - step / 10)
            self.assertGreater(last["grad_norm"], 0.05)  # it does bite
            self.assertEqual(last["reselected"], step == 4)
            self.assertFalse(last["skipped"])
            seen.add(last["rank_name"])
            active.append(last["active"])
        self.assertGreater(len(seen), 1)
        self.assertLess(active[4], active[3])
        self.assertEqual(active[0], active[3])

    def test_defaults(self):
        """AdamW's numbers, max_grad_norm 1, lambda_rank 5e-4, the learning rate by the formula, no
        reselection."""
        run = Lockstep(self, Net(), threshold=THRESHOLD)
        self.assertAlmostEqual(run.optimizer.param_groups[0]["lr"], 1e-3 * math.exp(-3.5),
                               delta=1e-12)
        for step in range(6):
            last = run.step([batch(step)])
            self.assertFalse(last["reselected"])
            self.assertTrue(last["rank_name"])
        self.assertEqual(run.optimizer.max_grad_norm, 1.0)

    def test_without_clipping_and_rank(self):
        run = Lockstep(self, Net(3), threshold=THRESHOLD, lr=2e-3, max_grad_norm=0, lambda_rank=0)
        for step in range(4):
            last = run.step([batch(step)])
            self.assertEqual((last["rank_name"], last["rank_loss"]), ("", 0.0))

    def test_sixteen_bit_weights(self):
        for dtype in (torch.bfloat16, torch.float16):
            with self.subTest(dtype=dtype):
                run = Lockstep(self, Net().to(dtype), max_grad_norm=0.05, progressive_iter=3,
                               **RANKED)
                for step in range(6):
                    run.step([batch(step, dtype=dtype)])
                masters, _ = leaves(run.optimizer)["to_q.weight"]
                self.assertEqual(masters.dtype, torch.float32)
                # they keep what the weights cannot
                self.assertFalse(torch.equal(masters.to(dtype).float(), masters))

    def test_channels_last_weights(self):
        """Entries count in the shape's order, however the memory lies; the dense gradients' lies
        likewise."""
        for dtype in (torch.float32, torch.bfloat16):
            model = Net().to(dtype).to(memory_format=torch.channels_last)
            self.assertFalse(model.conv.weight.is_contiguous())
            run = Lockstep(self, model, max_grad_norm=0.05, progressive_iter=3, **RANKED)
            for step in range(5):
                run.step([batch(step, dtype=dtype)])
            self.assertFalse(model.conv.weight.is_contiguous())

    def test_accumulated_gradients(self):
        run = Lockstep(self, Net(), max_grad_norm=0.05, progressive_iter=2, **RANKED)
        for step in range(4):
            run.step([batch(4 * step + micro) for micro in range(4)])

    def test_torch_operations(self):
        """As on other devices: to the same rounding, but for the low-rank term's, an iteration in
        float32 (the method's bound for its subgradient, cosine 0.9999, is an error of 1.4e-2)."""
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for strength, tolerance in ((0, 1e-5), (0.02, 1e-4)):
                with self.subTest(dtype=dtype, lambda_rank=strength), torch_path():
                    run = Lockstep(self, Net().to(dtype), max_grad_norm=0.05, progressive_iter=3,
                                   **{**RANKED, "lambda_rank": strength})
                    run.tolerance = tolerance
                    for step in range(6):
                        run.step([batch(step, dtype=dtype)])

    def test_budgets_and_their_learning_rates(self):
        model = Net()
        tensors = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        for kind, value in (("fraction", 0.1), ("count", 1234), ("fraction", 0.058)):
            threshold = (reference.threshold_for_count if kind == "count"
                         else reference.threshold_for_fraction)(tensors, value)
            run = Lockstep(self, Net(), reference_options={"threshold": threshold}, **{kind: value})
            self.assertEqual(run.optimizer.param_groups[0]["threshold"], threshold)
            self.assertAlmostEqual(run.optimizer.param_groups[0]["lr"]
                                   / reference.default_learning_rate(threshold), 1, delta=1e-12)
            run.step([batch(0)])
            if kind == "count":
                self.assertEqual(run.optimizer.last["active"], 1234)
        self.assertEqual(sara.adamw(Net()).param_groups[0]["threshold"],
                         reference.threshold_for_fraction(tensors, 0.058))

    def test_a_run_of_its_own(self):
        """Both with their own gradients, as two programs have them."""
        model, other = Net(), Net()
        start = weights(model)
        optimizer = sara.adamw(model, max_grad_norm=0.05, progressive_iter=5, **RANKED)
        trained = {name: p.detach() for name, p in other.named_parameters() if p.requires_grad}
        theirs = reference.Sara(trained, max_grad_norm=0.05, progressive_iter=5, **RANKED)
        for step in range(10):
            train(model, optimizer, 1, first=step)
            other.zero_grad()
            loss_of(other, batch(step)).backward()
            gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad
                         for name, p in other.named_parameters()}
            theirs.step(gradients, rank_name=optimizer.last["rank_name"])
        changed = torch.cat([(p.detach() - start[name]).flatten()
                             for name, p in model.named_parameters()])
        expected = torch.cat([(p.detach() - start[name]).flatten()
                              for name, p in other.named_parameters()])
        self.assertLessEqual(relative(changed, expected), 1e-4)


if __name__ == "__main__":
    unittest.main()
