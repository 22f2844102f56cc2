"""Where a model is run and its optimiser handled otherwise than in a loop: traced, differentiated
by torch.func, copied, under inference mode; gradients and states cleared or replaced by hand."""
import collections
import contextlib
import copy
import io
import unittest

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import sara
from support import (THRESHOLD, Net, TestCase, batch, bits, leaves, loss_of, relative, torch_path,
                     train, weights)

OPTIONS = dict(threshold=THRESHOLD, lr=2e-3, max_grad_norm=0.05, lambda_rank=0.02)
PATHS = (contextlib.nullcontext, torch_path)


def run(between=None, steps=4):
    """A loop in which something is done with model and optimiser before each step's forward
    pass."""
    model = Net()
    optimizer = sara.adamw(model, **OPTIONS)
    for step in range(steps):
        if between:
            between(model, optimizer)
        train(model, optimizer, 1, first=step)
    return model, optimizer


class ForwardPasses(TestCase):
    """That are no training change nothing."""

    def check(self, between):
        for path in PATHS:
            with path():
                self.assertSameRun(run(between), run())

    def test_under_fake_tensors(self):
        def between(model, optimizer):
            with FakeTensorMode(allow_non_fake_inputs=True):
                model(*batch(0)[:2])
        self.check(between)

    def test_differentiated_by_torch_func(self):
        def between(model, optimizer):
            images, tokens, _ = batch(0)
            torch.func.jvp(lambda x: model(x, tokens), (images,), (images,))
            torch.func.grad(lambda x: model(x, tokens).sum())(images)
        self.check(between)

    def test_traced(self):
        def between(model, optimizer):
            torch.jit.trace(model, batch(0)[:2], check_trace=False)
        self.check(between)

    def test_under_inference_mode(self):
        def between(model, optimizer):
            with torch.inference_mode():
                model(*batch(0)[:2])
        self.check(between)

    def test_under_inference_mode_after_a_write(self):
        for path in PATHS:
            with path():
                model, optimizer = run()
                leaf, state = leaves(optimizer)["to_q.weight"]
                leaf.data.mul_(0.5)
                for group in optimizer.param_groups:
                    group["params"][0].numel()
                with torch.inference_mode():
                    model(*batch(0)[:2])
                held = model.to_q.weight.detach().flatten()[state["positions"].long()]
                self.assertTrue(torch.equal(held, leaf.detach()))
                train(model, optimizer, 2, first=4)

    def test_through_a_part_after_loading(self):
        """A pass without gradients is none of training: what follows unseen is refused."""
        model = nn.Sequential(nn.Linear(80, 80), nn.Linear(80, 80))
        optimizer = sara.adamw(model, fraction=0.1, lr=1e-3)
        nn.init.normal_(model[0].weight)
        with torch.no_grad():
            model(torch.ones(1, 80))
        model[1](model[0](torch.ones(1, 80))).sum().backward()
        with self.assertRaisesRegex(RuntimeError, "0.weight: written to after sara.adamw"):
            optimizer.step()


class Copies(TestCase):
    def test_what_sleeps_in_the_model_is_woken_in_the_copy(self):
        """Deep copies, and models that were saved whole."""
        model = Net()
        model.conv.requires_grad_(False)
        optimizer = sara.adamw(model, threshold=THRESHOLD, include="to_*")
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        fresh = Net()
        fresh.conv.requires_grad_(False)
        expected = leaves(sara.adamw(fresh, threshold=THRESHOLD)).keys()
        for other in (copy.deepcopy(model), copy.deepcopy(copy.deepcopy(model)),
                      torch.load(file, weights_only=False)):
            self.assertFalse(other.down.weight.requires_grad)
            second = sara.adamw(other, threshold=THRESHOLD)
            self.assertEqual(leaves(second).keys(), expected)
            self.assertTrue(other.down.weight.requires_grad)
        self.assertFalse(model.down.weight.requires_grad)
        del optimizer


