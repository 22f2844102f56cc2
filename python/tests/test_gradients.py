"""Unstructural backpropagation: dense gradients are taken and freed as autograd makes them; the
model stays what it was."""
import copy
import gc
import io
import unittest
import warnings
import weakref
from unittest import mock

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import reference
import sara
from support import (THRESHOLD, Net, TestCase, batch, bits, fill, leaves, loss_of, relative, train,
                     weights)


def watched(model, before):
    """Calls before(p, alive) as p's dense gradient appears, with the dense gradients of others that
    still take memory."""
    made = []

    def hook(p):
        before(p, [name for name, storage in made if not storage.expired()])
        made.append((p, StorageWeakRef(p.grad.untyped_storage())))
    return [p.register_post_accumulate_grad_hook(hook) for p in model.parameters()
            if p.requires_grad], made


class DenseGradients(TestCase):
    def test_they_are_gathered_and_freed_in_backward(self):
        """Twins: the compact gradient is the dense one at the positions, bit for bit, and no dense
        one is left."""
        model = Net()
        twin = copy.deepcopy(model)
        optimizer = sara.adamw(model, threshold=THRESHOLD)
        for net in (model, twin):
            loss_of(net, batch(0)).backward()
        self.assertEqual([name for name, p in model.named_parameters() if p.grad is not None], [])
        dense = {name: p.grad for name, p in twin.named_parameters()}
        for name, (leaf, state) in leaves(optimizer).items():
            if dense[name] is None:
                self.assertIsNone(leaf.grad, name)
            else:
                self.assertTrue(torch.equal(leaf.grad,
                                            dense[name].flatten()[state["positions"].long()]), name)
        self.assertGreater(leaves(optimizer)["embed.weight"][0].grad.abs().sum().item(), 0)

    def test_few_at_a_time(self):
        """Ten layers without biases, whose gradients autograd makes one by one: as one appears, no
        others take memory but those that wait to be gathered together."""
        for together, most in ((6400, 0), (6401, 1), (19200, 2), (8_000_000, 9)):
            with self.subTest(together=together), \
                    mock.patch.object(sara._gradients, "_TOGETHER", together):
                self.few_at_a_time(most)

    def few_at_a_time(self, most):
        model = nn.Sequential(*[nn.Linear(40, 40, bias=False) for _ in range(10)])
        fill(model, 0)
        seen = []
        hooks, made = watched(model, lambda p, alive: seen.append(len(alive)))  # before sara's own
        optimizer = sara.adamw(model, threshold=THRESHOLD)
        for _ in range(3):
            model(torch.randn(4, 40)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        self.assertEqual(seen, [k % (most + 1) for k in range(10)] * 3)
        self.assertFalse([p for p, storage in made if not storage.expired()])
        for hook in hooks:
            hook.remove()

    def test_the_watch_itself(self):
        """With an ordinary optimiser all of them stay: the test above can fail."""
        model = nn.Sequential(*[nn.Linear(40, 40, bias=False) for _ in range(10)])
        seen = []
        watched(model, lambda p, alive: seen.append(len(alive)))
        model(torch.randn(4, 40)).square().sum().backward()
        self.assertEqual(seen, list(range(10)))

    def test_parameters_without_selected_entries_ask_for_nothing(self):
        model = Net()
        optimizer = sara.adamw(model, threshold=1e-3, exclude="down.*")
        asked = {name for name, p in model.named_parameters() if p.requires_grad}
        with_entries = {name for name, m in reference.select(dict(model.named_parameters()),
                                                             1e-3).items() if m.any()}
        self.assertIn("norm.weight", dict(model.named_parameters()))
        self.assertNotIn("norm.weight", asked)  # all ones
        self.assertEqual(asked & set(leaves(optimizer)), asked - {"down.weight", "down.bias"})
        self.assertEqual(set(leaves(optimizer)),
                         with_entries - {"frozen.weight", "frozen.bias", "down.weight",
                                         "down.bias"})

    def test_gradients_that_the_caller_sets(self):
        """Some loops fill .grad by hand: step() takes them."""
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-3, lambda_rank=0)
        twin = Net()
        other = sara.adamw(twin, threshold=THRESHOLD, lr=1e-3, lambda_rank=0)
        train(twin, other, 1)
        plain = Net()
        loss_of(plain, batch(0)).backward()
        for p, q in zip(model.parameters(), plain.parameters()):
            p.grad = q.grad
        optimizer.step()
        self.assertSameRun((model, optimizer), (twin, other))
        self.assertFalse([p for p in model.parameters() if p.grad is not None])

    def test_a_model_that_is_thawed_later(self):
        """Parameters without selected entries that are asked for gradients again do not keep
        them."""
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD)
        model.requires_grad_(True)
        train(model, optimizer, 1)
        loss_of(model, batch(1)).backward()
        self.assertEqual({name for name, p in model.named_parameters() if p.grad is not None},
                         {"frozen.weight", "frozen.bias"})

    def test_gradients_of_gradients(self):
        """backward(create_graph=True) leaves gradients that have a graph of their own."""
        model, plain = Net(), Net()
        one, other = sara.adamw(model, threshold=THRESHOLD), sara.adamw(plain, threshold=THRESHOLD)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a cycle, which taking .grad away undoes
            loss_of(model, batch(0)).backward(create_graph=True)
        loss_of(plain, batch(0)).backward()
        for name, (leaf, _) in leaves(one).items():
            if leaf.grad is not None:
                self.assertFalse(leaf.grad.requires_grad)
                self.assertLessEqual(relative(leaf.grad, leaves(other)[name][0].grad), 1e-5, name)

    def test_zero_grad_clears_both(self):
        for none in (True, False):
            model = Net()
            optimizer = sara.adamw(model, threshold=THRESHOLD)
            loss_of(model, batch(0)).backward()
            model.conv.weight.grad = torch.ones_like(model.conv.weight)
            optimizer.zero_grad(set_to_none=none)
            self.assertIsNone(model.conv.weight.grad)
            leaf = leaves(optimizer)["conv.weight"][0]
            self.assertTrue(leaf.grad is None if none else not leaf.grad.any())

    def test_gradients_of_an_embedding_as_sparse_tensors(self):
        dense, sparse = nn.Embedding(30, 20), nn.Embedding(30, 20, sparse=True)
        runs = []
        for model in (dense, sparse):
            fill(model, 0)
            optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-3)
            for step in range(3):
                model(torch.tensor([1, 5, 5, step])).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            runs.append((model, optimizer))
        self.assertSameRun(*runs)

    def test_other_uses_of_autograd_are_left_alone(self):
        """torch.autograd.grad() gives dense gradients to who asks and nothing to the optimiser."""
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD)
        gradient, = torch.autograd.grad(loss_of(model, batch(0)), [model.to_q.weight])
        self.assertEqual(gradient.shape, (80, 72))
        self.assertIsNone(leaves(optimizer)["to_q.weight"][0].grad)


