"""What an optimiser is saved as: a state to go on from, and an adapter."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, MutableMapping

import torch
from torch import Tensor

from . import _kernels as kernels
from . import _others as others
from . import _sharded as sharded
from ._flat import Group
from .adapters import write

if TYPE_CHECKING:
    from ._training import Training

OWN = ("max_grad_norm", "lambda_rank", "progressive_iter", "seed")  # of the optimiser
_KEYS = ("positions", "values", "exp_avg", "exp_avg_sq", "frozen_positions", "frozen_values")


# ------------------------------------------------------------------------------------ what is there

def entries(t: "Training") -> dict[str, dict[str, Tensor]]:
    """name -> _KEYS; where parameters are sharded, of all processes together, on the CPU."""
    if not t.begun and others.loaded(t):
        t.select_again()
    others.settle(t)
    own = {name: {"values": leaf.detach(), **t.state[leaf]} for name, leaf in t.leaves.items()}
    if t.total.processes is None:
        return own
    for name, state in own.items():
        first = sharded.offset(t.chosen[name])
        for key in ("positions", "frozen_positions"):
            state[key] = state[key] + first
    cpu = {name: {key: tensor.cpu() for key, tensor in state.items()}
           for name, state in own.items()}
    parts = sharded.gathered(cpu, t.total.processes)
    return {name: {key: torch.cat([part[name][key] for part in parts]) for key in _KEYS}
            for name in own}


def pack(t: "Training", packed: dict[str, Any]) -> dict[str, Any]:
    """torch's state, with the entries' values and positions, and "sara"."""
    t.read_count()
    states = entries(t)
    names = [name for group in t.groups for name in group["names"]]
    packed["state"] = {index: states[name] for index, name in enumerate(names)}
    base, precision = t.base_of_model()
    packed["sara"] = dict(step=t.step, adam_step=t.adam_step, base_sha256=base,
                          base_precision=precision, **{name: getattr(t, name) for name in OWN})
    if t.draws != t.step:
        packed["sara"]["draws"] = t.draws
    return packed


# --------------------------------------------------------------------------------------- what comes

def _checked(name: str, t: "Training", saved: Mapping[str, Any]) -> dict[str, Tensor]:
    """A parameter's saved state in the optimiser's dtypes; this process's part of it."""
    p = t.trainable.get(name)
    missing = set(_KEYS) - set(saved)
    if p is None or missing:
        raise ValueError(f"{name}: " + ("the model has no such parameter to train" if p is None
                                        else f"the state has no {min(missing)}"))
    local = sharded.local(p)
    result = {}
    for positions, keys in (("positions", ("values", "exp_avg", "exp_avg_sq")),
                            ("frozen_positions", ("frozen_values",))):
        at = saved[positions]
        low, high = (int(at.min()), int(at.max())) if at.numel() else (0, -1)
        ascending = positions != "positions" or bool((at.diff() > 0).all())
        if (low < 0 or high >= p.numel() or not ascending
                or any(saved[key].shape != at.shape for key in keys)):
            lengths = ", ".join(f"{saved[key].numel()} {key}" for key in (positions, *keys))
            raise ValueError(f"{name}: the state has {lengths}, from {low} to {high}; expected as "
                             f"many of each, ascending, for {p.numel()} entries")
        first = sharded.offset(p)
        mine = (at >= first) & (at < first + local.numel())
        for key in (positions, *keys):
            dtype = torch.int32 if key == positions else torch.float32
            tensor = saved[key] if sharded.local(p) is p else saved[key][mine]
            result[key] = tensor.detach().to(local.device, dtype, copy=True).contiguous()
        if first:
            result[positions] -= first
    return result


