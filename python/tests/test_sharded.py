"""FSDP2 (fully_shard): two and four processes (gloo), each of which holds a part of every
parameter, against one process with the whole model and the whole batch."""
import os
import tempfile
import unittest

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import sara
from processes import CLOSE, run, same
from support import torch_path

STEPS, ROWS = 5, 4
OPTIONS = dict(fraction=0.2, lr=1e-3, lambda_rank=0.05, max_grad_norm=0.02)


class Small(nn.Module):
    """Matrices for the low-rank term, norms whose weights are all 1, and fewer rows than
    processes."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.wide, self.norm = nn.Linear(81, 96), nn.LayerNorm(96)
        self.square, self.head = nn.Linear(96, 80), nn.Linear(80, 3)

    def forward(self, x):  # [B, 81] -> [B, 3]
        x = self.norm(torch.tanh(self.wide(x)))
        return self.head(torch.tanh(self.square(x)))


def batch(step, rank, world):
    g = torch.Generator().manual_seed(step)
    x, target = torch.randn(4 * ROWS, 81, generator=g), torch.randn(4 * ROWS, 3, generator=g)
    rows = len(x) // world
    return x[rank * rows:(rank + 1) * rows], target[rank * rows:(rank + 1) * rows]


def sharded(model, world):
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        for part in (model.wide, model.square):
            fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def whole(p):
    p = p.detach()
    return (p.full_tensor() if hasattr(p, "full_tensor") else p).clone()


def train_in_torch(rank, world, **options):
    with torch_path():
        return train(rank, world, **options)


def train(rank, world, steps=STEPS, resume=None, folder=None, parts=1, dtype=torch.float32, first=0,
          **options):
    model = sharded(Small().to(dtype), world)
    optimizer = sara.adamw(model, **{**OPTIONS, **options})
    if resume:
        optimizer.load_state_dict(resume)
    log = []
    for step in range(first, steps):
        for part in range(parts):
            x, target = batch(10 * part + step, rank, world)
            loss = nn.functional.mse_loss(model(x.to(dtype)).float(), target) / parts
            loss.backward()
        optimizer.step()
        last = optimizer.last
        optimizer.zero_grad()
        log.append({key: last[key] for key in ("grad_norm", "rank_loss", "rank_name", "active")})
    state = optimizer.state_dict()
    path = os.path.join(folder or tempfile.mkdtemp(), "adapter.safetensors")
    optimizer.save(path)
    adapter = b""
    if rank == 0:
        with open(path, "rb") as f:
            adapter = f.read()
    return dict(log=log, state=state, adapter=adapter, base=optimizer.base_sha256,
                weights={name: whole(p) for name, p in model.named_parameters()})


def refuse(rank, world):
    model = Small()
    from torch.distributed.tensor import Shard
    fully_shard(model.square, mesh=init_device_mesh("cpu", (world,)),
                shard_placement_fn=lambda p: Shard(p.dim() - 1))
    try:
        sara.adamw(model, **OPTIONS)
    except ValueError as error:
        return str(error)
    return "made"


class Sharded(unittest.TestCase):
    def check(self, world, tolerance=CLOSE, body=train, figures=1e-5, **options):
        with tempfile.TemporaryDirectory() as folder:
            results = run(world, body, folder=folder, **options)
        one = body(0, 1, **options)
        base = {name: whole(p) for name, p in Small().named_parameters()}
        first = results[0]
        for other in results[1:]:
            self.assertTrue(same(other["state"], first["state"]))
            self.assertEqual(other["log"], first["log"])
        self.assertEqual(first["base"], one["base"])
        for mine, theirs in zip(first["log"], one["log"]):
            self.assertEqual((mine["rank_name"], mine["active"]),
                             (theirs["rank_name"], theirs["active"]))
            for key in ("grad_norm", "rank_loss"):
                self.assertLessEqual(abs(mine[key] - theirs[key]), figures * theirs[key], key)
        groups = [of["state"]["param_groups"][0] for of in (first, one)]
        self.assertEqual(groups[0]["names"], groups[1]["names"])
        self.assertEqual(groups[0]["threshold"], groups[1]["threshold"])
        for index, name in enumerate(groups[0]["names"]):
            mine, theirs = first["state"]["state"][index], one["state"]["state"][index]
            for key in ("positions", "frozen_positions"):
                self.assertTrue(torch.equal(mine[key].sort()[0], theirs[key].sort()[0]),
                                (name, key))
        error = change = 0.0
        for name, p in one["weights"].items():
            error += float((first["weights"][name].double() - p).square().sum())
            change += float((p.double() - base[name].to(p.dtype)).square().sum())
        self.assertGreater(change, 0)
        self.assertLessEqual((error / change) ** 0.5, tolerance)
        return first, one

    def test_two_and_four(self):
        for world in (2, 4):
            with self.subTest(world=world):
                self.check(world)

    def test_other_budgets(self):
        for budget in (dict(threshold=0.03), dict(count=777)):
            with self.subTest(**budget):
                self.check(2, **{"fraction": None, **budget})

    def test_in_torch_operations(self):
        self.check(2, body=train_in_torch, tolerance=1e-4, progressive_iter=2)

    def test_sixteen_bits(self):
        """Gradients are reduced in bfloat16: another rounding."""
        self.check(2, dtype=torch.bfloat16, tolerance=5e-2, lambda_rank=0, figures=1e-2)

    def test_accumulation(self):
        self.check(2, parts=3)

    def test_reselection(self):
        first, _ = self.check(2, progressive_iter=2, lr=2e-2)
        self.assertLess(first["log"][2]["active"], first["log"][1]["active"])

    def test_adapters(self):
        """One process writes it, of all; a model in one process takes it."""
        first, _ = self.check(4)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "a.safetensors")
            with open(path, "wb") as f:
                f.write(first["adapter"])
            model = Small()
            sara.apply(model, path)
        for name, p in model.named_parameters():
            self.assertTrue(torch.equal(p, first["weights"][name]), name)

    def test_resumed(self):
        """Also in another number of processes."""
        for options in ({}, dict(progressive_iter=2, lr=2e-2)):
            half = run(2, train, steps=3, **options)[0]["state"]
            end = run(2, train, **options)[0]
            again = run(2, train, resume=half, first=3, **options)[0]
            self.assertTrue(same(again["weights"], end["weights"]))
            self.assertTrue(same(again["state"], end["state"]))
        more = run(4, train, resume=half, first=3, **options)[0]
        for name, p in more["weights"].items():
            self.assertLessEqual(float((p - end["weights"][name]).abs().max()), 1e-5, name)

    def test_another_dimension_is_refused(self):
        for message in run(2, refuse):
            self.assertRegex(message,
                             "square.weight: sharded as .*expected over its first dimension")


if __name__ == "__main__":
    unittest.main()
