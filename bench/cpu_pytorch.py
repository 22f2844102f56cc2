"""sara.adamw against PyTorch's own ways and PEFT's on the CPU: memory that a step needs beyond the
loaded model, and time.

    pip install torch diffusers peft ./python
    python bench/cpu_pytorch.py [--shape small|sd15] [--rounds 3] [--latent 32] [--batch 1]
        [--steps 4] [--fraction 0.058] [--methods METHOD,...] [--json FILE]
    python bench/cpu_pytorch.py --only METHOD      one run, as JSON

METHOD: those of methods.py, but for lora16. Each run is a process of its own on a U-Net of SD1.5's
structure, 142M parameters or (--shape sd15, 16 GiB) SD1.5's 860M; a round is one run of each.
Seconds are the best step's, the first not counted; cpu counts those of all threads together, which
other programs do not lengthen as much. growth: most resident memory of forward, backward and step
less that of the loaded model. optimiser: step(), for sara with the gathering in backward; freeing
gradients counts for none. PEFT's methods train linear layers alone, so that `linear` is what they
are compared with.
"""
import argparse
import json
import subprocess
import sys
import time

import torch

from methods import make, noise_loss, unet

METHODS = ("adamw", "fused", "masked", "shira", "super", "sara", "linear")
BARS = (("sara", "growth", "adamw", 0.6), ("sara", "growth", "masked", 0.75),
        ("sara", "optimiser", "adamw", 0.2), ("linear", "growth", "super", 0.8),
        ("linear", "seconds", "super", 1.0), ("linear", "growth", "shira", 0.8),
        ("linear", "seconds", "shira", 1.0))
KEYS = ("growth", "seconds", "cpu", "optimiser")


def memory(key):
    with open("/proc/self/status", encoding="ascii") as f:
        return next(int(line.split()[1]) / 2**20 for line in f if line.startswith(key))


def time_gathering():
    """A list to which sara's gathering adds its seconds."""
    from sara._gradients import Gradients
    seconds, take = [], Gradients.take

    def timed(self, names):
        names = list(names)
        dense = [self.training.chosen[name].grad for name in names]  # freed after the clock
        start = time.perf_counter()
        take(self, names)
        seconds.append(time.perf_counter() - start)
        del dense
    Gradients.take = timed
    return seconds


def run(a):
    model = unet(a.shape)
    loss = noise_loss(model, a.shape, a.batch, a.latent)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as f:
        f.write("5")  # the peak counts from here
    loaded = memory("VmRSS")
    total = sum(p.numel() for p in model.parameters())
    optimizer, trained = make(a.only, model, a.fraction)
    gathering = time_gathering() if a.only in ("sara", "linear") else []
    seconds, cpu, optimiser = [], [], []
    for _ in range(a.steps):
        start, used = time.perf_counter(), time.process_time()
        model.zero_grad(set_to_none=True)
        if hasattr(optimizer, "zero_grad"):
            optimizer.zero_grad(set_to_none=True)
        gathering.clear()
        loss().backward()
        gathered, between = sum(gathering), time.perf_counter()
        optimizer.step()
        end = time.perf_counter()
        optimiser.append(end - between + gathered)
        seconds.append(end - start)
        cpu.append(time.process_time() - used)
    return dict(method=a.only, growth=round(memory("VmHWM") - loaded, 3),
                seconds=round(min(seconds[1:]), 3), cpu=round(min(cpu[1:]), 3),
                optimiser=round(min(optimiser[1:]), 4), parameters=total, trained=trained,
                threads=torch.get_num_threads())


def table(results):
    """Prints it; how many bars were missed."""
    best = {}
    for r in results:
        own = best.setdefault(r["method"], dict(r))
        own.update({key: min(own[key], r[key]) for key in KEYS})
    print(f"{'':8}{'trained':>12}{'GiB beyond the model':>22}{'s / step':>12}{'cpu':>8}"
          f"{'s optimiser':>14}")
    for method, values in best.items():
        growth, seconds, cpu, optimiser = (values[key] for key in KEYS)
        print(f"{method:8}{values['trained']:12,}{growth:22.2f}{seconds:12.2f}{cpu:8.2f}"
              f"{optimiser:14.3f}")
    missed = 0
    for method, key, against, bar in BARS:
        if method in best and against in best:
            ratio = best[method][key] / best[against][key]
            missed += not ratio <= bar
            print(f"{method}'s {key} against {against}'s: {ratio:.2f} (at most {bar:g})"
                  f"{'' if ratio <= bar else ' MISSED'}")
    return missed


def arguments():
    a = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--only", choices=METHODS)
    a.add_argument("--methods", default=",".join(METHODS), help="those of each round")
    a.add_argument("--shape", choices=("tiny", "small", "sd15"), default="small")
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--latent", type=int, default=32)
    a.add_argument("--batch", type=int, default=1)
    a.add_argument("--steps", type=int, default=4)
    a.add_argument("--fraction", type=float, default=0.058)
    a.add_argument("--json", help="the results' file")
    return a.parse_args()


def main():
    a = arguments()
    if a.only:
        return print(json.dumps(run(a)))
    shared = [f"--{k}={getattr(a, k)}" for k in ("shape", "latent", "batch", "steps", "fraction")]
    results = []
    for _ in range(a.rounds):
        for method in a.methods.split(","):
            own = [sys.executable, __file__, "--only", method, *shared]
            done = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout))
            print(results[-1], file=sys.stderr, flush=True)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(results, f)
    return table(results)


if __name__ == "__main__":
    sys.exit(main())
