"""What an optimiser knows of its model: parameters, the entries selected of them, and counters. It
is one object, which whatever is wrapped around the optimiser shares with it."""
from __future__ import annotations

import math
from typing import Any, Iterator, Mapping, MutableMapping, Sequence

import torch
from torch import Tensor, nn

from . import _distributed as distributed
from . import _hooks as hooks
from . import _others as others
from . import _sharded as sharded
from ._flat import Flat, Group
from ._gradients import Gradients
from ._names import bare
from .adapters import base_of, check_hashable, is_applied
from .selection import Patterns, budget, default_lr, eligible, named, positions_below

BUDGETS = ("threshold", "fraction", "count")
_STATE = ("positions", "exp_avg", "exp_avg_sq")  # of a flat; views of them are the state
Pieces = Mapping[str, Mapping[str, Tensor]]  # name -> key of a flat -> [count]


class Training:
    def __init__(self, specs: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any],
                 whole: Mapping[str, Any], include: Patterns, exclude: Patterns,
                 own: Mapping[str, Any]) -> None:
        """specs: of the groups. defaults: what param_groups hold. whole: the budget of groups
        without one. own: max_grad_norm, lambda_rank, progressive_iter, seed and rank_names.
        Nothing of the model is changed before begin()."""
        self.max_grad_norm: float = own["max_grad_norm"]
        self.lambda_rank: float = own["lambda_rank"]
        self.progressive_iter: int = own["progressive_iter"]
        self.seed: int = own["seed"]
        self.rank_names: Sequence[str] | None = own["rank_names"]
        # Steps done in all, since the moments were zero, and drawn for. On another device than the
        # CPU the first two may count skipped ones until they are read; known was the step then.
        self.step = self.adam_step = self.draws = self.known = 0
        self.numbers: dict[str, Any] = {}              # what `last` tells, as far as it is read
        self.specs, self.defaults, self.whole = specs, defaults, whole
        self.include, self.exclude = include, exclude
        self.modules = [m for m in (spec["params"] for spec in specs) if isinstance(m, nn.Module)]
        self.model_class = type(bare(self.modules[0])).__name__ if self.modules else ""
        self.parameters: dict[str, nn.Parameter] = {}  # all of the model, for the base's hash
        self.trainable: dict[str, nn.Parameter] = {}   # those that ask for a gradient
        self.chosen: dict[str, nn.Parameter] = {}      # of these the ones that are looked through
        self.positions: dict[str, Tensor] = {}         # that were selected, until they are laid out
        self.leaves: dict[str, Tensor] = {}            # the optimiser's tensors
        self.flats: list[Flat] = []
        self.places: dict[str, tuple[Flat, int]] = {}  # name -> flat and index in it
        self.sizes: dict[str, int] = {}                # of the parameters
        self.told = False                              # of parameters that were unfrozen
        self.base: tuple[str, str | None] | None = None  # hash and precision
        self.begun = False                             # the first step is done
        self.compared = False                          # whether all processes train the same
        self.seen_forward = False                      # since the last step
        self.versions: list[int] = []                  # of the flats' values then
        self.groups = [self._group(spec) for spec in specs]
        for name in filter(None, self.rank_names or ()):
            if name not in self.leaves or self.chosen[name].dim() != 2:
                raise ValueError(f"rank_names: {name}: no trained matrix")
        self.gradients = Gradients(self)

    # ------------------------------------------------------------------------------------ selection

    def _group(self, spec: Mapping[str, Any]) -> Group:
        unknown = set(spec) - {"params", *BUDGETS, *self.defaults}
        if unknown:
            raise ValueError(f"group option {min(unknown)!r}, expected params, "
                             + ", ".join([*BUDGETS, *self.defaults]))
        parameters = named(spec["params"])
        ids = {id(p) for p in self.parameters.values()}
        twice = [n for n, p in parameters.items() if n in self.parameters or id(p) in ids]
        if twice:
            raise ValueError(f"{min(twice)}: in two groups; give each parameter once, under a name "
                             "of its own")
        if isinstance(spec["params"], nn.Module):
            hooks.recall(bare(spec["params"]), parameters)
        chosen = eligible(parameters, self.include, self.exclude)
        for name, p in parameters.items():
            check_hashable(name, p)
        if is_applied(parameters.values()):
            raise ValueError("an adapter is applied to the model: sara.merge(model) makes it part "
                             "of the base, sara.remove(model) takes it off")
        self.parameters.update(parameters)
        self.trainable.update({name: p for name, p in parameters.items() if hooks.asks(p)})
        self.chosen.update(chosen)
        group = Group({**self.defaults, **{k: v for k, v in spec.items() if k in self.defaults}})
        group.chosen, group.formula = list(chosen), group["lr"] is None
        group.budget = {kind: spec[kind] for kind in BUDGETS if kind in spec} or self.whole
        group["params"] = []
        self._select(group)
        for name in ("lr", "eps", "weight_decay"):
            check_option(name, group[name], 1e-37 if name == "eps" else 0)
        for i in range(2):
            beta = dict(enumerate(group["betas"])).get(i, math.nan)
            check_option(f"betas[{i}]", beta, below=1)
        return group

    def _select(self, group: Group) -> None:
        """Of the weights that are there: the group's threshold, names and tensors, still empty."""
        chosen = {name: self.chosen[name] for name in group.chosen}
        threshold, positions = positions_below(chosen, *budget(**group.budget))
        total = sharded.Whole({name: len(p) for name, p in positions.items()}, chosen)
        names = sorted((name for name in chosen if total.count(name)), key=str.encode)
        if group["lr"] is None:
            group["lr"] = rate = default_lr(threshold)
            if rate < 1e-12:
                raise ValueError(f"lr is missing: the formula gives {rate:.3g} for a threshold of "
                                 f"{threshold:.6g}")
        for name in names:
            self.positions[name] = positions[name]
            if name not in self.leaves:
                self.leaves[name] = torch.empty(0, device=positions[name].device).requires_grad_()
        group.update(names=names, threshold=threshold)
        group["params"][:] = [self.leaves[name] for name in names]

    def select_again(self) -> None:
        """The entries of weights that were loaded since, as if the optimiser were made now."""
        for group in self.groups:
            was = default_lr(group["threshold"])
            self._select(group)
            if group.formula and was > 0:  # times what a scheduler has made of it
                for key in {"lr", "initial_lr"} & set(group):
                    group[key] *= default_lr(group["threshold"]) / was
        trained = {name for group in self.groups for name in group["names"]}
        for name in set(self.leaves) - trained:
            self.state.pop(self.leaves.pop(name), None)
        self.base = None
        self._begin()

    # ----------------------------------------------------------------------------------- laying out

    def begin(self, groups: list[Group], state: MutableMapping[Tensor, dict[str, Any]]) -> None:
        """groups and state: the optimiser's. Listens to the model from now on."""
        self.groups, self.state = groups, state
        self._begin()
        for module in {m for module in self.modules for m in (module, bare(module))}:
            hooks.before_forward(module, self)

    @torch.no_grad()
    def _begin(self) -> None:
        local = self.local()
        pieces = {name: dict(positions=at, values=local[name].reshape(-1)[at].float())
                  for name, at in self.positions.items() if name in self.leaves}
        self.positions = {}
        for leaf in self.leaves.values():
            self.state[leaf] = {}
        self.lay_out(pieces)
        self.restart()

    def restart(self) -> None:
        """Entries were selected or loaded."""
        if not self.begun:
            self.fingerprint = others.fingerprint(self)
        self.gradients.names = {id(p): name for name, p in self.chosen.items()}
        for p in self.chosen.values():
            hooks.watch(p, self)
        self.ask()

    def lay_out(self, pieces: Pieces) -> None:
        """Flats of the groups' entries, one for each device, parameters of one dtype together; the
        optimiser's tensors become views of them."""
        self.flats, local = [], self.local()
        for index, group in enumerate(self.groups):
            devices: dict[torch.device, list[str]] = {}
            for name in group["names"]:
                devices.setdefault(local[name].device, []).append(name)
            for device, names in devices.items():
                names.sort(key=lambda name: (str(local[name].dtype), name.encode()))
                self.flats.append(Flat(index, names, [pieces[name] for name in names], device))
        counts = {}
        for flat, i, name, leaf in self.each():
            counts[name] = flat.counts[i]
            set_data(leaf, flat.views["values"][i])
            state = self.state[leaf]
            state.update({key: flat.views[key][i] for key in _STATE})
            state.setdefault("frozen_positions", state["positions"][:0])
            state.setdefault("frozen_values", leaf.detach()[:0])
        others.seen(self)
        self.places = {name: (flat, i) for flat, i, name, _ in self.each()}
        self.sizes = {name: local[name].numel() for name in self.leaves}
        self.total = sharded.Whole(counts, self.chosen)
        self.compared = False

    def ask(self) -> None:
        """Parameters without selected entries ask autograd for nothing. What reduces gradients over
        processes expects every one that it knows."""
        reduced = (self.total.processes is not None
                   or distributed.find_wrappers(self.trainable.values()))
        trained = {name for name in self.leaves if self.total.count(name)}
        for name, p in self.trainable.items():
            if name in trained or reduced:
                hooks.wake(p)
            elif trained:
                hooks.sleep(p)

    # ---------------------------------------------------------------------------------------- views

    def each(self) -> Iterator[tuple[Flat, int, str, Tensor]]:
        """flat, index in it, name, the optimiser's tensor"""
        for flat in self.flats:
            for i, name in enumerate(flat.names):
                yield flat, i, name, self.leaves[name]

    def local(self) -> dict[str, Tensor]:
        """This process's part of each parameter that was looked through."""
        return {name: sharded.local(p) for name, p in self.chosen.items()}

    def read_count(self) -> None:
        """Of the steps that were done on a device, which skips those that are not finite."""
        if self.known < self.step and self.flats:
            skipped = self.adam_step - int(self.flats[0].steps.item())
            self.step, self.adam_step = self.step - skipped, self.adam_step - skipped
        self.known = self.step

    def base_of_model(self) -> tuple[str, str | None]:
        """Hash and precision of the model before the first step."""
        if self.base is None:
            self.base = base_of(self.parameters)
        return self.base

    # -------------------------------------------------------------------------------- what is heard

    def gradient_made(self, p: Tensor) -> None:
        self.gradients.made(p)

    def gradient_cleared(self, p: Tensor, set_to_none: bool) -> None:
        self.gradients.clear(p, set_to_none)

    def before_forward(self) -> None:
        training = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.no_grad():
            others.before_forward(self, training)

    def sleeping(self) -> list[str]:
        return [name for name, p in self.trainable.items()
                if not p.requires_grad and hooks.asks(p)]


def set_data(leaf: Tensor, values: Tensor) -> None:
    leaf.grad = None  # which is of the old size or device
    leaf.data = values


def check_option(name: str, value: float, least: float = 0, below: float = math.inf,
                 whole: bool = False) -> None:
    below = min(below, 2 ** 63) if whole else below
    if not least <= float(value) < below or whole and value != int(value):
        kind = "a whole number of " if whole else ""
        raise ValueError(f"{name}={value}, expected {kind}at least {least:g} and less than "
                         f"{below:g}")
