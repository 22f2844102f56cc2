"""transformers' Trainer with the optimiser given to it; on the CPU."""
import os
import tempfile
import unittest
import warnings

import torch
from safetensors.torch import load_file
from torch import nn

from comparison import LoopCase, covered, few, inputs, names_of, net

from transformers import Trainer, TrainingArguments
from transformers.utils import logging

logging.set_verbosity_error()
COUNT = 12


class Model(nn.Module):
    """With its loss inside, as the Trainer expects it."""

    def __init__(self, seed=0):
        super().__init__()
        self.net = net(seed)

    def forward(self, x):
        out = self.net(x)
        return dict(loss=out.square().mean(), logits=out)


class Case(LoopCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def fit(self, model, make, steps=6, resume=None, **options):
        arguments = TrainingArguments(
            self.folder, max_steps=steps, per_device_train_batch_size=2, use_cpu=True,
            report_to=[], disable_tqdm=True, logging_strategy="no", save_strategy="steps",
            save_steps=3, lr_scheduler_type="constant", max_grad_norm=0.0, **options)
        data = [dict(x=inputs(seed)[0]) for seed in range(COUNT)]
        optimizer = make(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None)).train(
                resume_from_checkpoint=resume)
        return optimizer

    def checkpoint(self, without=()):
        folder = os.path.join(self.folder, "checkpoint-3")
        for name in without:
            os.remove(os.path.join(folder, name))
        return folder


class Training(Case):
    def test_as_adamw(self):
        def run(make):
            model = Model()
            self.fit(model, make)
            return model
        self.assertFollowsAdamW(run, start=Model)

    def test_accumulation_and_its_clipping(self):
        """The Trainer clips the model's gradients, of which there are none: sara's own clips."""
        model = Model()
        optimizer = self.fit(model, few, gradient_accumulation_steps=2)
        self.assertGreater(optimizer.last["grad_norm"], 0)
        base = Model()
        self.assertAdapterHolds(optimizer, model, base)

    def test_resuming(self):
        runs = []
        for resume in (False, True):
            model = Model()
            optimizer = self.fit(model, few, resume=self.checkpoint() if resume else None)
            optimizer.zero_grad()
            runs.append((model, optimizer))
        self.assertSameRun(*runs)

    def test_resuming_from_weights_alone(self):
        """A checkpoint without the optimiser's state: training goes on from its weights. The
        Trainer loads them after the optimiser was made."""
        def run(make):
            self.fit(Model(), make, steps=3)
            model = Model()
            self.fit(model, make, resume=self.checkpoint(["optimizer.pt", "scheduler.pt"]))
            return model
        self.assertFollowsAdamW(run, start=Model)

    def test_another_runs_weights_before_the_first_step(self):
        """The entries are those that are small in the weights that were loaded."""
        self.fit(Model(1), few, steps=3)
        model, fresh = Model(), Model()
        optimizer = self.fit(model, few,
                             resume=self.checkpoint(["optimizer.pt", "scheduler.pt"]))
        state = load_file(os.path.join(self.folder, "checkpoint-3", "model.safetensors"))
        fresh.load_state_dict(state)
        other = few(fresh)
        self.assertEqual(names_of(optimizer), names_of(other))
        for name, positions in covered(other).items():
            self.assertTrue(torch.equal(covered(optimizer)[name], positions), name)
        self.assertEqual(optimizer.base_sha256, other.base_sha256)
        base = Model()
        base.load_state_dict(state)
        self.assertAdapterHolds(optimizer, model, base)


if __name__ == "__main__":
    unittest.main()
