#!/usr/bin/env bash
# Methods side by side on the emoji model: what each learns of the ink drawings, and forgets.
#   examples/emoji/compare.sh [--quick] [--stamps DIR] [OUTPUT_DIR [OPTIONS of sara compare]]
# --quick: three rows, one seed, short runs: some minutes on two cores; the whole some hours. It
# can be stopped at any time; the same command goes on. --stamps: instead of ink another data set,
# in the folder that examples/stamps/make_data.py wrote, with seven of the rows. SARA names the
# program (build/sara).
set -euo pipefail
cd "$(dirname "$0")/../.."
quick=false stamps=
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=true ;;
    --stamps) stamps=$2; shift ;;
    *) break ;;
    esac
    shift
done
output=${1:-compare-output}
shift || true
sara=${SARA:-build/sara}
if [ ! -x "$sara" ]; then
    scripts/setup.sh
    cmake -S . -B build -G Ninja -DBUILD_TESTING=OFF >/dev/null
    cmake --build build -- --quiet
fi
mkdir -p "$output"
python3 - "$output/config.json" "$quick" "$stamps" <<'PYTHON'
import json
import os
import sys

path, quick, stamps = sys.argv[1:]
with open("examples/emoji/compare.json") as file:
    config = json.load(file)
if quick == "true":
    few = ("sara 5.8%", "lora 5.8%", "full")
    config["rows"] = [row for row in config["rows"] if row["name"] in few]
    config["rows"][0].pop("groups")
    config["seeds"] = config["seeds"][:1]
    config["train"].update(max_train_steps=80, train_batch_size=4)
    config["eval"]["steps"] = 8
    for where, key, count in ((config["data"][0], "prompts", 40),
                              (config["data"][0], "tuning_prompts", 16),
                              (config, "base_prompts", 24)):
        with open(where[key]) as file:
            lines = file.readlines()[:count]
        where[key] = os.path.join(os.path.dirname(path), key + ".txt")
        with open(where[key], "w") as file:
            file.writelines(lines)
if stamps:
    few = ("sara", "lora", "full")
    config["rows"] = [row for row in config["rows"] if row["name"].startswith(few)]
    config["rows"][1].pop("groups", None)
    config["data"] = [{
        "name": "stamps",
        "train_data_dir": f"{stamps}/train",
        "references": f"{stamps}/reference",
        "prompts": f"{stamps}/prompts.txt",
        "tuning_prompts": f"{stamps}/tuning_prompts.txt",
        "caption_prefix": "photo of ",
    }]
with open(path, "w") as file:
    json.dump(config, file, indent=1)
PYTHON
exec "$sara" compare --config "$output/config.json" --output_dir "$output" "$@"
