"""One step (section 4): reselection if it is due, clipping, the low-rank term, AdamW."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor

from . import _distributed as distributed
from . import _kernels as kernels
from . import _library as lib
from . import _others as others
from . import _sharded as sharded
from . import _triton as fast
from ._flat import Flat, Part
from .adapters import base_of

if TYPE_CHECKING:
    from ._training import Training

Number = Union[float, Tensor]
Parts = list[tuple[Flat, Part]]


@torch.no_grad()
def step(t: "Training", scale: Tensor | None, found_inf: Tensor | None) -> None:
    """scale, found_inf: GradScaler's, which leaves unscaling and skipping to this."""
    t.gradients.finish()
    others.tell_thawed(t)
    if not _any_gradient(t):
        others.tell_frozen(t)
        t.numbers = {"grad_norm": 0.0}
        return
    others.check_seen(t)
    _check_sizes(t)
    for flat in t.flats:
        _numbers(t, flat)  # refused before anything is counted
    t.base_of_model()  # before the first change
    _complete(t, scale)
    parts, due = others.parts(t), _is_due(t)
    norm = _norm(t, parts)
    if isinstance(norm, Tensor) and not due and (found_inf is not None or t.max_grad_norm == 0):
        skipped = norm.sub(norm).ne(0).float() if found_inf is None else found_inf
        if len({flat.device for flat in t.flats}) > 1:
            skipped = skipped.clamp(max=1)  # GradScaler adds up what devices found
        if t.known == t.step:  # the device counts from here
            for flat in t.flats:
                flat.steps.fill_(t.adam_step)
        drawn, rank_loss = _follow_and_update(t, parts, norm, skipped)
        t.step, t.adam_step, t.draws = t.step + 1, t.adam_step + 1, t.draws + 1
    else:
        norm, skipped, drawn, rank_loss = float(norm), None, "", 0.0
        if norm < math.inf:
            if due:
                _reselect(t, parts)
                parts = others.parts(t)
                norm = float(_norm(t, parts))
            t.step, t.adam_step = t.step + 1, t.adam_step + 1
            drawn, rank_loss = _follow_and_update(t, parts, norm, None)
            t.known, t.draws = t.step, t.draws + 1
    done = not isinstance(norm, float) or norm < math.inf
    t.numbers = dict(grad_norm=norm, rank_loss=rank_loss, rank_name=drawn, reselected=due and done,
                     weight=t.lambda_rank, skipped=not done if skipped is None else skipped)
    t.begun = t.begun or done
    t.gradients.spent, t.gradients.fresh, t.seen_forward = True, False, False
    others.seen(t)


# ---------------------------------------------------------------------------------------- gradients

def _any_gradient(t: "Training") -> bool:
    own = any(leaf.grad is not None for leaf in t.leaves.values())
    if t.gradients.wrappers or distributed.processes() == 1:
        return own
    return distributed.any_process(own, t.flats[0].device)


def _check_sizes(t: "Training") -> None:
    for flat, i, name, _ in t.each():
        entries = sharded.local(t.chosen[name]).numel()
        if entries != t.sizes[name] and flat.counts[i]:
            last = int(flat.views["positions"][i][-1])
            raise ValueError(f"{name}: position {last} of {entries} entries: the parameter had "
                             f"{t.sizes[name]} when its entries were selected")


def _complete(t: "Training", scale: Tensor | None) -> None:
    """Zeros where no gradient was made; unscaled; and without DistributedDataParallel averaged over
    the processes."""
    t.gradients.fill()
    if scale is not None:
        for flat in t.flats:
            flat.tensors["gradient"].div_(scale.to(flat.device))
    if distributed.processes() == 1 or t.total.processes is not None:
        return
    if not t.compared:
        entries = {f"{name}.{i}": tensor.view(torch.float32) for flat, k, name, leaf in t.each()
                   for i, tensor in enumerate((leaf, flat.views["positions"][k]))}
        distributed.check_same(t.base_of_model()[0] + base_of(entries)[0], t.flats[0].device)
        t.compared = True
    if not t.gradients.wrappers:
        distributed.average(flat.tensors["gradient"] for flat in t.flats)
        for flat, i, name, leaf in t.each():
            if t.chosen[name].requires_grad:
                leaf.grad = flat.views["gradient"][i]


