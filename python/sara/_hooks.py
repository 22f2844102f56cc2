"""How the optimiser learns what happens to the model: hooks of autograd and of forward passes, and
torch's methods on modules that clear gradients and freeze."""
from __future__ import annotations

import functools
import weakref
from typing import Any, Iterable, Mapping, Protocol

import torch
from torch import Tensor, nn


class Listener(Protocol):
    """What an optimiser hears."""

    def gradient_made(self, p: Tensor) -> None: ...

    def gradient_cleared(self, p: Tensor, set_to_none: bool) -> None: ...

    def before_forward(self) -> None: ...

    def sleeping(self) -> list[str]: ...


class Watch:
    """A parameter's hook: autograd has accumulated into its .grad. Of the optimisers that were
    given the parameter the last one made that is alive hears it, as where a notebook's cell runs
    again. It lies on the parameter itself: torch swaps no tensors that have weak references."""

    def __init__(self) -> None:
        self.owners: list[weakref.ref[Any]] = []
        self.asleep = False  # an optimiser has told it to ask for no gradient

    def __call__(self, p: Tensor) -> None:
        if owner := self.owner():
            owner.gradient_made(p)

    def owner(self) -> Listener | None:
        """None of a model that outlives its optimiser: it keeps its gradients."""
        return next((owner for ref in reversed(self.owners) if (owner := ref())), None)


def find(p: Tensor) -> Watch | None:
    hooks = p._post_accumulate_grad_hooks
    return next((h for h in hooks.values() if type(h) is Watch), None) if hooks else None


def watch(p: Tensor, owner: Listener | None = None) -> Watch:
    """The parameter's watch, made if there is none; it tells the owner from now on."""
    found = find(p)
    if found is None:
        asked = p.requires_grad
        p.requires_grad_(True).register_post_accumulate_grad_hook(found := Watch())
        p.requires_grad_(asked)
    if owner is not None and not any(ref() is owner for ref in found.owners):
        found.owners[:] = [ref for ref in found.owners if ref() is not None]
        found.owners.append(weakref.ref(owner))
    return found


def hears(p: Tensor, owner: Listener) -> bool:
    found = find(p)
    return found is not None and found.owner() is owner


def asks(p: Tensor) -> bool:
    """For a gradient, or did before an optimiser told it not to."""
    found = find(p)
    return p.requires_grad or found is not None and found.asleep


def thawed(p: Tensor) -> bool:
    """By the caller, after an optimiser had told it to ask for no gradient: it is not the
    optimiser's."""
    found = find(p)
    return found is not None and found.asleep and p.requires_grad


def sleep(p: Tensor) -> None:
    if p.requires_grad:
        watch(p).asleep = True
        p.requires_grad_(False)


def wake(p: Tensor) -> None:
    """What an optimiser has put to sleep; what the caller has frozen stays so."""
    found = find(p)
    if found is not None and found.asleep:
        p.requires_grad_(True)
        found.asleep = False


class BeforeForward:
    """A module's hook. Copies of the module, also saved ones, have one that tells nobody, but knows
    by name which parameters were told to ask for no gradient."""

    def __init__(self, owner: Listener | None, asleep: Iterable[str] = ()) -> None:
        self.owner = weakref.ref(owner) if owner else lambda: None
        self.asleep = tuple(asleep)

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if not _symbolic() and (owner := self.owner()):
            owner.before_forward()

    def __reduce__(self) -> Any:
        owner = self.owner()
        return BeforeForward, (None, tuple(owner.sleeping()) if owner else self.asleep)


def before_forward(module: nn.Module, owner: Listener) -> None:
    """The module tells the owner, and none that is gone."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, BeforeForward) and hook.owner() is None:
            del module._forward_pre_hooks[key]
    module.register_forward_pre_hook(BeforeForward(owner))


def recall(module: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Of a module that is a copy: which of its parameters sleep."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BeforeForward) and hook.owner() is None:
            for p in (parameters[name] for name in hook.asleep if name in parameters):
                watch(p).asleep = not p.requires_grad


def _symbolic() -> bool:
    """The forward pass only traces, or differentiates by torch.func: there are no values."""
    return (torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
            or torch._C._functorch.maybe_current_level() is not None
            or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None)


def _wrapped(name: str, heard: Any) -> None:
    """nn.Module's method of this name also tells the watches of the module's parameters."""
    original = getattr(nn.Module, name)

    @functools.wraps(original)
    def method(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = original(module, *args, **kwargs)
        for p in module.parameters():
            if found := find(p):
                heard(found, p, *args, **kwargs)
        return result
    setattr(nn.Module, name, method)


def _zero_grad(found: Watch, p: Tensor, set_to_none: bool = True) -> None:
    """The model's .grad are None after backward: without this the gathered ones would stay."""
    if owner := found.owner():
        owner.gradient_cleared(p, set_to_none)


def _requires_grad_(found: Watch, p: Tensor, requires_grad: bool = True) -> None:
    """The caller has decided."""
    found.asleep = False


_wrapped("zero_grad", _zero_grad)
_wrapped("requires_grad_", _requires_grad_)
