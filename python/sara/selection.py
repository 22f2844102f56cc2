"""Which entries are trained: those with |p| < threshold, over all tensors alike (section 4.1)."""
from __future__ import annotations

import ctypes
import fnmatch
import math
from ctypes import byref, c_double, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Iterable, Mapping, Sequence, Union

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from . import _library as lib

DEFAULT_FRACTION = 0.058
Patterns = Union[str, Sequence[str], None]
_KINDS = {"threshold": 0, "fraction": 1, "count": 2}


def default_lr(threshold: float) -> float:
    """1e-3 exp(-350 threshold)."""
    return lib.library.sara_default_learning_rate(threshold)


def bare(model: nn.Module) -> nn.Module:
    """The module itself, without DistributedDataParallel and torch.compile around it."""
    while True:
        inner = model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", model)
        if inner is model:
            return model
        model = inner


def named(model: "nn.Module | Mapping[str, nn.Parameter] | Iterable[tuple[str, nn.Parameter]]") -> dict[str, nn.Parameter]:
    """name -> parameter; one that is tied counts once, under its first name."""
    if isinstance(model, nn.Module):
        return dict(bare(model).named_parameters())
    pairs = list(model.items() if isinstance(model, Mapping) else model)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("parameters without names; give a module, named_parameters() or a dict of them")
    names, seen = {}, set()
    for name, parameter in pairs:
        if name in names:
            raise ValueError(f"{name}: two parameters of this name")
        if id(parameter) not in seen:
            names[name] = parameter
        seen.add(id(parameter))
    return names


def _matches(name: str, patterns: Patterns) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in ([patterns] if isinstance(patterns, str) else patterns or []))


def eligible(parameters: Mapping[str, nn.Parameter], include: Patterns = None, exclude: Patterns = None) -> dict[str, nn.Parameter]:
    """Those that require a gradient and whose names match (shell patterns: "*.attn2.*")."""
    for patterns, option in ((include, "include"), (exclude, "exclude")):
        for pattern in [patterns] if isinstance(patterns, str) else patterns or []:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in parameters):
                raise ValueError(f"{option}={pattern!r} matches none of the {len(parameters)} parameters")
    chosen = {name: p for name, p in parameters.items()
              if p.requires_grad and (include is None or _matches(name, include)) and not _matches(name, exclude)}
    for name, p in chosen.items():
        if type(p.data) is not Tensor or p.layout != torch.strided:
            raise ValueError(f"{name}: a {type(p.data).__name__}; expected an ordinary tensor (sharded parameters are not supported)")
        if p.dtype not in lib.DTYPES:
            raise ValueError(f"{name}: dtype {p.dtype}, expected float32, float16 or bfloat16")
        if p.numel() >= 2 ** 31:
            raise ValueError(f"{name}: {p.numel()} entries, expected less than 2147483648")
    if not chosen:
        raise ValueError(f"nothing to train: none of the {len(parameters)} parameters requires a gradient and matches; "
                         "model.requires_grad_(True) makes them trainable")
    return chosen


def budget(threshold: float | None, fraction: float | None, count: float | None) -> tuple[str, float]:
    """The one that is given; 5.8 % of the entries if none is."""
    given = [(kind, value) for kind, value in (("threshold", threshold), ("fraction", fraction), ("count", count)) if value is not None]
    if len(given) > 1:
        raise ValueError(" and ".join(f"{kind}={value}" for kind, value in given) + ": expected one of them")
    return given[0] if given else ("fraction", DEFAULT_FRACTION)


def positions_below(parameters: Mapping[str, Tensor], kind: str, value: float) -> tuple[float, dict[str, Tensor]]:
    """The threshold that a budget comes to, and name -> positions [selected] int32, ascending, on the parameter's device."""
    if any(p.device.type != "cpu" for p in parameters.values()):
        return positions_below_torch(parameters, kind, value)
    tensors = {name: p.detach().contiguous() for name, p in parameters.items()}
    views = (lib.View * len(tensors))(*(lib.view(name, t) for name, t in tensors.items()))
    selection, threshold, size, result = c_void_p(), c_double(), c_size_t(), {}
    lib.call("sara_tensors_select", byref(selection), byref(threshold), views, len(tensors), _KINDS[kind], value)
    try:
        for i, name in enumerate(tensors):
            address = lib.library.sara_tensors_positions(selection, i, byref(size))
            result[name] = torch.empty(size.value, dtype=torch.int32)
            if size.value:
                ctypes.memmove(result[name].data_ptr(), address, 4 * size.value)
    finally:
        lib.library.sara_tensors_selection_free(lib.context(), selection)
    return threshold.value, result