class Gradients(TestCase):
    def test_cleared_by_hand_after_the_step(self):
        """p.grad = None over the model's parameters, whose gradients are None already."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        for step in range(4):
            loss_of(model, batch(step)).backward()
            optimizer.step()
            for p in model.parameters():
                p.grad = None
        optimizer.zero_grad()
        self.assertSameRun((model, optimizer), run())

    def test_set_to_zero_through_the_model(self):
        """A step after it goes on by momentum, as torch's does; set to None it does nothing."""
        for path in PATHS:
            for none in (False, True):
                with path():
                    model, optimizer = run()
                    loss_of(model, batch(4)).backward()
                    model.zero_grad(set_to_none=none)
                    before = weights(model)
                    optimizer.step()
                    moved = not torch.equal(model.to_q.weight, before["to_q.weight"])
                    self.assertEqual(moved, not none)

    def test_weights_loaded_between_micro_batches(self):
        """Before the first step: the first one's gradient is not lost."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        loss_of(model, batch(0)).backward()
        once = leaves(optimizer)["to_q.weight"][0].grad.clone()
        with torch.no_grad():
            model.to_out.weight.mul_(1.5)
        model(*batch(0)[:2])
        self.assertTrue(torch.equal(leaves(optimizer)["to_q.weight"][0].grad, once))

    def test_frozen_midway_in_torch_operations(self):
        with torch_path():
            model, optimizer = run()
            model.to_q.requires_grad_(False)
            leaf, state = leaves(optimizer)["to_q.weight"]
            before = bits(model.to_q.weight), bits(leaf), bits(state["exp_avg"])
            other = weights(model)["to_out.weight"]
            train(model, optimizer, 2, first=4)
            self.assertEqual((bits(model.to_q.weight), bits(leaf), bits(state["exp_avg"])), before)
            self.assertFalse(torch.equal(model.to_out.weight, other))


    def test_frozen_between_backward_and_step(self):
        """As GANs do it with the discriminator: the gradient is there, the step is made."""
        for path in PATHS:
            with path():
                model = Net()
                optimizer = sara.adamw(model, **OPTIONS)
                for step in range(4):
                    loss_of(model, batch(step)).backward()
                    model.to_q.requires_grad_(False)
                    optimizer.step()
                    optimizer.zero_grad()
                    model.to_q.requires_grad_(True)
                self.assertSameRun((model, optimizer), run())

    def test_a_state_that_is_loaded_before_the_step(self):
        """The gradients stay, as torch's do."""
        one, two = run(), Net()
        optimizer = sara.adamw(two, **OPTIONS)
        for step in range(4):
            loss_of(two, batch(step)).backward()
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.step()
            optimizer.zero_grad()
        self.assertSameRun((two, optimizer), one)


class Groups(TestCase):
    def test_replaced(self):
        """By an equal dict: what it says from then on holds."""
        model, optimizer = run()
        optimizer.param_groups[0] = dict(optimizer.param_groups[0], lr=0.0)
        before = weights(model)
        train(model, optimizer, 1, first=4)
        self.assertTrue(all(torch.equal(p, before[name]) for name, p in model.named_parameters()))

    def test_numbers_that_are_tensors(self):
        for path in PATHS:
            with path():
                model, optimizer = run()
                other, plain = run()
                for key in ("lr", "eps", "weight_decay"):
                    group = optimizer.param_groups[0]
                    group[key] = torch.tensor(group[key], dtype=torch.float64)
                train(model, optimizer, 1, first=4)
                train(other, plain, 1, first=4)
                for name, p in model.named_parameters():
                    self.assertTrue(torch.equal(p, dict(other.named_parameters())[name]), name)

    def test_one_beta(self):
        for path in PATHS:
            with path():
                model, optimizer = run()
                optimizer.param_groups[0]["betas"] = (0.9,)
                with self.assertRaisesRegex(ValueError, r"betas=\(0.9,\), expected two"):
                    train(model, optimizer, 1, first=4)
                optimizer.param_groups[0]["betas"] = (0.9, 0.999)
                optimizer.step()
                optimizer.zero_grad()
                self.assertSameRun((model, optimizer), run(steps=5))


