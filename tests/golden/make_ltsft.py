#!/usr/bin/env python3
"""Ten steps of LT-SFT in PyTorch on the micro-batches of train_KIND.safetensors: five of all
entries, then, from the base on with a fresh AdamW, five of those that moved most. Losses, norms
before clipping, positions and values after the last step. Needs torch, diffusers and safetensors:
tests/golden/make_ltsft.py"""
import math

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file

from make_full import ADAM, CLIP, HERE, RATE, STEPS, scheduler

FIRST = STEPS // 2
LEAST, MOST = 300, 4000  # the size is where among these the next change is most smaller


class Run:
    def __init__(self, kind):
        with safe_open(f"{HERE}/train_{kind}.safetensors", "pt") as file:
            self.batches = [file.get_tensor(name) for name in
                            ("latents", "noise", "timesteps", "encoder_hidden_states")]
            self.prediction = file.metadata()["prediction_type"]
        self.noise = scheduler(self.prediction)
        self.unet = UNet2DConditionModel.from_pretrained(f"{HERE}/unet_{kind}").train()
        self.params = [p for _, p in sorted(self.unet.named_parameters())]
        self.base = [p.detach().clone() for p in self.params]
        self.losses, self.norms = [], []

    def phase(self, first, steps, masks):
        optimizer = torch.optim.AdamW(self.params, lr=RATE, **ADAM)
        for step in range(steps):
            latents, added, times, states = (batch[first + step] for batch in self.batches)
            noisy = self.noise.add_noise(latents, added, times)
            target = added if self.prediction == "epsilon" else \
                self.noise.get_velocity(latents, added, times)
            loss = torch.nn.functional.mse_loss(self.unet(noisy, times, states).sample, target)
            loss.backward()
            for p, mask in zip(self.params, masks or []):
                p.grad *= mask
            self.norms.append(float(torch.nn.utils.clip_grad_norm_(self.params, CLIP)))
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for p, base, mask in zip(self.params, self.base, masks or []):
                    p[~mask] = base[~mask]
            self.losses.append(loss.item())

    def rewind(self):
        """The masks of the entries that moved most, all of which go back."""
        moved = [(p.detach() - base).abs() for p, base in zip(self.params, self.base)]
        order = torch.sort(torch.cat([m.flatten() for m in moved]), descending=True).values
        gaps = 1 - order[LEAST:MOST] / order[LEAST - 1:MOST - 1]
        size = LEAST + int(gaps.argmax())
        print("size", size, "gap", float(gaps.max()))
        limit = order[size - 1]
        with torch.no_grad():
            for p, base in zip(self.params, self.base):
                p.copy_(base)
        return size, [m >= limit for m in moved]


def main(kind):
    run = Run(kind)
    run.phase(0, FIRST, None)
    size, masks = run.rewind()
    run.phase(FIRST, STEPS - FIRST, masks)
    tensors = {"losses": torch.tensor(run.losses), "grad_norms": torch.tensor(run.norms)}
    names = sorted(name for name, _ in run.unet.named_parameters())
    for name, p, mask in zip(names, run.params, masks):
        if mask.any():
            tensors[f"index.{name}"] = mask.flatten().nonzero().flatten().to(torch.int32)
            tensors[f"after.{name}"] = p.detach()[mask].clone()
    settings = dict(learning_rate=str(RATE), max_grad_norm=str(CLIP), adam_weight_decay="0.1",
                    adam_epsilon="1e-6", lr_scheduler="cosine", max_train_steps=str(STEPS),
                    prediction_type=run.prediction, trainable=str(size), ltsft_steps=str(FIRST))
    save_file(tensors, f"{HERE}/ltsft_{kind}.safetensors", settings)


if __name__ == "__main__":
    torch.manual_seed(0)
    for name in ("sd1", "sd2"):
        main(name)
