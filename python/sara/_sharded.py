"""Parameters of which each process has a part (FSDP2's fully_shard): what is local, and what is of
all of them together."""
from __future__ import annotations

from typing import Any, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

try:
    from torch.distributed.tensor import DTensor, Shard
except ImportError:  # torch built without distributed
    DTensor = None  # type: ignore[assignment, misc]

_INFINITE = 0x7F800000  # the bits of float32's infinity


def is_sharded(p: Tensor) -> bool:
    return DTensor is not None and isinstance(p, DTensor)


def local(p: Tensor) -> Tensor:
    """This process's part, or the tensor itself."""
    return p._local_tensor if is_sharded(p) else p  # type: ignore[attr-defined]


def whole(p: Tensor) -> Tensor:
    """All of it in every process, which must call it alike."""
    return p.full_tensor() if is_sharded(p) else p  # type: ignore[attr-defined]


def _shards(p: Any) -> list[int]:
    """The dimensions of the mesh over which it is split."""
    return [i for i, placement in enumerate(p.placements) if not placement.is_replicate()]


def check(name: str, p: Tensor) -> None:
    """Its part must lie row-major in the whole, as FSDP2 splits."""
    if is_sharded(p):
        split = [p.placements[i] for i in _shards(p)]  # type: ignore[attr-defined]
        if len(split) > 1 or not all(isinstance(kind, Shard) and kind.dim == 0 for kind in split):
            how = p.placements  # type: ignore[attr-defined]
            raise ValueError(f"{name}: sharded as {how}, expected over its first dimension alone, "
                             "as FSDP2 does it unless told otherwise")


def group(parameters: Sequence[Tensor]) -> Any:
    """The processes that hold one model's parts together; None where nothing is sharded."""
    for p in parameters:
        if is_sharded(p) and _shards(p):
            return p.device_mesh.get_group(_shards(p)[0])  # type: ignore[attr-defined]
    return None


def offset(p: Tensor) -> int:
    """Of the first entry here in the whole, row-major."""
    if not is_sharded(p) or not _shards(p):
        return 0
    mesh, dim = p.device_mesh, _shards(p)[0]  # type: ignore[attr-defined]
    pieces = list(range(p.shape[0]))
    rows = -(-p.shape[0] // mesh.size(dim))  # as torch.chunk
    first = len(pieces[:rows * mesh.get_local_rank(dim)])
    return first * (p.numel() // max(p.shape[0], 1))


def total(numbers: Tensor, processes: Any) -> Tensor:
    """Their sum over the processes, in place."""
    dist.all_reduce(numbers, group=processes)
    return numbers


def gathered(thing: Any, processes: Any) -> list[Any]:
    """What each process gave, in the order of their ranks."""
    result: list[Any] = [None] * dist.get_world_size(processes)
    dist.all_gather_object(result, thing, group=processes)
    return result


def positions_below(parameters: Mapping[str, Tensor], kind: str,
                    value: float) -> tuple[float, dict[str, Tensor]]:
    """selection.positions_below(): the same entries as of the whole model in one process."""
    processes = group(list(parameters.values()))
    magnitudes = {name: local(p.detach()).float().abs() for name, p in parameters.items()}
    device = next(iter(magnitudes.values())).device
    for name, m in magnitudes.items():
        if not bool(m.isfinite().all()):
            raise ValueError(f"{name}: an entry is not finite")
    threshold = value
    if kind != "threshold":
        entries = sum(p.numel() for p in parameters.values())
        wanted = int(value) if kind == "count" else round(value * entries)
        bits = _INFINITE
        if wanted < entries:
            bits = _nth_bits(magnitudes, wanted, processes, device)
        threshold = torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()
    if not 0 < threshold < float("inf") and kind == "threshold":
        raise ValueError(f"threshold: {threshold:g}, expected a finite number above 0")
    limit = torch.tensor(threshold, dtype=torch.float32, device=device)
    positions = {name: (m.reshape(-1) < limit).nonzero().view(-1).int()
                 for name, m in magnitudes.items()}
    found = torch.tensor(sum(map(len, positions.values())), device=device)
    if not int(total(found, processes)):
        raise ValueError(f"a {kind} of {value:g} selects nothing")
    return threshold, positions


def _nth_bits(magnitudes: Mapping[str, Tensor], rank: int, processes: Any,
              device: torch.device) -> int:
    """The bits, which ascend as the magnitudes do, of the one that has so many below it."""
    low, high = 0, _INFINITE
    bits = [m.view(torch.int32) for m in magnitudes.values()]
    while low < high:
        middle = (low + high) // 2
        below = torch.stack([(b <= middle).sum() for b in bits]).sum().to(device)
        if int(total(below, processes)) > rank:
            high = middle
        else:
            low = middle + 1
    return low


class Whole:
    """What all processes' entries of the sharded parameters are together."""

    def __init__(self, counts: Mapping[str, int], parameters: Mapping[str, Tensor]) -> None:
        """counts: of this process's entries."""
        self.processes = group(list(parameters.values()))
        self.counts = ([dict(counts)] if self.processes is None
                       else gathered(dict(counts), self.processes))
        self.own = 0 if self.processes is None else dist.get_rank(self.processes)

    def count(self, name: str) -> int:
        return sum(of[name] for of in self.counts)

    def norm(self, own: Tensor) -> Tensor:
        """Of the gradients of all, given that of this process's. float64, or float32."""
        if self.processes is None:
            return own
        return total(own.square(), self.processes).sqrt_()

    def matrix(self, name: str, p: Tensor, positions: Tensor,
               values: Tensor) -> tuple[Tensor, Tensor, slice]:
        """Positions and values of the whole matrix, and where this process's are in them."""
        if self.processes is None or not is_sharded(p):
            return positions, values, slice(None)
        counts = [of[name] for of in self.counts]
        own = torch.zeros(2, max(counts), dtype=torch.float32, device=values.device)
        own[0, :len(positions)] = (positions + offset(p)).view(torch.float32)
        own[1, :len(values)] = values
        parts = [torch.empty_like(own) for _ in counts]
        dist.all_gather(parts, own, group=self.processes)
        both = [torch.cat([part[i, :n] for part, n in zip(parts, counts)]) for i in (0, 1)]
        first = sum(counts[:self.own])
        return both[0].view(torch.int32), both[1], slice(first, first + counts[self.own])
