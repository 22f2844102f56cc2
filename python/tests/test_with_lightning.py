"""Lightning's Fabric and Trainer, which put objects of their own around the optimiser."""
import logging
import os
import tempfile
import unittest
import warnings

import torch

import sara
from comparison import (RATE, LoopCase, few, inputs, leaves_of, loss_of, names_of, net, train,
                        written)
from support import snapshot

import lightning
from lightning.fabric import Fabric
from lightning.pytorch.tuner import Tuner

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)


def quiet(test):
    def run(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            test(self)
    return run


class OnFabric(LoopCase):
    def setup_fabric(self, **options):
        fabric = Fabric(accelerator="cpu", devices=1, **options)
        model = net()
        optimizer = few(model, progressive_iter=3)
        return (fabric, model, optimizer, *fabric.setup(model, optimizer))

    def test_it_changes_nothing(self):
        fabric, inner, optimizer, model, wrapped = self.setup_fabric()
        for seed in range(5):
            fabric.backward(loss_of(model, seed))
            wrapped.step()
            wrapped.zero_grad()
        plain = net()
        one = few(plain, progressive_iter=3)
        train(plain, one, range(5))
        self.assertSameRun((inner, optimizer), (plain, one))

    def test_what_the_wrapper_passes_on(self):
        """save, last, the base's hash and the state are the optimiser's own."""
        fabric, inner, optimizer, model, wrapped = self.setup_fabric()
        base = few(net()).base_sha256
        for seed in range(4):
            fabric.backward(loss_of(model, seed))
            wrapped.step()
            wrapped.zero_grad()
        self.assertEqual(wrapped.base_sha256, base)
        self.assertEqual(wrapped.last, optimizer.last)
        self.assertGreater(wrapped.last["active"], 0)
        self.assertEqual(wrapped.state_dict()["sara"], optimizer.state_dict()["sara"])
        self.assertAdapterHolds(wrapped, inner, net())
        self.assertTrue(snapshot(inner, wrapped) == snapshot(inner, optimizer))

    def test_clipping(self):
        """fabric.clip_gradients goes over the optimiser's tensors."""
        fabric, inner, optimizer, model, wrapped = self.setup_fabric()
        fabric.backward(loss_of(model, 0))
        fabric.clip_gradients(model, wrapped, max_norm=0.01)
        norm = torch.cat([leaf.grad for leaf in leaves_of(optimizer)]).norm()
        self.assertAlmostEqual(float(norm), 0.01, delta=1e-6)

    def test_its_checkpoints(self):
        fabric, inner, optimizer, model, wrapped = self.setup_fabric()
        path = self.file("state.ckpt")
        for seed in range(2):
            fabric.backward(loss_of(model, seed))
            wrapped.step()
            wrapped.zero_grad()
        fabric.save(path, dict(model=model, optimizer=wrapped))
        fabric, again, resumed, model, wrapped = self.setup_fabric()
        fabric.load(path, dict(model=model, optimizer=wrapped))
        train(again, resumed, range(2, 5))
        train(inner, optimizer, range(2, 5))
        self.assertSameRun((again, resumed), (inner, optimizer))

    def test_the_optimiser_alone(self):
        """fabric.setup_optimizers, as where the model is set up elsewhere."""
        fabric = Fabric(accelerator="cpu", devices=1)
        model = net()
        wrapped = fabric.setup_optimizers(few(fabric.setup_module(model)))
        loss_of(model, 0).backward()
        wrapped.step()
        self.assertEqual(names_of(wrapped), names_of(few(net())))
        self.assertAdapterHolds(wrapped, model, net())


class Module(lightning.LightningModule):
    """make(model) is the optimiser; skip are batches that it leaves out."""

    def __init__(self, make, skip=()):
        super().__init__()
        self.model, self.make, self.skip, self.lr = net(), make, skip, RATE

    def training_step(self, batch, index):
        return None if index in self.skip else self.model(batch[0]).square().mean()

    def configure_optimizers(self):
        return self.make(self.model)


class Manual(Module):
    def __init__(self, make, folder):
        super().__init__(make)
        self.automatic_optimization, self.folder = False, folder

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.model(batch[0]).square().mean())
        optimizer.step()
        self.told = optimizer.last, optimizer.base_sha256
        optimizer.save(os.path.join(self.folder, "adapter.safetensors"))


def batches(count):
    return torch.utils.data.DataLoader([(inputs(seed)[0],) for seed in range(count)], batch_size=1)


def trainer(folder, steps, **options):
    return lightning.Trainer(accelerator="cpu", devices=1, max_steps=steps, logger=False,
                             enable_progress_bar=False, enable_model_summary=False,
                             **{"enable_checkpointing": False, **options}, default_root_dir=folder)