@torch.no_grad()
def unpack(t: "Training", state_dict: Mapping[str, Any]) -> None:
    """Also writes the values into the model. Nothing changes where something is refused."""
    groups = state_dict["param_groups"]
    if "sara" not in state_dict or len(groups) != len(t.groups):
        whose = "" if "sara" in state_dict else " of another optimiser"
        raise ValueError(f"{len(groups)} groups{whose}, expected {len(t.groups)} of sara.adamw")
    states = {name: _checked(name, t, state_dict["state"][index]) for saved in groups
              for index, name in zip(saved["params"], saved["names"])}
    t.gradients.finish()
    made = {name: (flat.views["positions"][i], flat.views["gradient"][i])
            for flat, i, name, leaf in t.each() if leaf.grad is not None}
    t.state.clear()
    t.leaves = {name: t.leaves.get(name, torch.empty(0).requires_grad_()) for name in states}
    for name, state in states.items():
        local = sharded.local(t.trainable[name])
        t.chosen[name] = t.trainable[name]
        kernels.put(local, state["frozen_positions"], state["frozen_values"])
        kernels.put(local, state["positions"], state["values"])
        t.state[t.leaves[name]] = {key: state[key] for key in ("frozen_positions", "frozen_values")}
    for group, saved in zip(t.groups, groups):
        _load_group(t, group, saved)
    own = {"base_precision": None, **state_dict["sara"]}  # which earlier versions' states lack
    t.step = t.known = own["step"]
    t.adam_step, t.draws = own["adam_step"], own.get("draws", own["step"])
    t.base = (own["base_sha256"], own["base_precision"])
    t.begun = t.step > 0
    for name in OWN:
        setattr(t, name, own[name])
    t.lay_out(states)
    for flat in t.flats:
        flat.steps.fill_(t.adam_step)
    for flat, i, name, leaf in t.each():  # gradients of a backward pass before stay, as torch's
        if name in made and torch.equal(made[name][0], flat.views["positions"][i]):
            flat.views["gradient"][i].copy_(made[name][1])
            leaf.grad = flat.views["gradient"][i]
    t.restart()


def _load_group(t: "Training", group: Group, saved: Mapping[str, Any]) -> None:
    params = dict.__getitem__(group, "params")
    params[:] = [t.leaves[name] for name in saved["names"]]
    group.clear()
    group.update({**saved, "betas": tuple(saved["betas"]), "params": params})


# ----------------------------------------------------------------------------------------- adapters

def save(t: "Training", path: str, dtype: str, target: str | None,
         metadata: Mapping[str, str] | None) -> None:
    parts = {}
    for name, state in entries(t).items():
        both = torch.cat([state["positions"], state["frozen_positions"]]).cpu()
        positions, order = both.sort()
        values = torch.cat([state["values"], state["frozen_values"]]).cpu()
        parts[name] = (positions, values[order])
    base, precision = t.base_of_model()
    if t.total.own == 0:
        write(path, parts, {**_metadata(t, base, precision, target, parts), **(metadata or {})},
              dtype)
    if t.total.processes is not None:
        sharded.gathered(None, t.total.processes)  # the file is there for all


def _metadata(t: "Training", base: str, precision: str | None, target: str | None,
              parts: Mapping[str, tuple[Tensor, Tensor]]) -> MutableMapping[str, str]:
    first = t.groups[0]
    numbers = dict(learning_rate=first.get("initial_lr", first["lr"]), lambda_rank=t.lambda_rank,
                   max_grad_norm=t.max_grad_norm, adam_beta1=first["betas"][0],
                   adam_beta2=first["betas"][1], adam_epsilon=first["eps"],
                   adam_weight_decay=first["weight_decay"])
    return {
        "sara.target": target or ("transformer" if "Transformer" in t.model_class else "unet"),
        "sara.method": "sara", "sara.base_sha256": base,
        "sara.threshold": ",".join(f"{group['threshold']:.17g}" for group in t.groups),
        "sara.selected": str(sum(len(p) for p, _ in parts.values())),
        "sara.progressive_iter": str(t.progressive_iter or -1), "sara.seed": str(t.seed),
        **{f"sara.{key}": f"{float(value):.17g}" for key, value in numbers.items()},
        **({"sara.base_precision": precision} if precision else {}),
        "modelspec.implementation": "sara"}
