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

echo "Teaching the emoji model to draw in ink: 10 % of its parameters, the least used ones"
"$sara" train -m "$base" --train_data_dir examples/emoji/ink --caption_prefix "ink style, " \
    --trainable 10% --learning_rate 1.5e-3 --max_train_steps 600 --train_batch_size 16 \
    --output_dir "$output"

echo "Drawing the same prompts and seeds before and after"
prompts=()
for name in "grinning face" "cat face" "dog face" "crying face" "face with tongue" "sleepy face" "winking face" "angry face"; do
    prompts+=(-p "ink style, $name")
done
"$sara" generate -m "$base" --adapter "$output/adapter.safetensors" --compare --cfg-scale 3 \
    "${prompts[@]}" -o "$output/before-after.png" >/dev/null

cat <<EOF

Look at $output/before-after.png: the base above, the same with the adapter below.
         $output/report.html: the loss curve and the settings.

Try next
  $sara generate -m $base --adapter $output/adapter.safetensors -p "ink style, bear" --cfg-scale 3 -o bear.png
  $sara generate -m $base --adapter $output/adapter.safetensors:0.5 -p "ink style, bear" --cfg-scale 3 -o half.png
  $sara merge -m $base --adapter $output/adapter.safetensors -o ink-model      # a plain diffusers folder
  $sara train --help                                                           # your own images
EOF
