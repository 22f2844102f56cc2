"""An exception in the middle of a pass that the loop catches - memory that ran out, Ctrl-C: the run
goes on to the bits of the run in which the batch had never been."""
import unittest

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sara
from comparison import DEVICE, LoopCase, few, inputs, leaves_of, loss_of, net, scaler_of, train

ERRORS = (torch.OutOfMemoryError("simulated"), KeyboardInterrupt(), RuntimeError("NaN found"))


class Boom(torch.autograd.Function):
    """Raises in the backward pass."""

    @staticmethod
    def forward(ctx, x, error):
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise ctx.error


def broken_loss(model, seed, error):
    """The last layer's gradients are made before it breaks."""
    return model[2](Boom.apply(model[1](model[0](inputs(seed))), error)).square().mean()


def fail(model, seed, error, scale=lambda loss: loss):
    try:
        scale(broken_loss(model, seed, error)).backward()
    except type(error) as caught:
        return caught is error or str(caught) == str(error)
    return False


def clear_by_optimizer(model, optimizer):
    optimizer.zero_grad()


def clear_by_module(model, optimizer):
    model.zero_grad()


class CaughtCase(LoopCase):
    def check(self, loop, options=(), build=net):
        """loop(model, optimizer, fails) trains, with a batch that fails or without it."""
        runs = []
        for fails in (False, True):
            model = build()
            optimizer = few(model, **dict(options))
            loop(model, optimizer, fails)
            runs.append((model, optimizer))
        self.assertSameRun(*runs)


