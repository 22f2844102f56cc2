#!/usr/bin/env python3
"""Ten steps of SaRA in PyTorch on families/sd35_medium/transformer, a flow: losses, norms before
clipping, the selected positions and their values after the last step. Its matrices are too small
for the low-rank term. Needs torch, diffusers and safetensors: tests/golden/make_mmdit_train.py"""
import math
import os

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "families", "sd35_medium")
STEPS, BATCH, SIDES, TOKENS = 10, 2, (4, 6), 5
FRACTION, RESELECT, RATE, CLIP, DECAY = 0.04, 6, 2e-3, 1.0, 0.01
BETAS, EPS = (0.9, 0.999), 1e-8


def micro_batches(g):
    """Noise levels as diffusers' script draws them: logit-normal ones of the shifted schedule."""
    schedule = FlowMatchEulerDiscreteScheduler(shift=3.0)
    at = (torch.sigmoid(torch.randn(STEPS, BATCH, generator=g)) * 1000).long()
    shape = (STEPS, BATCH, 16, *SIDES)
    return {"latents": torch.randn(shape, generator=g), "noise": torch.randn(shape, generator=g),
            "timesteps": schedule.timesteps[at], "sigmas": schedule.sigmas[at],
            "encoder_hidden_states": torch.randn(STEPS, BATCH, TOKENS, 64, generator=g),
            "pooled": torch.randn(STEPS, BATCH, 48, generator=g)}


def loss_of(model, x):
    sigma = x["sigmas"][:, None, None, None]
    velocity = model(hidden_states=(1 - sigma) * x["latents"] + sigma * x["noise"],
                     timestep=x["timesteps"], encoder_hidden_states=x["encoder_hidden_states"],
                     pooled_projections=x["pooled"]).sample
    return torch.nn.functional.mse_loss(velocity, x["noise"] - x["latents"])


def parts_of(params, masks):
    """The selected entries of each parameter, and moments of zeros."""
    values = {n: p.detach()[masks[n]].clone() for n, p in params.items()}
    return values, {n: (torch.zeros_like(v), torch.zeros_like(v)) for n, v in values.items()}


def update(values, moments, picked, step, rate):
    for n, v in values.items():
        first, second = moments[n]
        first.mul_(BETAS[0]).add_(picked[n], alpha=1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(picked[n], picked[n], value=1 - BETAS[1])
        v.mul_(1 - rate * DECAY)
        scale = (second.sqrt() / math.sqrt(1 - BETAS[1] ** step)).add_(EPS)
        v.addcdiv_(first, scale, value=-rate / (1 - BETAS[0] ** step))


def train(model, batches, threshold, masks):
    """Losses, norms, and how near to the threshold an entry was when they were selected again."""
    params, losses, norms, since = dict(model.named_parameters()), [], [], 0
    values, moments = parts_of(params, masks)
    for i in range(STEPS):
        model.zero_grad()
        loss = loss_of(model, {n: t[i] for n, t in batches.items()})
        loss.backward()
        if i == RESELECT:
            margin = min(float((v.abs() - threshold).abs().min()) for v in values.values()
                         if len(v))
            masks = {n: m & (params[n].detach().abs() < threshold) for n, m in masks.items()}
            values, moments = parts_of(params, masks)
            since = 0
        picked = {n: params[n].grad[m] for n, m in masks.items()}
        norm = math.sqrt(sum(float(p.double().square().sum()) for p in picked.values()))
        picked = {n: p * min(1.0, CLIP / (norm + 1e-6)) for n, p in picked.items()}
        since += 1
        update(values, moments, picked, since, RATE * 0.5 * (1 + math.cos(math.pi * i / STEPS)))
        with torch.no_grad():
            for n, m in masks.items():
                params[n][m] = values[n]
        losses.append(loss.item())
        norms.append(norm)
    return losses, norms, margin


def main():
    g = torch.Generator().manual_seed(7)
    while True:
        model = SD3Transformer2DModel.from_pretrained(f"{FOLDER}/transformer").float().train()
        params = dict(model.named_parameters())
        sizes = torch.cat([p.detach().flatten().abs() for p in params.values()])
        threshold = sizes.kthvalue(int(FRACTION * len(sizes)) + 1).values.item()
        masks = {n: p.detach().abs() < threshold for n, p in params.items()}
        selected, batches = int(sum(m.sum() for m in masks.values())), micro_batches(g)
        losses, norms, margin = train(model, batches, threshold, masks)
        if margin > 0.01 / selected * threshold:
            break
    tensors = {**batches, "losses": torch.tensor(losses), "grad_norms": torch.tensor(norms)}
    for n, m in masks.items():
        tensors[f"index.{n}"] = m.flatten().nonzero().flatten().int()
        tensors[f"after.{n}"] = params[n].detach()[m].clone()
    settings = dict(threshold=repr(threshold), learning_rate=str(RATE), lambda_rank="0.0",
                    lr_scheduler="cosine", max_grad_norm=str(CLIP), progressive_iter=str(RESELECT),
                    adam_weight_decay=str(DECAY), prediction_type="flow_prediction",
                    selected=str(selected), shift="3.0",
                    max_train_steps=str(STEPS), reselection_margin=repr(margin))
    save_file({n: t.contiguous() for n, t in tensors.items()}, f"{FOLDER}/train.safetensors",
              settings)
    print(selected, threshold, losses, norms, margin)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
