"""Several processes: under DistributedDataParallel gradients are gathered after its reduction; without it the compact
gradients are averaged."""
from __future__ import annotations

import gc
from typing import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def find_wrapper(parameter: Tensor) -> DistributedDataParallel | None:
    """The DistributedDataParallel that reduces this parameter's gradient, made before or after the optimiser."""
    wrappers = (thing for thing in gc.get_objects() if issubclass(type(thing), DistributedDataParallel))
    return next((w for w in wrappers if any(p is parameter for p in w.module.parameters())), None)


def average(gradients: Sequence[Tensor]) -> None:
    """Their mean over the processes, in place: as many floats as entries are trained."""
    flat = torch.cat(list(gradients))
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, flat.div_(processes()).split([g.numel() for g in gradients])):
        gradient.copy_(mean)


def check_same(selected: int, device: torch.device) -> None:
    """Processes that train other entries would add up what does not belong together."""
    both = torch.tensor([selected, -selected], dtype=torch.int64, device=device)
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    if both[0] != -both[1]:
        raise RuntimeError(f"the processes train {-int(both[1])} to {int(both[0])} entries: their models differ")
