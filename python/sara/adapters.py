"""Adapter files (docs/formats.md) on modules: apply, compose, merge, remove; the same files as the
sara program's."""
from __future__ import annotations

import ctypes
import hashlib
import math
import os
from ctypes import byref, c_void_p
from typing import Iterable, Mapping, Tuple, Union
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from . import _library as lib
from . import _sharded as sharded
from ._kernels import put
from ._names import bare
from .selection import named

Path = Union[str, "os.PathLike[str]"]
# name -> positions [n] int32 ascending, values [n] float32
Parts = Mapping[str, Tuple[Tensor, Tensor]]


def check_hashable(name: str, p: Tensor) -> None:
    """The base's hash needs every parameter's values, the frozen ones' too."""
    if isinstance(p, nn.UninitializedParameter):
        raise ValueError(f"{name}: not initialised yet; run a forward pass before")
    data = sharded.local(p.detach())
    plain = type(data) is Tensor
    if not plain or data.is_meta or data.layout not in (torch.strided, torch.sparse_coo):
        what = ("on the meta device, offloaded or not initialised" if data.is_meta or plain
                else f"a {type(data).__name__}")
        raise ValueError(f"{name}: {what}; its values are part of the base that an adapter names. "
                         "Give sara.adamw the parts that are trained alone, as modules or by name")


def base_of(parameters: Mapping[str, Tensor]) -> tuple[str, str]:
    """The hash of name, dimensions, values as float32 in ascending order of names; the first of
    fp16, bf16 and fp32 that holds all values."""
    digest, precisions = hashlib.sha256(), {"fp16": torch.float16, "bf16": torch.bfloat16}
    for name, p in sorted(parameters.items()):
        digest.update(f"{name}\n{'x'.join(map(str, p.shape))}\n".encode())
        values = sharded.whole(p.detach())
        values = values.to_dense() if values.layout == torch.sparse_coo else values
        for block in values.reshape(-1).split(1 << 22):
            block = block.to("cpu", torch.float32).contiguous()
            digest.update((ctypes.c_char * (4 * len(block))).from_address(block.data_ptr()))
            precisions = {key: kind for key, kind in precisions.items()
                          if torch.equal(block.to(kind).float(), block)}
    return digest.hexdigest(), next(iter(precisions), "fp32")


def write(path: Path, parts: Parts, metadata: Mapping[str, str], dtype: str = "fp32") -> None:
    array = (lib.Part * len(parts))(*(
        lib.Part(name.encode(), p.data_ptr(), v.data_ptr(), len(p))
        for name, (p, v) in sorted(parts.items())))
    pairs = (lib.Metadata * len(metadata))(*(
        lib.Metadata(key.encode(), value.encode()) for key, value in metadata.items()))
    lib.call("sara_adapter_write", os.fsencode(path), array, len(array), pairs, len(pairs),
             dtype.encode())


def read(path: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, str]]:
    """name -> (positions [n] int32, values [n] float32), and the metadata. Strict: a damaged file
    is a ValueError."""
    file, parts, metadata, index = c_void_p(), {}, {}, 0
    lib.call("sara_adapter_open", byref(file), os.fsencode(path))
    try:
        while part := lib.library.sara_adapter_part_at(file, index):
            p, index = part.contents, index + 1
            parts[p.name.decode()] = (lib.copied(p.positions, p.count, torch.int32),
                                      lib.copied(p.values, p.count, torch.float32))
        index = 0
        while pair := lib.library.sara_adapter_metadata_at(file, index):
            metadata[pair.contents.key.decode()], index = pair.contents.value.decode(), index + 1
    finally:
        lib.library.sara_adapter_close(lib.context(), file)
    return parts, metadata


