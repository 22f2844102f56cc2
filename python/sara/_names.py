"""Names of a module's parameters as the module itself has them, whatever is wrapped around it or
its parts."""
from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

_INSIDE = {DataParallel: "module", DistributedDataParallel: "module", AveragedModel: "module"}


def _inside(module: Any) -> str:
    """The attribute under which a wrapper has its module; "" of an ordinary module."""
    for kind, name in _INSIDE.items():
        if isinstance(module, kind):
            return name
    return next((name for name in ("_orig_mod", "_forward_module", "_checkpoint_wrapped_module")
                 if isinstance(module, nn.Module) and name in module._modules), "")


def bare(model: Any) -> Any:
    """The module itself, without DataParallel, DistributedDataParallel, torch.compile around it."""
    while inside := _inside(model):
        model = getattr(model, inside)
    return model


def parameters_of(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """named_parameters() of the bare module, whose parts are bare too; tied ones once."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    seen: set[int] = set()

    def look(module: nn.Module, prefix: str) -> None:
        module = bare(module)
        if id(module) in seen:
            return
        seen.add(id(module))
        for name, p in module._parameters.items():
            if p is not None:
                found.setdefault(id(p), (prefix + name, p))
        for name, part in module._modules.items():
            if part is not None:
                look(part, f"{prefix}{name}.")

    look(model, "")
    return list(found.values())
