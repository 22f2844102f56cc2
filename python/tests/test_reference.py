"""Step by step against the definition of the method (reference.py)."""
import contextlib
import math
import unittest

import torch

import reference
import sara
from support import (THRESHOLD, Lockstep, Net, TestCase, batch, bits, leaves, loss_of, relative,
                     torch_path, train, weights)

# An eps of the gradients' size: with AdamW's usual one an entry whose gradient and low-rank term
# cancel moves by the rounding of both.
RANKED = dict(threshold=THRESHOLD, lr=1e-3, lambda_rank=0.02, betas=(0.8, 0.95), eps=1e-4,
              weight_decay=0.1)


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


class LowRankTerm(TestCase):
    def test_it_changes_the_result(self):
        """The published optimiser gives the same weights for 0 and 10."""
        ends = []
        for strength in (0, 5e-4, 10):
            model = Net()
            train(model, sara.adamw(model, threshold=THRESHOLD, lr=1e-3, lambda_rank=strength), 5)
            ends.append(model.to_q.weight.detach().clone())
        self.assertGreater((ends[0] - ends[1]).abs().max().item(), 1e-6)
        self.assertGreater((ends[0] - ends[2]).abs().max().item(), 1e-3)

    def test_it_lowers_the_nuclear_norm(self):
        norms = []
        for strength in (0, 10):
            model = Net()
            optimizer = sara.adamw(model, threshold=THRESHOLD, lr=3e-4, lambda_rank=strength,
                                   rank_names=["to_q.weight"] * 10)
            train(model, optimizer, 10)
            leaf, state = leaves(optimizer)["to_q.weight"]
            matrix = torch.zeros(80 * 72)
            matrix[state["positions"].long()] = leaf.detach()
            norms.append(reference.nuclear_norm(matrix.view(80, 72))[0])
        self.assertLess(norms[1], 0.9 * norms[0])

    def test_it_is_added_after_clipping(self):
        """With gradients clipped to nothing it is all that is left."""
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-3, max_grad_norm=1e-12,
                               lambda_rank=2, rank_names=["to_q.weight"])
        train(model, optimizer, 1)
        matrix = torch.zeros(80, 72)
        mask = reference.below(Net().to_q.weight, THRESHOLD)
        matrix[mask] = Net().to_q.weight.detach()[mask]
        _, subgradient = reference.nuclear_norm(matrix)
        moment = leaves(optimizer)["to_q.weight"][1]["exp_avg"]
        self.assertLessEqual(relative(moment, 0.1 * 2 * subgradient[mask].float()), 1e-4)

    def test_the_matrix_is_one_of_the_references_candidates(self):
        model = Net()
        parameters = dict(model.named_parameters())
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        candidates = reference.low_rank_names(trained, reference.select(trained, THRESHOLD))
        self.assertEqual(set(candidates), {"to_q.weight", "to_out.weight", "unused.weight"})
        optimizer = sara.adamw(model, threshold=THRESHOLD)
        drawn = []
        for step in range(30):
            train(model, optimizer, 1, first=step)
            drawn.append(optimizer.last["rank_name"])
        self.assertEqual(set(drawn), set(candidates))

    def test_draws_depend_on_the_seed_alone(self):
        drawn = []
        for seed in (1, 1, 2):
            model = Net()
            optimizer, names = sara.adamw(model, threshold=THRESHOLD, seed=seed), []
            for step in range(12):
                train(model, optimizer, 1, first=step)
                names.append(optimizer.last["rank_name"])
            drawn.append(names)
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])

    def test_names_given_by_the_caller(self):
        """One for each step; an empty one for none; a matrix that would never be drawn too, as in
        the reference."""
        model = Net()
        names = ["to_out.weight", "", "embed.weight", "to_q.weight"]
        optimizer = sara.adamw(model, threshold=THRESHOLD, rank_names=names)
        for step, name in enumerate(names):
            train(model, optimizer, 1, first=step)
            self.assertEqual(optimizer.last["rank_name"], name)
            self.assertEqual(optimizer.last["rank_loss"] > 0, name != "")

    def test_matrices_that_are_too_thin_are_never_drawn(self):
        model = torch.nn.Sequential(torch.nn.Linear(64, 200), torch.nn.Linear(200, 64))
        optimizer = sara.adamw(model, threshold=0.05)
        model(torch.randn(2, 64)).sum().backward()
        optimizer.step()
        self.assertEqual(optimizer.last["rank_name"], "")
        model = torch.nn.Linear(65, 65)  # large enough, but 100 entries are too few
        for count, name in ((100, ""), (101, "weight")):
            optimizer = sara.adamw(model, count=count, exclude="bias")
            model(torch.randn(2, 65)).sum().backward()
            optimizer.step()
            self.assertEqual(optimizer.last["rank_name"], name)


class Reselection(TestCase):
    def test_total_steps_gives_the_half(self):
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-3, total_steps=7)
        seen = []
        for step in range(7):
            train(model, optimizer, 1, first=step)
            seen.append(optimizer.last["reselected"])
        self.assertEqual(seen, [step == 3 for step in range(7)])

    def test_entries_that_left_stay_where_they_are(self):
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=3e-3, progressive_iter=3)
        train(model, optimizer, 3)
        before = weights(model)
        train(model, optimizer, 4, first=3)
        left = 0
        for name, (leaf, state) in leaves(optimizer).items():
            frozen = state["frozen_positions"].long()
            flat = dict(model.named_parameters())[name].detach().flatten()
            self.assertTrue(torch.equal(flat[frozen], before[name].flatten()[frozen]), name)
            self.assertTrue((before[name].flatten()[frozen].abs() >= THRESHOLD).all(), name)
            self.assertTrue((before[name].flatten()[state["positions"].long()].abs()
                             < THRESHOLD).all(), name)
            left += len(frozen)
        self.assertGreater(left, 100)

    def test_strictly_below_in_float32(self):
        """0.7 in float32 is below 0.7 in double; as for the first selection it is not below the
        threshold."""
        model = torch.nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[0.5, 0.6, 2.0]]))
        optimizer = sara.adamw(model, threshold=0.7, lr=0.0, progressive_iter=1)
        for _ in range(2):
            leaves(optimizer)["weight"][0].data[0] = 0.7
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        self.assertTrue(optimizer.last["reselected"])
        self.assertEqual(leaves(optimizer)["weight"][1]["positions"].tolist(), [1])

    def test_where_nothing_is_left(self):
        """A bias whose entries have all grown asks for no gradient any more; the rest goes on."""
        model = torch.nn.Linear(4, 3)
        with torch.no_grad():
            model.weight.copy_(torch.linspace(-1, 1, 12).view(3, 4))
            model.bias.fill_(0.09)
        optimizer = sara.adamw(model, threshold=0.1, lr=0.02, weight_decay=0, progressive_iter=2)
        for _ in range(4):
            (model(torch.ones(2, 4)) * -torch.ones(3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        self.assertEqual(optimizer.last["active"], 1)  # -0.09, on its way through zero
        self.assertFalse(model.bias.requires_grad)
        self.assertEqual(len(leaves(optimizer)["bias"][0]), 0)


if __name__ == "__main__":
    unittest.main()