def _norm(t: "Training", parts: Parts) -> Number:
    """Of the selected entries' gradients together; a number where libsara computes a part of it."""
    native = [flat.views["gradient"][part.first + i] for flat, part in parts if part.native
              for i in range(len(part.names))]
    norms = [kernels.norm_torch(flat.tensors["gradient"][part.entries])
             for flat, part in parts if not part.native]
    if not norms and t.total.processes is None:
        return kernels.norm(native)
    if native:
        norms.append(torch.tensor(kernels.norm(native), dtype=torch.float64))
    first = norms[0]
    whole = first if len(norms) == 1 else torch.linalg.vector_norm(
        torch.stack([norm.to(first.device, first.dtype) for norm in norms]))
    whole = t.total.norm(whole)
    return float(whole) if native else whole


# -------------------------------------------------------------------------------------- reselection

def _is_due(t: "Training") -> bool:
    """Reads how many steps a device has done, near the one at which it is."""
    if t.known <= t.progressive_iter <= t.step:
        t.read_count()
    return 0 < t.progressive_iter == t.step


def _reselect(t: "Training", parts: Parts) -> None:
    """Goes on with the entries still below the threshold, moments restarted; the others stay where
    they are (section 4.3)."""
    for flat, part in parts:
        others.follow(t, flat, part)
    pieces, made = {}, {name for name, leaf in t.leaves.items() if leaf.grad is not None}
    for flat in t.flats:
        values = flat.tensors["values"]
        threshold = t.groups[flat.group]["threshold"]
        limit = torch.tensor(threshold, dtype=torch.float32, device=flat.device)
        below, used = values.abs() < limit, torch.zeros_like(values, dtype=torch.int8)
        torch._foreach_add_(flat.of(used), 1)
        for kept in (True, False):
            indices = (below if kept else ~below).logical_and_(used).nonzero().view(-1)
            bounds = torch.tensor(flat.starts, device=flat.device)
            counts = torch.searchsorted(indices, bounds).diff().tolist()
            split = {key: flat.tensors[key].index_select(0, indices).split(counts)
                     for key in ("positions", "values", "gradient")}
            for i, name in enumerate(flat.names):
                piece = {key: tensors[i] for key, tensors in split.items()}
                if kept:
                    pieces[name] = piece
                    continue
                state = t.state[t.leaves[name]]
                for key in ("positions", "values"):
                    state["frozen_" + key] = torch.cat([state["frozen_" + key], piece[key]])
    t.lay_out(pieces)
    for flat, i, name, leaf in t.each():
        leaf.grad = flat.views["gradient"][i] if name in made else None
    t.adam_step = 0
    t.ask()


# ------------------------------------------------------------------------------------------- update

def _draw(t: "Training") -> str:
    """The matrix of this step's low-rank term: both sides and its selected entries are over 64 and
    100."""
    if t.rank_names is not None:
        return t.rank_names[t.draws] if t.lambda_rank > 0 else ""
    names = sorted((name for name in t.leaves if t.total.count(name) > 100
                    and t.chosen[name].dim() == 2 and min(t.chosen[name].shape) > 64),
                   key=str.encode)
    if not names or t.lambda_rank == 0:
        return ""
    return names[lib.library.sara_tensors_draw(len(names), t.seed, t.draws)]


def _rank_term(t: "Training", name: str) -> tuple[Number, Tensor]:
    """The low-rank term of a step, and its gradient at this process's entries."""
    flat, i = t.places[name]
    positions, values, own = t.total.matrix(name, t.chosen[name], flat.views["positions"][i],
                                            flat.views["values"][i])
    rows, columns = t.chosen[name].shape
    native = kernels._native(values)
    norm = kernels.nuclear_norm if native else kernels.nuclear_norm_torch
    value, gradient = norm((rows, columns), positions, values)
    return value, gradient[own]


