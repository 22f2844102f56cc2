#!/usr/bin/env bash
# The numbers of docs/experiments.md, "DreamBooth": is the subject learned, is its class kept?
#   examples/dreambooth/measure.sh [OUTPUT_DIR] [SARA]      (dreambooth-output build/sara)
# A row for each method, means and deviations over three seeds: CLIP-I of drawn subjects to the
# subject's pictures; drift, from what the base draws with the same seeds, of the class, of other
# animals and of things. About half an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${1:-dreambooth-output}
sara=${2:-build/sara}
base=examples/emoji/base
mkdir -p "$output"
printf 'sks cat face\n%.0s' 1 2 3 4 5 6 7 8 >"$output/subject.txt"
printf 'cat face\n%.0s' 1 2 3 4 5 6 7 8 >"$output/class.txt"
printf '%s\n' "dog face" "tiger face" "rabbit face" "pig face" "fox" "lion" >"$output/animals.txt"
printf '%s\n' "love letter" "full moon" "rainbow" "volcano" "bullet train" "hibiscus" \
    >"$output/things.txt"

train() { # NAME SEED ARGUMENTS...
    local name=$1 seed=$2
    shift 2
    [ -e "$output/$name-$seed/done" ] && return
    rm -rf "${output:?}/$name-$seed"
    echo "$name, seed $seed"
    "$sara" train -m "$base" --train_data_dir examples/dreambooth/subject \
        --instance_prompt "sks cat face" --max_train_steps 250 --train_batch_size 4 \
        --checkpointing_steps 1000 --seed "$seed" -o "$output/$name-$seed" "$@" \
        >"$output/$name-$seed.log" 2>&1
    touch "$output/$name-$seed/done"
}

prior=(--with_prior_preservation --class_data_dir "$output/class" --class_prompt "cat face"
       --num_class_images 40)
for seed in 1 2 3; do # learning rates: those of docs/experiments.md for these methods and sizes
    train "sara 20%, no prior" "$seed" --trainable 20% --learning_rate 1e-3
    train "sara 20%" "$seed" --trainable 20% --learning_rate 1e-3 "${prior[@]}"
    train "sara 5.8%" "$seed" --trainable 5.8% --learning_rate 3e-3 "${prior[@]}"
    train "lora 5.8%" "$seed" --method lora --lora_targets all --trainable 5.8% \
        --learning_rate 3e-3 "${prior[@]}"
    train "adaptformer 5.8%" "$seed" --method adaptformer --trainable 5.8% \
        --learning_rate 3e-2 "${prior[@]}"
    train "ltsft 5.8%" "$seed" --method ltsft --trainable 5.8% --learning_rate 3e-3 "${prior[@]}"
    train "full" "$seed" --method full --learning_rate 3e-4 "${prior[@]}"
done
python3 examples/dreambooth/table.py "$output" "$sara"
