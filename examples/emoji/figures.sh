#!/usr/bin/env bash
# Figures 2 and 3 of SaRA's paper with the emoji model: where its small parameters are, what it
# draws without them, and whether they stay small in training.
#   examples/emoji/figures.sh [OUTPUT_DIR]
# Some 15 minutes on two cores. SARA names the program (build/sara).
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${1:-figures-output}
sara=${SARA:-build/sara}
base=examples/emoji/base
seeds="1 2 3"
if [ ! -x "$sara" ]; then
    scripts/setup.sh
    cmake -S . -B build -G Ninja -DBUILD_TESTING=OFF >/dev/null
    cmake --build build -- --quiet
fi
mkdir -p "$output"
"$sara" inspect -m $base --analyze -o "$output/analysis.html"
"$sara" inspect -m $base --analyze --json >"$output/analysis.json"
for seed in $seeds; do
    "$sara" inspect -m $base --zero_sweep 1e-3,3e-3,1e-2,2e-2,3e-2 --seed "$((1000 * seed))" \
        --prompts examples/emoji/base_prompts.txt --clip examples/emoji/clip --steps 8 --cfg-scale 3 \
        -o "$output/sweep-$seed.json"
done

# NAME OPTION...: a run of each seed, with the shares of small entries every 25 steps
drift() {
    local name=$1
    shift
    for seed in $seeds; do
        "$sara" train -m $base --train_data_dir examples/emoji/ink --caption_prefix "drawing of " \
            --max_train_steps 300 --train_batch_size 4 --lr_warmup_steps 10 --track_drift 25 \
            --seed "$seed" -o "$output/drift-$name-$seed" "$@"
    done
}
drift full --method full --learning_rate 1e-3
drift sara --trainable 5.8% --learning_rate 3e-3
drift lora --method lora --lora_targets all --trainable 5.8% --learning_rate 3e-3
python3 - "$output" <<'PYTHON'
import json
import statistics
import sys

folder = sys.argv[1]


def cell(values, digits):
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def load(name):
    with open(f"{folder}/{name}") as file:
        return json.load(file)


sweeps = [load(f"sweep-{seed}.json")["rows"] for seed in (1, 2, 3)]
print("| t | share of entries | FID (clip) | CLIP score |\n|---|---|---|---|")
for rows in zip(*sweeps):
    fid = cell([row["fid"] for row in rows], 2) if rows[0]["t"] else "0"
    print(f"| {rows[0]['t']:g} | {100 * rows[0]['share']:.2g} % | {fid} | "
          f"{cell([row['clip_score'] for row in rows], 2)} |")

print("\n| steps | " + " | ".join(f"{name}: small still small | {name}: large now small"
                                   for name in ("full", "sara", "lora")) + " |")
print("|---" * 7 + "|")
shares = {}
for name in ("full", "sara", "lora"):
    for seed in (1, 2, 3):
        with open(f"{folder}/drift-{name}-{seed}/log.jsonl") as file:
            for line in map(json.loads, file):
                if line.get("small_still_small") is not None:
                    key = line["step"], name
                    shares.setdefault(key, []).append(
                        (100 * line["small_still_small"], 100 * line["large_now_small"]))
for step in sorted({step for step, _ in shares}):
    cells = []
    for name in ("full", "sara", "lora"):
        small, large = zip(*shares[step, name])
        cells += [cell(small, 1) + " %", cell(large, 2) + " %"]
    print(f"| {step} | " + " | ".join(cells) + " |")
PYTHON
