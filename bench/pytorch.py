"""sara.adamw against PyTorch's own ways on the CPU: memory that a step needs beyond the loaded
model, and time of the optimiser.

    pip install torch diffusers ./python
    python bench/pytorch.py [--shape small|sd15] [--rounds 3] [--latent 32] [--batch 1] [--steps 4]
        [--fraction 0.058] [--json FILE]
    python bench/pytorch.py --only METHOD      one run, as JSON

METHOD: adamw (torch.optim.AdamW on all parameters) | fused (the same with fused=True) | masked
(dense gradients, gathered at the mask, AdamW on the selected entries; bench/peer_step.py) | sara.
Each run is a process of its own on a U-Net of SD1.5's structure with random weights, 142M of them
or (--shape sd15, 16 GiB) SD1.5's 860M; a round is one run of each. Seconds are the best step's, the
first not counted. growth: most resident memory of forward, backward and step less that of the
loaded model. optimiser: step(), for sara with the gathering in backward; freeing gradients counts
for none.
"""
import argparse
import json
import subprocess
import sys
import time

import torch

BARS = (("growth", "adamw", 0.6), ("growth", "masked", 0.75), ("optimiser", "adamw", 0.2))


def memory(key):
    with open("/proc/self/status", encoding="ascii") as f:
        return next(int(line.split()[1]) / 2**20 for line in f if line.startswith(key))


def unet(shape):
    from diffusers import UNet2DConditionModel
    torch.manual_seed(0)
    channels = {"small": (128, 256, 512, 512), "sd15": (320, 640, 1280, 1280)}[shape]
    return UNet2DConditionModel(sample_size=64, layers_per_block=2, block_out_channels=channels,
                                cross_attention_dim=768, attention_head_dim=8,
                                down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                                up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)


def make(method, model, fraction):
    """The optimiser, and a list to which sara's gathering adds its seconds."""
    gathering = []
    if method in ("adamw", "fused"):
        return torch.optim.AdamW(model.parameters(), lr=1e-5, fused=method == "fused"), gathering
    if method == "masked":
        from peer_step import Masked, threshold_for
        return Masked(model, threshold_for(model, fraction), 1e-4), gathering
    import sara
    optimizer = sara.adamw(model, fraction=fraction)
    take = optimizer._take

    def timed(names):
        names = list(names)
        # to be freed after the clock has stopped, as zero_grad() does it for the others
        dense = [optimizer._trainable[name].grad for name in names]
        start = time.perf_counter()
        take(names)
        gathering.append(time.perf_counter() - start)
        del dense
    optimizer._take = timed
    return optimizer, gathering


def run(a):
    model = unet(a.shape).train()
    x, t = torch.randn(a.batch, 4, a.latent, a.latent), torch.randint(0, 1000, (a.batch,))
    context = torch.randn(a.batch, 77, 768)
    target = torch.randn_like(x)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as f:
        f.write("5")  # the peak counts from here
    loaded = memory("VmRSS")
    optimizer, gathering = make(a.only, model, a.fraction)
    seconds, optimiser = [], []
    for _ in range(a.steps):
        start = time.perf_counter()
        model.zero_grad(set_to_none=True)
        if hasattr(optimizer, "zero_grad"):
            optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(model(x, t, context).sample, target).backward()
        gathered, between = sum(gathering), time.perf_counter()
        gathering.clear()
        optimizer.step()
        optimiser.append(time.perf_counter() - between + gathered)
        gathering.clear()
        seconds.append(time.perf_counter() - start)
    return dict(method=a.only, growth=round(memory("VmHWM") - loaded, 3),
                seconds=round(min(seconds[1:]), 3), optimiser=round(min(optimiser[1:]), 4),
                parameters=sum(p.numel() for p in model.parameters()),
                threads=torch.get_num_threads())


def table(results):
    rows = {
        m: [r for r in results if r["method"] == m] for m in ("adamw", "fused", "masked", "sara")
    }
    best = {
        m: {key: min(r[key] for r in of) for key in ("growth", "seconds", "optimiser")}
        for m, of in rows.items()
    }
    print(f"{'':8}{'GiB beyond the model':>22}{'s / step':>12}{'s optimiser':>14}")
    for method, values in best.items():
        print(f"{method:8}{values['growth']:22.2f}{values['seconds']:12.2f}"
              f"{values['optimiser']:14.3f}")
    missed = 0
    for key, against, bar in BARS:
        ratio = best["sara"][key] / best[against][key]
        missed += not ratio <= bar
        print(f"{key} against {against}: {ratio:.2f} (at most {bar:g})"
              f"{'' if ratio <= bar else ' MISSED'}")
    return missed


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--only", choices=("adamw", "fused", "masked", "sara"))
    a.add_argument("--shape", choices=("small", "sd15"), default="small")
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--latent", type=int, default=32)
    a.add_argument("--batch", type=int, default=1)
    a.add_argument("--steps", type=int, default=4)
    a.add_argument("--fraction", type=float, default=0.058)
    a.add_argument("--json", help="the results' file")
    a = a.parse_args()
    if a.only:
        return print(json.dumps(run(a)))
    results = []
    for _ in range(a.rounds):
        for method in ("adamw", "fused", "masked", "sara"):
            own = [
                sys.executable, __file__, "--only", method,
                *(f"--{k}={getattr(a, k)}"
                  for k in ("shape", "latent", "batch", "steps", "fraction"))
            ]
            results.append(
                json.loads(subprocess.run(own, check=True, capture_output=True, text=True).stdout))
            print(results[-1], file=sys.stderr, flush=True)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(results, f)
    return table(results)


if __name__ == "__main__":
    sys.exit(main())
