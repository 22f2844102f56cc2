#!/usr/bin/env python3
"""Ten steps of LoRA and DoRA by PEFT on the micro-batches of train_KIND.safetensors: losses, norms
before clipping, the values that training starts from (PEFT's own, up zero), as a file of kohya's
layout that --adapter takes, and of each tensor every STRIDE-th value after the last step. Needs
torch, diffusers, peft and safetensors: tests/golden/make_lora.py"""
import os

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file

from make_full import cosine, scheduler

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, STRIDE, RATE, CLIP = 10, 13, 2e-3, 0.5
ADAM = dict(betas=(0.9, 0.999), eps=1e-6, weight_decay=0.1)
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
PARTS = {".lora_A.default.weight": ".lora_down.weight", ".lora_B.default.weight": ".lora_up.weight",
         ".lora_magnitude_vector.default.weight": ".dora_scale"}


def kohya_name(name):
    for part, end in PARTS.items():
        if name.endswith(part):
            return "lora_unet_" + name[:-len(part)].replace(".", "_") + end
    raise ValueError(name)


def kohya_value(name, value):
    """PEFT has magnitudes [out] or [1,out,1,1]; kohya's layout [out,1] or [out,1,1,1]."""
    value = value.detach().clone()
    if "magnitude" in name:
        value = value.reshape([-1] + [1] * max(1, value.dim() - 1))
    return value


def layers_of(unet, every):
    if not every:
        return ATTENTION
    return [name for name, module in unet.named_modules()
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))]


def main(name, kind, rank, alpha, dora, every):
    with safe_open(f"{HERE}/train_{kind}.safetensors", "pt") as file:
        batches = {key: file.get_tensor(key) for key in
                   ("latents", "noise", "timesteps", "encoder_hidden_states")}
        prediction = file.metadata()["prediction_type"]
    noise = scheduler(prediction)
    unet = UNet2DConditionModel.from_pretrained(f"{HERE}/unet_{kind}").train().requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian",
                                target_modules=layers_of(unet, every), use_dora=dora))
    trained = {key: p for key, p in unet.named_parameters() if p.requires_grad}
    start = {kohya_name(key): kohya_value(key, p) for key, p in trained.items()}
    for key in [key for key in start if key.endswith(".lora_down.weight")]:
        start[key.replace(".lora_down.weight", ".alpha")] = torch.tensor(float(alpha))
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, **ADAM)
    losses, norms = [], []
    for step in range(STEPS):
        latents, added, times, states = (batches[key][step] for key in batches)
        noisy = noise.add_noise(latents, added, times)
        target = added if prediction == "epsilon" else noise.get_velocity(latents, added, times)
        loss = torch.nn.functional.mse_loss(unet(noisy, times, states).sample, target)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), CLIP)))
        optimizer.param_groups[0]["lr"] = RATE * cosine(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    after = {key: value for key, value in start.items() if key.endswith(".alpha")}
    after.update({kohya_name(key): kohya_value(key, p) for key, p in trained.items()})
    after = {f"after.{key}": value.flatten()[::STRIDE].clone() for key, value in after.items()}
    settings = dict(learning_rate=str(RATE), max_grad_norm=str(CLIP), adam_weight_decay="0.1",
                    adam_epsilon="1e-6", lr_scheduler="cosine", max_train_steps=str(STEPS),
                    prediction_type=prediction, stride=str(STRIDE))
    save_file({"losses": torch.tensor(losses), "grad_norms": torch.tensor(norms), **after},
              f"{HERE}/{name}_{kind}.safetensors", settings)
    save_file(start, f"{HERE}/{name}_{kind}_start.safetensors")


if __name__ == "__main__":
    torch.manual_seed(0)
    main("lora", "sd1", 4, 3, False, False)
    main("lora_all", "sd2", 2, 5, False, True)
    main("dora", "sd2", 4, 3, True, False)
    main("dora_all", "sd1", 2, 5, True, True)
