#!/usr/bin/env bash
# Runs the fuzzing targets for so many seconds each, from the committed corpora; ends with an error
# at the first input that does harm, which stays in the build folder.
#   tests/fuzz/run.sh BUILD_DIR SECONDS [TARGET...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$1 seconds=$2
shift 2
targets=("$@")
[ ${#targets[@]} -gt 0 ] ||
    targets=(fuzz_safetensors fuzz_config fuzz_adapter fuzz_lora fuzz_tokenizer fuzz_prompt)

export OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=1
for target in "${targets[@]}"; do
    found=$build/fuzz/$target.corpus log=$build/fuzz/$target.log
    mkdir -p "$found"
    options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=512
             -max_len=16384 -print_final_stats=1 -artifact_prefix="$build/fuzz/$target-")
    [ ! -e "$here/$target.dict" ] || options+=(-dict="$here/$target.dict")
    # New inputs go to the first folder; the committed ones are only read.
    if ! "$build/fuzz/$target" "${options[@]}" "$found" "$here/corpus/$target" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        exit 1
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    echo "$target: $executions executions in $seconds s, $edges edges, no finding"
done
