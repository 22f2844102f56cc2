"""Which parameters and gradients enter a step: frozen and tied ones, accumulation, clipping."""
import contextlib
import unittest

import torch

import sara
from support import (RANKED, THRESHOLD, Net, TestCase, batch, bits, leaves, loss_of, relative,
                     torch_path, train, weights)


class WhatEntersAStep(TestCase):
    def test_frozen_parts_stay_and_are_not_listed(self):
        model = Net()
        start = weights(model)
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-2)
        train(model, optimizer, 3)
        self.assertFalse([name for name in leaves(optimizer) if name.startswith("frozen")])
        self.assertTrue(torch.equal(model.frozen.weight, start["frozen.weight"]))
        self.assertFalse(model.frozen.weight.requires_grad)

    def test_tied_weights_are_one_parameter(self):
        """Its gradient is the sum over its uses, and both uses see the new values."""
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD)
        self.assertIn("embed.weight", leaves(optimizer))
        self.assertNotIn("head.weight", leaves(optimizer))
        train(model, optimizer, 1)
        self.assertIs(model.head.weight, model.embed.weight)

    def test_parameters_without_gradient_have_a_zero_one(self):
        """Only weight decay moves them, as in the reference."""
        model = Net()
        start = weights(model)
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-2, weight_decay=0.5, lambda_rank=0)
        train(model, optimizer, 2)
        leaf, state = leaves(optimizer)["unused.weight"]
        positions = state["positions"].long()
        before = start["unused.weight"].flatten()[positions]
        self.assertLessEqual(relative(leaf, before * (1 - 1e-2 * 0.5) ** 2), 1e-6)
        self.assertEqual(float(state["exp_avg"].abs().max()), 0)

    def test_accumulation_is_one_large_batch(self):
        once, parts = Net(), Net()
        start = weights(once)
        options = dict(max_grad_norm=0.05, **RANKED)
        whole, accumulated = sara.adamw(once, **options), sara.adamw(parts, **options)
        for step in range(4):
            micro = [batch(4 * step + i) for i in range(4)]
            loss_of(once, [torch.cat(column) for column in zip(*micro)]).backward()
            for data in micro:
                (loss_of(parts, data) / 4).backward()
            for optimizer in (whole, accumulated):
                optimizer.step()
                optimizer.zero_grad()
            self.assertAlmostEqual(whole.last["grad_norm"] / accumulated.last["grad_norm"], 1,
                                   delta=1e-4)
        for name, p in once.named_parameters():
            other = dict(parts.named_parameters())[name]
            self.assertLessEqual(relative(other - start[name], p - start[name]), 1e-3, name)

    def test_clipping_by_the_caller(self):
        """max_grad_norm=0 and torch's clip_grad_norm_ over the optimiser's parameters."""
        inside, outside = Net(), Net()
        one = sara.adamw(inside, threshold=THRESHOLD, lr=1e-3, max_grad_norm=0.05)
        other = sara.adamw(outside, threshold=THRESHOLD, lr=1e-3, max_grad_norm=0)
        start = weights(inside)
        for step in range(4):
            train(inside, one, 1, first=step)
            loss_of(outside, batch(step)).backward()
            norm = torch.nn.utils.clip_grad_norm_([p for group in other.param_groups
                                                   for p in group["params"]], 0.05)
            self.assertAlmostEqual(float(norm) / one.last["grad_norm"], 1, delta=1e-4)
            other.step()
            self.assertLessEqual(other.last["grad_norm"], 0.05 * (1 + 1e-5))
            other.zero_grad()
        changed = torch.cat([(p.detach() - start[name]).flatten()
                             for name, p in inside.named_parameters()])
        expected = torch.cat([(p.detach() - start[name]).flatten()
                              for name, p in outside.named_parameters()])
        self.assertLessEqual(relative(expected, changed), 1e-3)

    def test_a_limit_that_is_not_reached(self):
        """Is as good as none: gradients are never made larger."""
        for path in (contextlib.nullcontext, torch_path):
            ends = []
            for limit in (0, 1e3):
                model = Net()
                with path():
                    train(model, sara.adamw(model, max_grad_norm=limit, **RANKED), 3)
                ends.append(bits(model.to_q.weight))
            self.assertEqual(*ends)

    def test_clipping_changes_the_result(self):
        """By AdamW's invariance to scale only where the factor changes from step to step."""
        clipped, free = Net(), Net()
        train(clipped, sara.adamw(clipped, threshold=THRESHOLD, lr=1e-3, max_grad_norm=0.05), 4)
        train(free, sara.adamw(free, threshold=THRESHOLD, lr=1e-3, max_grad_norm=0), 4)
        self.assertGreater((clipped.to_q.weight - free.to_q.weight).abs().max().item(), 1e-6)


if __name__ == "__main__":
    unittest.main()
