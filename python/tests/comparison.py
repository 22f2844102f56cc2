"""What the tests of other people's loops share: a small module, sara.adamw beside torch's AdamW.

With all entries selected, no low-rank term and no clipping sara.adamw is torch's AdamW up to
rounding, so that one script can be run with both. SARA_TEST_DEVICE names another device than the
CPU.
"""
import contextlib
import os
import tempfile

import torch
from torch import nn

import sara
from support import TestCase, torch_path

DEVICE = os.environ.get("SARA_TEST_DEVICE", "cpu")
RATE = 1e-2
THRESHOLD = 0.05  # of net's weights, uniform up to 0.11, 45 % are below it
OPTIONS = dict(threshold=THRESHOLD, lr=1e-3, max_grad_norm=0.5, lambda_rank=0.02)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(80, 90), nn.Tanh(), nn.Linear(90, 80)).to(DEVICE)


def inputs(seed, rows=4):
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(rows, 80, generator=generator).to(DEVICE)


def loss_of(model, seed):
    return model(inputs(seed).to(next(model.parameters()).dtype)).float().square().mean()


def train(model, optimizer, seeds):
    for seed in seeds:
        loss_of(model, seed).backward()
        optimizer.step()
        optimizer.zero_grad()


def few(model, **options):
    """The method itself, on the entries below THRESHOLD."""
    return sara.adamw(model, **{**OPTIONS, **options})


def all_entries(model, **options):
    plain = dict(threshold=1e3, lr=RATE, eps=1e-4, lambda_rank=0, max_grad_norm=0)
    return sara.adamw(model, **{**plain, **options})


def torchs(model):
    parameters = model.parameters() if isinstance(model, nn.Module) else model.values()
    return torch.optim.AdamW(parameters, RATE, eps=1e-4, weight_decay=1e-2)


def written(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def leaves_of(optimizer):
    return [leaf for group in optimizer.param_groups for leaf in group["params"]]


def scaler_of(**options):
    return torch.amp.GradScaler(DEVICE, **options)


def names_of(optimizer):
    return [name for group in optimizer.param_groups for name in group["names"]]


def covered(optimizer):
    """name -> the positions that are trained, ascending."""
    return {name: optimizer.state[leaf]["positions"].long() for group in optimizer.param_groups
            for name, leaf in zip(group["names"], group["params"])}


def mask_of(p, positions):
    """[entries] whether it is trained."""
    mask = torch.zeros(p.numel(), dtype=torch.bool, device=p.device)
    mask[positions] = True
    return mask


class LoopCase(TestCase):
    def file(self, name="adapter.safetensors"):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return os.path.join(folder.name, name)

    def assertFollowsAdamW(self, run, start=net, tolerance=1e-5):
        """run(make) trains a module, whose optimiser is make(module), and returns it. Errors are
        measured by what the training changed, on libsara's path and on torch's."""
        theirs, before = written(run(torchs)), written(start())
        for path in (contextlib.nullcontext, torch_path):
            with path():
                mine = written(run(all_entries))
            for name, want in theirs.items():
                moved = (want.double() - before[name].double()).norm()
                error = (mine[name].double() - want.double()).norm()
                said = f"{name}: off by {error / moved:.2e} of its change, {path.__name__}"
                self.assertTrue(moved > 0 and error <= tolerance * moved, said)

    def assertSameWeights(self, one, other):
        for (name, p), q in zip(one.named_parameters(), other.parameters()):
            self.assertTrue(torch.equal(p, q), name)

    def assertAdapterHolds(self, optimizer, model, base):
        """The file that is saved, applied to the base, gives the model's weights."""
        path = self.file()
        optimizer.save(path)
        sara.apply(base, path)
        self.assertSameWeights(base, model)
