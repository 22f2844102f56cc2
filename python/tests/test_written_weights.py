"""Weights that a script writes into the model after the optimiser was made: training goes on from
them, as torch's AdamW does; before the first step the selection is made anew."""
import copy
import unittest

import torch
from torch import nn

from comparison import (LoopCase, all_entries, covered, few, leaves_of, loss_of, mask_of, net,
                        torchs, train, written)


def by_load(model, weights):
    model.load_state_dict(weights)


def by_copy(model, weights):
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(weights[name])


def by_data(model, weights):
    """As averages of the weights are put in; no version counter moves."""
    for name, p in model.named_parameters():
        p.data.copy_(weights[name])


def by_storage(model, weights):
    for name, p in model.named_parameters():
        p.data = weights[name].clone()


def by_vector(model, weights):
    flat = torch.cat([weights[name].flatten() for name, _ in model.named_parameters()])
    nn.utils.vector_to_parameters(flat, model.parameters())


WRITERS = (by_load, by_copy, by_data, by_storage, by_vector)


class BeforeTheFirstStep(LoopCase):
    def test_as_adamw(self):
        for write in WRITERS:
            def run(make):
                model = net()
                optimizer = make(model)
                write(model, written(net(1)))
                train(model, optimizer, range(3))
                return model
            with self.subTest(write.__name__):
                self.assertFollowsAdamW(run, start=lambda: net(1))

    def test_the_selection_is_made_anew(self):
        for write in WRITERS:
            with self.subTest(write.__name__):
                model, fresh = net(), net(1)
                optimizer = few(model)
                write(model, written(net(1)))
                other = few(fresh)
                train(model, optimizer, range(3))
                train(fresh, other, range(3))
                self.assertSameRun((model, optimizer), (fresh, other))
                self.assertAdapterHolds(optimizer, model, net(1))

    def test_after_accumulating_nothing(self):
        """A forward pass for validation comes first."""
        model, fresh = net(), net(1)
        optimizer = few(model)
        with torch.no_grad():
            loss_of(model, 0)
        by_data(model, written(fresh))
        other = few(fresh)
        train(model, optimizer, range(2))
        train(fresh, other, range(2))
        self.assertSameRun((model, optimizer), (fresh, other))


    def test_after_a_pass_that_broke_off(self):
        """Its gradients are cleared, then weights are loaded."""
        model, fresh = net(), net(1)
        optimizer, one = few(model), few(fresh)
        hook = model[0].weight.register_hook(lambda g: 1 // 0)
        with self.assertRaises(ZeroDivisionError):
            loss_of(model, 0).backward()
        hook.remove()
        model.zero_grad()
        by_data(model, written(fresh))
        train(model, optimizer, range(2))
        train(fresh, one, range(2))
        self.assertSameRun((model, optimizer), (fresh, one))


class RollingBack(LoopCase):
    def test_as_adamw(self):
        for write in WRITERS:
            def run(make):
                model = net()
                optimizer = make(model)
                train(model, optimizer, [0])
                best = written(model)
                train(model, optimizer, range(1, 6))
                write(model, best)
                train(model, optimizer, range(6, 8))
                return model
            with self.subTest(write.__name__):
                self.assertFollowsAdamW(run)

    def test_between_backward_and_step(self):
        def run(make):
            model = net()
            optimizer = make(model)
            train(model, optimizer, range(3))
            loss_of(model, 3).backward()
            by_data(model, written(net(1)))
            optimizer.step()
            return model
        self.assertFollowsAdamW(run)

    def test_in_accumulation(self):
        def run(make):
            model = net()
            optimizer = make(model)
            train(model, optimizer, range(2))
            loss_of(model, 2).backward()
            by_data(model, written(net(1)))
            loss_of(model, 3).backward()
            optimizer.step()
            return model
        self.assertFollowsAdamW(run)

    def test_the_written_values_are_where_the_step_begins(self):
        """Of the method itself: selected entries move by at most some lr, others not at all."""
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            model = net().to(dtype)
            optimizer = few(model, lambda_rank=0)
            best = written(model)
            train(model, optimizer, range(8))
            by_data(model, best)
            train(model, optimizer, [8])
            positions = covered(optimizer)
            for name, p in model.named_parameters():
                moved = (p.detach() - best[name]).abs().float().flatten()
                chosen = mask_of(p, positions[name])
                with self.subTest(name, dtype=dtype):
                    self.assertEqual(float(moved[~chosen].max()), 0)
                    self.assertTrue(float(moved[chosen].max()) <= 3e-3, moved.max())
            for leaf, start in zip(leaves_of(optimizer), best.values()):
                self.assertEqual(leaf.dtype, torch.float32)

    def test_clamped_after_every_step(self):
        def run(make):
            model = net()
            optimizer = make(model)
            for seed in range(5):
                train(model, optimizer, [seed])
                for p in model.parameters():
                    p.data.clamp_(-0.06, 0.06)
            return model
        self.assertFollowsAdamW(run)

    def test_one_parameter_alone(self):
        def run(make):
            model = net()
            optimizer = make(model)
            train(model, optimizer, range(3))
            with torch.no_grad():
                model[2].bias.add_(0.5)
            train(model, optimizer, range(3, 5))
            return model
        self.assertFollowsAdamW(run)

    def test_a_not_a_number_that_is_written(self):
        """It stays where it was written; no other parameter is touched by the comparison."""
        def run(make):
            model = net()
            optimizer = make(model)
            train(model, optimizer, range(2))
            with torch.no_grad():
                model[0].weight[0, 0] = float("nan")
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
            return model
        mine, theirs = run(all_entries), run(torchs)
        for p, q in zip(mine.parameters(), theirs.parameters()):
            self.assertTrue(torch.allclose(p, q, rtol=0, atol=1e-6, equal_nan=True))
        self.assertEqual(int(mine[0].weight.isnan().sum()), 1)

    def test_unselected_entries(self):
        model = net()
        optimizer = few(model)
        train(model, optimizer, range(2))
        positions, before = covered(optimizer), written(model)
        with torch.no_grad():
            for name, p in model.named_parameters():
                chosen = mask_of(p, positions[name])
                p.copy_(torch.where(chosen.view(p.shape), p, p + 1))
        train(model, optimizer, [2])
        for name, p in model.named_parameters():
            change = (p.detach() - before[name]).flatten()
            chosen = mask_of(p, positions[name])
            self.assertTrue(bool((change[~chosen] > 0.99).all()), name)
            self.assertTrue(bool((change[chosen].abs() < 1e-2).all()), name)


class NothingToFollow(LoopCase):
    """The run is the one in which nothing was written, to the bit."""

    def check(self, between, dtype=torch.float32):
        runs = []
        for habit in (lambda model: None, between):
            model = net().to(dtype)
            optimizer = few(model, progressive_iter=3)
            for seed in range(6):
                habit(model)
                train(model, optimizer, [seed])
            runs.append((model, optimizer))
        self.assertSameRun(*runs)

    def test_the_same_values(self):
        for write in WRITERS:
            for dtype in (torch.float32, torch.bfloat16):
                with self.subTest(write.__name__, dtype=dtype):
                    self.check(lambda model: write(model, written(model)), dtype)

    def test_swapped_for_validation_and_back(self):
        def validate(model):
            own = written(model)
            by_data(model, written(net(1).to(next(model.parameters()).dtype)))
            with torch.no_grad():
                loss_of(model, 0)
            by_data(model, own)
        self.check(validate)
        self.check(validate, torch.bfloat16)

    def test_swapped_by_storage_and_back(self):
        def validate(model):
            own = {name: p.data for name, p in model.named_parameters()}
            by_storage(model, written(net(1)))
            for name, p in model.named_parameters():
                p.data = own[name]
        self.check(validate)


class Afterwards(LoopCase):
    """What is saved holds what was written."""

    def test_the_adapter_right_after(self):
        model = net()
        optimizer = few(model)
        train(model, optimizer, range(2))
        best = written(model)
        train(model, optimizer, range(2, 5))
        by_data(model, best)
        self.assertAdapterHolds(optimizer, model, net())

    def test_after_a_reselection(self):
        """The entries that it left are written too; they stay, and the file holds them."""
        model = net()
        optimizer = few(model, lr=0.02, progressive_iter=2)
        train(model, optimizer, [0])
        best = written(model)
        train(model, optimizer, range(1, 5))
        left = sum(map(len, (optimizer.state[leaf]["frozen_positions"]
                             for leaf in leaves_of(optimizer))))
        self.assertGreater(left, 100)
        by_data(model, best)
        self.assertAdapterHolds(optimizer, model, net())
        train(model, optimizer, [5])
        self.assertAdapterHolds(optimizer, model, net())

    def test_the_state_right_after(self):
        model = net()
        optimizer = few(model, lr=0.02, progressive_iter=2)
        train(model, optimizer, [0])
        best = written(model)
        train(model, optimizer, range(1, 5))
        by_data(model, best)
        other = net()
        resumed = few(other, lr=0.02, progressive_iter=2)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        self.assertSameWeights(other, model)
        train(model, optimizer, range(5, 7))
        train(other, resumed, range(5, 7))
        self.assertSameRun((other, resumed), (model, optimizer))

    def test_a_reselection_looks_at_what_was_written(self):
        model = net()
        optimizer = few(model, progressive_iter=2)
        train(model, optimizer, range(2))
        with torch.no_grad():
            model[0].weight.add_(1)
        train(model, optimizer, [2])
        self.assertEqual(covered(optimizer)["0.weight"].numel(), 0)


if __name__ == "__main__":
    unittest.main()
