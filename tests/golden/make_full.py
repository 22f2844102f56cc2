#!/usr/bin/env python3
"""Ten steps of full fine-tuning in PyTorch on the micro-batches of train_KIND.safetensors: losses,
norms before clipping, and of each parameter every STRIDE-th value after the last step. Needs torch,
diffusers and safetensors: tests/golden/make_full.py"""
import math
import os

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, STRIDE, RATE, CLIP = 10, 97, 1e-3, 0.5
ADAM = dict(betas=(0.9, 0.999), eps=1e-6, weight_decay=0.1)


def scheduler(prediction):
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                         num_train_timesteps=1000, prediction_type=prediction)


def cosine(step):
    return 0.5 * (1 + math.cos(math.pi * step / STEPS))


def main(kind):
    with safe_open(f"{HERE}/train_{kind}.safetensors", "pt") as file:
        batches = {name: file.get_tensor(name) for name in
                   ("latents", "noise", "timesteps", "encoder_hidden_states")}
        prediction = file.metadata()["prediction_type"]
    noise = scheduler(prediction)
    unet = UNet2DConditionModel.from_pretrained(f"{HERE}/unet_{kind}").train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE, **ADAM)
    losses, norms = [], []
    for step in range(STEPS):
        latents, added, times, states = (batches[name][step] for name in batches)
        noisy = noise.add_noise(latents, added, times)
        target = added if prediction == "epsilon" else noise.get_velocity(latents, added, times)
        loss = torch.nn.functional.mse_loss(unet(noisy, times, states).sample, target)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(unet.parameters(), CLIP)))
        optimizer.param_groups[0]["lr"] = RATE * cosine(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    after = {f"after.{name}": p.detach().flatten()[::STRIDE].clone()
             for name, p in unet.named_parameters()}
    settings = dict(learning_rate=str(RATE), max_grad_norm=str(CLIP), adam_weight_decay="0.1",
                    adam_epsilon="1e-6", lr_scheduler="cosine", max_train_steps=str(STEPS),
                    prediction_type=prediction, stride=str(STRIDE))
    save_file({"losses": torch.tensor(losses), "grad_norms": torch.tensor(norms), **after},
              f"{HERE}/full_{kind}.safetensors", settings)


if __name__ == "__main__":
    torch.manual_seed(0)
    for name in ("sd1", "sd2"):
        main(name)
