"""Which entries are trained: those with |p| < threshold, over all tensors alike (section 4.1)."""
from __future__ import annotations

import fnmatch
from ctypes import byref, c_double, c_size_t, c_void_p
from typing import Any, Iterable, Mapping, Sequence, Union

import torch
from torch import Tensor, nn

from . import _library as lib
from . import _sharded as sharded
from ._hooks import asks
from ._names import parameters_of

Patterns = Union[str, Sequence[str], None]
_KINDS = {"threshold": 0, "fraction": 1, "count": 2}


def default_lr(threshold: float) -> float:
    """1e-3 exp(-350 threshold)."""
    return lib.library.sara_default_learning_rate(threshold)


def named(model: "nn.Module | Mapping[str, nn.Parameter] | Iterable[tuple[str, nn.Parameter]]",
          ) -> dict[str, nn.Parameter]:
    """name -> parameter; one that is tied counts once, under its first name."""
    pairs: Any = (parameters_of(model) if isinstance(model, nn.Module) else
                  list(model.items() if isinstance(model, Mapping) else model))
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("parameters without names; give a module, named_parameters() or a dict of "
                         "them")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{max(names, key=names.count)}: two parameters of this name")
    first = {id(p): name for name, p in reversed(pairs)}
    return {name.replace("_orig_mod.", ""): p for name, p in pairs if first[id(p)] == name}


def _matching(parameters: Mapping[str, Tensor], patterns: Patterns, option: str) -> set[str]:
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns or ():
        names = [name for name in parameters if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            raise ValueError(f"{option}={pattern!r} matches none of the {len(parameters)} "
                             "parameters")
        found.update(names)
    return found


def _check_trainable(name: str, p: Tensor) -> None:
    if isinstance(p, nn.UninitializedParameter):
        raise ValueError(f"{name}: not initialised yet; run a forward pass before")
    data = sharded.local(p.detach())
    if (type(data) is not Tensor or data.layout != torch.strided or data.is_meta
            or data.dtype not in lib.DTYPES or p.numel() >= 2 ** 31):
        raise ValueError(
            f"{name}: {type(p.data).__name__} of {p.numel()} entries, {p.dtype}; expected an "
            "ordinary tensor (with data) of less than 2147483648 entries, float32, float16 or "
            "bfloat16")
    if torch._debug_has_internal_overlap(data) == 1:
        raise ValueError(f"{name}: an expanded tensor, whose entries share memory")
    sharded.check(name, p)


def eligible(parameters: Mapping[str, nn.Parameter], include: Patterns = None,
             exclude: Patterns = None) -> dict[str, nn.Parameter]:
    """Those that ask for a gradient and whose names match (shell patterns: "*.attn2.*")."""
    names = set(parameters) if include is None else _matching(parameters, include, "include")
    names -= _matching(parameters, exclude, "exclude")
    chosen = {name: p for name, p in parameters.items() if asks(p) and name in names}
    for name, p in chosen.items():
        _check_trainable(name, p)
    if not chosen:
        raise ValueError(f"nothing to train: none of the {len(parameters)} parameters requires a "
                         "gradient and matches; model.requires_grad_(True) makes them trainable")
    return chosen


def budget(threshold: float | None = None, fraction: float | None = None,
           count: float | None = None) -> tuple[str, float]:
    """The one that is given; 5.8 % of the entries if none is."""
    options = dict(threshold=threshold, fraction=fraction, count=count)
    given = [(kind, value) for kind, value in options.items() if value is not None]
    if len(given) > 1:
        raise ValueError(" and ".join(f"{kind}={value}" for kind, value in given)
                         + ": expected one of them")
    kind, value = given[0] if given else ("fraction", 0.058)
    value = float(value)
    if kind == "fraction" and not 0 < value <= 1:
        raise ValueError(f"fraction={value:g}, expected more than 0 and at most 1")
    if kind == "count" and not (value >= 1 and value % 1 == 0):
        raise ValueError(f"count={value:g}, expected a whole number of at least 1")
    return kind, value


def positions_below(parameters: Mapping[str, Tensor], kind: str,
                    value: float) -> tuple[float, dict[str, Tensor]]:
    """The threshold that a budget comes to, and name -> positions [selected] int32, ascending, on
    the parameter's device. What lies on other devices is copied to the CPU for this once, so that
    the entries are the same wherever the model is."""
    if any(map(sharded.is_sharded, parameters.values())):
        return sharded.positions_below(parameters, kind, value)
    tensors = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
    views = lib.structures(*(field for name, t in tensors.items() for field in lib.view(name, t)))
    selection, threshold, size, result = c_void_p(), c_double(), c_size_t(), {}
    lib.call("sara_tensors_select", byref(selection), byref(threshold), views, len(tensors),
             _KINDS[kind], value)
    try:
        for i, (name, p) in enumerate(parameters.items()):
            address = lib.library.sara_tensors_positions(selection, i, byref(size))
            result[name] = lib.copied(address, size.value, torch.int32).to(p.device)
    finally:
        lib.library.sara_tensors_selection_free(lib.context(), selection)
    return threshold.value, result


def select(model: "nn.Module | Mapping[str, nn.Parameter]", threshold: float | None = None, *,
           fraction: float | None = None, count: float | None = None, include: Patterns = None,
           exclude: Patterns = None) -> dict[str, Tensor]:
    """For a loop of one's own: name -> positions [selected] int64 in the flattened parameter,
    ascending; names without any left out."""
    parameters = eligible(named(model), include, exclude)
    _, positions = positions_below(parameters, *budget(threshold, fraction, count))
    return {name: p.long() for name, p in positions.items() if len(p)}


def report(model: "nn.Module | Mapping[str, nn.Parameter]", threshold: float | None = None, *,
           fraction: float | None = None, count: float | None = None, include: Patterns = None,
           exclude: Patterns = None) -> str:
    """A table of how many entries of each block a budget would train, with its threshold and
    default learning rate."""
    parameters = eligible(named(model), include, exclude)
    resolved, positions = positions_below(parameters, *budget(threshold, fraction, count))
    blocks: dict[str, list[int]] = {}
    for name, p in parameters.items():
        pieces = name.split(".")
        own = ".".join(pieces[:2 if len(pieces) > 2 and pieces[1].isdigit() else 1])
        for block in (own, "all"):  # the last row is that of all
            entries, chosen = (blocks.pop(block, [0, 0]) if block == "all" else
                               blocks.get(block, [0, 0]))
            blocks[block] = [entries + p.numel(), chosen + len(positions[name])]
    width = max(map(len, [*blocks, "block"]))
    rows = [f"{block:{width}}  {entries:13,}  {chosen:13,}  {100 * chosen / max(entries, 1):6.2f}"
            for block, (entries, chosen) in blocks.items()]
    head = f"{'block':{width}}  {'entries':>13}  {'selected':>13}       %"
    lr = default_lr(resolved)
    return "\n".join([head, *rows, f"threshold {resolved:.6g}, default learning rate {lr:.6g}"])