def _follow_and_update(t: "Training", parts: Parts, norm: Number,
                       skipped: Tensor | None) -> tuple[str, Number]:
    """The matrix that was drawn and its low-rank term."""
    drawn, rank = _draw(t), None
    value: Number = 0.0
    for flat, part in parts:
        if not part.native:
            others.follow(t, flat, part)
        elif drawn in part.names:
            kernels.follow([others.entries(t, flat, flat.names.index(drawn))])
    if drawn:
        value, rank = _rank_term(t, drawn)
    clip: Number = 1.0
    if t.max_grad_norm > 0:
        clip = (min(1.0, t.max_grad_norm / (norm + 1e-6)) if isinstance(norm, float) else
                norm.add(1e-6).reciprocal_().mul_(t.max_grad_norm).clamp_(max=1))
    for flat, part in parts:
        own = rank if drawn in part.names else None
        (_native if part.native else _torch)(t, flat, part, clip, skipped, drawn, own)
    return drawn, value


def _numbers(t: "Training", flat: Flat) -> kernels.AdamW:
    group = t.groups[flat.group]
    if len(group["betas"]) != 2:
        raise ValueError(f"betas={group['betas']}, expected two numbers")
    beta1, beta2 = group["betas"]
    return kernels.AdamW(float(group["lr"]), (float(beta1), float(beta2)), float(group["eps"]),
                         float(group["weight_decay"]))


def _is_frozen(t: "Training", name: str) -> bool:
    """By the caller, before a gradient was made."""
    return not t.chosen[name].requires_grad and t.leaves[name].grad is None


def _native(t: "Training", flat: Flat, part: Part, clip: Number, skipped: Tensor | None, drawn: str,
            rank: Tensor | None) -> None:
    if rank is not None:
        rank = rank * t.lambda_rank
    items = [others.entries(t, flat, part.first + i, flat.views["gradient"][part.first + i],
                            rank if name == drawn else None)
             for i, name in enumerate(part.names) if not _is_frozen(t, name)]
    kernels.adamw(items, _numbers(t, flat), float(clip), t.adam_step)


def _torch(t: "Training", flat: Flat, part: Part, clip: Number, skipped: Tensor | None, drawn: str,
           rank: Tensor | None) -> None:
    """By Triton's kernel or torch's operations."""
    clip = clip.to(flat.device) if isinstance(clip, Tensor) else clip  # which lies with the first
    if skipped is None:
        flat.steps.fill_(t.adam_step)
    elif part.first == 0:
        flat.steps.add_(1).sub_(skipped.to(flat.device))
    parameters = [t.chosen[name] for name in part.names]
    begin = flat.starts[flat.names.index(drawn)] - part.entries.start if rank is not None else 0
    awake = [not _is_frozen(t, name) for name in part.names]
    if fast.adamw(flat, part, [sharded.local(p) for p in parameters], awake, _numbers(t, flat),
                  clip, skipped,
                  None if rank is None else (begin, rank, t.lambda_rank)):
        return
    gradient = flat.tensors["gradient"][part.entries] * clip
    if rank is not None:
        gradient[begin:begin + len(rank)].add_(rank, alpha=t.lambda_rank)
    _operations(t, flat, part, gradient, skipped)


def _operations(t: "Training", flat: Flat, part: Part, gradient: Tensor,
                skipped: Tensor | None) -> None:
    """What the caller has frozen since is kept apart and put back."""
    indices = range(part.first, part.first + len(part.names))
    own = {key: flat.tensors[key][part.entries] for key in ("values", "exp_avg", "exp_avg_sq")}
    frozen = [view[i] for i in indices if _is_frozen(t, flat.names[i])
              for view in (flat.views[key] for key in own)]
    kept = [view.clone() for view in frozen]
    if skipped is not None:
        skipped = skipped.to(flat.device)
    kernels.adamw_torch(own["values"], gradient, own["exp_avg"], own["exp_avg_sq"],
                        _numbers(t, flat), flat.steps, skipped)
    for view, value in zip(frozen, kept):
        view.copy_(value)
    rounded = own["values"].to(part.dtype)
    for i in indices:
        first = flat.starts[i] - part.entries.start
        kernels.put(sharded.local(t.chosen[flat.names[i]]), flat.views["positions"][i],
                    rounded[first:first + flat.counts[i]])
    marks = kernels.marks(own["values"])
    if len(marks) == len(flat.marks):
        flat.marks = marks
    else:
        flat.marks[part.blocks] = marks
