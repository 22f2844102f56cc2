"""The method's arithmetic: in libsara on CPU tensors' own memory, in torch operations elsewhere."""
from __future__ import annotations

import ctypes
import math
from ctypes import byref, c_double
from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor

from . import _library as lib

# Polar Express (Amsel et al. 2025, arXiv 2505.16932), coefficients of its odd polynomials for singular values from 1e-3 to 1.
_POLAR = ((8.28721201814563, -23.595886519098837, 17.300387312530933), (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
          (3.9486908534822946, -2.908902115962949, 0.5518191394370137), (3.3184196573706015, -2.488488024314874, 0.51004894012372),
          (2.300652019954817, -1.6689039845747493, 0.4188073119525673), (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
          (1.8750014808534479, -1.2500016453999487, 0.3750001645474248))


@dataclass
class Item:
    """The selected entries of one parameter in a step; positions [count] int32, the others [count] float32."""
    name: str
    tensor: Tensor  # the parameter, any shape
    positions: Tensor
    values: Tensor
    moment1: Tensor
    moment2: Tensor
    gradient: Tensor | None
    rank: Tensor | None = None  # the low-rank term's gradient, added after clipping


def _native(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _array(items: Sequence[Item]) -> "ctypes.Array[lib.Entries]":
    return (lib.Entries * len(items))(*(
        lib.Entries(lib.view(i.name, i.tensor), i.positions.data_ptr(), i.positions.numel(), i.values.data_ptr(), i.moment1.data_ptr(),
                    i.moment2.data_ptr(), _address(i.gradient), _address(i.rank)) for i in items))


def gather(gradient: Tensor, name: str, dense: Tensor, positions: Tensor) -> None:
    """gradient [count] += dense, of the parameter's shape, at the positions [count] (section 4.4)."""
    if _native(dense) and dense.dtype in lib.DTYPES:
        lib.call("sara_tensors_gather", gradient.data_ptr(), byref(lib.view(name, dense)), positions.data_ptr(), positions.numel())
    else:
        gradient.add_(dense.reshape(-1).index_select(0, positions))


def scatter(items: Sequence[Item]) -> None:
    """The values, rounded to the parameters' dtype, into the parameters."""
    native = [i for i in items if _native(i.tensor)]
    if native:
        lib.call("sara_tensors_scatter", _array(native), len(native))
    for i in items:
        if not _native(i.tensor):
            put(i.tensor, i.positions, i.values)


def put(tensor: Tensor, positions: Tensor, values: Tensor) -> None:
    """tensor, whatever its strides, at row-major positions = values."""
    target = tensor.detach()
    flat = target.reshape(-1)  # a copy where the strides demand it
    flat[positions.long().to(flat.device)] = values.to(flat.device, flat.dtype)
    if flat.data_ptr() != target.data_ptr():
        target.copy_(flat.view(target.shape))


def norm(items: Sequence[Item], scale: float) -> float:
    """L2 norm of all gradients times scale."""
    native = [i for i in items if i.gradient is not None and i.gradient.device.type == "cpu"]
    result = c_double()
    lib.call("sara_tensors_norm", byref(result), _array_of_gradients(native), len(native), scale)
    others = [i.gradient.mul(scale).double().square().sum() for i in items if i.gradient is not None and i.gradient.device.type != "cpu"]
    return math.sqrt(result.value ** 2 + sum(float(o) for o in others))


def _array_of_gradients(items: Sequence[Item]) -> "ctypes.Array[lib.Entries]":
    return (lib.Entries * len(items))(*(lib.Entries(count=i.positions.numel(), gradient=_address(i.gradient)) for i in items))


def adamw(items: Sequence[Item], lr: float, betas: tuple[float, float], eps: float, weight_decay: float, scale: float, clip: float, step: int) -> None:
    """One step of AdamW: moments, values and the parameters at the positions."""
    native = [i for i in items if _native(i.tensor)]
    if native:
        options = lib.AdamW(lr, *betas, eps, weight_decay, scale, clip, step)
        lib.call("sara_tensors_adamw", _array(native), len(native), byref(options))
    for i in items:
        if not _native(i.tensor):
            adamw_torch(i, lr, betas, eps, weight_decay, scale, clip, step)


def adamw_torch(i: Item, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, scale: float, clip: float, step: int) -> None:
    """The same of one item in torch operations."""
    g = torch.zeros_like(i.values) if i.gradient is None else i.gradient * scale * clip
    g = g if i.rank is None else g + i.rank
    i.moment1.mul_(betas[0]).add_(g, alpha=1 - betas[0])
    i.moment2.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
    denominator = i.moment2.sqrt().div_(math.sqrt(1 - betas[1] ** step)).add_(eps)
    i.values.mul_(1 - lr * weight_decay).addcdiv_(i.moment1, denominator, value=-lr / (1 - betas[0] ** step))
    put(i.tensor, i.positions, i.values)


def nuclear_norm(shape: tuple[int, int], positions: Tensor, values: Tensor) -> tuple[float, Tensor]:
    """Of the matrix that is values [count] at the positions and zero elsewhere: the sum of its singular values, and the
    subgradient U V^T at the positions [count] (section 4.2)."""
    if values.device.type != "cpu":
        return nuclear_norm_torch(shape, positions, values)
    value, gradient = c_double(), torch.empty_like(values)
    lib.call("sara_tensors_nuclear_norm", byref(value), gradient.data_ptr(), *shape, positions.data_ptr(), values.data_ptr(), values.numel())
    return value.value, gradient


def nuclear_norm_torch(shape: tuple[int, int], positions: Tensor, values: Tensor) -> tuple[float, Tensor]:
    """The same by matrix products alone: the polar factor by Polar Express and Newton-Schulz steps."""
    matrix = torch.zeros(shape, dtype=torch.float32, device=values.device)
    matrix.view(-1)[positions.long()] = values
    wide = matrix if shape[0] <= shape[1] else matrix.T
    size = torch.linalg.matrix_norm(wide)
    if not float(size) > 0:
        return 0.0 if float(size) == 0 else math.nan, torch.zeros_like(values)
    x = wide / size
    for step in range(len(_POLAR) + 6):  # resolves 1e-4 of the largest singular value
        a, b, c = _POLAR[min(step, len(_POLAR) - 1)]
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    polar = x if shape[0] <= shape[1] else x.T
    gradient = polar.reshape(-1)[positions.long()]
    return float((values.double() * gradient.double()).sum()), gradient

