"""What others do to the model and to the optimiser's tensors: load weights, average or interpolate,
move to a device, freeze, swap. Training goes on from what is there."""
from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import _hooks as hooks
from . import _kernels as kernels
from . import _sharded as sharded
from . import _triton as fast
from ._flat import Flat, Group, Part

if TYPE_CHECKING:
    from ._training import Training


# ---------------------------------------------------------------------------- before the first step

def fingerprint(t: "Training") -> dict[str, tuple[object, Tensor]]:
    """Of the values that were looked through: where they are, and a sum of their bits."""
    return {name: ((p.dtype, p.device, p.stride()), kernels.bits(p))
            for name, p in t.local().items()}


def loaded(t: "Training") -> str:
    """The first parameter with other values than when its entries were selected, or ""."""
    now, before = fingerprint(t), t.fingerprint
    names = [name for name in now if now[name][0] == before[name][0]]  # .to() loads nothing
    if not names:
        return ""
    device = now[names[0]][1].device
    sums = [torch.stack([of[name][1].to(device) for name in names]).tolist()
            for of in (now, before)]
    return next((name for name, a, b in zip(names, *sums) if a != b), "")


# ------------------------------------------------------------------------- before each forward pass

def before_forward(t: "Training", training: bool) -> None:
    """The model gets what was written to the optimiser's tensors; until the first step entries are
    selected of the weights that are there."""
    for p in t.chosen.values():
        if hooks.find(p) is None:  # torch has swapped the tensor under it
            hooks.watch(p, t)
    if not any(hooks.hears(p, t) for p in t.chosen.values()):
        return  # another optimiser was made for the model since
    if training and not t.begun and not t.gradients.any() and loaded(t):
        t.select_again()
    adopt(t)
    local = t.local()
    for index, flat in enumerate(t.flats):
        if touched(t, index) or all(part.native for part in flat.parts(local)):
            write(t, flat, flat.written())
    t.seen_forward = t.seen_forward or training


def _version(t: "Training", flat: Flat) -> int:
    return flat.tensors["values"]._version + sum(t.leaves[name]._version for name in flat.names)


def seen(t: "Training") -> None:
    """Whatever was written to the optimiser's tensors until now is in the model."""
    t.versions = [_version(t, flat) for flat in t.flats]
    for group in t.groups:
        if isinstance(group, Group):  # and none that was put in its place
            group.touched = False


def touched(t: "Training", index: int) -> bool:
    """Somebody may have written to a flat's values since the last step, as far as the host knows:
    to tensors that were taken from the group since, or in place. What it does not know of is .data
    of tensors that were taken before."""
    flat = t.flats[index]
    return (getattr(t.groups[flat.group], "touched", True)
            or _version(t, flat) != t.versions[index])


def write(t: "Training", flat: Flat, indices: list[int]) -> None:
    """The optimiser's tensors into the model."""
    for i in indices:
        kernels.put(sharded.local(t.chosen[flat.names[i]]), flat.views["positions"][i],
                    flat.views["values"][i])
    if indices:
        flat.mark()


@torch.no_grad()
def adopt(t: "Training") -> None:
    """Tensors that were put in the place of the flats' views, as .data, .grad or state, and
    parameters that were moved to another device."""
    anew = bool(t.leaves)
    for flat, i, name, leaf in t.each():
        own, gradient = flat.views["values"][i], flat.views["gradient"][i]
        if leaf.numel() != own.numel():
            raise ValueError(f"{name}: the optimiser's tensor has become {list(leaf.shape)}, "
                             f"expected {list(own.shape)}")
        if leaf.data_ptr() != flat.addresses["values"][i]:
            theirs, leaf.grad = leaf.grad, None
            own.copy_(leaf.detach())
            leaf.data = own
            leaf.grad = theirs
        made = leaf.grad
        if made is not None and made.data_ptr() != flat.addresses["gradient"][i]:
            gradient.copy_(made)
            leaf.grad = gradient
        anew = _adopt_state(t, flat, i, leaf) and anew
    if anew and t.adam_step:
        t.read_count()
        t.adam_step = 0
        for flat in t.flats:
            flat.steps.zero_()
    if any(sharded.local(t.chosen[name]).device != flat.device
           for flat in t.flats for name in flat.names):
        _move(t)


def _adopt_state(t: "Training", flat: Flat, i: int, leaf: Tensor) -> bool:
    """Moments that were taken away begin anew; whether they were."""
    name, state = flat.names[i], t.state.setdefault(leaf, {})
    gone = "exp_avg" not in state
    for key in ("exp_avg", "exp_avg_sq"):
        held, own = state.get(key), flat.views[key][i]
        if held is None or held.data_ptr() != flat.addresses[key][i]:
            own.zero_() if held is None else own.copy_(held)
            state[key] = own
    state["positions"] = flat.views["positions"][i]
    if "frozen_positions" not in state:
        if 0 < t.progressive_iter < t.step:
            raise ValueError(f"{name}: the optimiser's state was taken away, and with it what the "
                             "reselection left")
        state.update(frozen_positions=state["positions"][:0], frozen_values=leaf.detach()[:0])
    return gone


