"""The optimiser: AdamW on the selected entries alone, whose gradients are gathered as autograd makes them."""
from __future__ import annotations

import weakref
from typing import Any, Callable, Iterable, Mapping, Sequence, Union

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from . import _distributed as distributed
from . import _kernels as kernels
from . import _library as lib
from .adapters import base_sha256, write
from .selection import Patterns, budget, default_lr, eligible, named, positions_below

MIN_RANK_SIDE, MIN_RANK_SELECTED = 64, 100  # the low-rank term's matrices have both sides and their selected entries over these
Model = Union[nn.Module, Mapping[str, nn.Parameter], Iterable[Any]]
_BUDGETS = ("threshold", "fraction", "count")


class AdamW(torch.optim.Optimizer):
    """SaRA (arXiv 2409.06633) as a torch optimiser.

    model: a module, named parameters, or a list of groups {"params": module or named parameters, and any of threshold, fraction,
        count, lr, betas, eps, weight_decay}. Of each tensor that requires a gradient the entries with |p| < threshold are trained.
    threshold | fraction | count: the budget, 5.8 % of the entries if none is given (section 4.1).
    lr: None for 1e-3 exp(-350 threshold). betas, eps, weight_decay: AdamW's.
    max_grad_norm: of the selected entries' gradients together; 0 leaves clipping to the caller.
    lambda_rank: weight of the nuclear norm of one drawn matrix P * M in each step (section 4.2).
    progressive_iter: before this step (from 0) only entries still below the threshold go on being trained, with new moments
        (section 4.3); or total_steps, of which it is half. Neither: never.
    include, exclude: shell patterns of parameter names. seed: of the low-rank term's draws. rank_names: its matrix in each step.

    param_groups hold a float32 leaf [selected] for each parameter with selected entries, its values and .grad; the group's "names"
    are the parameters'. The model's parameters stay as they are: step() writes the values into them, rounded to their dtype;
    their .grad is taken as soon as autograd has made it (section 4.4). After a step `last` tells grad_norm (before clipping),
    rank_loss, rank_name, active (entries), skipped (gradients not finite: nothing was changed), reselected.
    """

    def __init__(self, model: Model, threshold: float | None = None, *, fraction: float | None = None, count: float | None = None,
                 lr: float | None = None, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2,
                 max_grad_norm: float = 1.0, lambda_rank: float = 5e-4, progressive_iter: int | None = None, total_steps: int | None = None,
                 include: Patterns = None, exclude: Patterns = None, rank_names: Sequence[str] | None = None, seed: int = 42) -> None:
        if progressive_iter is not None and total_steps is not None:
            raise ValueError(f"progressive_iter={progressive_iter} and total_steps={total_steps}: expected one of them")
        for name, value in (("max_grad_norm", max_grad_norm), ("lambda_rank", lambda_rank), ("progressive_iter", progressive_iter or 0)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value}, expected at least 0")
        self.max_grad_norm, self.lambda_rank, self.seed = float(max_grad_norm), float(lambda_rank), int(seed)
        self.progressive_iter = (total_steps or 0) // 2 if progressive_iter is None else progressive_iter  # 0: never
        self.rank_names = None if rank_names is None else list(rank_names)
        self.last: dict[str, Any] = {}
        self._step, self._adam_step = 0, 0
        self._base: str | None = None
        self._module = weakref.ref(model) if isinstance(model, nn.Module) else None
        self._parameters: dict[str, nn.Parameter] = {}  # all of the model, for the base's hash
        self._trainable: dict[str, nn.Parameter] = {}   # those that were looked through for entries
        self._leaves: dict[str, Tensor] = {}
        self._wrapper: Any = None                       # DistributedDataParallel, once looked for; False: there is none
        self._queued = False
        defaults = dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)
        whole = dict(zip(_BUDGETS, (threshold, fraction, count)))
        super().__init__([self._group(spec, whole, defaults, include, exclude) for spec in _specs(model)], defaults)
        for group in self.param_groups:
            for name, leaf, chosen in zip(group["names"], group["params"], group.pop("_positions")):
                self._adopt(name, leaf, chosen, group["threshold"])
        self._ask()
        hook = _hook(weakref.ref(self))
        self._hooks = [p.register_post_accumulate_grad_hook(hook) for p in self._trainable.values()]
        self._name_of = {id(p): name for name, p in self._trainable.items()}

    # ------------------------------------------------------------------------------------------------------- selection

    def _group(self, spec: Mapping[str, Any], whole: dict[str, Any], defaults: dict[str, Any], include: Patterns, exclude: Patterns) -> dict[str, Any]:
        """A param_group of the entries that the budget selects; "_positions" [selected] int32 beside its leaves."""
        unknown = set(spec) - {"params", *_BUDGETS, *defaults}
        if unknown:
            raise ValueError(f"group option {sorted(unknown)[0]!r}, expected params, {', '.join([*_BUDGETS, *defaults])}")
        parameters = named(spec["params"])
        for name in parameters:
            if name in self._parameters:
                raise ValueError(f"{name}: in two groups; give named parameters with names of their own")
        self._parameters.update(parameters)
        chosen = eligible(parameters, include, exclude)
        self._trainable.update(chosen)
        own = {kind: spec[kind] for kind in _BUDGETS if spec.get(kind) is not None} or whole
        threshold, positions = positions_below(chosen, *budget(**{kind: own.get(kind) for kind in _BUDGETS}))
        names = sorted((name for name in chosen if len(positions[name])), key=str.encode)
        leaves = [chosen[name].detach().reshape(-1)[positions[name].long()].float() for name in names]
        group = {**defaults, **{key: value for key, value in spec.items() if key in defaults}}
        group["lr"] = default_lr(threshold) if group["lr"] is None else group["lr"]
        for name, value, high in (("lr", group["lr"], float("inf")), ("eps", group["eps"] or -1, float("inf")),
                                  ("weight_decay", group["weight_decay"], float("inf")), ("betas[0]", group["betas"][0], 1), ("betas[1]", group["betas"][1], 1)):
            if not 0 <= float(value) < high:
                raise ValueError(f"{name}={value}, expected at least 0 and less than {high}")
        return {**group, "params": [leaf.requires_grad_() for leaf in leaves], "names": names, "threshold": threshold,
                "_positions": [positions[name] for name in names]}

    def _adopt(self, name: str, leaf: Tensor, positions: Tensor, threshold: float) -> None:
        self._leaves[name] = leaf
        self.state[leaf] = dict(exp_avg=torch.zeros_like(leaf), exp_avg_sq=torch.zeros_like(leaf), positions=positions,
                                frozen_positions=positions[:0], frozen_values=leaf.detach()[:0].clone())

    def _ask(self) -> None:
        """Parameters without selected entries ask autograd for nothing."""
        for name, p in self._trainable.items():
            p.requires_grad_(name in self._leaves and self._leaves[name].numel() > 0)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "names" not in param_group:
            raise ValueError("give all groups to the constructor: sara.adamw([{'params': module, 'threshold': ...}, ...])")
        super().add_param_group(param_group)

    def release(self) -> None:
        """Leaves the model to others: its parameters require gradients as before and keep them."""
        for hook in self._hooks:
            hook.remove()
        for p in self._trainable.values():
            p.requires_grad_(True)

    @torch.no_grad()
    def _reselect(self) -> None:
        """Goes on with the entries still below the threshold, moments restarted; the others stay where they are (section 4.3)."""
        for group, name, leaf in self._each():
            state = self.state[leaf]
            keep = leaf.abs() < torch.tensor(group["threshold"], dtype=torch.float32).to(leaf.device)
            state["frozen_positions"] = torch.cat([state["frozen_positions"], state["positions"][~keep]])
            state["frozen_values"] = torch.cat([state["frozen_values"], leaf[~keep]])
            state["positions"], gradient = state["positions"][keep], leaf.grad
            leaf.grad = None
            leaf.data = leaf.data[keep]
            leaf.grad = gradient[keep] if gradient is not None else None
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(leaf), torch.zeros_like(leaf)
        self._adam_step = 0
        if not self._wrapper:  # DistributedDataParallel expects every gradient that it knows
            self._ask()

    def _each(self) -> list[tuple[dict[str, Any], str, Tensor]]:
        return [(group, name, leaf) for group in self.param_groups for name, leaf in zip(group["names"], group["params"])]

    # ------------------------------------------------------------------------------------------------------- gradients

    @torch.no_grad()
    def _take(self, name: str) -> None:
        """The parameter's gradient, if there is one, into the leaf's; the dense one is freed."""
        p, leaf = self._trainable[name], self._leaves.get(name)
        dense, p.grad = p.grad, None
        if dense is None or leaf is None or leaf.numel() == 0:
            return
        self._follow(leaf, p)
        if leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)
        kernels.gather(leaf.grad, name, dense.to_dense() if dense.layout != torch.strided else dense, self.state[leaf]["positions"])

    def _follow(self, leaf: Tensor, p: Tensor) -> None:
        """To the device that the model was moved to."""
        if leaf.device != p.device:
            gradient, leaf.grad = leaf.grad, None
            leaf.data = leaf.data.to(p.device)
            leaf.grad = gradient if gradient is None else gradient.to(p.device)
            self.state[leaf] = {key: value.to(p.device) for key, value in self.state[leaf].items()}

    def _made(self, p: Tensor) -> None:
        """Autograd has accumulated into p.grad."""
        if self._wrapper is None:
            self._wrapper = distributed.processes() > 1 and distributed.find_wrapper(p) or False
        if not self._wrapper:
            self._take(self._name_of[id(p)])
        elif not self._queued:  # behind the reduction, which is queued before the last gradient is made
            self._queued = True
            Variable._execution_engine.queue_callback(lambda: Variable._execution_engine.queue_callback(self._reduced))

    def _reduced(self) -> None:
        self._queued = False
        if self._wrapper.require_backward_grad_sync:  # else more micro-batches follow
            self._take_all()

    def _take_all(self) -> None:
        for name in self._trainable:
            self._take(name)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._queued = False
        for p in self._trainable.values():
            p.grad = None
        super().zero_grad(set_to_none)

    # ------------------------------------------------------------------------------------------------------------ step

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """With GradScaler, processes that average in step() must all come here, whichever met an infinity."""
        return distributed.processes() > 1 and not self._wrapper

    def _unscale(self) -> bool:
        """Divides by GradScaler's scale where it leaves that to step(). Whether a gradient was not finite on any process."""
        infinite = getattr(self, "found_inf", None)
        scale = getattr(self, "grad_scale", None)
        leaves = [leaf for _, _, leaf in self._each() if leaf.grad is not None]
        if scale is not None:
            for leaf in leaves:
                leaf.grad.div_(scale.to(leaf.device))
        return infinite is not None and float(infinite) > 0

    def _average(self) -> None:
        leaves = [leaf for _, _, leaf in self._each()]
        if self._step == 0:
            distributed.check_same(sum(leaf.numel() for leaf in leaves), leaves[0].device)
        for leaf in leaves:
            if leaf.grad is None:
                leaf.grad = torch.zeros_like(leaf)
        distributed.average([leaf.grad for leaf in leaves])

    def _items(self, group: dict[str, Any]) -> list[kernels.Item]:
        items = []
        for name, leaf in zip(group["names"], group["params"]):
            self._follow(leaf, self._trainable[name])
            state = self.state[leaf]
            gradient = leaf.grad if leaf.grad is None or leaf.grad.is_contiguous() else leaf.grad.contiguous()
            items.append(kernels.Item(name, self._trainable[name].data, state["positions"], leaf.data, state["exp_avg"], state["exp_avg_sq"], gradient))
        return items

    def _draw_rank(self, items: Sequence[kernels.Item]) -> kernels.Item | None:
        """The matrix of this step's low-rank term."""
        by_name = {i.name: i for i in items}
        if not self.lambda_rank > 0:
            return None
        if self.rank_names is not None:
            if self._step >= len(self.rank_names):
                raise ValueError(f"rank_names: {len(self.rank_names)} names, but this is step {self._step + 1}")
            name = self.rank_names[self._step]
            if name and (name not in by_name or by_name[name].tensor.dim() != 2):
                raise ValueError(f"rank_names: {name}: no trained matrix of this name")
            return by_name[name] if name else None
        names = sorted((i.name for i in items if i.tensor.dim() == 2 and min(i.tensor.shape) > MIN_RANK_SIDE
                        and i.positions.numel() > MIN_RANK_SELECTED), key=str.encode)
        return by_name[names[lib.library.sara_tensors_draw(len(names), self.seed, self._step)]] if names else None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Reselects if it is time, clips, adds the low-rank term's gradient, and updates values and parameters (section 4)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._queued = False
        self._take_all()
        infinite = self._unscale()
        if distributed.processes() > 1 and not self._wrapper:
            self._average()
        self.base_sha256  # of the values before the first change
        items = [i for group in self.param_groups for i in self._items(group)]
        norm, rank_loss, chosen = kernels.norm(items, 1.0), 0.0, None
        due = self.progressive_iter > 0 and self._step == self.progressive_iter
        skipped = infinite and distributed.processes() == 1 or not norm < float("inf")
        if not skipped and due:
            self._reselect()
            items = [i for group in self.param_groups for i in self._items(group)]
            norm = kernels.norm(items, 1.0)
        if not skipped:
            chosen = self._draw_rank(items)
        if chosen is not None:
            rank_loss, gradient = kernels.nuclear_norm(tuple(chosen.tensor.shape), chosen.positions, chosen.values)
            rank_loss, chosen.rank = self.lambda_rank * rank_loss, gradient.mul_(self.lambda_rank)
        if not skipped:
            self._update({i.name: i for i in items}, norm)
        self.last = dict(grad_norm=norm, rank_loss=rank_loss, rank_name=chosen.name if chosen else "", skipped=skipped, reselected=due and not skipped,
                         active=sum(i.values.numel() for i in items))
        return loss

    def _update(self, items: Mapping[str, kernels.Item], norm: float) -> None:
        clip = min(1.0, self.max_grad_norm / (norm + 1e-6)) if self.max_grad_norm > 0 else 1.0
        self._step += 1
        self._adam_step += 1
        for group in self.param_groups:
            kernels.adamw([items[name] for name in group["names"]], float(group["lr"]), group["betas"], group["eps"], group["weight_decay"], 1.0, clip,
                          self._adam_step)

    # ----------------------------------------------------------------------------------------------------------- state

    @property
    def base_sha256(self) -> str:
        """Hash of the model as it was before the first step (docs/formats.md)."""
        if self._base is None:
            self._base = base_sha256(self._parameters)
        return self._base

    def state_dict(self) -> dict[str, Any]:
        """torch's, with the values and positions of the selected entries; "sara" holds the counters. A run goes on exactly, whether the
        model was loaded as it was before training or as it was saved then."""
        packed = super().state_dict()
        for index, (_, _, leaf) in enumerate(self._each()):
            packed["state"][index] = {**packed["state"][index], "values": leaf.detach()}
        packed["sara"] = dict(step=self._step, adam_step=self._adam_step, base_sha256=self.base_sha256, seed=self.seed,
                              max_grad_norm=self.max_grad_norm, lambda_rank=self.lambda_rank, progressive_iter=self.progressive_iter)
        return packed

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Also writes the values into the model."""
        if "sara" not in state_dict or len(state_dict["param_groups"]) != len(self.param_groups):
            raise ValueError(f"the state has {len(state_dict['param_groups'])} groups, expected {len(self.param_groups)} of sara.adamw")
        loaded = []
        for saved in state_dict["param_groups"]:
            for index, name in zip(saved["params"], saved["names"]):
                state = state_dict["state"][index]
                if name not in self._trainable:
                    raise ValueError(f"{name}: in the state, but no parameter of the model to be trained")
                highest = max((int(t.max()) for t in (state["positions"], state["frozen_positions"]) if len(t)), default=-1)
                if highest >= self._trainable[name].numel() or len(state["positions"]) != len(state["values"]):
                    raise ValueError(f"{name}: position {highest}, but the parameter has {self._trainable[name].numel()} entries")
                loaded.append((name, state))
        leaves = {name: self._restored(name, state) for name, state in loaded}
        self.state.clear()
        self._leaves = {}
        for group, saved in zip(self.param_groups, state_dict["param_groups"]):
            group.clear()
            group.update({**saved, "betas": tuple(saved["betas"]), "names": list(saved["names"]), "params": [leaves[name][0] for name in saved["names"]]})
        for name, (leaf, state) in leaves.items():
            self._leaves[name], self.state[leaf] = leaf, state
            for positions, values in ((state["frozen_positions"], state["frozen_values"]), (state["positions"], leaf.data)):
                kernels.put(self._trainable[name], positions, values)
        own = state_dict["sara"]
        self._step, self._adam_step, self._base, self.seed = own["step"], own["adam_step"], own["base_sha256"], own["seed"]
        self.max_grad_norm, self.lambda_rank, self.progressive_iter = own["max_grad_norm"], own["lambda_rank"], own["progressive_iter"]
        if not self._wrapper:
            self._ask()

    def _restored(self, name: str, saved: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The parameter's leaf, the present one if there is one, and its state; copies on the parameter's device."""
        device = self._trainable[name].device
        state = {key: value.detach().to(device, copy=True) for key, value in saved.items()}
        values = state.pop("values")
        leaf = self._leaves.get(name)
        if leaf is None:
            return values.requires_grad_(), state
        leaf.grad = None
        leaf.data = values
        return leaf, state

    def save(self, path: str, *, dtype: str = "fp32", target: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        """The adapter file that `sara train` would write: all entries that were selected at first, their values as dtype "fp32", "fp16" or
        "bf16". target: what it is for; None for "unet", or "transformer" where the model's class is called so."""
        parts = {}
        for _, name, leaf in self._each():
            state = self.state[leaf]
            positions = torch.cat([state["positions"], state["frozen_positions"]]).cpu()
            order = positions.argsort()
            parts[name] = (positions[order], torch.cat([leaf.detach(), state["frozen_values"]]).cpu()[order])
        module = self._module() if self._module else None
        group = self.param_groups[0]
        about = {"sara.target": target or ("transformer" if "Transformer" in type(module).__name__ else "unet"), "sara.method": "sara",
                 "sara.base_sha256": self.base_sha256, "sara.threshold": ",".join(f"{g['threshold']:.17g}" for g in self.param_groups),
                 "sara.selected": str(sum(len(p) for p, _ in parts.values())), "sara.lambda_rank": f"{self.lambda_rank:.17g}",
                 "sara.learning_rate": f"{float(group.get('initial_lr', group['lr'])):.17g}", "sara.max_grad_norm": f"{self.max_grad_norm:.17g}",
                 "sara.adam_beta1": f"{group['betas'][0]:.17g}", "sara.adam_beta2": f"{group['betas'][1]:.17g}", "sara.adam_epsilon": f"{group['eps']:.17g}",
                 "sara.adam_weight_decay": f"{group['weight_decay']:.17g}", "sara.progressive_iter": str(self.progressive_iter or -1),
                 "sara.seed": str(self.seed), "modelspec.implementation": "sara", **(metadata or {})}
        write(path, parts, about, dtype)


adamw = AdamW


def _specs(model: Model) -> list[Mapping[str, Any]]:
    """A list of groups as it is; anything else as one group."""
    if not isinstance(model, (nn.Module, Mapping)):
        model = list(model)
        if model and all(isinstance(spec, dict) for spec in model):
            return model
    return [{"params": model}]


def _hook(optimizer: "weakref.ref[AdamW]") -> Callable[[Tensor], None]:
    def made(p: Tensor) -> None:
        alive = optimizer()
        if alive is not None:
            alive._made(p)
    return made
