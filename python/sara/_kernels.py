"""The method's arithmetic: in libsara on CPU tensors' own memory, in torch operations elsewhere."""
from __future__ import annotations

import math
from ctypes import byref, c_double
from typing import Iterable, Mapping

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import _library as lib


def _native(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.is_contiguous() and tensor.dtype in lib.DTYPES


def gather(items: Iterable[tuple[str, Tensor, Tensor, Tensor, bool]]) -> None:
    """Of each (name, dense, positions [count], gradient [count], adds): gradient = or += dense, of the parameter's shape, at the positions
    (section 4.4)."""
    fields: list[int] = []
    for name, dense, positions, gradient, adds in items:
        if _native(dense):
            fields += (*lib.view(name, dense), positions.data_ptr(), positions.numel(), gradient.data_ptr(), adds)
        else:
            chosen = dense.reshape(-1).index_select(0, positions)
            gradient.add_(chosen) if adds else gradient.copy_(chosen)
    lib.call("sara_tensors_gather", lib.structures(*fields), len(fields) // 8)


def put(tensor: Tensor, positions: Tensor, values: Tensor) -> None:
    """tensor, whatever its strides, at row-major positions = values."""
    target = tensor.detach()
    flat = target.reshape(-1)  # a copy where the strides demand it
    flat[positions.long().to(flat.device)] = values.to(flat.device, flat.dtype)
    if flat.data_ptr() != target.data_ptr():
        target.copy_(flat.view(target.shape))


def norm(gradients: Iterable[Tensor]) -> float:
    """L2 norm of them together, summed in double; float32, contiguous."""
    gradients = list(gradients)
    near, result = [g for g in gradients if g.is_cpu], c_double()
    lib.call("sara_tensors_norm", byref(result), lib.structures(*(g.data_ptr() for g in near)), lib.structures(*map(len, near)), len(near))
    return math.hypot(result.value, *(float(torch.linalg.vector_norm(g, dtype=torch.float64)) for g in gradients if not g.is_cpu))


def adamw(entries: Iterable[tuple[str, Tensor, Tensor, Mapping[str, Tensor], Tensor | None]], lr: float, betas: tuple[float, float], eps: float,
          weight_decay: float, clip: float, step: int) -> None:
    """One step of AdamW of each (name, parameter, values [count] with their .grad, state, low-rank term's gradient [count], which is added after
    clipping): moments, values, and the parameter at the positions. step: from 1, since the moments were zero."""
    fields: list[int] = []
    written, gradients = [], []  # these live until the call
    for name, tensor, values, state, rank in entries:
        gradient, moments = None if values.grad is None else values.grad.contiguous(), (state["exp_avg"], state["exp_avg_sq"])
        if _native(tensor):
            written.append(tensor)
            gradients.append(gradient)
            fields += (*lib.view(name, tensor), state["positions"].data_ptr(), values.numel(), values.data_ptr(), moments[0].data_ptr(),
                       moments[1].data_ptr(), 0 if gradient is None else gradient.data_ptr(), 0 if rank is None else rank.data_ptr())
        else:
            g = torch.zeros_like(values) if gradient is None else gradient * clip
            adamw_torch(values, g if rank is None else g + rank, *moments, lr, betas, eps, weight_decay, step)
            put(tensor, state["positions"], values)
    lib.call("sara_tensors_adamw", lib.structures(*fields), len(fields) // 11, byref(lib.AdamW(lr, *betas, eps, weight_decay, 1, clip, step)))
    for tensor in written:
        increment_version(tensor)  # so that autograd notices if a forward pass from before is still to be differentiated


def adamw_torch(values: Tensor, g: Tensor, moment1: Tensor, moment2: Tensor, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
                step: int) -> None:
    moment1.mul_(betas[0]).add_(g, alpha=1 - betas[0])
    moment2.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
    denominator = moment2.sqrt().div_(math.sqrt(1 - betas[1] ** step)).add_(eps)
    values.mul_(1 - lr * weight_decay).addcdiv_(moment1, denominator, value=-lr / (1 - betas[0] ** step))


def nuclear_norm(shape: tuple[int, int], positions: Tensor, values: Tensor) -> tuple[float, Tensor]:
    """Of the matrix that is values [count] at the positions, else zero: the sum of its singular values, and U V^T there [count] (section 4.2)."""
    if values.device.type != "cpu":
        return nuclear_norm_torch(shape, positions, values)
    value, gradient = c_double(), torch.empty_like(values)
    lib.call("sara_tensors_nuclear_norm", byref(value), gradient.data_ptr(), *shape, positions.data_ptr(), values.data_ptr(), values.numel())
    return value.value, gradient


def nuclear_norm_torch(shape: tuple[int, int], positions: Tensor, values: Tensor) -> tuple[float, Tensor]:
    """The same by matrix products alone: the polar factor by Newton-Schulz steps (Higham 2008, chapter 8)."""
    matrix = torch.zeros(shape, dtype=torch.float32, device=values.device)
    matrix.view(-1)[positions.long()] = values
    wide = matrix if shape[0] <= shape[1] else matrix.T
    x = wide / wide.abs().max().clamp_min(1e-38)  # so that the norm neither overflows nor vanishes
    x = x / torch.linalg.matrix_norm(x).clamp_min(1)
    with torch.autocast(values.device.type, enabled=False):
        for _ in range(28):  # 1.875^28 resolves 1e-7 of the norm
            gram = x @ x.T
            x = 1.875 * x + (0.375 * gram @ gram - 1.25 * gram) @ x
    gradient = (x if shape[0] <= shape[1] else x.T).reshape(-1)[positions.long()]
    return float((values.double() * gradient.double()).sum()), gradient
