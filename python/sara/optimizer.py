"""The optimiser: AdamW on the selected entries alone, whose gradients are gathered as autograd makes them."""
from __future__ import annotations

import functools
import math
import weakref
from typing import Any, Callable, Iterable, Mapping, Sequence, Union

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.utils.weak import WeakTensorKeyDictionary

from . import _distributed as distributed
from . import _kernels as kernels
from . import _library as lib
from .adapters import base_of, write
from .selection import Patterns, bare, budget, default_lr, eligible, named, positions_below

Model = Union[nn.Module, Mapping[str, nn.Parameter], Iterable[Any]]
_TOGETHER = 1 << 21  # entries of dense gradients that are gathered together
_STATE = {key: torch.int32 if "positions" in key else torch.float32 for key in (
    "positions", "values", "exp_avg", "exp_avg_sq", "frozen_positions", "frozen_values")}
_owners = WeakTensorKeyDictionary()  # parameter -> weak references to the optimisers it was given to
_BUDGETS, _OWN = ("threshold", "fraction", "count"), ("max_grad_norm", "lambda_rank", "progressive_iter", "seed")


class AdamW(torch.optim.Optimizer):
    """SaRA (arXiv 2409.06633) as a torch optimiser.

    model: a module, named parameters, or a list of groups {"params": module or named parameters, and any of threshold, fraction, count, lr,
        betas, eps, weight_decay}. Of each tensor that requires a gradient the entries with |p| < threshold are trained.
    threshold | fraction | count: the budget, 5.8 % of the entries if none is given (section 4.1). lr: None for 1e-3 exp(-350 threshold).
    max_grad_norm: of the selected entries' gradients together; 0 leaves clipping to the caller.
    lambda_rank: weight of the nuclear norm of one matrix P * M in each step (section 4.2), drawn by seed, or the step's of rank_names.
    progressive_iter: before this step (from 0) only entries still below the threshold go on being trained, with new moments (section 4.3);
        or total_steps, of which it is half. Neither, or 0: never. include, exclude: shell patterns of parameter names.

    param_groups hold a float32 leaf [selected] for each parameter with selected entries, with its .grad; "names" are the parameters'. The
    model's parameters stay as they are: step() writes the values into them, rounded to their dtype; their .grad is taken as soon as
    autograd has made it (section 4.4). After a step `last` tells grad_norm (before clipping), rank_loss, rank_name, active (entries),
    skipped (gradients not finite: nothing was changed), reselected.
    """

    def __init__(self, model: Model, threshold: float | None = None, *, fraction: float | None = None, count: float | None = None,
                 lr: float | None = None, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2,
                 max_grad_norm: float = 1.0, lambda_rank: float = 5e-4, progressive_iter: int | None = None, total_steps: int | None = None,
                 include: Patterns = None, exclude: Patterns = None, rank_names: Sequence[str] | None = None, seed: int = 42) -> None:
        if progressive_iter is not None and total_steps is not None:
            raise ValueError(f"progressive_iter={progressive_iter} and total_steps={total_steps}: expected one of them")
        self.max_grad_norm, self.lambda_rank, self.seed, self.rank_names = max_grad_norm, lambda_rank, seed, rank_names
        self.progressive_iter = (total_steps or 0) // 2 if progressive_iter is None else progressive_iter
        for name in _OWN:
            _check(name, getattr(self, name), whole=name in ("progressive_iter", "seed"))
        self.last: dict[str, Any] = dict(grad_norm=math.nan, rank_loss=0.0, rank_name="", active=0, skipped=False, reselected=False)
        self._step, self._adam_step = 0, 0              # done in all, and since the moments were zero
        self._class = type(bare(model)).__name__
        self._parameters: dict[str, nn.Parameter] = {}  # all of the model, for the base's hash
        self._trainable: dict[str, nn.Parameter] = {}   # those that were looked through for entries
        self._leaves: dict[str, Tensor] = {}
        self._asleep: set[str] = set()                  # parameters that were told to ask for no gradient
        self._waiting: list[str] = []                   # parameters whose gradients were made and not gathered yet
        self._entries, self._queued = 0, False          # of those; whether gathering is queued
        self._spent = False                             # whether step() has used the gradients
        self._wrappers: list[Any] | None = None         # DistributedDataParallel, once looked for
        defaults = dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)
        whole = dict(zip(_BUDGETS, (threshold, fraction, count)))
        super().__init__([self._group(spec, whole, defaults, include, exclude) for spec in _specs(model)], defaults)
        for group in self.param_groups:
            for name, leaf, chosen in zip(group["names"], group["params"], group.pop("_positions")):
                self._leaves[name] = leaf
                self.state[leaf] = dict(exp_avg=torch.zeros_like(leaf), exp_avg_sq=torch.zeros_like(leaf), positions=chosen,
                                        frozen_positions=chosen[:0], frozen_values=leaf.detach()[:0])
        for name in filter(None, rank_names or ()):
            if name not in self._leaves or self._trainable[name].dim() != 2:
                raise ValueError(f"rank_names: {name}: no trained matrix")
        self._name_of = {id(p): name for name, p in self._trainable.items()}
        for p in self._trainable.values():
            _watch(p, self)
        self._ask()

    def _group(self, spec: Mapping[str, Any], whole: dict[str, Any], defaults: dict[str, Any], include: Patterns, exclude: Patterns) -> dict[str, Any]:
        """A param_group of the entries that the budget selects; "_positions" [selected] int32 beside its leaves."""
        unknown = set(spec) - {"params", *_BUDGETS, *defaults}
        parameters = named(spec["params"])
        known = {id(p) for p in self._parameters.values()}
        twice = [name for name, p in parameters.items() if name in self._parameters or id(p) in known]
        if unknown or twice:
            raise ValueError(f"group option {min(unknown)!r}, expected params, {', '.join([*_BUDGETS, *defaults])}" if unknown else
                             f"{min(twice)}: in two groups; give each parameter once, under a name of its own")
        self._parameters.update(parameters)
        chosen = eligible(parameters, include, exclude)
        self._trainable.update({name: p for name, p in parameters.items() if p.requires_grad})  # excluded ones ask for no gradient
        own = {kind: spec[kind] for kind in _BUDGETS if kind in spec}
        threshold, positions = positions_below(chosen, *budget(**(own or whole)))
        names = sorted((name for name in chosen if len(positions[name])), key=str.encode)
        group = {**defaults, **{key: value for key, value in spec.items() if key in defaults}}
        if group["lr"] is None:
            group["lr"] = rate = default_lr(threshold)
            if rate < 1e-12:
                raise ValueError(f"lr is missing: the formula gives {rate:.3g} for a threshold of {threshold:.6g}")
        for name in ("lr", "eps", "weight_decay"):
            _check(name, group[name], 1e-37 if name == "eps" else 0)
        for i in range(2):
            _check(f"betas[{i}]", dict(enumerate(group["betas"])).get(i, math.nan), below=1)
        leaves = [chosen[name].detach().reshape(-1)[positions[name].long()].float().requires_grad_() for name in names]
        return {**group, "params": leaves, "names": names, "threshold": threshold, "_positions": [positions[name] for name in names]}

    def _ask(self) -> None:
        """Parameters without selected entries ask autograd for nothing, but DistributedDataParallel expects every gradient that it knows."""
        self._same = False  # whether all processes train the same has to be looked at
        if distributed.find_wrappers(self._trainable.values()) or not any(map(len, self._leaves.values())):
            return
        for name, p in self._trainable.items():
            wanted = name in self._leaves and len(self._leaves[name]) > 0
            if p.requires_grad != wanted and (p.requires_grad or name in self._asleep):  # what the caller has frozen since stays so
                p.requires_grad_(wanted)
                self._asleep.add(name)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("sara.adamw belongs to its model's tensors and cannot be copied or pickled; state_dict() and load_state_dict() do that")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "names" not in param_group:
            raise ValueError("give all groups to the constructor: sara.adamw([{'params': module, 'threshold': ...}, ...])")
        super().add_param_group(param_group)

    def _reselect(self) -> None:
        """Goes on with the entries still below the threshold, moments restarted; the others stay where they are (section 4.3)."""
        for group, _, leaf in self._each():
            state, gradient = self.state[leaf], leaf.grad
            keep = leaf.abs() < torch.tensor(group["threshold"], dtype=torch.float32).to(leaf.device)
            state["frozen_positions"] = torch.cat([state["frozen_positions"], state["positions"][~keep]])
            state["frozen_values"] = torch.cat([state["frozen_values"], leaf[~keep]])
            state["positions"] = state["positions"][keep]
            _set(leaf, leaf.data[keep], None if gradient is None else gradient[keep])
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(leaf), torch.zeros_like(leaf)
        self._adam_step = 0
        self._ask()

    def _each(self) -> list[tuple[dict[str, Any], str, Tensor]]:
        return [(group, *pair) for group in self.param_groups for pair in zip(group["names"], group["params"])]

    @torch.no_grad()
    def _take(self, names: Iterable[str]) -> None:
        """The parameters' gradients, where there are any, into the leaves'; the dense ones are freed."""
        items, made = [], []
        for name in names:
            p, leaf = self._trainable[name], self._leaves.get(name)
            dense, p.grad = p.grad, None
            if dense is None or leaf is None or leaf.numel() == 0:
                continue
            if self._spent:  # these are of another step, whoever cleared the others: model.zero_grad() does not reach the leaves
                self._spent = False
                super().zero_grad()
            self._follow(leaf, p)
            gradient = torch.empty_like(leaf) if leaf.grad is None else leaf.grad.contiguous()
            items.append((name, dense.to_dense() if dense.is_sparse else dense, self.state[leaf]["positions"], gradient, leaf.grad is not None))
            made.append((leaf, gradient))
        kernels.gather(items)
        for leaf, gradient in made:
            leaf.grad = gradient

    def _follow(self, leaf: Tensor, p: Tensor) -> None:
        """To the device that the model was moved to."""
        if leaf.device != p.device:
            _set(leaf, leaf.data.to(p.device), None if leaf.grad is None else leaf.grad.to(p.device))
            self.state[leaf] = {key: value.to(p.device) for key, value in self.state[leaf].items()}

    def _made(self, p: Tensor) -> None:
        """Autograd has accumulated into p.grad."""
        if self._wrappers is None:
            self._wrappers = distributed.find_wrappers(self._trainable.values())
        if not self._queued:  # for the end of this backward pass; behind the reduction, which is queued before the last gradient is made
            self._queued, queue = True, Variable._execution_engine.queue_callback
            queue((lambda: queue(self._reduced)) if self._wrappers else self._take_made)
        if not self._wrappers:
            self._waiting.append(self._name_of[id(p)])
            self._entries += p.numel()
            if self._entries >= _TOGETHER:
                self._take_made()

    def _take_made(self, names: Iterable[str] = ()) -> None:
        waiting, self._waiting, self._entries, self._queued = self._waiting, [], 0, False
        self._take(names or waiting)

    def _reduced(self) -> None:
        self._queued = False  # within reentrant checkpointing the backward pass goes on; without synchronisation more micro-batches follow
        if torch._C._current_autograd_node() is None and all(w.require_backward_grad_sync for w in self._wrappers or ()):
            self._take_made(self._trainable)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._spent = False
        for p in self._trainable.values():
            p.grad = None
        super().zero_grad(set_to_none)

    # GradScaler then calls step() always and leaves the unscaling and the skipping to it.
    _step_supports_amp_scaling = True

    def _finish_gradients(self) -> None:
        """Takes what is left, unscales, and without DistributedDataParallel averages over the processes."""
        self._take_made(self._trainable)
        if not self._same and distributed.processes() > 1:
            entries = {f"{name}.{i}": t.view(torch.float32) for _, name, leaf in self._each() for i, t in enumerate((leaf, self.state[leaf]["positions"]))}
            distributed.check_same(self.base_sha256 + base_of(entries)[0], self.param_groups[0]["params"][0].device)
            self._same = True
        scale = getattr(self, "grad_scale", None)
        for _, name, leaf in self._each():
            self._follow(leaf, self._trainable[name])
            if scale is not None and leaf.grad is not None:
                leaf.grad.div_(scale.to(leaf.device))
        if distributed.processes() > 1 and not self._wrappers:
            for leaf in self._leaves.values():
                leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            distributed.average([leaf.grad for _, _, leaf in self._each() if leaf.grad is not None])

    def _norm(self) -> float:
        return kernels.norm(leaf.grad.contiguous() for leaf in self._leaves.values() if leaf.grad is not None)

    def _draw(self) -> str:
        """The matrix of this step's low-rank term: both sides and its selected entries are over 64 and 100."""
        if self.rank_names is not None:
            return self.rank_names[self._step] if self.lambda_rank > 0 else ""
        names = sorted((name for name, leaf in self._leaves.items() if leaf.numel() > 100 and self._trainable[name].dim() == 2
                        and min(self._trainable[name].shape) > 64), key=str.encode)
        return names[lib.library.sara_tensors_draw(len(names), self.seed, self._step)] if names and self.lambda_rank > 0 else ""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Reselects if it is time, clips, adds the low-rank term's gradient, and updates values and parameters (section 4)."""
        if self.rank_names is not None and self._step >= len(self.rank_names):
            raise ValueError(f"rank_names: {len(self.rank_names)} names, but this is step {self._step + 1}")
        with torch.enable_grad():
            loss = None if closure is None else closure()
        self._finish_gradients()
        self.base_sha256  # of the values before the first change
        norm, rank_loss, rank = self._norm(), 0.0, None
        skipped, due = not norm < math.inf, self.progressive_iter > 0 and self._step == self.progressive_iter
        if not skipped and due:
            self._reselect()
            norm = self._norm()
        drawn = "" if skipped else self._draw()
        if drawn:
            leaf = self._leaves[drawn]
            rows, columns = self._trainable[drawn].shape
            rank_loss, rank = kernels.nuclear_norm((rows, columns), self.state[leaf]["positions"], leaf)
            rank_loss, rank = self.lambda_rank * rank_loss, rank.mul_(self.lambda_rank)
        if not skipped:
            self._step, self._adam_step = self._step + 1, self._adam_step + 1
            clip = min(1.0, self.max_grad_norm / (norm + 1e-6)) if self.max_grad_norm > 0 else 1.0
            for g in self.param_groups:
                trained = [(name, leaf) for name, leaf in zip(g["names"], g["params"]) if self._trainable[name].requires_grad]
                kernels.adamw([(name, self._trainable[name], leaf, self.state[leaf], rank if name == drawn else None) for name, leaf in trained],
                              float(g["lr"]), g["betas"], g["eps"], g["weight_decay"], clip, self._adam_step)
        self._spent = True
        self.last = dict(grad_norm=norm, rank_loss=rank_loss, rank_name=drawn, skipped=skipped, reselected=due and not skipped,
                         active=sum(leaf.numel() for leaf in self._leaves.values()))
        return loss

    @functools.cached_property
    def base_sha256(self) -> str:
        """Hash of the model as it was before the first step (docs/formats.md), whose precision is then known too."""
        digest, self.base_precision = base_of(self._parameters)
        return digest

    def state_dict(self) -> dict[str, Any]:
        """torch's, with the selected entries' values and positions, and "sara". A run goes on exactly from the base and from the trained model."""
        packed = super().state_dict()
        for index, (_, _, leaf) in enumerate(self._each()):
            packed["state"][index] = {**packed["state"][index], "values": leaf.detach()}
        packed["sara"] = dict(step=self._step, adam_step=self._adam_step, **{name: getattr(self, name) for name in ("base_sha256", "base_precision", *_OWN)})
        return packed

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Also writes the values into the model."""
        groups = state_dict["param_groups"]
        if "sara" not in state_dict or len(groups) != len(self.param_groups):
            raise ValueError(f"{len(groups)} groups{'' if 'sara' in state_dict else ' of another optimiser'}, expected {len(self.param_groups)} of sara.adamw")
        states = {name: _checked(name, self._trainable.get(name), state_dict["state"][index]) for saved in groups
                  for index, name in zip(saved["params"], saved["names"])}
        self.state.clear()
        self._leaves = {name: self._restore(name, state) for name, state in states.items()}
        for group, saved in zip(self.param_groups, groups):
            group.clear()
            group.update({**saved, "betas": tuple(saved["betas"]), "params": [self._leaves[name] for name in saved["names"]]})
        own = {"base_precision": None, **state_dict["sara"]}  # which states of earlier versions do not have
        self._step, self._adam_step = own["step"], own["adam_step"]
        for name in ("base_sha256", "base_precision", *_OWN):
            setattr(self, name, own[name])
        self._ask()

    def _restore(self, name: str, state: dict[str, Tensor]) -> Tensor:
        """The parameter's leaf, the present one if there is one."""
        p = self._trainable[name]
        leaf = self._leaves.get(name, torch.empty(0, device=p.device).requires_grad_())
        _set(leaf, state.pop("values"), None)
        kernels.put(p, state["frozen_positions"], state["frozen_values"])
        kernels.put(p, state["positions"], leaf.data)
        self.state[leaf] = state
        return leaf

    def save(self, path: str, *, dtype: str = "fp32", target: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        """The adapter file that `sara train` would write, of all entries selected at first; values as "fp32", "fp16" or "bf16". target: None for
        "unet", or "transformer" where the model's class is called so."""
        parts = {}
        for _, name, leaf in self._each():
            state = self.state[leaf]
            positions, order = torch.cat([state["positions"], state["frozen_positions"]]).cpu().sort()
            parts[name] = (positions, torch.cat([leaf.detach(), state["frozen_values"]]).cpu()[order])
        first = self.param_groups[0]
        numbers = dict(learning_rate=first.get("initial_lr", first["lr"]), lambda_rank=self.lambda_rank, max_grad_norm=self.max_grad_norm,
                       adam_beta1=first["betas"][0], adam_beta2=first["betas"][1], adam_epsilon=first["eps"], adam_weight_decay=first["weight_decay"])
        write(path, parts, {
            "sara.target": target or ("transformer" if "Transformer" in self._class else "unet"), "sara.method": "sara",
            "sara.base_sha256": self.base_sha256, "sara.threshold": ",".join(f"{g['threshold']:.17g}" for g in self.param_groups),
            "sara.selected": str(sum(len(p) for p, _ in parts.values())), "sara.progressive_iter": str(self.progressive_iter or -1),
            "sara.seed": str(self.seed), **{f"sara.{key}": f"{float(value):.17g}" for key, value in numbers.items()},
            **({"sara.base_precision": self.base_precision} if self.base_precision else {}), "modelspec.implementation": "sara", **(metadata or {})}, dtype)


adamw = AdamW


def _check(name: str, value: float, least: float = 0, below: float = math.inf, whole: bool = False) -> None:
    below = min(below, 2 ** 63) if whole else below
    if not least <= float(value) < below or whole and value != int(value):
        raise ValueError(f"{name}={value}, expected {'a whole number of ' if whole else ''}at least {least:g} and less than {below:g}")


def _checked(name: str, p: Tensor | None, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of a parameter's saved state, on its device."""
    if p is None or not set(_STATE) <= set(saved):
        raise ValueError(f"{name}: " + ("the model has no such parameter to train" if p is None else f"the state has no {min(set(_STATE) - set(saved))}"))
    for positions, keys in (("positions", ("values", "exp_avg", "exp_avg_sq")), ("frozen_positions", ("frozen_values",))):
        at = saved[positions]
        low, high = (int(at.min()), int(at.max())) if at.numel() else (0, -1)
        if low < 0 or high >= p.numel() or positions == "positions" and not bool((at.diff() > 0).all()) or any(saved[key].shape != at.shape for key in keys):
            lengths = ", ".join(f"{saved[key].numel()} {key}" for key in (positions, *keys))
            raise ValueError(f"{name}: the state has {lengths}, from {low} to {high}; expected as many of each, ascending, for {p.numel()} entries")
    return {key: saved[key].detach().to(p.device, dtype, copy=True).contiguous() for key, dtype in _STATE.items()}


def _set(leaf: Tensor, values: Tensor, gradient: Tensor | None) -> None:
    leaf.grad = None  # which is of the old size or device
    leaf.data = values
    leaf.grad = gradient


def _watch(p: nn.Parameter, optimizer: AdamW) -> None:
    """Has autograd tell the optimiser, or what was made after it and is still alive, as where a notebook's cell runs again."""
    if p not in _owners:
        owners = _owners[p] = []
        p.register_post_accumulate_grad_hook(functools.partial(_made, owners))
    _owners[p][:] = [owner for owner in _owners[p] if owner() is not None] + [weakref.ref(optimizer)]


def _made(owners: list[weakref.ref[AdamW]], p: Tensor) -> None:
    for owner in reversed(owners):  # none is left of a model that outlives its optimiser: it keeps its gradients
        optimizer = owner()
        if optimizer is not None:
            return optimizer._made(p)


def _specs(model: Model) -> list[Mapping[str, Any]]:
    """A list of groups as it is; anything else as one group."""
    groups = model if isinstance(model, (nn.Module, Mapping)) else list(model)
    return groups if isinstance(groups, list) and groups and all(isinstance(spec, dict) for spec in groups) else [{"params": groups}]
