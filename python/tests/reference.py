"""The SaRA update, written once in plain PyTorch as the definition that other implementations are
compared with.

Source: Hu et al., "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse
Low-Rank Adaptation", ICLR 2025 (arXiv 2409.06633), sections 4.1-4.4. Nothing here is fast:
gradients are formed densely and then gathered."""
import math

import torch

MIN_RANK_SIDE = 64         # the low-rank term takes matrices whose smaller side is over this
MIN_RANK_SELECTED = 100    # ... with more selected entries than this


def default_learning_rate(threshold):
    return 1e-3 * math.exp(-350.0 * threshold)


def below(tensor, threshold):
    """|p| < threshold, compared in float32 whatever the tensor's dtype; a tie is not below."""
    return tensor.detach().float().abs() < torch.tensor(threshold, dtype=torch.float32)


def select(parameters, threshold):
    """The mask of every tensor: weights, biases and norms alike."""
    return {name: below(p, threshold) for name, p in parameters.items()}


def threshold_for_count(parameters, count):
    """The threshold that selects at most `count` entries: the magnitude with `count`
    smaller-or-equal ones before it.

    Entries equal to the threshold are not selected, so ties (16-bit weights) may leave the count
    short. All entries: infinity."""
    magnitudes = torch.cat([p.detach().flatten().float().abs() for p in parameters.values()])
    return math.inf if count >= magnitudes.numel() else magnitudes.kthvalue(count + 1).values.item()


def threshold_for_fraction(parameters, fraction):
    total = sum(p.numel() for p in parameters.values())
    return threshold_for_count(parameters, round(fraction * total))


def low_rank_names(parameters, masks):
    """Candidates of the low-rank term under the current mask; one is drawn at each step."""
    return [name for name, p in parameters.items()
            if p.dim() == 2 and min(p.shape) > MIN_RANK_SIDE
            and int(masks[name].sum()) > MIN_RANK_SELECTED]


def nuclear_norm(matrix):
    """Sum of singular values and the subgradient U V^T over the nonzero singular values (in
    double)."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    keep = s > s.max() * max(matrix.shape) * torch.finfo(torch.float64).eps
    return s.sum().item(), u[:, keep] @ vh[keep]


class Sara:
    """One optimiser step at a time over a dict of named tensors, which it updates in place.

    The selected entries live in float32 (`values`); the tensors hold them rounded to their own
    dtype."""

    def __init__(self, parameters, threshold, lr=None, betas=(0.9, 0.999), eps=1e-8,
                 weight_decay=1e-2,
                 max_grad_norm=1.0, lambda_rank=0.0, progressive_iter=-1):
        self.parameters = parameters
        self.threshold = threshold
        self.lr = default_learning_rate(threshold) if lr is None else lr
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.max_grad_norm = max_grad_norm
        self.lambda_rank = lambda_rank
        self.progressive_iter = progressive_iter
        self.step_count = 0          # optimiser steps done
        masks = select(parameters, threshold)
        self._use(masks, {name: parameters[name].detach()[m].float() for name, m in masks.items()})

    def _use(self, masks, values):
        self.masks, self.values = masks, values
        self.moments = {name: [torch.zeros_like(v), torch.zeros_like(v)]
                        for name, v in values.items()}
        self.adam_step = 0           # steps since the moments were last reset

    def _reselect(self):
        """Keep training only the selected entries that are still below the threshold; restart their
        moments."""
        masks, values = {}, {}
        for name, m in self.masks.items():
            still = below(self.values[name], self.threshold)
            masks[name], values[name] = m.clone(), self.values[name][still]
            masks[name][m] = still
        self._use(masks, values)

    def _low_rank(self, name):
        """lambda * nuclear norm of P * M, and its gradient at M."""
        m = self.masks[name]
        matrix = torch.zeros(m.shape)
        matrix[m] = self.values[name]
        value, subgradient = nuclear_norm(matrix)
        return self.lambda_rank * value, self.lambda_rank * subgradient[m].float()

    @torch.no_grad()
    def step(self, gradients, lr_scale=1.0, rank_name=None):
        """gradients: name -> dense gradient of the task loss. rank_name: the matrix that the
        low-rank term takes.

        Order: reselect (when step_count == progressive_iter) -> gather -> clip by the global norm
        of the gathered gradients -> add the low-rank gradient -> AdamW with decoupled weight decay
        on the selected entries. Returns (gradient norm before clipping, low-rank loss)."""
        if self.step_count == self.progressive_iter:
            self._reselect()
        picked = {name: gradients[name][m].float() for name, m in self.masks.items()}
        norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in picked.values()))
        if self.max_grad_norm > 0:
            scale = min(1.0, self.max_grad_norm / (norm + 1e-6))
            picked = {name: g * scale for name, g in picked.items()}
        rank_loss = 0.0
        if rank_name is not None and self.lambda_rank > 0:
            rank_loss, gradient = self._low_rank(rank_name)
            picked[rank_name] = picked[rank_name] + gradient
        self.adam_step += 1
        self.step_count += 1
        self._adamw(picked, self.lr * lr_scale)
        return norm, rank_loss

    def _adamw(self, picked, lr):
        c1 = 1 - self.betas[0] ** self.adam_step
        c2 = 1 - self.betas[1] ** self.adam_step
        for name, p in self.values.items():
            g, (m1, m2) = picked[name], self.moments[name]
            m1.mul_(self.betas[0]).add_(g, alpha=1 - self.betas[0])
            m2.mul_(self.betas[1]).addcmul_(g, g, value=1 - self.betas[1])
            p.mul_(1 - lr * self.weight_decay)
            p.addcdiv_(m1, (m2.sqrt() / math.sqrt(c2)).add_(self.eps), value=-lr / c1)
            tensor = self.parameters[name]
            tensor[self.masks[name]] = p.to(tensor.dtype)
