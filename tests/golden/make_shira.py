#!/usr/bin/env python3
"""Ten steps of PEFT's SHiRA on the micro-batches of train_KIND.safetensors, with the entries that
sara draws as its mask_fn: losses, norms before clipping, positions and values after the last step.
Needs torch, diffusers, peft and safetensors: tests/golden/make_shira.py"""
import os
import sys

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from peft import ShiraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file

from make_full import CLIP, HERE, RATE, STEPS, cosine, scheduler

sys.path.insert(0, os.path.join(HERE, "..", "sparse"))
import make_masks  # noqa: E402

RANK = 2
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
ADAM = dict(betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0)  # PEFT's decays the change


def inject(unet):
    """The model with the adapter, and each trained layer's name."""
    numbers = {name: i for i, (name, _) in enumerate(sorted(unet.named_parameters()))}
    layers = {id(module): name for name, module in unet.named_modules()}

    def mask(layer, r, **_):
        out, inner = layer.weight.shape
        draws = make_masks.draws(numbers[layers[id(layer)] + ".weight"], out * inner)
        result = torch.zeros(out * inner)
        result[torch.from_numpy(make_masks.largest(draws, r * (out + inner)))] = 1
        return result.reshape(out, inner)

    config = ShiraConfig(r=RANK, target_modules=TARGETS)
    config.mask_fn = mask
    return get_peft_model(unet, config)


def main(kind):
    with safe_open(f"{HERE}/train_{kind}.safetensors", "pt") as file:
        batches = {name: file.get_tensor(name) for name in
                   ("latents", "noise", "timesteps", "encoder_hidden_states")}
        prediction = file.metadata()["prediction_type"]
    noise = scheduler(prediction)
    model = inject(UNet2DConditionModel.from_pretrained(f"{HERE}/unet_{kind}")).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, **ADAM)
    losses, norms = [], []
    for step in range(STEPS):
        latents, added, times, states = (batches[name][step] for name in batches)
        noisy = noise.add_noise(latents, added, times)
        target = added if prediction == "epsilon" else noise.get_velocity(latents, added, times)
        loss = torch.nn.functional.mse_loss(model(noisy, times, states).sample, target)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, CLIP)))
        optimizer.param_groups[0]["lr"] = RATE * cosine(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    tensors = {"losses": torch.tensor(losses), "grad_norms": torch.tensor(norms)}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "shira_indices"):
            row, col = module.shira_indices["default"].long()
            delta = module.get_delta_weight("default").to_dense()
            changed = module.base_layer.weight.detach() + delta
            tensors[f"after.{name}.weight"] = changed[row, col].detach().clone()
            tensors[f"index.{name}.weight"] = (row * changed.shape[1] + col).to(torch.int32)
    settings = dict(learning_rate=str(RATE), max_grad_norm=str(CLIP), adam_weight_decay="0",
                    adam_epsilon="1e-6", lr_scheduler="cosine", max_train_steps=str(STEPS),
                    prediction_type=prediction, rank=str(RANK), seed=str(make_masks.SEED))
    save_file(tensors, f"{HERE}/shira_{kind}.safetensors", settings)


def write_folder():
    """A folder as PEFT writes it, of few layers, with random changes."""
    config = ShiraConfig(r=1, target_modules=r".*attn1\.to_q", random_seed=7)
    config.init_weights = False
    model = get_peft_model(UNet2DConditionModel.from_pretrained(f"{HERE}/unet_sd1"), config)
    model.save_pretrained(f"{HERE}/shira_peft")
    os.remove(f"{HERE}/shira_peft/README.md")


if __name__ == "__main__":
    torch.manual_seed(0)
    write_folder()
    for kind in ("sd1", "sd2"):
        main(kind)