class Making(TestCase):
    def test_in_another_default_dtype(self):
        """Steps are counted in float32: bfloat16 counts to 256."""
        torch.set_default_dtype(torch.bfloat16)
        self.addCleanup(torch.set_default_dtype, torch.float32)
        model = Net().float()
        optimizer = sara.adamw(model, **OPTIONS)
        self.assertEqual(optimizer._training.flats[0].steps.dtype, torch.float32)

    def test_by_names_then_other_strides(self):
        model = Net()
        optimizer = sara.adamw(model.named_parameters(), **OPTIONS)
        model.to(memory_format=torch.channels_last)
        train(model, optimizer, 1)
        self.assertFalse(optimizer.last["skipped"])

    def test_expanded_parameters_are_refused(self):
        model = nn.Linear(4, 4)
        model.weight = nn.Parameter(torch.ones(1, 4).expand(4, 4))
        with self.assertRaisesRegex(ValueError, "weight: an expanded tensor"):
            sara.adamw(model, fraction=0.5, lr=1e-3)

    def test_hooks_of_optimisers_that_are_gone(self):
        model = Net()
        for _ in range(5):
            optimizer = sara.adamw(model, **OPTIONS)
        self.assertEqual(len(model._forward_pre_hooks), 2)  # the last was made while one was there
        self.assertTrue(optimizer.param_groups)


class Thawed(TestCase):
    def test_without_selected_entries(self):
        """What an optimiser had put to sleep and the script has given to another."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        self.assertFalse(model.norm.weight.requires_grad)
        model.norm.weight.requires_grad = True
        other = torch.optim.SGD([model.norm.weight], 0.1)
        loss_of(model, batch(0)).backward()
        self.assertIsNotNone(model.norm.weight.grad)
        before = bits(model.norm.weight)
        optimizer.step()
        other.step()
        self.assertNotEqual(bits(model.norm.weight), before)


class States(TestCase):
    def test_of_two_dtypes_after_a_write(self):
        """What was written to the optimiser's tensors is saved, whatever dtype a parameter has."""
        for path in PATHS:
            with path():
                model = nn.Sequential(nn.Linear(80, 80).bfloat16(), nn.Linear(80, 80))
                optimizer = sara.adamw(model, fraction=0.1, lr=1e-3)
                wanted = {}
                for name, (leaf, _) in leaves(optimizer).items():
                    leaf.data.mul_(0.5)
                    wanted[name] = leaf.detach().clone()
                saved = optimizer.state_dict()
                for index, name in enumerate(saved["param_groups"][0]["names"]):
                    self.assertEqual(bits(saved["state"][index]["values"]), bits(wanted[name]))

    def test_replaced(self):
        """As scripts do that move an optimiser's state to a device."""
        def between(model, optimizer):
            for state in optimizer.state.values():
                for key, value in state.items():
                    state[key] = value.clone()
        for path in PATHS:
            with path():
                self.assertSameRun(run(between), run())

    def test_written_after_it_was_replaced(self):
        for path in PATHS:
            with path():
                model, optimizer = run()
                leaf, state = leaves(optimizer)["to_q.weight"]
                state["exp_avg"] = torch.full_like(leaf, 0.25)
                saved = optimizer.state_dict()
                index = saved["param_groups"][0]["names"].index("to_q.weight")
                self.assertTrue((saved["state"][index]["exp_avg"] == 0.25).all())

    def test_taken_away(self):
        """Moments and the count of steps since begin anew, as torch's."""
        options = dict(threshold=100.0, lr=1e-3, lambda_rank=0, max_grad_norm=0)
        for path in PATHS:
            for again in (lambda o: o.state.clear(),
                          lambda o: setattr(o, "state", collections.defaultdict(dict))):
                model, other = Net(), Net()
                with path():
                    ours = sara.adamw(model, **options)
                    theirs = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad],
                                               1e-3)
                    for step in range(6):
                        if step == 3:
                            again(ours)
                            again(theirs)
                        for net, optimizer in ((model, ours), (other, theirs)):
                            loss_of(net, batch(step)).backward()
                            optimizer.step()
                            optimizer.zero_grad()
                start = weights(Net())
                for name in ("to_q.weight", "conv.weight"):
                    a, b = (dict(net.named_parameters())[name].detach() - start[name]
                            for net in (model, other))
                    self.assertLessEqual(relative(a, b), 1e-4)


if __name__ == "__main__":
    unittest.main()
