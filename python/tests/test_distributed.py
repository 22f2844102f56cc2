"""Two processes (gloo) against one process with the batches of both."""
import contextlib
import importlib.util
import math
import os
import unittest

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import sara
from processes import CLOSE, run, same

STEPS, ROWS = 5, 4   # optimiser steps; rows of a micro-batch in each process
OPTIONS = dict(fraction=0.2, lr=1e-3, lambda_rank=0.05, max_grad_norm=0.02)


class Small(nn.Module):
    """Convolution, norms whose weights are all 1 (nothing selected), embedding, matrices for the
    low-rank term."""

    def __init__(self, seed=0, reentrant=None):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.table, self.wide = nn.Embedding(10, 96), nn.Linear(288, 96)
        self.square, self.head = nn.Linear(96, 80), nn.Linear(80, 5)
        self.reentrant = reentrant  # None: activations are kept

    def part(self, function, x):
        if self.reentrant is None:
            return function(x)
        return checkpoint(function, x, use_reentrant=self.reentrant)

    def forward(self, x, labels, short=False):
        x = self.part(lambda t: torch.tanh(self.norm(self.conv(t))), x.clone().requires_grad_())
        x = self.part(lambda t: torch.tanh(self.wide(t.flatten(1)) + self.table(labels)), x)
        return self.head(x[:, :80] if short else torch.tanh(self.square(x)))


def batch(step, part, rank, world):
    """x, labels, target of a micro-batch; the one process of world 1 gets the rows of both."""
    g = torch.Generator().manual_seed(1000 * step + part)
    x = torch.randn(2 * ROWS, 3, 6, 6, generator=g)
    labels = torch.randint(0, 10, (2 * ROWS,), generator=g)
    rows = slice(rank * ROWS, (rank + 1) * ROWS) if world == 2 else slice(None)
    return x[rows], labels[rows], torch.randn(2 * ROWS, 5, generator=g)[rows]


def facts(model, optimizer):
    state = optimizer.state_dict()
    return dict(weights={n: p.detach().clone() for n, p in model.named_parameters()},
                state=state["state"], counters=state["sara"])


def train(rank, world, wrap=None, given="bare", ddp=None, parts=1, no_sync=False, reentrant=None,
          short=(), steps=STEPS, resume=None, decay=1.0,
          **options):
    """wrap: None, "before" the optimiser is made or "after". short: steps that leave a layer out.
    decay: of the learning rate in each step."""
    model = Small(reentrant=reentrant)
    own, called = model, model
    if wrap == "before":
        called = DistributedDataParallel(model, **ddp or {})
        own = called if given == "wrapped" else model
    optimizer = sara.adamw(own, **{**OPTIONS, **options})
    if wrap == "after":
        called = DistributedDataParallel(model, **ddp or {})
    if resume:
        optimizer.load_state_dict(resume)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    log, left, selected = [], 0, optimizer.param_groups[0]["names"]
    for step in range(optimizer.state_dict()["sara"]["step"], steps):
        loss = 0.0
        for part in range(parts):
            x, labels, target = batch(step, part, rank, world)
            more = no_sync and part + 1 < parts
            with called.no_sync() if more else contextlib.nullcontext():
                value = nn.functional.mse_loss(called(x, labels, step in short), target) / parts
                value.backward()
            loss += value.item()
            left += 0 if more else sum(p.grad is not None for name, p in model.named_parameters()
                                       if name in selected)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        log.append((loss, optimizer.last["grad_norm"], optimizer.last["rank_loss"],
                    optimizer.last["active"]))
    return dict(log=log, left=left, asking=[n for n, p in model.named_parameters()
                                            if p.requires_grad], packed=optimizer.state_dict(),
                **facts(model, optimizer))


def train_scaled(rank, world, wrap=None, unscale=False):
    """Three steps with GradScaler; in the second the last process's gradients are infinite."""
    model = Small()
    called = DistributedDataParallel(model) if wrap == "before" else model
    optimizer = sara.adamw(model, **OPTIONS)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    result = {}
    called = DistributedDataParallel(model) if wrap == "after" else called
    for step in range(3):
        x, labels, target = batch(step, 0, rank, world)
        loss = nn.functional.mse_loss(called(x, labels),
                                      target) * (math.inf if step == 1 and rank == world - 1 else 1)
        scaler.scale(loss).backward()
        result.setdefault("before" if step == 1 else "end",
                          facts(model, optimizer) if step == 1 else None)
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if step == 1:
            result["after"] = facts(model, optimizer)
    result["end"] = facts(model, optimizer)
    return result


