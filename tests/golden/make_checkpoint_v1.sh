#!/bin/sh
# How checkpoint_v1 was made, by the program of commit e3e3f65, whose manifests do not yet say
# whether the reselection came from the number of steps, nor of what else values come:
#     SARA=path/to/sara tests/golden/make_checkpoint_v1.sh
set -e
cd "$(dirname "$0")"
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
"$SARA" train --unet-only unet_sd1 --replay train_sd1.safetensors --trainable 500 \
    --learning_rate 1e-5 --lambda_rank 0 --lr_scheduler constant --max_train_steps 4 -t 1 \
    -o "$run/run"
mkdir -p checkpoint_v1
cp "$run"/run/checkpoint-4/* checkpoint_v1/
