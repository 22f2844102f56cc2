"""Wrappers that write to the optimiser's tensors - Lookahead, SAM, averages - as they stand in
other projects, and the hooks of torch's optimisers. What the tensors in param_groups hold is what
the model has at the next forward pass."""
import copy
import unittest

import torch

from comparison import (LoopCase, covered, few, leaves_of, loss_of, mask_of, names_of, net, torchs,
                        train)


class Lookahead:
    """Every k steps the weights go back half of the way."""

    def __init__(self, optimizer, k=2, alpha=0.5):
        self.optimizer, self.k, self.alpha, self.steps = optimizer, k, alpha, 0
        self.slow = [leaf.detach().clone() for leaf in leaves_of(optimizer)]

    def zero_grad(self):
        self.optimizer.zero_grad()

    def step(self):
        self.optimizer.step()
        self.steps += 1
        if self.steps % self.k == 0:
            for fast, slow in zip(leaves_of(self.optimizer), self.slow):
                fast.data.mul_(self.alpha).add_(slow, alpha=1 - self.alpha)
                slow.copy_(fast.data)


class Holding(Lookahead):
    """It has asked for the tensors once, and writes to them in place."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.held = leaves_of(optimizer)

    @torch.no_grad()
    def step(self):
        self.optimizer.step()
        for fast, slow in zip(self.held, self.slow):
            fast.lerp_(slow, 0.5)
            slow.copy_(fast)


class Sam:
    """Gradients are taken at the worst point nearby; then the weights are put back."""

    def __init__(self, optimizer, rho=0.05):
        self.optimizer, self.rho = optimizer, rho

    @torch.no_grad()
    def first_step(self):
        gradients = [leaf.grad for leaf in leaves_of(self.optimizer)]
        scale = self.rho / torch.stack([g.norm() for g in gradients]).norm()
        self.old = [leaf.detach().clone() for leaf in leaves_of(self.optimizer)]
        for leaf, g in zip(leaves_of(self.optimizer), gradients):
            leaf.add_(g * scale)
        self.optimizer.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for leaf, old in zip(leaves_of(self.optimizer), self.old):
            leaf.data = old
        self.optimizer.step()
        self.optimizer.zero_grad()


class WritingToTheTensors(LoopCase):
    def test_lookahead(self):
        def run(make):
            model = net()
            optimizer = Lookahead(make(model))
            train(model, optimizer, range(6))
            loss_of(model, 0)  # what the last interpolation left is there at the next forward
            return model
        self.assertFollowsAdamW(run)

    def test_tensors_that_a_wrapper_holds(self):
        def run(make):
            model = net()
            optimizer = Holding(make(model))
            train(model, optimizer, range(4))
            loss_of(model, 0)
            return model
        self.assertFollowsAdamW(run)

    def test_lookahead_through_the_average(self):
        """Its evaluation: slow weights are put in for a forward pass, then the fast ones again."""
        def run(make):
            model = net()
            optimizer = Lookahead(make(model))
            losses = []
            for seed in range(5):
                train(model, optimizer, [seed])
                fast = [leaf.detach().clone() for leaf in leaves_of(optimizer.optimizer)]
                for leaf, slow in zip(leaves_of(optimizer.optimizer), optimizer.slow):
                    leaf.data.copy_(slow)
                with torch.no_grad():
                    losses.append(float(loss_of(model, 0)))
                for leaf, own in zip(leaves_of(optimizer.optimizer), fast):
                    leaf.data.copy_(own)
            loss_of(model, 0)
            seen.append(losses)
            return model
        seen = []
        self.assertFollowsAdamW(run)
        for losses in seen[1:]:
            for mine, theirs in zip(losses, seen[0]):
                self.assertTrue(abs(mine / theirs - 1) <= 1e-5, seen)

    def test_sam(self):
        def run(make):
            model = net()
            sam = Sam(make(model))
            for seed in range(4):
                loss_of(model, seed).backward()
                sam.first_step()
                loss_of(model, seed).backward()
                sam.second_step()
            return model
        self.assertFollowsAdamW(run, tolerance=1e-4)  # small gradients: 0.05 / norm in float32

    def test_what_the_tensors_hold_is_what_the_model_has(self):
        for write in ("data", "in place", "new storage"):
            for training in (False, True):
                model = net()
                optimizer = few(model)
                train(model, optimizer, range(2 * training))
                values = [torch.randn_like(leaf) for leaf in leaves_of(optimizer)]
                for leaf, value in zip(leaves_of(optimizer), values):
                    if write == "data":
                        leaf.data.copy_(value)
                    elif write == "in place":
                        with torch.no_grad():
                            leaf.copy_(value)
                    else:
                        leaf.data = value.clone()
                with torch.no_grad():
                    loss_of(model, 0)
                positions, weights = covered(optimizer), dict(model.named_parameters())
                with self.subTest(write, training=training):
                    for name, value in zip(names_of(optimizer), values):
                        held = weights[name].detach().flatten()[positions[name]]
                        self.assertTrue(torch.equal(held, value), name)

    def test_both_are_written(self):
        """A tensor of the optimiser's that was written since wins over its weights."""
        model = net()
        optimizer = few(model)
        train(model, optimizer, [0])
        with torch.no_grad():
            model[0].weight.zero_()
            leaf = leaves_of(optimizer)[names_of(optimizer).index("0.weight")]
            leaf.fill_(0.25)
            loss_of(model, 0)
        chosen = mask_of(model[0].weight, covered(optimizer)["0.weight"])
        flat = model[0].weight.detach().flatten()
        self.assertTrue(bool((flat[chosen] == 0.25).all()))
        self.assertTrue(bool((flat[~chosen] == 0).all()))

    def test_what_is_saved(self):
        model = net()
        optimizer = Lookahead(few(model), k=1)
        train(model, optimizer, range(2))
        self.assertAdapterHolds(optimizer.optimizer, self.looked_at(model), net())

    def looked_at(self, model):
        with torch.no_grad():
            loss_of(model, 0)
        return model

    def test_resuming(self):
        runs = []
        for stop in (None, 3):
            model = net()
            optimizer = Lookahead(few(model))
            for seed in range(6):
                if seed == stop:
                    slow, state = optimizer.slow, copy.deepcopy(optimizer.optimizer.state_dict())
                    model = net()
                    optimizer = Lookahead(few(model))
                    optimizer.optimizer.load_state_dict(state)
                    optimizer.slow, optimizer.steps = slow, seed
                train(model, optimizer, [seed])
            runs.append((self.looked_at(model), optimizer.optimizer))
        self.assertSameRun(*runs)

    def test_sixteen_bits(self):
        """The tensors keep what the weights' own dtype cannot hold."""
        model = net().to(torch.bfloat16)
        optimizer = few(model)
        train(model, optimizer, range(2))
        value = [leaf.detach() * 1.0001 for leaf in leaves_of(optimizer)]
        with torch.no_grad():
            for leaf, v in zip(leaves_of(optimizer), value):
                leaf.copy_(v)
            loss_of(model, 0)
        for leaf, v in zip(leaves_of(optimizer), value):
            self.assertTrue(torch.equal(leaf, v))


