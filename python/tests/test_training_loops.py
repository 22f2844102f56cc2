"""What training scripts do around an optimiser: scalers, autocast, checkpointing, schedulers,
closures, accelerate, compilation."""
import contextlib
import math
import subprocess
import sys
import threading
import unittest
import warnings

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sara
from support import (THRESHOLD, Lockstep, Net, TestCase, batch, fill, leaves, loss_of, relative,
                     snapshot, train, weights)

INF = float("inf")
OPTIONS = dict(threshold=THRESHOLD, lr=2e-3, eps=1e-4, max_grad_norm=0.05, lambda_rank=0.02,
               progressive_iter=3)


def plain_run(steps=6, build=Net, **options):
    model = build()
    optimizer = sara.adamw(model, **(options or OPTIONS))
    train(model, optimizer, steps)
    return model, optimizer


class Scalers(TestCase):
    def scaled_run(self, damage):
        """torch's loop with a GradScaler; damage(step, loss) gives the loss of an attempt, the
        first of each step."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 14)
        for step in range(6):
            for attempt in (0, 1):
                before = snapshot(model, optimizer)
                loss = loss_of(model, batch(step))
                broken = attempt == 0 and damage(step)
                scaler.scale(loss * INF if broken else loss).backward()
                scale = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if not broken:
                    break
                self.assertEqual(snapshot(model, optimizer), before)
                self.assertEqual(scaler.get_scale(), scale / 2)
        return model, optimizer

    def test_a_scaler_changes_nothing(self):
        """Its scale is a power of two, so that dividing by it is exact; clipping comes after."""
        self.assertSameRun(self.scaled_run(lambda step: False), plain_run())

    def test_an_infinity_skips_the_step(self):
        """Bit for bit as if it had never been; the reselection, due at step 3, too."""
        self.assertSameRun(self.scaled_run(lambda step: step in (0, 3)), plain_run())

    def test_unscaling_for_the_callers_clipping(self):
        runs = []
        for scaled in (False, True):
            model = Net()
            optimizer = sara.adamw(model, **{**OPTIONS, "max_grad_norm": 0})
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 14, enabled=scaled)
            for step in range(4):
                scaler.scale(loss_of(model, batch(step))).backward()
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_([leaf for leaf, _ in leaves(optimizer).values()],
                                               0.05)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            runs.append((model, optimizer))
        self.assertSameRun(*runs)

    def test_one_infinite_entry(self):
        """At a selected entry it skips the step; at another it is never looked at."""
        for selected in (True, False):
            model = Net()
            optimizer = sara.adamw(model, **OPTIONS)
            scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
            positions = leaves(optimizer)["to_q.weight"][1]["positions"]
            index = int(positions[5]) if selected else next(i for i in range(5760)
                                                            if i not in positions)
            hook = model.to_q.weight.register_hook(
                lambda g: g.flatten().scatter(0, torch.tensor(index), INF).view(g.shape))
            before = snapshot(model, optimizer)
            scaler.scale(loss_of(model, batch(0))).backward()
            scaler.step(optimizer)
            hook.remove()
            if selected:
                self.assertEqual(snapshot(model, optimizer), before)
            else:
                optimizer.zero_grad()
                self.assertSameRun((model, optimizer), plain_run(1))


class NotFinite(TestCase):
    def test_without_a_scaler(self):
        """NaN and infinite gradients: nothing changes, `last` tells, and the run goes on as if they
        had never been."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        for step in range(6):
            for value in (math.nan, INF, -INF, None):
                before = snapshot(model, optimizer)
                (loss_of(model, batch(step)) * (1 if value is None else value)).backward()
                optimizer.step()
                optimizer.zero_grad()
                self.assertEqual(optimizer.last["skipped"], value is not None)
                if value is not None:
                    self.assertFalse(optimizer.last["grad_norm"] < INF)
                    self.assertFalse(optimizer.last["reselected"])
                    self.assertEqual(snapshot(model, optimizer), before)
        self.assertSameRun((model, optimizer), plain_run())

    def test_large_gradients_are_no_infinite_ones(self):
        """Their squares are beyond float32."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        (loss_of(model, batch(0)) * 1e30).backward()
        optimizer.step()
        self.assertFalse(optimizer.last["skipped"])
        self.assertGreater(optimizer.last["grad_norm"], 1e25)


class Checkpointed(Net):
    """Parts of the forward pass computed again in backward; layer_norm and frozen in two
    segments."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, images, tokens):
        def again(f, *inputs):
            return checkpoint(f, *inputs, use_reentrant=self.reentrant)
        # which wants an input that requires a gradient
        images = images.requires_grad_(self.reentrant)
        h = again(lambda x: self.down(nn.functional.silu(self.norm(self.conv(x)))), images)
        h = h.flatten(2).transpose(1, 2)
        h = torch.cat([h, self.embed(tokens)], 1)
        h = again(lambda x: x + self.frozen(self.layer_norm(x)), h)
        h = again(lambda x: x + self.to_out(nn.functional.silu(self.to_q(x))) * (1 + self.gain), h)
        return self.head(h)