def positions_below_torch(parameters: Mapping[str, Tensor], kind: str, value: float) -> tuple[float, dict[str, Tensor]]:
    """The same in torch operations, one tensor at a time."""
    for name, p in parameters.items():
        if not bool(p.detach().isfinite().all()):
            raise ValueError(f"{name}: an entry is not finite")
    total = sum(p.numel() for p in parameters.values())
    if not (0 < value < math.inf) or (kind == "fraction" and value > 1) or (kind == "count" and value != int(value)):
        raise ValueError(f"{kind}: {value}, expected " + {"threshold": "a finite number above 0", "fraction": "more than 0 and at most 1",
                                                          "count": "a whole number of at least 1"}[kind])
    count = round(value * total) if kind == "fraction" else value
    threshold = value if kind == "threshold" else math.inf if count >= total else _magnitude_of_rank(parameters, int(count))
    limit = torch.tensor(threshold, dtype=torch.float32)
    result = {name: (p.detach().reshape(-1).float().abs() < limit.to(p.device)).nonzero().view(-1).int() for name, p in parameters.items()}
    if not any(len(r) for r in result.values()):
        raise ValueError(f"threshold {threshold:.9g} selects nothing")
    return threshold, result


def _magnitude_of_rank(parameters: Mapping[str, Tensor], rank: int) -> float:
    """The magnitude with so many smaller or equal ones before it, by counting its upper 16 bits and then its lower 15."""
    prefix = 0
    for shift in (15, 0):
        counts = torch.zeros(65536, dtype=torch.int64)
        for p in parameters.values():
            bits = p.detach().reshape(-1).float().abs().view(torch.int32)
            bits = bits >> 15 if shift else bits[bits >> 15 == prefix >> 15] & 32767
            counts += torch.bincount(bits, minlength=65536).cpu()
        before = counts.cumsum(0)
        found = int(torch.searchsorted(before, rank, right=True))
        rank -= int(before[found - 1]) if found else 0
        prefix |= found << shift
    return torch.tensor(prefix, dtype=torch.int32).view(torch.float32).item()


def select(model: "nn.Module | Mapping[str, nn.Parameter]", threshold: float | None = None, *, fraction: float | None = None,
           count: float | None = None, include: Patterns = None, exclude: Patterns = None) -> dict[str, Tensor]:
    """For a loop of one's own: name -> positions [selected] int64 in the flattened parameter, ascending; names without any left out."""
    _, positions = positions_below(eligible(named(model), include, exclude), *budget(threshold, fraction, count))
    return {name: p.long() for name, p in positions.items() if len(p)}


@dataclass
class Report:
    """What would be trained; print() shows the table."""
    threshold: float
    lr: float
    blocks: dict[str, tuple[int, int]]  # block -> entries, selected

    def __str__(self) -> str:
        entries, selected = (sum(column) for column in zip(*self.blocks.values()))
        width = max(map(len, [*self.blocks, "block"]))
        rows = [f"{'block':{width}}  {'entries':>13}  {'selected':>13}       %"]
        for block, (of, chosen) in [*self.blocks.items(), ("all", (entries, selected))]:
            rows.append(f"{block:{width}}  {of:13,}  {chosen:13,}  {100 * chosen / of:6.2f}")
        return "\n".join([*rows, f"threshold {self.threshold:.6g}, default learning rate {self.lr:.6g}"])


def report(model: "nn.Module | Mapping[str, nn.Parameter]", threshold: float | None = None, *, fraction: float | None = None,
           count: float | None = None, include: Patterns = None, exclude: Patterns = None) -> Report:
    """How many entries of each block a budget would train."""
    parameters = eligible(named(model), include, exclude)
    resolved, positions = positions_below(parameters, *budget(threshold, fraction, count))
    blocks: dict[str, tuple[int, int]] = {}
    for name, p in parameters.items():
        pieces = name.split(".")
        block = ".".join(pieces[:2 if len(pieces) > 2 and pieces[1].isdigit() else 1])
        entries, chosen = blocks.get(block, (0, 0))
        blocks[block] = entries + p.numel(), chosen + len(positions[name])
    return Report(resolved, default_lr(resolved), blocks)