class OnTrainer(LoopCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def fit(self, module, steps=6, **options):
        trainer(self.folder, steps, **options).fit(module, batches(steps))
        return module

    def by_hand(self, seeds, make=few):
        model = net()
        optimizer = make(model)
        for seed in seeds:
            model(inputs(seed)[:1]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model

    @quiet
    def test_it_changes_nothing(self):
        self.assertSameWeights(self.fit(Module(few)).model, self.by_hand(range(6)))

    @quiet
    def test_batches_that_are_left_out(self):
        """training_step returns None: as torch's AdamW, and as if the batch had not been there."""
        for skip in ((0,), (2, 3), (5,)):
            model = self.fit(Module(few, skip), max_epochs=1).model
            self.assertSameWeights(model, self.by_hand(set(range(6)) - set(skip)))
        self.assertFollowsAdamW(lambda make: self.fit(Module(make, (0, 3)), max_epochs=1).model)

    @quiet
    def test_manual_optimisation(self):
        module = self.fit(Manual(few, self.folder))
        other = net()
        self.assertEqual(module.told[1], few(net()).base_sha256)
        self.assertGreater(module.told[0]["grad_norm"], 0)
        sara.apply(other, os.path.join(self.folder, "adapter.safetensors"))
        self.assertSameWeights(other, module.model)

    @quiet
    def test_its_clipping(self):
        """gradient_clip_val reaches the optimiser's tensors."""
        def run(make):
            return self.fit(Module(make), gradient_clip_val=0.01).model
        self.assertFollowsAdamW(run)

    @quiet
    def test_accumulation(self):
        self.assertFollowsAdamW(lambda make: self.fit(
            Module(make), 3, accumulate_grad_batches=2, limit_train_batches=6).model)

    @quiet
    def test_a_finder_of_learning_rates(self):
        """It makes the optimiser, trains, puts the weights back; fit makes it again. The same
        entries are trained as without it."""
        made = []

        def make(model):
            made.append(sara.adamw(model, fraction=0.1, lr=1e-3))
            return made[-1]
        module = Module(make)
        run = trainer(self.folder, 6)
        Tuner(run).lr_find(module, batches(30), num_training=15, update_attr=False)
        self.assertSameWeights(module.model, net())
        run.fit(module, batches(6))
        fresh = sara.adamw(net(), fraction=0.1, lr=1e-3)
        self.assertGreater(len(made), 1)
        self.assertEqual(names_of(made[-1]), names_of(fresh))
        for mine, theirs in zip(leaves_of(made[-1]), leaves_of(fresh)):
            self.assertTrue(torch.equal(made[-1].state[mine]["positions"],
                                        fresh.state[theirs]["positions"]))
        self.assertSameWeights(module.model, self.by_hand(
            range(6), lambda model: sara.adamw(model, fraction=0.1, lr=1e-3)))

    @quiet
    def test_its_checkpoints(self):
        """fit(ckpt_path=...) in a new process: bit for bit as without."""
        path = os.path.join(self.folder, "half.ckpt")
        first = trainer(self.folder, 3, enable_checkpointing=True)
        first.fit(Module(few), batches(6))
        first.save_checkpoint(path)
        module = Module(few)
        trainer(self.folder, 6).fit(module, batches(6), ckpt_path=path, weights_only=False)
        # in the middle of an epoch it begins the data again
        self.assertSameWeights(module.model, self.by_hand([0, 1, 2, 0, 1, 2]))

    @quiet
    def test_weights_alone_of_a_checkpoint(self):
        """The module's state is loaded after the optimiser was made, the optimiser's is not."""
        weights = written(net(1))

        class Loading(Module):
            def on_train_start(self):
                self.model.load_state_dict(weights)
        self.assertFollowsAdamW(lambda make: self.fit(Loading(make)).model, start=lambda: net(1))

    @quiet
    def test_two_optimisers(self):
        """toggle_optimizer freezes the other's parameters for a while: nothing else changes."""
        class Two(Module):
            def __init__(self, make):
                super().__init__(make)
                self.automatic_optimization = False

            def configure_optimizers(self):
                parts = ({n: p for n, p in self.model.named_parameters() if n.startswith(i)}
                         for i in "02")
                return [self.make(part) for part in parts]

            def training_step(self, batch, index):
                for optimizer in self.optimizers():
                    with optimizer.toggle_model():
                        self.manual_backward(self.model(batch[0]).square().mean())
                        optimizer.step()
                        optimizer.zero_grad()
        self.assertFollowsAdamW(lambda make: self.fit(Two(make)).model)


if __name__ == "__main__":
    unittest.main()