class Twice(nn.Module):
    """A block that is used twice, each time in a segment of its own."""

    def __init__(self, segment):
        super().__init__()
        self.block, self.segment = nn.Sequential(nn.Linear(40, 40), nn.Tanh()), segment
        fill(self, 0)

    def forward(self, x):
        return self.segment(self.block, self.segment(self.block, x))


class GradientCheckpointing(TestCase):
    def test_both_kinds(self):
        for reentrant in (False, True):
            with self.subTest(reentrant=reentrant):
                self.assertSameRun(plain_run(build=lambda: Checkpointed(reentrant)), plain_run())

    def test_a_block_in_two_segments(self):
        """Reentrant backward makes its gradient in two parts, which add up."""
        segments = [lambda f, x: f(x)] + [lambda f, x, r=r: checkpoint(f, x, use_reentrant=r)
                                          for r in (False, True)]
        gradients = []
        for segment in segments:
            model = Twice(segment)
            optimizer = sara.adamw(model, threshold=THRESHOLD)
            model(torch.ones(3, 40, requires_grad=True)).square().sum().backward()
            self.assertIsNone(model.block[0].weight.grad)
            gradients.append(leaves(optimizer)["block.0.weight"][0].grad)
        for gradient in gradients[1:]:
            self.assertLessEqual(relative(gradient, gradients[0]), 1e-6)


class Precision(TestCase):
    def test_autocast(self):
        """Gradients come out in the weights' dtype; against the reference with the same ones."""
        def loss(model, data):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return loss_of(model, data)
        run = Lockstep(self, Net(), loss=loss, **OPTIONS)
        for step in range(5):
            run.step([batch(step)])
        plain = Lockstep(self, Net(), **OPTIONS)
        plain.step([batch(0)])
        self.assertFalse(torch.equal(plain.model.to_q.weight, run.model.to_q.weight))

    def test_a_step_inside_autocast(self):
        """Some scripts hold it around the whole loop: the step's own arithmetic stays in
        float32."""
        inside, outside = Net(), Net()
        start = weights(inside)
        for model, context in ((inside, torch.autocast("cpu", dtype=torch.bfloat16)),
                               (outside, contextlib.nullcontext())):
            optimizer = sara.adamw(model, **OPTIONS)
            for step in range(4):
                loss_of(model, batch(step)).backward()
                with context:
                    optimizer.step()
                optimizer.zero_grad()
        for name, p in inside.named_parameters():
            other = dict(outside.named_parameters())[name]
            self.assertTrue(torch.equal(p, other), name)
        self.assertFalse(torch.equal(inside.to_q.weight, start["to_q.weight"]))