class _Applied:
    """The adapters on a module, in an order that depends on their content alone, and the base's
    values of what they cover."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = named(module)
        self.base, self.precision = base_of(self.parameters)
        self.layers: list[tuple[float, Parts, str]] = []  # strength, what it holds, a hash of that
        # positions ascending, values in the parameter's dtype
        self.originals: dict[str, tuple[Tensor, Tensor]] = {}

    def check(self, path: Path, parts: Parts, metadata: Mapping[str, str], force: bool) -> None:
        base = metadata["sara.base_sha256"]
        precision = metadata.get("sara.base_precision", "a precision that it does not tell")
        if base != self.base and not force:
            why = (f" (that in {precision}, this in {self.precision}: in another precision even "
                   "the same model is another base, with other smallest weights)")
            raise ValueError(f"{path}: made for the base {base[:12]}, but the model is another, "
                             f"{self.base[:12]}{why * (precision != self.precision)}; force=True "
                             "applies it all the same")
        for name, (positions, _) in parts.items():
            highest = int(positions[-1]) % 2 ** 32 if len(positions) else -1
            size = self.parameters[name].numel() if name in self.parameters else -1
            if highest >= size:
                raise ValueError(f"{path}: {name}: " + (
                    f"position {highest}, but there are {size} entries" if size >= 0 else
                    "the model has no such parameter"))

    def cover(self, name: str, positions: Tensor) -> None:
        own = self.parameters[name].detach().reshape(-1)
        known, values = self.originals.get(name, (positions[:0], own[:0].cpu()))
        fresh = positions[~torch.isin(positions, known)]
        both, order = torch.cat([known, fresh]).sort()
        values = torch.cat([values, own.index_select(0, fresh.to(own.device)).cpu()])
        self.originals[name] = (both, values[order])

    def combine(self, name: str) -> Tensor:
        """original + the sum of the changes, original itself where that comes to it; alone at
        strength 1 the value itself. float32 [covered]."""
        positions, originals = self.originals[name]
        value, base = originals.to(torch.float32, copy=True), originals.double()
        total = torch.zeros_like(base)
        changes = torch.zeros_like(positions)  # 1 where there is but one, at full strength
        for strength, parts, _ in self.layers:
            if name in parts and strength != 0:
                at = torch.searchsorted(positions, parts[name][0])
                value[at] = parts[name][1]
                total[at] += strength * (parts[name][1].double() - base[at])
                changes[at] += 1 if strength == 1 else 2
        stays = (base + total).float().to(originals.dtype) == originals
        moved = torch.where(stays, base, base + total).float()  # which keeps a -0
        return torch.where(changes <= 1, value, moved)


_applied: "WeakKeyDictionary[nn.Module, _Applied]" = WeakKeyDictionary()


def is_applied(parameters: Iterable[Tensor]) -> bool:
    """An adapter to a module with one of them."""
    ids = {id(p) for p in parameters}
    return any(id(p) in ids for state in _applied.values() for p in state.parameters.values())


def apply(model: nn.Module, path: Path, strength: float = 1.0, *, force: bool = False) -> None:
    """P0 + strength (P - P0); at strength 1 the adapter's values themselves, rounded to the
    parameters' dtype. Several add up as changes, in any order to the same bits. Another base than
    the adapter's is refused unless force."""
    compose(model, [(path, strength)], force=force)


@torch.no_grad()
def compose(model: nn.Module, adapters: "Mapping[Path, float] | Iterable[tuple[Path, float]]", *,
            force: bool = False) -> None:
    """Applies several, or none if one of them cannot be."""
    module, layers = bare(model), list[Tuple[float, Parts, str]]()
    state = _applied.get(module) or _Applied(module)
    if isinstance(adapters, (str, os.PathLike)):
        raise ValueError(f"{os.fspath(adapters)}: expected adapters with their strengths, "
                         "[(path, strength), ...] or {path: strength}")
    for path, strength in adapters.items() if isinstance(adapters, Mapping) else adapters:
        parts, metadata = read(path)
        if not math.isfinite(strength):
            raise ValueError(f"{path}: strength {strength}, expected a finite number")
        state.check(path, parts, metadata, force)
        content = base_of({name: values for name, (_, values) in parts.items()})[0]
        layers.append((float(strength), parts, content))
    state.layers = sorted(state.layers + layers, key=lambda layer: layer[0::2])
    for name in sorted({name for _, parts, _ in layers for name in parts}):
        for _, held, _ in layers:
            if name in held:
                state.cover(name, held[name][0])
        put(state.parameters[name], state.originals[name][0], state.combine(name))
    _applied[module] = state


@torch.no_grad()
def remove(model: nn.Module) -> None:
    """Takes all adapters off again, to the bits from before."""
    if state := _applied.pop(bare(model), None):
        for name, (positions, values) in state.originals.items():
            put(state.parameters[name], positions, values)


def merge(model: nn.Module, path: Path | None = None, strength: float = 1.0, *,
          force: bool = False) -> None:
    """For good: what is applied, and the adapter if one is given, becomes part of the model, which
    remove() then leaves alone."""
    compose(model, [(path, strength)] if path else [], force=force)
    _applied.pop(bare(model), None)
