#!/usr/bin/env bash
# Sets up, builds and runs every test that needs no PyTorch.
#   ./test.sh [BUILD_DIR] [cmake options...]
set -euo pipefail
cd "$(dirname "$0")"
build=${1:-build}
[ $# -gt 0 ] && shift

scripts/setup.sh --tests
scripts/check_layers.py
cmake -S . -B "$build" -G Ninja -DBUILD_TESTING=ON "$@" >/dev/null
cmake --build "$build"
ctest --test-dir "$build" --output-on-failure -j 2
