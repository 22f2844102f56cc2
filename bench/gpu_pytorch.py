"""sara.adamw on a GPU: what has to hold there (gpu_checks.py), then steps a second and memory
against PEFT's LoRA of rank 16, masked AdamW, SHiRA and Super-Tuning, on U-Nets of SD1.5's and
SDXL's shapes with random weights in bfloat16. One report in Markdown.

    pip install torch diffusers peft ./python
    python bench/gpu_pytorch.py [--part sd15|sdxl|all] [-o gpu.md] [--limit 500]
    python bench/gpu_pytorch.py --device cpu --part tiny --latent 8 --backend eager     a dry run

Each method runs in a process of its own, under autocast; seconds are the median step's, peak is the
most memory that tensors took, the weights included. Compiled: the repeated blocks
(diffusers' compile_repeated_blocks). What the limit leaves no time for is said. Exit 1 if a check
fails.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch

from methods import METHODS, SHAPES, make, noise_loss, unet

RUNS = (("lora16", False), ("sara", False), ("masked", False), ("linear", False),
        ("shira", False), ("super", False), ("lora16", True), ("sara", True))
LATENT, BATCH = {"sd15": 64, "sdxl": 128}, {"sd15": 4, "sdxl": 1}
WARM = 3


def wait(device):
    if device != "cpu":
        torch.cuda.synchronize()


def measure(a):
    """One method, as a dict."""
    model = unet(a.part, a.device, torch.bfloat16)
    total = sum(p.numel() for p in model.parameters())
    optimizer, trained = make(a.only, model, a.fraction)
    if a.compiled:
        model.compile_repeated_blocks(backend=a.backend)
    loss = noise_loss(model, a.part, a.batch or BATCH.get(a.part, 1),
                      a.latent or LATENT.get(a.part, 8))
    seconds, steps = [], []
    for step in range(WARM + a.steps):
        if step == WARM and a.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        wait(a.device)
        start = time.perf_counter()
        with torch.autocast(a.device, dtype=torch.bfloat16):
            value = loss()
        value.backward()
        wait(a.device)
        between = time.perf_counter()
        optimizer.step()
        wait(a.device)
        steps.append(time.perf_counter() - between)
        model.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if a.device != "cpu" else None
    return dict(method=a.only, compiled=a.compiled, parameters=total, trained=trained, peak=peak,
                loss=float(value), seconds=statistics.median(seconds[WARM:]),
                step=statistics.median(steps[WARM:]))


def in_a_process(a, part, method, compiled, left):
    """Its measurements, or why there are none."""
    given = {key: getattr(a, key) for key in ("device", "steps", "fraction", "backend", "latent",
                                              "batch")}
    own = [sys.executable, __file__, "--only", method, "--part", part, *["--compiled"] * compiled,
           *(f"--{key}={value}" for key, value in given.items() if value is not None)]
    if left < 10:
        return "out of time"
    try:
        done = subprocess.run(own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=left)
    except subprocess.TimeoutExpired:
        return "out of time"
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return ([""] + done.stderr.strip().splitlines())[-1]
    return json.loads(done.stdout.splitlines()[-1])


def speed_rows(results):
    """Lines of a table; ratios are to LoRA, not compiled."""
    base = next((r for r in results.values() if isinstance(r, dict) and r["method"] == "lora16"),
                None)
    for (method, compiled), r in results.items():
        name = method + (" compiled" if compiled else "")
        if isinstance(r, str):
            yield f"| {name} | {r} | | | | | |"
            continue
        peak = "-" if r["peak"] is None else f"{r['peak']:.2f}"
        times = memory = "-"
        if base:
            times = f"{base['seconds'] / r['seconds']:.2f}"
            memory = "-" if r["peak"] is None else f"{r['peak'] / base['peak']:.2f}"
        yield (f"| {name} | {r['trained']:,} | {1 / r['seconds']:.2f} | {1e3 * r['step']:.1f} | "
               f"{peak} | {times} | {memory} |")


def machine(device):
    if device == "cpu":
        return f"CPU, torch {torch.__version__}, {torch.get_num_threads()} threads"
    return (f"{torch.cuda.get_device_name()}, torch {torch.__version__}, "
            f"CUDA {torch.version.cuda}, "
            f"compute capability {'.'.join(map(str, torch.cuda.get_device_capability()))}")


def report(a, rows, speeds, seconds):
    """The whole report, as lines."""
    yield from ("# sara.adamw on a device", "", machine(a.device), f"{seconds:.0f} s in all.", "")
    if rows:
        yield from ("| check | found | |", "|---|---|---|")
        yield from (f"| {what} | {found} | {'ok' if right else 'FAIL'} |"
                    for what, found, right in rows)
    for part, results in speeds.items():
        first = next((r for r in results.values() if isinstance(r, dict)), None)
        size = f", {first['parameters']:,} parameters" if first else ""
        batch, latent = a.batch or BATCH.get(part, 1), a.latent or LATENT.get(part, 8)
        yield from ("", f"## {part}{size}, bfloat16, batch {batch}, {latent}x{latent} latents", "",
                    "| method | trained | steps / s | ms in step() | peak GiB | "
                    "speed to lora16 | memory to lora16 |", "|---|---|---|---|---|---|---|")
        yield from speed_rows(results)


def arguments():
    a = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    a.add_argument("--part", choices=("all", *SHAPES), default="all")
    a.add_argument("--limit", type=float, default=500, help="seconds in all")
    a.add_argument("--steps", type=int, default=10)
    a.add_argument("--fraction", type=float, default=0.058)
    a.add_argument("--latent", type=int)
    a.add_argument("--batch", type=int)
    a.add_argument("--backend", default="inductor", help="of what is compiled")
    a.add_argument("--runs", help="METHOD or METHOD+compiled, ...; all if not given")
    a.add_argument("--no-checks", dest="checks", action="store_false")
    a.add_argument("-o", "--output", default="gpu.md", help="the report")
    a.add_argument("--only", choices=METHODS, help="one run, as JSON")
    a.add_argument("--compiled", action="store_true")
    return a.parse_args()


def main():
    a, begin = arguments(), time.perf_counter()
    if a.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_pytorch: no GPU; --device cpu --part tiny is a dry run")
    if a.only:
        return print(json.dumps(measure(a)))
    import gpu_checks
    parts = ("sd15", "sdxl") if a.part == "all" else (a.part,)
    runs = [(name.split("+")[0], "+" in name) for name in a.runs.split(",")] if a.runs else RUNS
    rows, speeds = gpu_checks.run(a.device) if a.checks else [], {part: {} for part in parts}
    for method, compiled in runs:  # both parts in turn, so that neither is left without a row
        for part in parts:
            left = a.limit - (time.perf_counter() - begin)
            speeds[part][method, compiled] = in_a_process(a, part, method, compiled, left)
            print(part, method, compiled, speeds[part][method, compiled], file=sys.stderr,
                  flush=True)
    text = "\n".join(report(a, rows, speeds, time.perf_counter() - begin)) + "\n"
    with open(a.output, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"{os.path.abspath(a.output)}: {sum(not right for *_, right in rows)} checks failed")
    return int(not all(right for *_, right in rows))


if __name__ == "__main__":
    sys.exit(main())
