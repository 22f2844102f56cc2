"""step() without any gradient: nothing changes and no step is counted, as with torch's AdamW."""
import unittest

import torch

from comparison import DEVICE, LoopCase, few, loss_of, net, scaler_of, train, written
from support import snapshot

EMPTY = (lambda optimizer: optimizer.step(),
         lambda optimizer: optimizer.step(lambda: None),
         lambda optimizer: optimizer.step(closure=lambda: torch.tensor(1.0)),
         lambda optimizer: (optimizer.zero_grad(), optimizer.step()),
         lambda optimizer: [optimizer.step() for _ in range(3)])


class EmptySteps(LoopCase):
    def test_nothing_changes(self):
        for before in (0, 1, 3):
            for number, empty in enumerate(EMPTY):
                model = net()
                optimizer = few(model)
                train(model, optimizer, range(before))
                state = snapshot(model, optimizer)
                empty(optimizer)
                with self.subTest(before=before, empty=number):
                    self.assertTrue(snapshot(model, optimizer) == state)

    def test_the_run_goes_on_to_the_same_bits(self):
        """Over the reselection, which is due after so many steps that did something."""
        plain, other = net(), net()
        one, two = few(plain, progressive_iter=3), few(other, progressive_iter=3)
        train(plain, one, range(6))
        for seed in range(6):
            EMPTY[seed % len(EMPTY)](two)
            train(other, two, [seed])
            self.assertEqual(two.last["reselected"], seed == 3)
        self.assertSameRun((other, two), (plain, one))

    def test_what_a_step_returns(self):
        optimizer = few(net())
        self.assertIsNone(optimizer.step())
        self.assertIsNone(optimizer.step(lambda: None))
        self.assertEqual(float(optimizer.step(lambda: torch.tensor(3.0))), 3.0)

    def test_to_quieten_a_scheduler(self):
        """Scripts step the optimiser once before they fast-forward the scheduler."""
        def run(make):
            model = net()
            optimizer = make(model)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
            optimizer.step()
            for _ in range(4):
                scheduler.step()
            for seed in range(3):
                train(model, optimizer, [seed])
                scheduler.step()
            return model
        self.assertFollowsAdamW(run)

    def test_after_clearing_through_the_module(self):
        model = net()
        optimizer = few(model)
        train(model, optimizer, range(2))
        loss_of(model, 2).backward()
        optimizer.step()
        model.zero_grad()
        before = written(model)
        optimizer.step()
        for name, p in model.named_parameters():
            self.assertTrue(torch.equal(p, before[name]), name)

    def test_twice_with_the_same_gradients(self):
        def run(make):
            model = net()
            optimizer = make(model)
            for seed in range(3):
                loss_of(model, seed).backward()
                optimizer.step()
                optimizer.step()
                optimizer.zero_grad()
            return model
        self.assertFollowsAdamW(run)

    def test_gradients_of_zeros_are_gradients(self):
        """zero_grad(set_to_none=False): momentum and decay go on, as with torch."""
        def run(make):
            model = net()
            optimizer = make(model)
            for seed in range(3):
                loss_of(model, seed).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
                optimizer.step()
            return model
        self.assertFollowsAdamW(run)

    def test_with_a_scaler(self):
        """A step without a backward pass before: what torch's fused AdamW does with a scaler."""
        def fused(model):
            return torch.optim.AdamW(model.parameters(), fused=True)
        for training in (False, True):
            errors = []
            for make in (fused, few):
                model = net()
                optimizer, scaler = make(model), scaler_of(init_scale=4.0)
                train(model, optimizer, range(2 * training))
                before = written(model)
                scaler.scale(torch.ones((), device=DEVICE))
                scaler.step(optimizer)
                with self.assertRaises(AssertionError) as caught:
                    scaler.update()
                errors.append(str(caught.exception))
                for name, p in model.named_parameters():
                    self.assertTrue(torch.equal(p, before[name]), (name, make.__name__))
            self.assertEqual(*errors)

    def test_with_a_scaler_that_is_off(self):
        model, plain = net(), net()
        optimizer, one = few(model), few(plain)
        scaler = scaler_of(enabled=False)
        for seed in range(4):
            if seed % 2:
                scaler.step(optimizer)
                scaler.update()
            scaler.scale(loss_of(model, seed)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        train(plain, one, range(4))
        self.assertSameRun((model, optimizer), (plain, one))

    def test_a_state_that_is_loaded_in_between(self):
        model, plain = net(), net()
        optimizer, one = few(model), few(plain)
        train(model, optimizer, range(2))
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        train(model, optimizer, range(2, 4))
        train(plain, one, range(4))
        self.assertSameRun((model, optimizer), (plain, one))

    def test_a_part_without_gradients(self):
        """Where some have gradients the step is one; docs/pytorch.md tells what the others do."""
        model = net()
        optimizer = few(model)
        model[0].weight.square().sum().backward()
        before = written(model)
        optimizer.step()
        self.assertFalse(torch.equal(model[0].weight, before["0.weight"]))
        self.assertGreater(optimizer.last["grad_norm"], 0)


if __name__ == "__main__":
    unittest.main()
