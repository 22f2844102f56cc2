#!/usr/bin/env python3
"""The table of what measure.sh trained: table.py OUTPUT_DIR SARA"""
import json
import os
import statistics
import subprocess
import sys

BASE, CLIP = "examples/emoji/base", "examples/emoji/clip"
ROWS = ["sara 20%, no prior", "sara 20%", "sara 5.8%", "lora 5.8%", "adaptformer 5.8%",
        "ltsft 5.8%", "full"]
SEEDS = [1, 2, 3]


def evaluate(sara, output, prompts, *more):
    done = subprocess.run(
        [sara, "eval", "-m", BASE, "--prompts", os.path.join(output, prompts + ".txt"), "--clip",
         CLIP, "--cfg-scale", "3", "--steps", "12", "--json", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def trained(folder):
    for kind, option in (("unet", "--denoiser"), ("adapter.safetensors", "--adapter"),
                         ("lora.safetensors", "--adapter")):
        if os.path.exists(os.path.join(folder, kind)):
            return [option, os.path.join(folder, kind)]
    names = [name for name in os.listdir(folder) if name.endswith(".safetensors")]
    return ["--adapter", os.path.join(folder, names[0])]


def text(values):
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def main():
    output, sara = sys.argv[1:]
    references = ["--references", "examples/dreambooth/subject"]
    start = evaluate(sara, output, "subject", *references)["clip_i"]["mean"]
    print("| row | subject CLIP-I ↑ | class drift ↓ | animals' drift ↓ | things' drift ↓ |")
    print(f"|---|---|---|---|---|\n| the base | {start:.3f} | 0 | 0 | 0 |")
    for row in ROWS:
        columns = {name: [] for name in ("subject", "class", "animals", "things")}
        for seed in SEEDS:
            result = trained(os.path.join(output, f"{row}-{seed}"))
            found = evaluate(sara, output, "subject", *result, *references)
            columns["subject"].append(found["clip_i"]["mean"])
            for prompts in ("class", "animals", "things"):
                found = evaluate(sara, output, prompts, *result, "--drift")
                columns[prompts].append(found["drift"]["mean"])
        print(f"| {row} | " + " | ".join(map(text, columns.values())) + " |", flush=True)


main()