def _move(t: "Training") -> None:
    pieces = {name: {key: views[i] for key, views in flat.views.items()}
              for flat, i, name, _ in t.each()}
    made = {name for name, leaf in t.leaves.items() if leaf.grad is not None}
    steps = [flat.steps for flat in t.flats][0]
    t.lay_out(pieces)
    for flat, i, name, leaf in t.each():
        flat.steps.copy_(steps)
        leaf.grad = flat.views["gradient"][i] if name in made else None
        state = t.state[leaf]
        state.update({key: state[key].to(leaf.device)
                      for key in ("frozen_positions", "frozen_values")})


# -------------------------------------------------------------------------------------- in a step

def parts(t: "Training") -> list[tuple[Flat, Part]]:
    local = t.local()
    return [(flat, part) for flat in t.flats for part in flat.parts(local)]


def entries(t: "Training", flat: Flat, i: int, gradient: Tensor | None = None,
            rank: Tensor | None = None) -> kernels.Entries:
    """For libsara, of the parameter at an index."""
    name, v = flat.names[i], flat.views
    return kernels.Entries(name, sharded.local(t.chosen[name]), v["positions"][i], v["values"][i],
                           v["exp_avg"][i], v["exp_avg_sq"][i], gradient, rank, flat.mark_of(i))


def follow(t: "Training", flat: Flat, part: Part) -> None:
    """Takes what was written to the parameters at the selected entries."""
    indices = range(part.first, part.first + len(part.names))
    if part.native:
        return kernels.follow([entries(t, flat, i) for i in indices])
    parameters = [sharded.local(t.chosen[name]) for name in part.names]
    if fast.follow(flat, part, parameters):
        return
    begin = part.entries.start
    places = [slice(flat.starts[i] - begin, flat.starts[i] - begin + flat.counts[i])
              for i in indices]
    kernels.follow_torch(parameters, [flat.views["positions"][i] for i in indices],
                         flat.tensors["values"][part.entries], flat.marks[part.blocks], places)


@torch.no_grad()
def settle(t: "Training") -> None:
    """Model and optimiser hold the same, whichever was written to; for what is saved."""
    adopt(t)
    for flat, part in parts(t):
        follow(t, flat, part)
    for flat in t.flats:
        write(t, flat, flat.written())
        flat.mark()
    for name, leaf in t.leaves.items():  # entries that the reselection left
        state = t.state[leaf]
        if len(state["frozen_positions"]):
            p = sharded.local(t.chosen[name].detach()).reshape(-1)
            held = p[state["frozen_positions"]]
            values = state["frozen_values"]
            state["frozen_values"] = torch.where(held != values.to(held.dtype), held.float(),
                                                 values)


def check_seen(t: "Training") -> None:
    """What could not be heeded since no forward pass was seen: of parameters without their module,
    or of a module that was compiled afterwards."""
    if t.seen_forward or not t.gradients.fresh:
        return
    why = ("since then no forward pass of the model was seen: give sara.adamw the module itself "
           "that is called, compiled before")
    name = "" if t.begun else loaded(t)
    if name:
        raise RuntimeError(f"{name}: written to after sara.adamw had selected its entries (load "
                           f"before it is made), and {why}")
    for index, flat in enumerate(t.flats):
        native = all(part.native for part in flat.parts(t.local()))
        found = flat.written() if native or touched(t, index) else []
        if found:
            raise RuntimeError(f"{flat.names[found[0]]}: the optimiser's tensor was written to, "
                               f"and {why}")


def tell_frozen(t: "Training") -> None:
    """A step without gradients: it may be meant."""
    if t.leaves and not any(t.chosen[name].requires_grad for name in t.leaves):
        name = next(iter(t.leaves))
        warnings.warn(f"{name} and all else that sara.adamw trains was frozen after it was made "
                      "(as by PEFT, or another sara.adamw's include): no step is made",
                      stacklevel=4)


def tell_thawed(t: "Training") -> None:
    """What was frozen when the optimiser was made is not looked through."""
    thawed = [name for name, p in t.parameters.items()
              if p.requires_grad and name not in t.trainable]
    if thawed and not t.told:
        t.told = True
        warnings.warn(f"{thawed[0]} and {len(thawed) - 1} other parameters ask for gradients "
                      "since: sara.adamw does not train them; make it anew after unfreezing",
                      stacklevel=4)
