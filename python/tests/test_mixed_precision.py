"""Gradient scalers, gradients that are not finite, autocast."""
import contextlib
import math
import unittest

import torch

import sara
from support import (OPTIONS, Lockstep, Net, TestCase, batch, leaves, loss_of, plain_run, snapshot,
                     weights)

INF = float("inf")


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


if __name__ == "__main__":
    unittest.main()
