#!/usr/bin/env python3
"""Ten steps of AdaptFormer in PyTorch, written out here, on the micro-batches of
train_KIND.safetensors: losses, norms before clipping, the U-Net's outputs at two strengths, the
values it starts from, as a
file that --adapter takes, and of each every STRIDE-th after the last step. Needs torch, diffusers
and safetensors: tests/golden/make_adaptformer.py SARA [KIND], SARA a built program, which writes
the file's head alone (the base's hash)."""
import math
import os
import subprocess
import sys
import tempfile

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file

from make_full import cosine, scheduler

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, STRIDE, RATE, CLIP, WIDTH, SCALE = 10, 7, 2e-3, 0.5, 8, 0.5
ADAM = dict(betas=(0.9, 0.999), eps=1e-6, weight_decay=0.1)


class Beside(torch.nn.Module):
    """The feed-forward of a block and the bottleneck beside it, of the same input."""

    def __init__(self, layer, channels, draw):
        super().__init__()
        self.strength = 1
        self.layer = layer
        self.down = torch.nn.Linear(channels, WIDTH)
        self.up = torch.nn.Linear(WIDTH, channels)
        with torch.no_grad():  # all that there is has a value, so that an error in any is seen
            for p in (self.down.weight, self.down.bias, self.up.weight, self.up.bias):
                p.copy_(torch.randn(p.shape, generator=draw) * 0.2)

    def forward(self, x):
        return self.layer(x) + self.strength * SCALE * self.up(torch.relu(self.down(x)))


def base_hash(sara, kind):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sara, "train", "--unet-only", f"{HERE}/unet_{kind}", "--replay",
                        f"{HERE}/train_{kind}.safetensors", "--max_train_steps", "1", "-o",
                        f"{folder}/run"], check=True, capture_output=True)
        with safe_open(f"{folder}/run/adapter.safetensors", "pt") as file:
            return file.metadata()["sara.base_sha256"]


def output(unet, beside, kind, strength):
    """Of the golden sample, with the values that training starts from."""
    with safe_open(f"{HERE}/unet_{kind}/golden.safetensors", "pt") as file:
        inputs = [file.get_tensor(name) for name in ("sample", "timestep", "encoder_hidden_states")]
    for module in beside.values():
        module.strength = strength
    with torch.no_grad():
        result = unet(*inputs).sample
    for module in beside.values():
        module.strength = 1
    return result


def main(sara, kind):
    with safe_open(f"{HERE}/train_{kind}.safetensors", "pt") as file:
        batches = {name: file.get_tensor(name) for name in
                   ("latents", "noise", "timesteps", "encoder_hidden_states")}
        prediction = file.metadata()["prediction_type"]
    noise, draw = scheduler(prediction), torch.Generator().manual_seed(5)
    unet = UNet2DConditionModel.from_pretrained(f"{HERE}/unet_{kind}").train().requires_grad_(False)
    beside = {}
    for name, block in sorted(unet.named_modules()):
        if hasattr(block, "ff"):
            beside[name + ".ff"] = block.ff = Beside(
                block.ff, block.norm3.normalized_shape[0], draw)
    trained = {f"{name}.{part}.{of}": getattr(getattr(module, part), of)
               for name, module in beside.items() for part in ("down", "up")
               for of in ("weight", "bias")}
    start = {name: p.detach().clone() for name, p in trained.items()}
    drawn = {f"output_{strength}": output(unet, beside, kind, strength) for strength in (1, 0.5)}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, **ADAM)
    losses, norms = [], []
    for step in range(STEPS):
        latents, added, times, states = (batches[name][step] for name in batches)
        noisy = noise.add_noise(latents, added, times)
        target = added if prediction == "epsilon" else noise.get_velocity(latents, added, times)
        loss = torch.nn.functional.mse_loss(unet(noisy, times, states).sample, target)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), CLIP)))
        optimizer.param_groups[0]["lr"] = RATE * cosine(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    after = {f"after.{name}": p.detach().flatten()[::STRIDE].clone() for name, p in trained.items()}
    settings = dict(learning_rate=str(RATE), max_grad_norm=str(CLIP), adam_weight_decay="0.1",
                    adam_epsilon="1e-6", lr_scheduler="cosine", max_train_steps=str(STEPS),
                    prediction_type=prediction, stride=str(STRIDE))
    save_file({"losses": torch.tensor(losses), "grad_norms": torch.tensor(norms), **drawn, **after},
              f"{HERE}/adaptformer_{kind}.safetensors", settings)
    save_file(start, f"{HERE}/adaptformer_{kind}_start.safetensors",
              {"sara.format": "1", "sara.method": "adaptformer", "sara.target": "unet",
               "sara.adapter_scale": str(SCALE), "sara.base_sha256": base_hash(sara, kind)})


if __name__ == "__main__":
    torch.manual_seed(0)
    for name in sys.argv[2:] or ("sd1", "sd2"):
        main(sys.argv[1], name)
