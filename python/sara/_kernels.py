"""The method's arithmetic: libsara's on CPU tensors' own memory, torch's operations elsewhere, of
which Triton's kernels replace some."""
from __future__ import annotations

import functools
from ctypes import byref, c_double
from typing import Iterable, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import _library as lib
from . import _triton as fast
from ._polar import polar


class AdamW(NamedTuple):
    """A group's numbers."""
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


def _native(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.is_contiguous() and tensor.dtype in lib.DTYPES


# ---------------------------------------------------------------------------------------- gradients

Gathering = tuple[str, Tensor, Tensor, Tensor, bool]


def gather(items: Iterable[Gathering]) -> None:
    """Of each (name, dense, positions [count], gradient [count], adds): gradient = or += dense, of
    the parameter's shape, at the positions (section 4.4)."""
    fields: list[int] = []
    rest: dict[bool, tuple[list[Tensor], list[Tensor]]] = {False: ([], []), True: ([], [])}
    for name, dense, positions, gradient, adds in items:
        if _native(dense):
            fields += (*lib.view(name, dense), positions.data_ptr(), positions.numel(),
                       gradient.data_ptr(), adds)
        elif not adds and dense.dtype == gradient.dtype:
            torch.index_select(dense.reshape(-1), 0, positions, out=gradient)
        elif not fast.gather(dense, positions, gradient, adds):
            rest[adds][0].append(gradient)
            rest[adds][1].append(torch.index_select(dense.reshape(-1), 0, positions))
    if fields:
        lib.call("sara_tensors_gather", lib.structures(*fields), len(fields) // 8)
    if rest[True][0]:
        torch._foreach_add_(*rest[True])
    if rest[False][0]:
        torch._foreach_copy_(*rest[False])


def norm(gradients: Sequence[Tensor]) -> float:
    """L2 norm of CPU tensors together, summed in double; float32, contiguous."""
    result = c_double()
    lib.call("sara_tensors_norm", byref(result), lib.structures(*(g.data_ptr() for g in gradients)),
             lib.structures(*map(len, gradients)), len(gradients))
    return result.value


def norm_torch(gradient: Tensor) -> Tensor:
    """The same of one tensor, on its device; [] float64 where the device has it."""
    result = fast.norm(gradient)
    if result is not None:
        return result
    dtype = torch.float32 if gradient.device.type == "mps" else torch.float64
    return torch.linalg.vector_norm(gradient, dtype=dtype)


# ------------------------------------------------------------------ what is in the model, and marks

def put(tensor: Tensor, positions: Tensor, values: Tensor) -> None:
    """tensor, whatever its strides, at row-major positions = values."""
    target = tensor.detach()
    flat = target.reshape(-1)  # a copy where the strides demand it
    flat[positions.to(flat.device)] = values.to(flat.device, flat.dtype)
    if flat.data_ptr() != target.data_ptr():
        target.copy_(flat.view(target.shape))


@functools.lru_cache(maxsize=None)
def _weights(device: torch.device) -> Tensor:
    """[BLOCK] int64 of include/sara_tensors.h."""
    return torch.tensor([(i * 2654435761 % 2 ** 31) | 1 for i in range(1, lib.BLOCK + 1)],
                        device=device)


def marks(values: Tensor) -> Tensor:
    """[size / BLOCK] int64 of values [size], by which one sees that they were written to: .data and
    torch's _foreach functions leave no other trace."""
    if not _native(values):
        result = fast.marks(values)
        if result is not None:
            return result
        bits = values.view(torch.int32).view(-1, lib.BLOCK)
        return (bits * _weights(values.device)).sum(1)
    result = torch.empty(len(values) // lib.BLOCK, dtype=torch.int64, device=values.device)
    lib.library.sara_tensors_marks(result.data_ptr(), values.data_ptr(), len(values))
    return result


_KINDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(p: Tensor) -> Tensor:
    """[] int64, a sum of the bits of all values, by which one sees that others were loaded."""
    last = p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last)
    flat = p.as_strided((p.numel(),), (1,)) if last else p.reshape(-1)
    flat = flat.view(_KINDS[p.element_size()])
    whole = len(flat) * p.element_size() // 4  # words
    if not p.is_cpu or whole < lib.BLOCK:
        return flat.sum(dtype=torch.int64)
    sums = torch.empty(-(-whole // lib.BLOCK), dtype=torch.int64, device=p.device)
    lib.library.sara_tensors_marks(sums.data_ptr(), flat.data_ptr(), whole)
    return sums.sum().add_(flat[-1])  # which may be half a word


def follow_torch(parameters: Sequence[Tensor], positions: Sequence[Tensor], values: Tensor,
                 marked: Tensor, places: Sequence[slice]) -> None:
    """Where a parameter no longer is its values rounded, and these were not written, its own are
    taken. values [size], marked [size / BLOCK], places of each parameter's in them."""
    rounded = values.to(parameters[0].dtype)
    held = rounded.clone()
    for p, chosen, place in zip(parameters, positions, places):
        torch.index_select(p.detach().reshape(-1), 0, chosen, out=held[place])
    own, blocks = values.view(-1, lib.BLOCK), held.view(-1, lib.BLOCK)
    differs = blocks.ne(rounded.view(-1, lib.BLOCK))
    differs.logical_and_(marks(values).eq(marked).unsqueeze(1))
    torch.where(differs, blocks.to(torch.float32) if held.dtype == torch.float64 else blocks, own,
                out=own)


# -------------------------------------------------------------------------------------------- AdamW

class Entries(NamedTuple):
    """Of one parameter, for libsara; all but the first two [count]."""
    name: str
    parameter: Tensor
    positions: Tensor
    values: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    gradient: Tensor | None
    rank: Tensor | None  # the low-rank term's gradient, added after clipping
    marks: Tensor        # [count / BLOCK, rounded up]


def _fields(items: Iterable[Entries]) -> list[int]:
    fields: list[int] = []
    for name, p, positions, *tensors in items:
        fields += (*lib.view(name, p), positions.data_ptr(), positions.numel(),
                   *(0 if t is None else t.data_ptr() for t in tensors))
    return fields


def follow(items: Sequence[Entries]) -> None:
    lib.call("sara_tensors_follow", lib.structures(*_fields(items)), len(items))


def adamw(items: Sequence[Entries], numbers: AdamW, clip: float, step: int) -> None:
    """Follows, and makes one step of AdamW: moments, values, and the parameters at the positions.
    step: from 1, since the moments were zero."""
    n = numbers
    options = lib.AdamW(n.lr, *n.betas, n.eps, n.weight_decay, 1, clip, step)
    lib.call("sara_tensors_adamw", lib.structures(*_fields(items)), len(items), byref(options))
    for item in items:  # so that autograd notices if an older forward pass is still differentiated
        increment_version(item.parameter)


_FUSED = {"cpu", "cuda", "mps", "xpu"}


def adamw_torch(values: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor,
                numbers: AdamW, step: Tensor, skipped: Tensor | None) -> None:
    """In one operation. step: [] float32, from 1. skipped: [] float32, 1 where nothing may
    change."""
    n, (beta1, beta2) = numbers, numbers.betas
    if values.device.type in _FUSED:
        torch._fused_adamw_([values], [gradient], [exp_avg], [exp_avg_sq], [], [step], lr=n.lr,
                            beta1=beta1, beta2=beta2, weight_decay=n.weight_decay, eps=n.eps,
                            amsgrad=False, maximize=False, grad_scale=None, found_inf=skipped)
        return
    m = exp_avg.lerp(gradient, 1 - beta1)
    v = exp_avg_sq.lerp(gradient.square(), 1 - beta2)
    denominator = v.sqrt().div_((1 - beta2 ** step).sqrt()).add_(n.eps)
    rate = n.lr / (1 - beta1 ** step)
    new = values.mul(1 - n.lr * n.weight_decay).sub_(m.div(denominator).mul_(rate))
    for old, result in ((exp_avg, m), (exp_avg_sq, v), (values, new)):
        old.copy_(result if skipped is None else torch.where(skipped.bool(), old, result))


# ------------------------------------------------------------------------------------ low-rank term

def nuclear_norm(shape: tuple[int, int], positions: Tensor, values: Tensor) -> tuple[float, Tensor]:
    """Of the matrix that is values [count] at the positions, else zero: the sum of its singular
    values, and U V^T there [count] (section 4.2)."""
    value, gradient = c_double(), torch.empty_like(values)
    lib.call("sara_tensors_nuclear_norm", byref(value), gradient.data_ptr(), *shape,
             positions.data_ptr(), values.data_ptr(), values.numel())
    return value.value, gradient


def nuclear_norm_torch(shape: tuple[int, int], positions: Tensor,
                       values: Tensor) -> tuple[Tensor, Tensor]:
    """The same on any device, of which the host reads nothing."""
    matrix = torch.zeros(shape[0] * shape[1], dtype=torch.float32, device=values.device)
    matrix[positions] = values
    gradient = polar(matrix.view(shape)).view(-1).index_select(0, positions)
    return torch.dot(values, gradient), gradient
