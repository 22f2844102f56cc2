#!/usr/bin/env bash
# Teaches the emoji base one subject from five pictures, without and with prior preservation.
#   examples/dreambooth/run.sh [OUTPUT_DIR] [SARA]      (dreambooth-output build/sara)
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${1:-dreambooth-output}
sara=${2:-build/sara}
base=examples/emoji/base
subject=(--train_data_dir examples/dreambooth/subject --instance_prompt "sks cat face"
         --trainable 20% --learning_rate 1e-3 --max_train_steps 250 --train_batch_size 4)

"$sara" train -m "$base" "${subject[@]}" -o "$output/plain"
# The class images are drawn by the base before training, once.
"$sara" train -m "$base" "${subject[@]}" -o "$output/prior" --with_prior_preservation \
    --class_data_dir "$output/class" --class_prompt "cat face" --num_class_images 40

prompts=()
for name in "sks cat face" "sks cat face" "cat face" "cat face" "dog face" "tiger face" \
    "love letter" "full moon"; do
    prompts+=(-p "$name")
done
for run in plain prior; do
    "$sara" generate -m "$base" --adapter "$output/$run/adapter.safetensors" --compare \
        --cfg-scale 3 --seed 7 "${prompts[@]}" -o "$output/$run.png"
done
echo "Look at $output/plain.png and $output/prior.png: the base above, the subject below."