class Loops(TestCase):
    def test_closures(self):
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        for step in range(6):
            def closure():
                optimizer.zero_grad()
                loss = loss_of(model, batch(step))
                loss.backward()
                return loss
            expected = loss_of(model, batch(step)).item()
            self.assertEqual(optimizer.step(closure).item(), expected)
        optimizer.zero_grad()
        self.assertSameRun((model, optimizer), plain_run())

    def test_gradients_set_to_zero_or_to_none(self):
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        for step in range(6):
            loss_of(model, batch(step)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=step % 2 == 0)
        optimizer.zero_grad()
        self.assertSameRun((model, optimizer), plain_run())

    def test_gradients_add_up_until_they_are_cleared(self):
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        loss_of(model, batch(0)).backward()
        once = leaves(optimizer)["to_q.weight"][0].grad.clone()
        loss_of(model, batch(0)).backward()
        self.assertTrue(torch.equal(leaves(optimizer)["to_q.weight"][0].grad, 2 * once))

    def test_learning_rate_schedules(self):
        """torch's schedulers set the groups' lr, and OneCycleLR their betas too; each step takes
        what stands there."""
        schedules = torch.optim.lr_scheduler
        for make in (lambda o: schedules.LambdaLR(o, lambda step: 1 / (1 + step)),
                     lambda o: schedules.CosineAnnealingLR(o, 5),
                     lambda o: schedules.SequentialLR(o, [schedules.LinearLR(o, 0.1, total_iters=2),
                                                          schedules.ConstantLR(o, 0.5, 9)], [2]),
                     lambda o: schedules.OneCycleLR(o, 2e-3, total_steps=8)):
            run = Lockstep(self, Net(), **OPTIONS)
            scheduler, rates = make(run.optimizer), []
            for step in range(5):
                group = run.optimizer.param_groups[0]
                rates.append(group["lr"])
                run.reference.betas = group["betas"]
                run.step([batch(step)], lr_scale=group["lr"] / run.base_lr)
                scheduler.step()
            self.assertGreater(len(set(rates)), 1)

    def test_a_learning_rate_of_zero(self):
        model = Net()
        start = weights(model)
        optimizer = sara.adamw(model, **{**OPTIONS, "lr": 0.0})
        train(model, optimizer, 2)
        for name, p in model.named_parameters():
            self.assertTrue(torch.equal(p, start[name]), name)

    def test_in_a_thread_of_its_own(self):
        """libsara's contexts are the threads' own."""
        ends = []
        thread = threading.Thread(target=lambda: ends.append(plain_run()))
        thread.start()
        thread.join()
        self.assertSameRun(ends[0], plain_run())

    def test_the_program_ends_quietly(self):
        script = ("import torch, sara; m = torch.nn.Linear(80, 80); "
                  "o = sara.adamw(m, fraction=0.1); m(torch.ones(1, 80)).sum().backward(); "
                  "o.step(); print(o.last['active'])")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                              check=True)
        self.assertEqual((done.stdout, done.stderr), ("648\n", ""))

    def test_two_optimisers_for_two_parts(self):
        """An ordinary one trains what sara was not given. What include leaves out of it asks for no
        gradient."""
        model = Net()
        start = weights(model)
        optimizer = sara.adamw([(name, p) for name, p in model.named_parameters()
                                if name.startswith("to_")], threshold=THRESHOLD)
        other = torch.optim.AdamW(model.conv.parameters(), 1e-3)
        loss_of(model, batch(0)).backward()
        self.assertIsNotNone(model.conv.weight.grad)
        self.assertIsNone(model.to_q.weight.grad)
        optimizer.step()
        other.step()
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
        self.assertEqual(changed, {"to_q.weight", "to_q.bias", "to_out.weight", "conv.weight",
                                   "conv.bias"})
        model = Net()
        sara_alone = sara.adamw(model, threshold=THRESHOLD, include="to_*")
        loss_of(model, batch(0)).backward()
        self.assertEqual([name for name, p in model.named_parameters() if p.grad is not None], [])
        self.assertEqual(set(leaves(sara_alone)), {"to_q.weight", "to_q.bias", "to_out.weight"})

    def test_compiled_models(self):
        """torch.compile with backend aot_eager: the traced forward and backward of a compiled
        model, whose gradients come through the same accumulation. The default backend differs from
        it in the kernels alone, and takes a C++ compiler 12 s on two cores for one layer, so it is
        left out here."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for compile_first in (True, False):
                model = Net()
                compiled = torch.compile(model, backend="aot_eager") if compile_first else model
                optimizer = sara.adamw(compiled, **OPTIONS)
                self.assertIn("to_q.weight", leaves(optimizer))  # not _orig_mod.to_q.weight
                if not compile_first:
                    compiled = torch.compile(model, backend="aot_eager")
                train(compiled, optimizer, 5)
                self.assertFalse([p for p in model.parameters() if p.grad is not None])
                plain, theirs = plain_run(5)
                for name, (leaf, _) in leaves(optimizer).items():
                    self.assertLessEqual(relative(leaf, leaves(theirs)[name][0]), 1e-5, name)


if __name__ == "__main__":
    unittest.main()
