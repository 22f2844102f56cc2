"""accelerate's prepare() with the model, the optimiser and the scheduler, as diffusers' training
scripts have it; on the CPU."""
import logging
import tempfile
import unittest

import torch

import sara
from support import THRESHOLD, Net, TestCase, batch, leaves, loss_of

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

STEPS = 6
OPTIONS = dict(threshold=THRESHOLD, lr=2e-3, max_grad_norm=0.05, lambda_rank=0.02,
               progressive_iter=3)


def schedule(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def prepared(**options):
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # tied weights are told at every save
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    accelerator = Accelerator(cpu=True, **options)
    model = Net()
    optimizer = sara.adamw(model, **OPTIONS)
    return (accelerator, *accelerator.prepare(model, optimizer, schedule(optimizer)))


def loop(accelerator, model, optimizer, scheduler, steps, micro=1):
    for step in steps:
        for part in range(micro):
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, batch(step * micro + part)))
                if accelerator.sync_gradients:
                    # finds none: the optimiser clips
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()


def by_hand(steps, micro=1, autocast=False):
    model = Net()
    optimizer = sara.adamw(model, **OPTIONS)
    scheduler = schedule(optimizer)

    def forward(*inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return model(*inputs)
    for step in range(steps):
        for part in range(micro):
            (loss_of(forward, batch(step * micro + part)) / micro).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model, optimizer


class Accelerated(TestCase):
    def test_it_changes_nothing(self):
        accelerator, model, optimizer, scheduler = prepared()
        loop(accelerator, model, optimizer, scheduler, range(STEPS))
        self.assertSameRun((accelerator.unwrap_model(model), optimizer.optimizer), by_hand(STEPS))

    def test_accumulation(self):
        accelerator, model, optimizer, scheduler = prepared(gradient_accumulation_steps=2)
        loop(accelerator, model, optimizer, scheduler, range(4), micro=2)
        self.assertSameRun((accelerator.unwrap_model(model), optimizer.optimizer),
                           by_hand(4, micro=2))

    def test_clipping_over_the_optimisers_parameters(self):
        accelerator, model, optimizer, scheduler = prepared()
        accelerator.backward(loss_of(model, batch(0)))
        norm = accelerator.clip_grad_norm_([p for group in optimizer.param_groups
                                            for p in group["params"]], 0.01)
        self.assertGreater(float(norm), 0.05)
        total = torch.cat([leaf.grad for leaf, _ in leaves(optimizer.optimizer).values()
                           if leaf.grad is not None]).norm()
        self.assertAlmostEqual(float(total), 0.01, delta=1e-6)

    def test_mixed_precision(self):
        accelerator, model, optimizer, scheduler = prepared(mixed_precision="bf16")
        loop(accelerator, model, optimizer, scheduler, range(STEPS))
        self.assertSameRun((accelerator.unwrap_model(model), optimizer.optimizer),
                           by_hand(STEPS, autocast=True))
        self.assertFalse(torch.equal(leaves(optimizer.optimizer)["to_q.weight"][0],
                                     leaves(by_hand(STEPS)[1])["to_q.weight"][0]))

    def test_its_checkpoints(self):
        """save_state at any step, load_state in a new process: bit for bit as without."""
        end = by_hand(STEPS)
        for stop in (1, 3, 5):
            with tempfile.TemporaryDirectory() as folder:
                first = prepared()
                loop(*first, range(stop))
                first[0].save_state(folder)
                accelerator, model, optimizer, scheduler = prepared()
                accelerator.load_state(folder)
                loop(accelerator, model, optimizer, scheduler, range(stop, STEPS))
                self.assertSameRun((accelerator.unwrap_model(model), optimizer.optimizer), end)


if __name__ == "__main__":
    unittest.main()
