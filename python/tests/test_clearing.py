"""Gradients that are cleared through the module, a part of it or what is wrapped around it, with
no step between: as by optimizer.zero_grad(), and as with torch's AdamW."""
import unittest
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from comparison import (DEVICE, LoopCase, all_entries, few, inputs, leaves_of, loss_of, net, torchs,
                        train, written)


def mlp(sizes, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(*sizes[:2]), nn.Tanh(), nn.Linear(*sizes[1:])).to(DEVICE)


def through_module(model, optimizer):
    model.zero_grad()


def through_zeros(model, optimizer):
    model.zero_grad(set_to_none=False)


def through_optimizer(model, optimizer):
    optimizer.zero_grad()


def through_parts(model, optimizer):
    for part in model:
        part.zero_grad()


def through_leaves(model, optimizer):
    for leaf in leaves_of(optimizer):
        leaf.grad = None


class Holder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


def gan(make, clear):
    """The order of PyTorch's tutorial: the generator's backward pass leaves gradients in the
    discriminator, which are cleared before its next."""
    generator, judge = mlp((16, 80, 72), 1), mlp((72, 80, 1), 2)
    first, second = make(generator), make(judge)
    for i in range(4):
        torch.manual_seed(100 + i)
        real, noise = torch.randn(8, 72).to(DEVICE), torch.randn(8, 16).to(DEVICE)
        clear(judge, second)
        F.softplus(-judge(real)).mean().backward()
        fake = generator(noise)
        F.softplus(judge(fake.detach())).mean().backward()
        second.step()
        clear(generator, first)
        F.softplus(-judge(fake)).mean().backward()
        first.step()
    return nn.Sequential(generator, judge)


def skipping(make, clear, wrap=lambda model: model):
    """A loss spike: the batch is left out after its backward pass."""
    model = net()
    optimizer, outer = make(model), wrap(model)
    for seed in range(5):
        (loss_of(outer, seed) * (1e3 if seed in (0, 3) else 1)).backward()
        if seed not in (0, 3):
            optimizer.step()
        clear(outer, optimizer)
    return model, optimizer


class Clearing(LoopCase):
    def test_gans(self):
        for make in (torchs, few, all_entries):
            one = gan(make, through_optimizer)
            for clear in (through_module, through_parts):
                with self.subTest(make.__name__, clear=clear.__name__):
                    self.assertSameWeights(gan(make, clear), one)

    def test_gans_as_adamw(self):
        self.assertFollowsAdamW(lambda make: gan(make, through_module), tolerance=1e-4,
                                start=lambda: nn.Sequential(mlp((16, 80, 72), 1),
                                                            mlp((72, 80, 1), 2)))

    def test_skipped_batches(self):
        plain = skipping(few, through_optimizer)
        for clear in (through_module, through_zeros, through_parts, through_leaves):
            with self.subTest(clear.__name__):
                model, optimizer = skipping(few, clear)
                self.assertSameWeights(model, plain[0])
                optimizer.zero_grad()
                plain[1].zero_grad()
                self.assertSameRun((model, optimizer), plain)

    def test_skipped_batches_as_adamw(self):
        for clear in (through_module, through_zeros, through_parts, through_optimizer):
            with self.subTest(clear.__name__):
                self.assertFollowsAdamW(lambda make: skipping(make, clear)[0])

    def test_through_what_is_around(self):
        wrappers = (Holder, nn.Sequential, nn.DataParallel,
                    lambda model: Holder(nn.ModuleDict(dict(a=model))["a"]),
                    lambda model: torch.compile(model, backend="eager"))
        plain = skipping(few, through_optimizer)[0]
        for wrap in wrappers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.assertSameWeights(skipping(few, through_module, wrap)[0], plain)

    def test_a_module_around_that_was_made_before(self):
        """The optimiser is given the part; the script clears the whole."""
        runs = []
        for clear in (lambda whole, optimizer: optimizer.zero_grad(),
                      lambda whole, optimizer: whole.zero_grad()):
            whole = nn.Sequential(net(), nn.Linear(80, 80, device=DEVICE).requires_grad_(False))
            nn.init.eye_(whole[1].weight)
            optimizer = few(whole[0])
            loss_of(whole, 0).backward()
            clear(whole, optimizer)
            train(whole, optimizer, range(1, 3))
            runs.append(whole[0])
        self.assertSameWeights(*runs)

    def test_one_part_alone(self):
        """Gradients of the others stay."""
        def run(make):
            model = net()
            optimizer = make(model)
            loss_of(model, 0).backward()
            model[0].zero_grad()
            loss_of(model, 1).backward()
            optimizer.step()
            return model
        self.assertFollowsAdamW(run)

    def test_parameters_given_by_name(self):
        """A dict of parameters, of which no module is known."""
        runs = []
        for clear in (through_optimizer, through_module):
            model = net()
            optimizer = few(dict(model.named_parameters()))
            loss_of(model, 0).backward()
            clear(model, optimizer)
            train(model, optimizer, range(1, 3))
            runs.append(model)
        self.assertSameWeights(*runs)

    def test_what_is_not_cleared_adds_up(self):
        def run(make):
            model = net()
            optimizer = make(model)
            for seed in range(6):
                loss_of(model, seed).backward()
                if seed % 3 == 2:
                    optimizer.step()
                    model.zero_grad()
            return model
        self.assertFollowsAdamW(run)

    def test_after_the_step_through_each_parameter(self):
        """As the tuning guide has it: p.grad = None."""
        def run(make):
            model = net()
            optimizer = make(model)
            for seed in range(4):
                loss_of(model, seed).backward()
                optimizer.step()
                for p in model.parameters():
                    p.grad = None
            return model
        self.assertFollowsAdamW(run)

    def test_the_gradients_are_gone(self):
        for clear in (through_module, through_optimizer, through_parts):
            model = net()
            optimizer = few(model, max_grad_norm=0)
            loss_of(model, 0).backward()
            clear(model, optimizer)
            before = written(model)
            optimizer.step()
            for name, p in model.named_parameters():
                self.assertTrue(torch.equal(p, before[name]), (clear.__name__, name))

    def test_clipping_after_clearing(self):
        """The norm is that of the last backward pass alone."""
        norms = []
        for spoiled in (False, True):
            model = net()
            optimizer = few(model)
            if spoiled:
                (loss_of(model, 0) * 1e3).backward()
                model.zero_grad()
            loss_of(model, 1).backward()
            optimizer.step()
            norms.append(optimizer.last["grad_norm"])
        self.assertEqual(*norms)

    def test_evaluating_a_gradient_by_hand(self):
        """torch.autograd.grad between neither adds nor clears."""
        runs = []
        for looked in (False, True):
            model = net()
            optimizer = few(model)
            for seed in range(3):
                if looked:
                    torch.autograd.grad(model(inputs(9)).sum(), model[0].weight)
                train(model, optimizer, [seed])
            runs.append((model, optimizer))
        self.assertSameRun(*runs)


if __name__ == "__main__":
    unittest.main()
