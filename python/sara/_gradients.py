"""Gradients of the selected entries, taken from the dense ones as autograd makes them (section
4.4)."""
from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Iterable

import torch
from torch import Tensor
from torch.autograd import Variable

from . import _distributed as distributed
from . import _hooks as hooks
from . import _kernels as kernels
from . import _others as others
from . import _sharded as sharded

if TYPE_CHECKING:
    from torch.nn.parallel import DistributedDataParallel

    from ._training import Training

_TOGETHER = 8_000_000  # bytes of dense gradients that wait for each other


class Gradients:
    def __init__(self, training: "Training") -> None:
        self._training = weakref.ref(training)  # so that it ends with its optimiser
        self.names: dict[int, str] = {}     # of the parameters that were looked through
        self.waiting: list[str] = []        # parameters whose gradients were made and not taken yet
        self.held = 0                       # bytes of those
        self.passes: set[int] = set()       # backward passes at whose end the rest is taken
        self.spent = False                  # a step has used the gradients
        self.fresh = False                  # some were made since the last step
        self.wrappers: list[DistributedDataParallel] | None = None  # once looked for

    @property
    def training(self) -> "Training":
        training = self._training()
        assert training is not None
        return training

    def any(self) -> bool:
        """There are some that a step would use."""
        return bool(self.waiting) or any(leaf.grad is not None
                                         for leaf in self.training.leaves.values())

    # --------------------------------------------------------------------------------- in backward

    def made(self, p: Tensor) -> None:
        """Autograd has accumulated into p.grad."""
        if self.wrappers is None:
            self.wrappers = distributed.find_wrappers(self.training.trainable.values())
        self.fresh, name = True, self.names[id(p)]
        if _compiled():
            return  # its graph is traced: step() takes the gradient
        this = torch._C._current_graph_task_id()
        if this >= 0 and this not in self.passes:  # one that broke off is another
            self.passes.add(this)
            queue = Variable._execution_engine.queue_callback
            # Behind the reduction, which is queued before the last gradient is made.
            queue((lambda: queue(self._reduced)) if self.wrappers else lambda: self._end(this))
        if not self.wrappers:
            self.waiting.append(name)
            self.held += p.numel() * p.element_size()
            if self.held >= _TOGETHER or this < 0:
                self.take_waiting()

    def _end(self, this: int) -> None:
        self.passes.discard(this)
        self.take_waiting()

    def _reduced(self) -> None:
        """Within reentrant checkpointing the backward pass goes on; without synchronisation more
        micro-batches follow."""
        self.passes.clear()
        if torch._C._current_autograd_node() is None and all(
                w.require_backward_grad_sync for w in self.wrappers or ()):
            self.take(self.training.chosen)

    def take_waiting(self) -> None:
        waiting, self.waiting, self.held = self.waiting, [], 0
        self.take(waiting)

    @torch.no_grad()
    def take(self, names: Iterable[str]) -> None:
        """The parameters' gradients, where there are any, into the optimiser's; the dense ones are
        freed."""
        t = self.training
        dense = {}
        for name in names:
            p = t.chosen[name]
            if p.grad is not None and (name in t.places or not hooks.thawed(p)):
                dense[name], p.grad = p.grad, None
        if not dense:
            return
        if self.spent:  # these are of another step, whoever cleared the others
            self.zero(True)
        if any(name in t.places and t.places[name][0].device != gradient.device
               for name, gradient in dense.items()):
            others.adopt(t)  # the model was moved
        items, made = [], []
        for name, gradient in dense.items():
            flat, i = t.places.get(name, (None, 0))
            if flat is None or flat.counts[i] == 0 or not t.leaves[name].requires_grad:
                continue  # the last is Lightning's toggle_optimizer()
            leaf, own = t.leaves[name], flat.views["gradient"][i]
            gradient = sharded.local(gradient)
            if leaf.grad is not None and leaf.grad.data_ptr() != own.data_ptr():
                own.copy_(leaf.grad)
            items.append((name, gradient.to_dense() if gradient.is_sparse else gradient,
                          flat.views["positions"][i], own, leaf.grad is not None))
            made.append((leaf, own))
        kernels.gather(items)
        for leaf, own in made:
            leaf.grad = own

    # ---------------------------------------------------------------------------- between backwards

    def zero(self, set_to_none: bool) -> None:
        self.spent = False
        gradients = [leaf.grad for leaf in self.training.leaves.values() if leaf.grad is not None]
        if set_to_none:
            for leaf in self.training.leaves.values():
                leaf.grad = None
        elif gradients:
            torch._foreach_zero_(gradients)

    def clear(self, p: Tensor, set_to_none: bool) -> None:
        """As module.zero_grad() clears p.grad, which is None after backward."""
        name = self.names.get(id(p), "")
        leaf = self.training.leaves.get(name)
        if leaf is not None and leaf.grad is not None:
            leaf.grad = None if set_to_none else leaf.grad.zero_()
        if name in self.waiting and p.grad is None:
            self.waiting.remove(name)

    def forget(self) -> None:
        """Also of a backward pass that broke off."""
        self.waiting, self.held = [], 0
        for p in self.training.chosen.values():
            p.grad = None

    def finish(self) -> None:
        """Takes all that were made."""
        self.passes.clear()
        self.waiting, self.held = [], 0
        self.take(self.training.chosen)
        others.adopt(self.training)

    def fill(self) -> None:
        """A parameter without gradient has a zero one."""
        missing = [flat.views["gradient"][i] for flat, i, _, leaf in self.training.each()
                   if leaf.grad is None and leaf.numel()]
        if missing:
            torch._foreach_zero_(missing)


def _compiled() -> bool:
    """Within compiled autograd."""
    return torch.compiler.is_compiling() or bool(
        torch._dynamo.compiled_autograd.in_compiled_autograd_region
        if "torch._dynamo.compiled_autograd" in sys.modules else False)
