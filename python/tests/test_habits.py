"""What scripts do with models and optimisers besides the loop: clearing through the model, freezing
midway, changing storage, saving parameters."""
import io
import tempfile
import unittest

import torch
from torch import nn

import sara
from support import THRESHOLD, Net, TestCase, batch, bits, leaves, loss_of, train, weights

OPTIONS = dict(threshold=THRESHOLD, lr=2e-3, max_grad_norm=0.05, lambda_rank=0.02,
               progressive_iter=3)


class Clearing(TestCase):
    def test_through_the_model(self):
        """As transformers' Trainer does it: what step() has used is not added to."""
        plain, other = Net(), Net()
        one, two = sara.adamw(plain, **OPTIONS), sara.adamw(other, **OPTIONS)
        train(plain, one, 6)
        for step in range(6):
            loss_of(other, batch(step)).backward()
            two.step()
            other.zero_grad()
        two.zero_grad()
        self.assertSameRun((other, two), (plain, one))

    def test_through_the_model_after_an_infinity(self):
        plain, other = Net(), Net()
        one, two = sara.adamw(plain, **OPTIONS), sara.adamw(other, **OPTIONS)
        train(plain, one, 4)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 10)
        for step in (0, 1, -1, 2, 3):
            scaler.scale(loss_of(other, batch(step)) if step >= 0
                         else loss_of(other, batch(0)) * float("inf")).backward()
            scaler.step(two)
            scaler.update()
            other.zero_grad()
            self.assertEqual(two.last["skipped"], step < 0)
        two.zero_grad()
        self.assertEqual(scaler.get_scale(), 2.0 ** 9)
        self.assertSameRun((other, two), (plain, one))

    def test_gradients_stay_visible_after_the_step(self):
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        loss_of(model, batch(0)).backward()
        optimizer.step()
        norm = torch.cat([leaf.grad for leaf, _ in leaves(optimizer).values()
                          if leaf.grad is not None]).norm().item()
        self.assertAlmostEqual(norm / optimizer.last["grad_norm"], 1, delta=1e-5)

    def test_last_is_there_before_the_first_step(self):
        last = dict(sara.adamw(Net(), **OPTIONS).last)
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        train(model, optimizer, 1)
        self.assertEqual(set(last), set(optimizer.last))


class Freezing(TestCase):
    def test_midway(self):
        """Neither momentum nor decay moves what the caller has frozen, over a reselection and
        load_state_dict."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        train(model, optimizer, 2)
        model.conv.requires_grad_(False)
        before = weights(model)
        train(model, optimizer, 3, first=2)
        optimizer.load_state_dict(optimizer.state_dict())
        train(model, optimizer, 1, first=5)
        after = weights(model)
        for name in ("conv.weight", "conv.bias", "norm.weight", "to_q.weight", "embed.weight"):
            self.assertEqual(torch.equal(after[name], before[name]),
                             name.startswith(("conv.", "norm.")), name)
        self.assertFalse(model.conv.weight.requires_grad)

    def test_what_comes_back_with_a_state(self):
        """A parameter that this optimiser has put to sleep is woken where the loaded state trains
        it."""
        wide = Net()
        state = sara.adamw(wide, threshold=0.05, lr=1e-3).state_dict()
        model = Net()
        with torch.no_grad():
            model.conv.weight.fill_(1)
        optimizer = sara.adamw(model, threshold=0.05, lr=1e-3)
        self.assertFalse(model.conv.weight.requires_grad)
        optimizer.load_state_dict(state)
        self.assertTrue(model.conv.weight.requires_grad)
        train(model, optimizer, 1)

    def test_nothing_left_to_train(self):
        """After a reselection that every entry leaves the loop goes on, and nothing changes."""
        model = nn.Linear(80, 80, bias=False)
        nn.init.constant_(model.weight, 0.001)
        optimizer = sara.adamw(model, threshold=0.002, lr=0.1, progressive_iter=1)
        for _ in range(3):
            model(torch.randn(2, 80)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        self.assertEqual(optimizer.last["active"], 0)


class Storage(TestCase):
    def test_another_size(self):
        for size in ((2, 3), (0,)):
            model = Net()
            optimizer = sara.adamw(model, **OPTIONS)
            loss_of(model, batch(0)).backward()
            model.to_q.weight.data = torch.zeros(size)
            before = weights(model)
            line = rf"to_q.weight: position \d+ of {torch.Size(size).numel()} entries"
            with self.assertRaisesRegex(ValueError, line):
                optimizer.step()
            after = weights(model)
            self.assertTrue(all(torch.equal(before[name], after[name]) for name in before))

    def test_double(self):
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-3)
        model.double()
        loss_of(model, [t.double() if t.is_floating_point() else t for t in batch(0)]).backward()
        optimizer.step()
        leaf, state = leaves(optimizer)["to_q.weight"]
        self.assertTrue(torch.equal(model.to_q.weight.detach().flatten()[state["positions"].long()],
                                    leaf.detach().double()))

    def test_another_default_device(self):
        model = Net()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = folder.name + "/a.safetensors"
        with torch.device("meta"):
            optimizer = sara.adamw(model, **OPTIONS)
            self.assertEqual(len(sara.select(model, threshold=THRESHOLD)), len(leaves(optimizer)))
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.save(path)
            sara.apply(model, path)

    def test_meta_models_are_refused(self):
        with torch.device("meta"):
            model = nn.Linear(80, 80)
        with self.assertRaisesRegex(ValueError, "weight: .*with data"):
            sara.adamw(model, threshold=THRESHOLD)


class Autograd(TestCase):
    def test_a_step_before_an_older_graph(self):
        """The weights that the graph saved are no longer there: an error as with any optimiser, not
        a wrong gradient."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        first, second = loss_of(model, batch(0)), loss_of(model, batch(1))
        first.backward()
        optimizer.step()
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            second.backward()

    def test_parameters_are_saved_as_ever(self):
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        train(model, optimizer, 1)
        for thing in (dict(enumerate(model.parameters())), model.state_dict(keep_vars=True)):
            file = io.BytesIO()
            torch.save(thing, file)
            file.seek(0)
            loaded = torch.load(file, weights_only=True)
            self.assertEqual(list(loaded), list(thing))
            for key, p in thing.items():
                self.assertIs(type(loaded[key]), type(p), key)
                self.assertEqual(bits(loaded[key]), bits(p), key)
                self.assertEqual(loaded[key].requires_grad, p.requires_grad, key)

    def test_the_first_optimiser_has_the_model_again(self):
        model = Net()
        first = sara.adamw(model, **OPTIONS)
        second = sara.adamw(model, **OPTIONS)
        del second
        loss_of(model, batch(0)).backward()
        self.assertIsNotNone(leaves(first)["to_q.weight"][0].grad)
        self.assertIsNone(model.to_q.weight.grad)

    def test_parts_under_compile(self):
        """Names are those of the model as it is saved."""
        model = Net()
        names = set(sara.select(model, threshold=THRESHOLD))
        model.to_q = torch.compile(model.to_q)
        self.assertEqual(set(sara.select(model, threshold=THRESHOLD)), names)


if __name__ == "__main__":
    unittest.main()