class TheModel(TestCase):
    def test_it_stays_an_ordinary_one(self):
        """Same parameters under the same names, in the same memory; no buffer, no module, no
        attribute is added."""
        model = Net()
        before = {name: (p, p.data_ptr()) for name, p in model.named_parameters()}
        keys, modules = list(model.state_dict()), [type(m) for m in model.modules()]
        optimizer = sara.adamw(model, threshold=THRESHOLD, progressive_iter=1)
        train(model, optimizer, 3)
        self.assertEqual(list(model.state_dict()), keys)
        self.assertEqual([type(m) for m in model.modules()], modules)
        for name, p in model.named_parameters():
            self.assertIs(p, before[name][0])
            self.assertEqual(p.data_ptr(), before[name][1])

    def test_the_first_forward_is_the_pretrained_model(self):
        """The published optimiser computes it with |p|."""
        model, plain = Net(), Net()
        sara.adamw(model, threshold=THRESHOLD)
        images, tokens, _ = batch(0)
        self.assertEqual(bits(model(images, tokens)), bits(plain(images, tokens)))

    def test_copies_are_models_of_their_own(self):
        """As an average of the weights is kept: copies and saved models keep their gradients to
        themselves."""
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD)
        train(model, optimizer, 1)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
            loss_of(other, batch(0)).backward()
            self.assertIsNotNone(other.to_q.weight.grad)
            self.assertIsNone(leaves(optimizer)["to_q.weight"][0].grad)

    def test_it_is_usable_without_the_optimiser(self):
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD)
        train(model, optimizer, 2)
        end, gone = weights(model), weakref.ref(optimizer)
        del optimizer
        gc.collect()
        self.assertIsNone(gone())
        loss_of(model, batch(2)).backward()
        self.assertIsNotNone(model.to_q.weight.grad)  # nobody takes it any more
        self.assertEqual(model.to_q.weight.grad.shape, (80, 72))
        ordinary = torch.optim.SGD(model.parameters(), 1e-2)
        ordinary.step()
        self.assertFalse(torch.equal(model.to_q.weight, end["to_q.weight"]))
        copy.deepcopy(model)(*batch(0)[:2])

    def test_the_last_optimiser_made_has_the_model(self):
        """A notebook's cell that runs again while something still holds the first one."""
        model = Net()
        first = sara.adamw(model, threshold=THRESHOLD)
        second = sara.adamw(model, threshold=THRESHOLD)
        loss_of(model, batch(0)).backward()
        self.assertIsNone(leaves(first)["to_q.weight"][0].grad)
        self.assertIsNotNone(leaves(second)["to_q.weight"][0].grad)
        copy.deepcopy(model)
        torch.save(model, io.BytesIO())

    def test_a_model_that_is_moved_to_another_dtype(self):
        """Masters stay float32; the weights hold them rounded to what they are now."""
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-3)
        train(model, optimizer, 1)
        model.to(torch.bfloat16)
        loss_of(model, batch(1, dtype=torch.bfloat16)).backward()
        optimizer.step()
        leaf, state = leaves(optimizer)["to_q.weight"]
        self.assertEqual(leaf.dtype, torch.float32)
        self.assertTrue(torch.equal(model.to_q.weight.detach().flatten()[state["positions"].long()],
                                    leaf.detach().bfloat16()))


if __name__ == "__main__":
    unittest.main()
