#!/usr/bin/env python3
"""The entries of the largest sums of gradients over the micro-batches of train_sd1.safetensors, by
PyTorch: their indices among all entries in the order of names. Needs torch, diffusers and
safetensors: tests/golden/make_gradient_mask.py"""
import os

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file

from make_full import scheduler

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, ABOUT, GAP = 7, 2000, 2e-3


def main():
    with safe_open(f"{HERE}/train_sd1.safetensors", "pt") as file:
        batches = [file.get_tensor(name) for name in
                   ("latents", "noise", "timesteps", "encoder_hidden_states")]
        assert file.metadata()["prediction_type"] == "epsilon"
    unet = UNet2DConditionModel.from_pretrained(f"{HERE}/unet_sd1").train()
    noise = scheduler("epsilon")
    for step in range(STEPS):
        latents, added, times, states = (batch[step] for batch in batches)
        noisy = noise.add_noise(latents, added, times)
        torch.nn.functional.mse_loss(unet(noisy, times, states).sample, added).backward()
    sums = torch.cat([p.grad.flatten() for _, p in sorted(unet.named_parameters())]).abs()
    order = torch.sort(sums, descending=True, stable=True)
    # so many that rounding does not decide which is the last
    most = next(n for n in range(ABOUT, sums.numel())
                if order.values[n] < order.values[n - 1] * (1 - GAP))
    chosen = torch.sort(order.indices[:most]).values.to(torch.int32)
    save_file({"chosen": chosen}, f"{HERE}/gradient_mask.safetensors",
              {"mask_steps": str(STEPS), "trainable": str(most)})


if __name__ == "__main__":
    main()