def train_differing(rank, world, wrap, how):
    """The error of the first step, or "trained"."""
    model = Small(seed=rank if how == "seed" else 0)
    if how == "frozen" and rank == 1:
        model.norm.weight.data[0] = 2
    if how == "halved" and rank == 1:
        model.wide.weight.data.mul_(0.5)
    called = DistributedDataParallel(model) if wrap == "before" else model
    optimizer = sara.adamw(model, **{**OPTIONS, "fraction": 0.3 if how == "budget" and rank
                                     else 0.2})
    called = DistributedDataParallel(model) if wrap == "after" else called
    x, labels, target = batch(0, 0, rank, world)
    nn.functional.mse_loss(called(x, labels), target).backward()
    try:
        optimizer.step()
    except RuntimeError as error:
        return str(error)
    return "trained"


def train_accelerated(rank, world):
    """As diffusers' training scripts do it."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                      LOCAL_WORLD_SIZE=str(world), ACCELERATE_USE_CPU="true")
    from accelerate import Accelerator
    accelerator, model = Accelerator(cpu=True, gradient_accumulation_steps=2), Small()
    optimizer = sara.adamw(model, **OPTIONS)
    # which accelerate steps for each process
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5 ** (n // world))
    called, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    left = 0
    for step in range(STEPS):
        for part in range(2):
            x, labels, target = batch(step, part, rank, world)
            with accelerator.accumulate(called):
                accelerator.backward(nn.functional.mse_loss(called(x, labels), target))
                if accelerator.sync_gradients:
                    left += sum(p.grad is not None for p in model.parameters())
                    accelerator.clip_grad_norm_(called.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return dict(kind=accelerator.distributed_type.name, left=left,
                weights={n: p.detach().clone() for n, p in model.named_parameters()})


figures = []  # relative errors of the change


class TwoProcesses(unittest.TestCase):
    @classmethod
    def tearDownClass(cls):
        print("two processes against one: relative error of the change at most "
              f"{max(figures, default=0.0):.2g} (bound {CLOSE:g})")

    def check_close(self, ours, one):
        base, error, change = Small().state_dict(), 0.0, 0.0
        for name, p in one.items():
            error += float((ours[name].double() - p).square().sum())
            change += float((p.double() - base[name]).square().sum())
        self.assertGreater(change, 0)
        self.assertLessEqual((error / change) ** 0.5, CLOSE)
        figures.append((error / change) ** 0.5)

    def check(self, ours, late=False, **options):
        """Two runs' results: equal to the bit, and close to one process's. late: gradients may be
        taken in step() alone."""
        one = train(0, 1, **options)
        self.assertTrue(same(ours[0]["weights"], ours[1]["weights"]))
        self.assertTrue(same(ours[0]["state"], ours[1]["state"]))
        self.assertEqual(ours[0]["counters"], ours[1]["counters"])
        if not late:
            self.assertEqual([r["left"] for r in ours], [0, 0], "dense gradients that were kept")
        self.assertEqual(ours[0]["counters"], one["counters"])
        self.check_close(ours[0]["weights"], one["weights"])
        for i, (loss, norm, rank_loss, active) in enumerate(one["log"]):
            self.assertLessEqual(abs((ours[0]["log"][i][0] + ours[1]["log"][i][0]) / 2 - loss),
                                 1e-5 * loss)
            self.assertLessEqual(abs(ours[0]["log"][i][1] - norm), 1e-5 * norm)
            self.assertGreater(norm, OPTIONS["max_grad_norm"])  # all steps are clipped
            self.assertLessEqual(abs(ours[0]["log"][i][2] - rank_loss), 1e-5 * rank_loss)
            self.assertGreater(rank_loss, 0)
            self.assertEqual(ours[0]["log"][i][3], active)

    def check_way(self, how, late=False, **options):
        self.check(run(2, train, **how, **options), late, **options)

    def test_not_wrapped(self):
        self.check_way({})

    def test_not_wrapped_accumulating(self):
        self.check_way({}, parts=3)

    def test_wrapped_after_the_optimiser_was_made(self):
        self.check_way(dict(wrap="after"))

    def test_wrapped_before(self):
        for given in ("bare", "wrapped"):
            with self.subTest(given=given):
                self.check_way(dict(wrap="before", given=given))

    def test_no_sync(self):
        for wrap in ("before", "after"):
            with self.subTest(wrap=wrap):
                self.check_way(dict(wrap=wrap, no_sync=True), parts=3)

    def test_wrapped_accumulating_without_no_sync(self):
        self.check_way(dict(wrap="after"), parts=3)

    def test_gradient_as_bucket_view(self):
        for wrap in ("before", "after"):
            with self.subTest(wrap=wrap):
                self.check_way(dict(wrap=wrap, no_sync=True,
                                    ddp=dict(gradient_as_bucket_view=True)), parts=2)

    def test_small_buckets(self):
        self.check_way(dict(wrap="before", ddp=dict(bucket_cap_mb=0.01)))

    def test_static_graph(self):
        self.check_way(dict(wrap="before", ddp=dict(static_graph=True)))

    def test_a_layer_left_out_in_some_steps(self):
        self.check_way({}, short=(1, 2))
        self.check_way(dict(wrap="before", ddp=dict(find_unused_parameters=True)), short=(1, 2))

    def test_gradient_checkpointing(self):
        for how, options in (({}, {}), (dict(wrap="after", no_sync=True), {}),
                             (dict(reentrant=True), {}), (dict(reentrant=True, wrap="before"), {}),
                             (dict(reentrant=True, wrap="before"),
                              dict(include=["conv.*", "wide.*"])),
                             (dict(reentrant=True, wrap="after", no_sync=True),
                              dict(include=["conv.*", "wide.*"]))):
            # reentrant: backward passes within the backward pass, here of all that is trained
            with self.subTest(**how, **options):
                self.check_way({"reentrant": False, **how}, late=bool(options), parts=2, **options)

    def test_reselection(self):
        for wrap in (None, "before", "after"):
            with self.subTest(wrap=wrap):
                ours = run(2, train, wrap=wrap, progressive_iter=2, lr=2e-2)
                self.check(ours, progressive_iter=2, lr=2e-2)
                self.assertLess(ours[0]["log"][2][3], ours[0]["log"][1][3])
                emptied = [n for n, s in zip(ours[0]["packed"]["param_groups"][0]["names"],
                                             ours[0]["state"].values()) if len(s["values"]) == 0]
                # DistributedDataParallel goes on expecting its gradient
                self.assertIn("norm.bias", emptied)
                self.assertEqual("norm.bias" in ours[0]["asking"], wrap is not None)

    def test_resumed(self):
        options = dict(progressive_iter=2, lr=2e-2)
        for wrap in (None, "before", "after"):
            with self.subTest(wrap=wrap):
                half = run(2, train, wrap=wrap, steps=3, **options)
                ours = run(2, train, wrap=wrap, resume=half[0]["packed"], **options)
                whole = run(2, train, wrap=wrap, **options)
                self.assertTrue(same([r["weights"] for r in ours], [r["weights"] for r in whole]))
                self.assertTrue(same([r["state"] for r in ours], [r["state"] for r in whole]))

    def test_wrapped_alone(self):
        one = run(1, train)[0]
        for wrap in ("before", "after"):
            with self.subTest(wrap=wrap):
                ours = run(1, train, wrap=wrap)[0]
                self.assertEqual(ours["left"], 0)
                self.assertTrue(same(ours["weights"], one["weights"]))

    def test_infinity_in_one_process(self):
        for wrap in (None, "before", "after"):
            for unscale in (False, True):
                with self.subTest(wrap=wrap, unscale=unscale):
                    ours = run(2, train_scaled, wrap=wrap, unscale=unscale)
                    one = train_scaled(0, 1, unscale=unscale)
                    for result in (*ours, one):
                        self.assertTrue(same(result["before"], result["after"]),
                                        "the step changed something")
                        self.assertFalse(same(result["after"], result["end"]),
                                         "nothing was trained thereafter")
                        self.assertEqual(result["end"]["counters"]["step"], 2)
                    self.assertTrue(same(ours[0]["end"], ours[1]["end"]))
                    self.check_close(ours[0]["end"]["weights"], one["end"]["weights"])

    def test_processes_that_differ_are_refused(self):
        for wrap, ways in ((None, ("seed", "budget", "frozen")), ("after", ("budget",))):
            for how in ways:
                with self.subTest(wrap=wrap, how=how):
                    for message in run(2, train_differing, wrap=wrap, how=how):
                        self.assertIn("the processes' models or their selected entries differ",
                                      message)

    def test_rank_0s_model_for_all(self):
        """Wrapped after the optimiser was made, entries are selected anew of rank 0's weights."""
        for wrap, how in (("before", "seed"), ("after", "halved")):
            self.assertEqual(run(2, train_differing, wrap=wrap, how=how), ["trained"] * 2)

    @unittest.skipUnless(importlib.util.find_spec("accelerate"), "needs accelerate")
    def test_accelerate(self):
        ours, one = run(2, train_accelerated), train(0, 1, parts=2, decay=0.5)
        self.assertEqual([r["kind"] for r in ours], ["MULTI_CPU"] * 2)
        self.assertEqual([r["left"] for r in ours], [0, 0])
        self.assertTrue(same(ours[0]["weights"], ours[1]["weights"]))
        self.check_close(ours[0]["weights"], one["weights"])


if __name__ == "__main__":
    unittest.main()
