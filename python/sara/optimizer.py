"""The optimiser: AdamW on the selected entries alone, whose gradients are taken as autograd makes
them."""
from __future__ import annotations

import math
import sys
from typing import Any, Callable, Iterable, Mapping, Sequence, Union

import torch
from torch import nn

from . import _state as state
from . import _update as update
from ._state import OWN
from ._training import BUDGETS, Training, check_option
from .selection import Patterns

Model = Union[nn.Module, Mapping[str, nn.Parameter], Iterable[Any]]


class _Shared:
    """An attribute of the training, which wrappers around the optimiser have too (Lightning's and
    Fabric's are subclasses made on the fly)."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: Any = None) -> Any:
        return self if optimizer is None else getattr(optimizer._training, self.name)

    def __set__(self, optimizer: Any, value: Any) -> None:
        setattr(optimizer._training, self.name, value)


class AdamW(torch.optim.Optimizer):
    """SaRA (arXiv 2409.06633) as a torch optimiser.

    model: a module, named parameters, or a list of groups {"params": module or named parameters,
        and any of threshold, fraction, count, lr, betas, eps, weight_decay}. Of each tensor that
        requires a gradient the entries with |p| < threshold are trained.
    threshold | fraction | count: the budget, 5.8 % of the entries if none is given (section 4.1).
    lr: None for 1e-3 exp(-350 threshold).
    max_grad_norm: of the selected entries' gradients together; 0 leaves clipping to the caller.
    lambda_rank: weight of the nuclear norm of one matrix P * M in each step (section 4.2), drawn by
        seed, or the step's of rank_names.
    progressive_iter: before this step (from 0) only entries still below the threshold go on being
        trained, with new moments (section 4.3); or total_steps, of which it is half. Neither, or
        0: never.
    include, exclude: shell patterns of parameter names.

    param_groups hold a float32 tensor [selected] for each parameter with selected entries, with its
    .grad; "names" are the parameters'. The model's parameters stay as they are: step() writes the
    values into them, rounded to their dtype; their .grad is taken as soon as autograd has made it
    (section 4.4). Whatever else is written to the parameters or to these tensors is heeded. After a
    step `last` tells grad_norm (before clipping), rank_loss, rank_name, active (entries), skipped
    (gradients not finite: nothing was changed), reselected.
    """

    max_grad_norm, lambda_rank, progressive_iter, seed, rank_names = (_Shared() for _ in range(5))

    def __init__(self, model: Model, threshold: float | None = None, *,
                 fraction: float | None = None, count: float | None = None, lr: float | None = None,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2, max_grad_norm: float = 1.0, lambda_rank: float = 5e-4,
                 progressive_iter: int | None = None, total_steps: int | None = None,
                 include: Patterns = None, exclude: Patterns = None,
                 rank_names: Sequence[str] | None = None, seed: int = 42) -> None:
        if progressive_iter is not None and total_steps is not None:
            raise ValueError(f"progressive_iter={progressive_iter} and total_steps={total_steps}: "
                             "expected one of them")
        own = dict(max_grad_norm=max_grad_norm, lambda_rank=lambda_rank, seed=seed,
                   progressive_iter=(total_steps or 0) // 2 if progressive_iter is None
                   else progressive_iter)
        for name in OWN:
            check_option(name, own[name], whole=name in ("progressive_iter", "seed"))
        defaults = dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)
        whole = dict(zip(BUDGETS, (threshold, fraction, count)))
        self._training = Training(_specs(model), defaults, whole, include, exclude,
                                  {**own, "rank_names": rank_names})
        super().__init__(self._training.groups, defaults)
        self._training.begin(self.param_groups, self.state)  # type: ignore[arg-type]

    @property
    def last(self) -> dict[str, Any]:
        """What the last step did; reads it from the device."""
        t = self._training
        t.read_count()
        numbers: dict[str, Any] = dict(grad_norm=math.nan, rank_loss=0.0, rank_name="",
                                       skipped=False, reselected=False)
        for name, value in t.numbers.items():
            number = value.item() if isinstance(value, torch.Tensor) else value
            numbers[name] = bool(number) if name == "skipped" else number
        numbers["rank_loss"] *= numbers.pop("weight", 0)
        # No entries before the first step, as there is nothing to tell.
        active = sum(t.total.count(name) for name in t.leaves) if t.numbers else 0
        return {**numbers, "active": active}

    @property
    def base_sha256(self) -> str:
        """Hash of the model as it was before the first step (docs/formats.md)."""
        return self._training.base_of_model()[0]

    @property
    def base_precision(self) -> str | None:
        return self._training.base_of_model()[1]

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("sara.adamw belongs to its model's tensors and cannot be copied or "
                        "pickled; state_dict() and load_state_dict() do that")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "names" not in param_group:
            raise ValueError("give all groups to the constructor: "
                             "sara.adamw([{'params': module, 'threshold': ...}, ...])")
        super().add_param_group(param_group)

    # GradScaler then calls step() always and leaves the unscaling and the skipping to it.
    _step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Reselects if it is time, clips, adds the low-rank term's gradient, and updates values and
        parameters (section 4). Without any gradient nothing happens."""
        t = self._training
        t.state, t.groups = self.state, self.param_groups  # type: ignore[assignment]
        if t.rank_names is not None and t.draws >= len(t.rank_names):
            raise ValueError(f"rank_names: {len(t.rank_names)} names, but this is step "
                             f"{t.draws + 1}")
        with torch.enable_grad():
            loss = None if closure is None else closure()
        update.step(t, getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._training.gradients.forget()
        self._training.gradients.zero(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """torch's, with the selected entries' values and positions, and "sara". A run goes on
        exactly from the base and from the trained model. Of sharded parameters all processes call
        it."""
        if sys._getframe(1).f_globals.get("__name__") == "torch.distributed.checkpoint.state_dict":
            raise ValueError("get_optimizer_state_dict finds no parameters of the model in "
                             "sara.adamw's groups; save optimizer.state_dict(), which is whole in "
                             "every process")
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        first, groups = 0, []
        for group in self._training.groups:
            own = {key: value for key, value in group.items() if key != "params"}
            groups.append({**own, "params": list(range(first, first + len(group["names"])))})
            first += len(group["names"])
        packed = state.pack(self._training, {"state": {}, "param_groups": groups})
        for after in self._optimizer_state_dict_post_hooks.values():
            packed = after(self, packed) or packed
        return packed

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Also writes the values into the model."""
        own = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            own = before(self, own) or own
        state.unpack(self._training, own)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def save(self, path: str, *, dtype: str = "fp32", target: str | None = None,
             metadata: Mapping[str, str] | None = None) -> None:
        """The adapter file that `sara train` would write, of all entries selected at first; values
        as "fp32", "fp16" or "bf16". target: None for "unet", or "transformer" where the model's
        class is called so. Of sharded parameters all processes call it, and one writes."""
        state.save(self._training, path, dtype, target, metadata)


adamw = AdamW


def _specs(model: Model) -> list[Mapping[str, Any]]:
    """A list of groups as it is; anything else as one group."""
    if isinstance(model, (nn.Module, Mapping)):
        return [{"params": model}]
    groups = list(model)
    if groups and all(isinstance(spec, dict) for spec in groups):
        return groups
    return [{"params": groups}]
