"""What training scripts do around an optimiser: closures, schedulers, threads, several optimisers,
compilation."""
import subprocess
import sys
import threading
import unittest
import warnings

import torch

import sara
from support import (OPTIONS, THRESHOLD, Lockstep, Net, TestCase, batch, leaves, loss_of, plain_run,
                     relative, train, weights)


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
