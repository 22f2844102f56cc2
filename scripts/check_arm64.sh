#!/usr/bin/env bash
# Compiles what needs no x86 and no other library for arm64: the core and the plain kernels.
set -euo pipefail
cd "$(dirname "$0")/.."
compiler=aarch64-linux-gnu-gcc
if ! command -v $compiler >/dev/null; then
    apt-get update -q >/dev/null
    apt-get install -y -q --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross \
        >/dev/null
fi
count=0
for source in src/core/*.c src/nn/*_cpu.c src/nn/simd/simd.c src/nn/simd/generic.c; do
    $compiler -std=gnu11 -O2 -D_GNU_SOURCE -DSARA_VERSION='"0"' -Wall -Wextra -Werror -fopenmp \
        -Iinclude -Isrc -c "$source" -o /dev/null
    count=$((count + 1))
done
echo "arm64: $count files compile"
