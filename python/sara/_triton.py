"""Triton's kernels in the place of torch's operations on CUDA devices: a launch for all parameters
where those take one for each. Every function says whether it has done its work; where it has not,
torch's operations do. SARA_TRITON=0 in the environment turns it off."""
from __future__ import annotations

import functools
import math
import os
import warnings
from typing import TYPE_CHECKING, Any, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ._library import BLOCK, DTYPES

if TYPE_CHECKING:
    from ._flat import Flat, Part
    from ._kernels import AdamW

_SPAN = 1024  # entries of a program that knows no blocks
_off = os.environ.get("SARA_TRITON") == "0"


# ------------------------------------------------------------------------------- whether it is used

def _on_device(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _turn_off(error: Exception) -> None:
    global _off
    _off = True
    line = (str(error).strip().splitlines() or [""])[-1]
    warnings.warn(f"sara goes on with torch's operations, as Triton does not run here: "
                  f"{type(error).__name__}: {line}", stacklevel=2)


@functools.lru_cache(maxsize=None)
def _kernels() -> Any:
    """The module of them, or None."""
    try:
        from . import _triton_kernels
        return _triton_kernels
    except ModuleNotFoundError:  # torch can be had without Triton
        return None
    except Exception as error:
        _turn_off(error)
        return None


def _usable(*tensors: Tensor) -> bool:
    return not _off and all(_on_device(t) and t.is_contiguous() and t.dtype in DTYPES
                            for t in tensors) and _kernels() is not None


def _launch(name: str, programs: int, *arguments: Any, **constants: Any) -> bool:
    first = arguments[0]
    try:
        with torch.cuda.device_of(first):
            getattr(_kernels(), name)[(programs,)](*arguments, **constants)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # before it has begun: there is no compiler, or no kernel of it
        _turn_off(error)
        return False
    return True


# ------------------------------------------------------------------------------ of parameters alone

def gather(dense: Tensor, positions: Tensor, gradient: Tensor, adds: bool) -> bool:
    """gradient [count] = or += dense, of any shape, at the positions."""
    if not _usable(dense, gradient):
        return False
    count = len(gradient)
    return count == 0 or _launch("gather", -(-count // _SPAN), gradient, dense, positions, count,
                                 ADDS=adds, SPAN=_SPAN)


def norm(gradient: Tensor) -> Tensor | None:
    """L2 norm, summed in float64, of float32 [size]."""
    if not _usable(gradient) or len(gradient) == 0:
        return None
    size, span = len(gradient), 4 * _SPAN
    sums = torch.empty(-(-size // span), dtype=torch.float64, device=gradient.device)
    done = _launch("squares", len(sums), sums, gradient, size, SPAN=span)
    return sums.sum().sqrt_() if done else None


def marks(values: Tensor) -> Tensor | None:
    """Of values [size], as _kernels.marks."""
    if not _usable(values) or len(values) == 0:
        return None
    result = torch.empty(len(values) // BLOCK, dtype=torch.int64, device=values.device)
    return result if _launch("marks", len(result), result, values, BLOCK=BLOCK) else None


# ------------------------------------------------------------------------------ of a part of a flat

@functools.lru_cache(maxsize=32)
def _owners(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """[blocks] int32: of each block the index of its parameter."""
    blocks = [-(-count // BLOCK) for count in counts]
    return torch.repeat_interleave(
        torch.arange(len(counts), dtype=torch.int32, device=device),
        torch.tensor(blocks, device=device), output_size=sum(blocks))


@functools.lru_cache(maxsize=32)
def _table(addresses: tuple[int, ...], counts: tuple[int, ...], device: torch.device) -> Tensor:
    """[parameters, 3] int64: address, first block, entries, none where the address is 0. It is
    kept, as the device waits for it to be copied."""
    rows, block = [], 0
    for address, count in zip(addresses, counts):
        rows.append((address, block, count if address else 0))
        block += -(-count // BLOCK)
    return torch.tensor(rows, dtype=torch.int64, device=device)


def _places(flat: "Flat", part: "Part", addresses: Sequence[int]) -> tuple[Tensor, Tensor]:
    counts = tuple(flat.counts[part.first:part.first + len(part.names)])
    return _owners(counts, flat.device), _table(tuple(addresses), counts, flat.device)


def _type(dtype: torch.dtype) -> Any:
    """Triton's name of it."""
    return getattr(_kernels().tl, str(dtype).split(".")[1])


def follow(flat: "Flat", part: "Part", parameters: Sequence[Tensor]) -> bool:
    """As _kernels.follow, marks included."""
    if not _usable(*parameters):
        return False
    marks = flat.marks[part.blocks]
    places = _places(flat, part, [p.data_ptr() for p in parameters])
    return len(marks) == 0 or _launch(
        "follow", len(marks), flat.tensors["values"][part.entries], marks,
        flat.tensors["positions"][part.entries], *places, T=_type(part.dtype), BLOCK=BLOCK)


def _numbers(n: "AdamW") -> tuple[float, ...]:
    """beta, 1 - beta and log(beta) of both moments, eps, decay and rate."""
    result: tuple[float, ...] = ()
    for beta in n.betas:
        result += (beta, 1 - beta, math.log(beta) if beta > 0 else -math.inf)
    return (*result, n.eps, 1 - n.lr * n.weight_decay, n.lr)


def adamw(flat: "Flat", part: "Part", parameters: Sequence[Tensor], trained: Sequence[bool],
          numbers: "AdamW", clip: float | Tensor, skipped: Tensor | None,
          rank: tuple[int, Tensor, float] | None) -> bool:
    """One step of the parameters that are trained: values, moments, marks, and the parameters at
    the positions. flat.steps counts it already. skipped: [] float32, 1 where nothing may change.
    rank: the low-rank term's gradient: its first entry in the part, itself, its weight."""
    if not _usable(*parameters):
        return False
    marks, device = flat.marks[part.blocks], flat.device
    places = _places(flat, part,
                     [p.data_ptr() if own else 0 for p, own in zip(parameters, trained)])
    keys = ("values", "gradient", "exp_avg", "exp_avg_sq", "positions")
    first, gradient, weight = rank or (0, None, 0.0)
    done = len(marks) == 0 or _launch(
        "adamw", len(marks), *(flat.tensors[key][part.entries] for key in keys), marks, *places,
        flat.steps, None if skipped is None else skipped.to(device),
        clip if isinstance(clip, Tensor) else None,
        gradient, first, 0 if gradient is None else len(gradient), weight,
        1.0 if isinstance(clip, Tensor) else clip, *_numbers(numbers),
        T=_type(part.dtype), BLOCK=BLOCK)
    if done:
        for p, own in zip(parameters, trained):
            if own:  # so that autograd notices if an older forward pass is still differentiated
                increment_version(p)
    return done
