"""The selected entries of many parameters in flat tensors, of which the optimiser's own are
views."""
from __future__ import annotations

from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import torch
from torch import Tensor

from . import _kernels as kernels
from ._library import BLOCK

DTYPES = {"positions": torch.int32, "values": torch.float32, "exp_avg": torch.float32,
          "exp_avg_sq": torch.float32, "gradient": torch.float32}


class Group(dict):  # type: ignore[type-arg]
    """A param_group. It notices who takes its tensors: between a step and the next forward pass
    that is somebody who may write to them."""

    touched = False
    chosen: list[str]          # names of the parameters that are looked through
    budget: Mapping[str, Any]
    formula: bool              # its learning rate is the formula's

    def __getitem__(self, key: str) -> Any:
        self.touched = self.touched or key == "params"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def items(self) -> Any:
        self.touched = True
        return super().items()

    def values(self) -> Any:
        self.touched = True
        return super().values()


class Part(NamedTuple):
    """Neighbours in a flat whose arithmetic is the same: libsara's or torch's, in one dtype."""
    native: bool
    dtype: torch.dtype  # of the parameters
    names: list[str]
    first: int          # index of the first of them in the flat
    entries: slice      # of the flat's tensors
    blocks: slice       # of its marks


class Flat:
    """Positions, values, gradients and moments [size] of parameters on one device. Each parameter's
    begin at a multiple of BLOCK; what is between is zero."""

    def __init__(self, group: int, names: Sequence[str], pieces: Sequence[Mapping[str, Tensor]],
                 device: torch.device) -> None:
        """group: its index. pieces: of each name tensors [count] of some of DTYPES' keys; what is
        missing is zero."""
        self.group, self.names, self.device, self.starts = group, list(names), device, [0]
        self.counts = [len(piece["positions"]) for piece in pieces]
        for count in self.counts:
            self.starts.append(self.starts[-1] + -(-count // BLOCK) * BLOCK)
        self.tensors = {key: torch.zeros(self.starts[-1], dtype=dtype, device=device)
                        for key, dtype in DTYPES.items()}
        self.views = {key: self.of(tensor) for key, tensor in self.tensors.items()}
        for key in set(pieces[0]) & set(DTYPES):
            torch._foreach_copy_(self.views[key], [piece[key].to(device) for piece in pieces])
        self.addresses = {key: [view.data_ptr() for view in views]
                          for key, views in self.views.items()}
        # Of AdamW, where the device counts them.
        self.steps = torch.zeros((), dtype=torch.float32, device=device)
        self._marked: Tensor | None = None  # of which there are views
        self._mark_views: list[Tensor] = []
        self.mark()

    def mark(self) -> None:
        """The model has the values."""
        self.marks = kernels.marks(self.tensors["values"])

    def of(self, tensor: Tensor) -> list[Tensor]:
        """Each parameter's part of a tensor [size]."""
        return [tensor[start:start + count] for start, count in zip(self.starts, self.counts)]

    def mark_of(self, i: int) -> Tensor:
        """Of a parameter and those behind it."""
        if self._marked is not self.marks:
            self._marked = self.marks
            self._mark_views = [self.marks[start // BLOCK:] for start in self.starts]
        return self._mark_views[i]

    def parts(self, parameters: Mapping[str, Tensor]) -> Iterator[Part]:
        """Of this flat as its parameters are now."""
        kinds = [(kernels._native(parameters[name]), parameters[name].dtype) for name in self.names]
        first = 0
        for i in range(1, len(kinds) + 1):
            if i == len(kinds) or kinds[i] != kinds[first]:
                begin, end = self.starts[first], self.starts[i]
                yield Part(*kinds[first], self.names[first:i], first, slice(begin, end),
                           slice(begin // BLOCK, end // BLOCK))
                first = i

    def written(self) -> list[int]:
        """Indices of the parameters whose values were written since they were marked; one read."""
        blocks = (kernels.marks(self.tensors["values"]) != self.marks).nonzero().view(-1).tolist()
        found: list[int] = []
        i = 0
        for block in blocks:
            while self.starts[i + 1] <= block * BLOCK:
                i += 1
            if not found or found[-1] != i:
                found.append(i)
        return found