class Caught(CaughtCase):
    def test_in_backward(self):
        for error in ERRORS:
            for clear in (clear_by_optimizer, clear_by_module):
                for when in (0, 2):
                    def loop(model, optimizer, fails):
                        for seed in range(4):
                            if fails and seed == when:
                                self.assertTrue(fail(model, 9, error))
                                clear(model, optimizer)
                            train(model, optimizer, [seed])
                    with self.subTest(repr(error), clear=clear.__name__, when=when):
                        self.check(loop)

    def test_several_times(self):
        def loop(model, optimizer, fails):
            for seed in range(3):
                for _ in range(3 * fails):
                    fail(model, 9, ERRORS[0])
                    optimizer.zero_grad()
                train(model, optimizer, [seed])
        self.check(loop)

    def test_cleared_before_the_next_backward(self):
        """The order in which zero_grad() comes first in the loop's body."""
        def loop(model, optimizer, fails):
            for seed in range(4):
                if fails and seed == 1:
                    fail(model, 9, ERRORS[0])
                optimizer.zero_grad()
                loss_of(model, seed).backward()
                optimizer.step()
            optimizer.zero_grad()
        self.check(loop)

    def test_the_gradients_are_gathered_again(self):
        """The small ones are there right after the next backward pass, the dense ones are gone."""
        for clear in (clear_by_optimizer, clear_by_module):
            model = net()
            optimizer = few(model, max_grad_norm=0)
            fail(model, 9, ERRORS[0])
            clear(model, optimizer)
            loss_of(model, 0).backward()
            self.assertTrue(all(leaf.grad is not None for leaf in leaves_of(optimizer)))
            self.assertTrue(all(p.grad is None for p in model.parameters()))

    def test_with_clipping_by_the_caller(self):
        for clear in (clear_by_optimizer, clear_by_module):
            def loop(model, optimizer, fails):
                for seed in range(3):
                    if fails:
                        fail(model, 9, ERRORS[0])
                        clear(model, optimizer)
                    loss_of(model, seed).backward()
                    norm = torch.nn.utils.clip_grad_norm_(leaves_of(optimizer), 0.01)
                    self.assertGreater(float(norm), 0.01)
                    optimizer.step()
                    optimizer.zero_grad()
            with self.subTest(clear.__name__):
                self.check(loop, dict(max_grad_norm=0))

    def test_with_a_scaler(self):
        def loop(model, optimizer, fails):
            scaler = scaler_of(init_scale=4.0)
            for seed in range(3):
                if fails:
                    fail(model, 9, ERRORS[0], scaler.scale)
                    optimizer.zero_grad()
                scaler.scale(loss_of(model, seed)).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        self.check(loop)

    def test_with_a_scaler_and_unscaling(self):
        def loop(model, optimizer, fails):
            scaler = scaler_of(init_scale=4.0)
            for seed in range(3):
                if fails:
                    fail(model, 9, ERRORS[0], scaler.scale)
                    optimizer.zero_grad()
                scaler.scale(loss_of(model, seed)).backward()
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(leaves_of(optimizer), 0.01)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        self.check(loop, dict(max_grad_norm=0))

    def test_in_accumulation(self):
        """All that was accumulated is thrown away and done again."""
        def loop(model, optimizer, fails):
            for step in range(3):
                if fails:
                    loss_of(model, 2 * step).backward()
                    fail(model, 9, ERRORS[0])
                    optimizer.zero_grad()
                for part in range(2):
                    loss_of(model, 2 * step + part).backward()
                optimizer.step()
                optimizer.zero_grad()
        self.check(loop)

    def test_in_forward(self):
        def loop(model, optimizer, fails):
            for seed in range(3):
                if fails:
                    hook = model[2].register_forward_hook(lambda *_: 1 // 0)
                    with self.assertRaises(ZeroDivisionError):
                        loss_of(model, 9)
                    hook.remove()
                train(model, optimizer, [seed])
        self.check(loop)

    def test_in_a_hook_on_a_parameter(self):
        """Of the caller's, which comes before the optimiser's."""
        def loop(model, optimizer, fails):
            for seed in range(3):
                if fails:
                    hook = model[0].weight.register_hook(lambda g: 1 // 0)
                    with self.assertRaises(ZeroDivisionError):
                        loss_of(model, 9).backward()
                    hook.remove()
                    optimizer.zero_grad()
                train(model, optimizer, [seed])
        self.check(loop)

    def test_in_a_closure(self):
        def loop(model, optimizer, fails):
            def closure(seed, broken):
                optimizer.zero_grad()
                loss = broken_loss(model, seed, ERRORS[0]) if broken else loss_of(model, seed)
                loss.backward()
                return loss
            for seed in range(3):
                if fails:
                    with self.assertRaises(torch.OutOfMemoryError):
                        optimizer.step(lambda: closure(9, True))
                optimizer.step(lambda: closure(seed, False))
            optimizer.zero_grad()
        self.check(loop)

    def test_with_a_smaller_batch(self):
        """As accelerate's find_executable_batch_size: half the rows after each failure."""
        def loop(model, optimizer, fails):
            rows = 16 if fails else 4
            while True:
                x = inputs(0, rows)
                try:
                    h = model[1](model[0](x))
                    h = Boom.apply(h, ERRORS[0]) if rows > 4 else h
                    model[2](h).square().mean().backward()
                    break
                except torch.OutOfMemoryError:
                    model.zero_grad(set_to_none=True)
                    rows //= 2
            optimizer.step()
            optimizer.zero_grad()
        self.check(loop)

    def test_without_clearing(self):
        """What the broken pass had made counts, as with torch: of the layers behind the break."""
        def run(make):
            model = net()
            optimizer = make(model)
            fail(model, 9, ERRORS[0])
            loss_of(model, 0).backward()
            optimizer.step()
            return model
        self.assertFollowsAdamW(run)

    def test_straight_to_the_step(self):
        """No backward pass between: the layers behind the break move, as with torch."""
        def run(make):
            model = net()
            optimizer = make(model)
            train(model, optimizer, [0])
            fail(model, 9, ERRORS[0])
            optimizer.step()
            return model[2]
        self.assertFollowsAdamW(run, start=lambda: net()[2])


class Large(LoopCase):
    def test_more_than_are_gathered_together(self):
        """A part of the broken pass has been gathered when it breaks."""
        def build():
            torch.manual_seed(0)
            layers = [nn.Linear(900, 900, device=DEVICE) for _ in range(4)]
            return nn.Sequential(*layers)
        runs = []
        for fails in (False, True):
            model = build()
            optimizer = sara.adamw(model, threshold=0.005, lr=1e-3, lambda_rank=0)
            if fails:
                with self.assertRaises(torch.OutOfMemoryError):
                    h = Boom.apply(model[0](torch.ones(2, 900, device=DEVICE)), ERRORS[0])
                    model[1:](h).square().mean().backward()
                optimizer.zero_grad()
            for _ in range(2):
                model(torch.ones(2, 900, device=DEVICE)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            runs.append((model, optimizer))
        self.assertSameRun(*runs)


class Checkpointed(nn.Sequential):
    def __init__(self, reentrant):
        super().__init__(*net())
        self.reentrant, self.error = reentrant, None

    def part(self, x):
        h = self[1](self[0](x))
        return h if self.error is None else Boom.apply(h, self.error)

    def forward(self, x):
        x = x.detach().requires_grad_()
        return self[2](checkpoint(self.part, x, use_reentrant=self.reentrant))


class Checkpointing(CaughtCase):
    def test_within_a_block(self):
        for reentrant in (False, True):
            def loop(model, optimizer, fails):
                for seed in range(3):
                    if fails:
                        model.error = ERRORS[0]
                        with self.assertRaises(torch.OutOfMemoryError):
                            loss_of(model, 9).backward()
                        model.error = None
                        optimizer.zero_grad()
                    train(model, optimizer, [seed])
            with self.subTest(reentrant=reentrant):
                self.check(loop, build=lambda: Checkpointed(reentrant))


if __name__ == "__main__":
    unittest.main()