class Hooks(LoopCase):
    def test_around_steps(self):
        for make in (torchs, few):
            model, calls = net(), []
            optimizer = make(model)
            optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
            optimizer.register_step_post_hook(lambda *_: calls.append("after"))
            train(model, optimizer, range(2))
            self.assertEqual(calls, ["before", "after"] * 2, make.__name__)

    def test_arguments_that_a_hook_changes(self):
        results = []
        for make in (torchs, few):
            optimizer = make(net())
            optimizer.register_step_pre_hook(
                lambda o, args, kwargs: ((o, lambda: torch.tensor(7.0)), {}))
            results.append(float(optimizer.step()))
        self.assertEqual(results, [7.0, 7.0])

    def test_around_state_dict(self):
        """The hook sees the whole dict, and what it returns is returned."""
        model, calls = net(), []
        optimizer = few(model)
        train(model, optimizer, range(2))
        optimizer.register_state_dict_pre_hook(lambda o: calls.append(o is optimizer))
        optimizer.register_state_dict_post_hook(
            lambda o, state: {**state, "mine": sorted(state)})
        state = optimizer.state_dict()
        self.assertEqual(calls, [True])
        self.assertEqual(state["mine"], ["param_groups", "sara", "state"])
        first = state["state"][0]
        self.assertLessEqual({"values", "positions", "exp_avg", "exp_avg_sq"}, set(first))

    def test_a_hook_that_changes_the_state_in_place(self):
        optimizer = few(net())
        optimizer.register_state_dict_post_hook(lambda o, state: state.update(mine=1))
        self.assertEqual(optimizer.state_dict()["mine"], 1)

    def test_around_load_state_dict(self):
        model, other, calls = net(), net(), []
        optimizer, loaded = few(model), few(other)
        train(model, optimizer, range(2))
        wrapped = dict(inner=optimizer.state_dict())
        loaded.register_load_state_dict_pre_hook(lambda o, state: state["inner"])
        loaded.register_load_state_dict_post_hook(lambda o: calls.append(o is loaded))
        loaded.load_state_dict(wrapped)
        self.assertEqual(calls, [True])
        self.assertSameRun((other, loaded), (model, optimizer))

    def test_hooks_of_all_optimisers(self):
        from torch.optim.optimizer import register_optimizer_step_post_hook
        calls = []
        handle = register_optimizer_step_post_hook(lambda *_: calls.append(1))
        try:
            model = net()
            train(model, few(model), range(2))
        finally:
            handle.remove()
        self.assertEqual(calls, [1, 1])

    def test_hooks_that_come_off(self):
        optimizer, calls = few(net()), []
        for register in (optimizer.register_state_dict_pre_hook,
                         optimizer.register_load_state_dict_post_hook):
            register(lambda o: calls.append(1)).remove()
        optimizer.load_state_dict(optimizer.state_dict())
        self.assertEqual(calls, [])


if __name__ == "__main__":
    unittest.main()
