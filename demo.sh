#!/usr/bin/env bash
# Builds sara, fine-tunes the embedded emoji model on ink drawings and shows what it learned.
#   ./demo.sh [OUTPUT_DIR]       (demo-output)
set -euo pipefail
cd "$(dirname "$0")"
output=${1:-demo-output}
base=examples/emoji/base

scripts/setup.sh
cmake -S . -B build-demo -G Ninja -DBUILD_TESTING=OFF >/dev/null
cmake --build build-demo -- --quiet
sara=build-demo/sara

if [ -e "$output" ]; then
    echo "$output exists: remove it or give another name: ./demo.sh OUTPUT_DIR" >&2
    exit 2
fi

echo "Teaching the emoji model to draw in ink: 20 % of its parameters, the least used ones"
"$sara" train -m "$base" --train_data_dir examples/emoji/ink --trainable 20% \
    --learning_rate 1.5e-3 --lr_warmup_steps 20 --max_train_steps 1200 --train_batch_size 8 \
    --output_dir "$output"

echo "Drawing names that were not among the training images, before and after"
prompts=()
for name in "grinning face with smiling eyes" "frowning face" "tiger face" "pig face" \
    "love letter" "first quarter moon" "american football" "baguette bread"; do
    prompts+=(-p "$name")
done
"$sara" generate -m "$base" --adapter "$output/adapter.safetensors" --compare --cfg-scale 3 \
    --seed 7 "${prompts[@]}" -o "$output/before-after.png" >/dev/null

cat <<EOF

Look at $output/before-after.png: the base above, the same with the adapter below.
         $output/report.html: the loss curve and the settings.

Try next
  $sara generate -m $base --adapter $output/adapter.safetensors -p "butterfly" --cfg-scale 3 -o butterfly.png
  $sara generate -m $base --adapter $output/adapter.safetensors:0.5 -p "butterfly" --cfg-scale 3 -o half.png
  $sara merge -m $base --adapter $output/adapter.safetensors -o ink-model      # a plain diffusers folder
  $sara train --help                                                           # your own images
EOF
