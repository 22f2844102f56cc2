"""What the tests share: a module that has everything models have, and the reference that follows
the optimiser step by step."""
import contextlib
import copy
import ctypes
import hashlib
import unittest
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

import reference
import sara

THRESHOLD = 0.01  # of Net's weights, normal with deviation 0.02, 38 % are below it
# Steps that are clipped, with a low-rank term and a reselection.
OPTIONS = dict(threshold=THRESHOLD, lr=2e-3, eps=1e-4, max_grad_norm=0.05, lambda_rank=0.02,
               progressive_iter=3)
# An eps of the gradients' size: with AdamW's usual one an entry whose gradient and low-rank term
# cancel moves by the rounding of both.
RANKED = dict(threshold=THRESHOLD, lr=1e-3, lambda_rank=0.02, betas=(0.8, 0.95), eps=1e-4,
              weight_decay=0.1)


class Net(nn.Module):
    """Convolutions, norms, an embedding tied to the head, a frozen part, a part without gradient, a
    scalar."""

    def __init__(self, seed=0):
        super().__init__()
        self.embed = nn.Embedding(30, 72)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.down = nn.Conv2d(8, 72, 2, stride=2)
        self.layer_norm = nn.LayerNorm(72)
        self.to_q = nn.Linear(72, 80)
        self.to_out = nn.Linear(80, 72, bias=False)
        self.frozen = nn.Linear(72, 72)
        self.unused = nn.Linear(70, 66)
        self.gain = nn.Parameter(torch.zeros(()))
        self.head = nn.Linear(72, 30)
        self.head.weight = self.embed.weight
        fill(self, seed)
        self.frozen.requires_grad_(False)

    def forward(self, images, tokens):  # [B, 3, 8, 8], [B, 5] -> [B, 21, 30]
        h = self.down(F.silu(self.norm(self.conv(images)))).flatten(2).transpose(1, 2)
        h = torch.cat([h, self.embed(tokens)], 1)
        h = h + self.frozen(self.layer_norm(h))
        h = h + self.to_out(F.silu(self.to_q(h))) * (1 + self.gain)
        return self.head(h)


