"""Polar factors by matrix products alone."""
from __future__ import annotations

import torch
from torch import Tensor

# x (a + b x^2 + c x^4), one after another, bring [1e-5, 1] to 1 within 3e-7: each is the best of
# its degree on what the last one leaves (Amsel, Persson, Musco and Gower, arXiv 2505.16932,
# algorithm 1), from a tenth of the largest on: a steeper one would lose in float32's rounding what
# it gains. tests/make_polar.py computes them.
STEPS = (
    (5.59255136, -13.7810381, 9.60558977),
    (3.84518468, -4.47923243, 1.47591092),
    (3.84518468, -4.47923243, 1.47591092),
    (3.84518468, -4.47923243, 1.47591092),
    (3.84518468, -4.47923243, 1.47591092),
    (3.84518468, -4.47923243, 1.47591092),
    (3.84518468, -4.47923243, 1.47591092),
    (3.56173844, -3.96699642, 1.28667094),
    (2.0439938, -1.42252379, 0.389500472),
    (1.87362802, -1.24589049, 0.372267699),
    (1.87219409, -1.24439438, 0.372200288),
)


@torch.library.custom_op("sara::polar", mutates_args=())
def polar(matrix: Tensor) -> Tensor:
    """U V^T [rows, columns] float32 of the matrix's singular value decomposition; directions whose
    singular value is nothing are left out. 34 products, no read by the host."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    with torch.autocast(matrix.device.type, enabled=False):
        x = wide / torch.linalg.vector_norm(wide, torch.inf).clamp_min(1e-38)
        bound = torch.linalg.vector_norm(x @ x.T).sqrt()  # of the largest singular value
        x = x / bound.clamp_min(1e-30)
        for a, b, c in STEPS:
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if matrix.shape[0] <= matrix.shape[1] else x.T).contiguous()


@polar.register_fake
def _(matrix: Tensor) -> Tensor:
    return torch.empty_like(matrix)