@torch.no_grad()
def fill(module, seed):
    """Normal weights with deviation 0.02, norms at 1, some biases at 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        if "norm.weight" in name:
            p.fill_(1)
        elif "norm.bias" in name or p.dim() == 0:
            p.zero_()
        else:
            p.copy_(torch.randn(p.shape, generator=generator) * 0.02)


def batch(step, size=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1000 + step)
    images = torch.randn(size, 3, 8, 8, generator=generator).to(dtype)
    tokens = torch.randint(30, (size, 5), generator=generator)
    return images, tokens, torch.randn(size, 21, 30, generator=generator)


def loss_of(model, data):
    images, tokens, target = data
    return 50 * (model(images, tokens).float() - target).square().mean()


def train(model, optimizer, steps, first=0):
    """An ordinary loop, at which every variation is measured."""
    for step in range(first, first + steps):
        loss_of(model, batch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()


def plain_run(steps=6, build=Net, **options):
    model = build()
    optimizer = sara.adamw(model, **(options or OPTIONS))
    train(model, optimizer, steps)
    return model, optimizer


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def relative(a, b):
    """||a - b|| / ||b||; ||a|| where b is zero."""
    a, b = a.detach().double(), b.detach().double()
    return ((a - b).norm() / (b.norm() if b.norm() > 0 else 1)).item()


def bits(tensor):
    """What two tensors must have in common to be the same bit for bit, NaN and -0 included. A hash,
    as unittest would take hours to tell how long bytes differ."""
    flat = tensor.detach().cpu().contiguous()
    size = flat.numel() * flat.element_size()
    held = ctypes.string_at(flat.data_ptr(), size) if size else b""
    return tensor.dtype, tensor.shape, hashlib.sha256(held).hexdigest()


def snapshot(model, optimizer):
    """Weights, masters, moments, positions and counters, as bits."""
    state = optimizer.state_dict()
    parts = {("weight", name): bits(p) for name, p in model.state_dict().items()}
    for group in state["param_groups"]:
        for index, name in zip(group["params"], group["names"]):
            parts.update({(key, name): bits(value) for key, value in state["state"][index].items()})
    return parts, state["sara"], [{k: v for k, v in g.items() if k != "params"}
                                  for g in state["param_groups"]]


def leaves(optimizer):
    """name -> (leaf, its state)"""
    return {name: (leaf, optimizer.state[leaf]) for group in optimizer.param_groups
            for name, leaf in zip(group["names"], group["params"])}


@contextlib.contextmanager
def torch_path():
    """Everything as on a device that libsara has no kernels for."""
    from sara import _kernels
    with mock.patch.object(_kernels, "_native", lambda tensor: False), \
            mock.patch.object(_kernels, "nuclear_norm", _kernels.nuclear_norm_torch):
        yield


class Lockstep:
    """sara.adamw on a module, and the reference on copies of its tensors with the gradients of a
    twin module that has the same weights at every step, so that no error is fed back."""

    tolerance = 1e-5  # of what the steps changed, and of the moments

    def __init__(self, test, model, loss=loss_of, reference_options=None, **options):
        self.test, self.model, self.loss = test, model, loss
        self.twin, self.start = copy.deepcopy(model), weights(model)
        tensors = {name: self.start[name].clone() for name, p in model.named_parameters()
                   if p.requires_grad}
        self.optimizer = sara.adamw(model, **options)
        known = {key: value for key, value in options.items()
                 if key in ("betas", "eps", "weight_decay", "max_grad_norm", "progressive_iter",
                            "lr")}
        known = {"threshold": options.get("threshold"),
                 "lambda_rank": options.get("lambda_rank", 5e-4), **known,
                 **(reference_options or {})}
        self.reference = reference.Sara(tensors, **known)
        self.base_lr = self.reference.lr

    def gradients(self, batches):
        """Dense ones, of the twin."""
        self.twin.load_state_dict(self.model.state_dict())
        self.twin.zero_grad()
        for data in batches:
            (self.loss(self.twin, data) / len(batches)).backward()
        grads = {name: p.grad for name, p in self.twin.named_parameters()}
        return {name: torch.zeros_like(p) if grads[name] is None else grads[name]
                for name, p in self.reference.parameters.items()}

    def step(self, batches, lr_scale=1.0):
        for data in batches:
            (self.loss(self.model, data) / len(batches)).backward()
        gradients = self.gradients(batches)
        for group in self.optimizer.param_groups:
            group["lr"] = self.base_lr * lr_scale
        self.optimizer.step()
        self.optimizer.zero_grad()
        last = self.optimizer.last
        norm, rank_loss = self.reference.step(gradients, lr_scale, last["rank_name"] or None)
        self.test.assertAlmostEqual(last["grad_norm"] / norm, 1, delta=1e-6)
        self.test.assertAlmostEqual(last["rank_loss"], rank_loss, delta=1e-4 * rank_loss)
        self.test.assertEqual(last["active"],
                              sum(int(m.sum()) for m in self.reference.masks.values()))
        self.check()
        return last

    def check(self):
        test, own = self.test, leaves(self.optimizer)
        test.assertEqual(set(own) | {n for n, m in self.reference.masks.items() if not m.any()},
                         set(self.reference.masks))
        weight = dict(self.model.named_parameters())
        for name, (leaf, state) in own.items():
            mask = self.reference.masks[name].reshape(-1)
            start = self.start[name].reshape(-1).float()
            test.assertEqual(state["positions"].tolist(), mask.nonzero().view(-1).tolist(), name)
            want = self.reference.values[name]
            error = relative(leaf - start[mask], want - start[mask])
            test.assertLessEqual(error, self.tolerance, f"{name}: master")
            for key, moment in zip(("exp_avg", "exp_avg_sq"), self.reference.moments[name]):
                test.assertLessEqual(relative(state[key], moment), self.tolerance, f"{name}: {key}")
            # the module holds the masters, rounded, and every other entry as it was or as it was
            # left
            flat = weight[name].detach().reshape(-1)
            test.assertTrue(torch.equal(flat[mask], leaf.detach().to(flat.dtype)), name)
            others = self.start[name].reshape(-1).clone()
            others[state["frozen_positions"].long()] = state["frozen_values"].to(flat.dtype)
            test.assertTrue(torch.equal(flat[~mask], others[~mask]),
                            f"{name}: an entry that is not trained has changed")
            theirs = self.reference.parameters[name].reshape(-1)
            test.assertLessEqual(relative(flat[~mask], theirs[~mask]), 1e-6,
                                 f"{name}: frozen entries")
        for name in set(self.start) - set(own):
            test.assertEqual(bits(weight[name]), bits(self.start[name]), name)


class TestCase(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def assertSameRun(self, one, other):
        """Two (model, optimizer) are the same bit for bit."""
        a, b = snapshot(*one), snapshot(*other)
        self.assertEqual(a[1:], b[1:])
        self.assertEqual([key for key in a[0] if a[0][key] != b[0].get(key)], [])
        self.assertEqual(set(a[0]), set(b[0]))
