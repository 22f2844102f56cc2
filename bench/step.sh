#!/usr/bin/env bash
# Times sara against its peers on this machine, alternately, and prints tables. README.md tells what
# the numbers mean.
#   bench/step.sh [--quick] [--only PART,...] [--append]
#   bench/step.sh [--quick] --against BINARY
#     --quick    one round, 32x32 latents at batch 1; without --only: time, memory, weights16
#     --only     some of: time memory weights16 checkpointing budgets threads full methods generate
#                load families
#     --append   to the results of earlier calls, instead of anew
#     --against  a step of this build beside one of another build of sara, in alternating pairs;
#                exit code 1 if it takes more than 3 % more time or 1 % more memory
#   ROUNDS=3, STEPS=3            rounds, and steps of a run
#   PAIRS=8                      of --against, for each shape
#   OMP_NUM_THREADS              threads of both sides (all processors)
#   SARA                         a built program, instead of building one
#   SARA_BENCH_VENV              the peers' virtual environment (bench/.venv)
#   SARA_BENCH_WORK              the work folder (bench/work)
#   SHAPES, LATENTS              of families: "sdxl sd3-medium", "64 128"
set -euo pipefail
cd "$(dirname "$0")/.."

parts="time memory weights16 checkpointing budgets threads full methods generate load families"
quick_parts="time memory weights16"
configs=("64 1" "32 1" "32 4") # latents, batch
rounds=${ROUNDS:-3}
steps=${STEPS:-3}
pairs=${PAIRS:-8}
against=
budget=5.8
threads=${OMP_NUM_THREADS:-$(nproc)}
venv=${SARA_BENCH_VENV:-bench/.venv}
work=${SARA_BENCH_WORK:-bench/work}
sara=${SARA:-build-bench/sara}
python=$venv/bin/python
model=$work/sd15
weights=$model/unet/diffusion_pytorch_model.safetensors
results=$work/results.jsonl
append=false
shapes=${SHAPES:-sdxl sd3-medium}
latents=${LATENTS:-64 128}
failures=0

usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' bench/step.sh
}

fail() {
    echo "bench: $1" >&2
    exit 2
}

parse_arguments() {
    local all=$parts only=
    while [ $# -gt 0 ]; do
        case $1 in
        --quick)
            configs=("32 1")
            rounds=1
            parts=$quick_parts
            ;;
        --only)
            [ $# -gt 1 ] || fail "--only needs parts: $all"
            only=${2//,/ }
            shift
            ;;
        --append) append=true ;;
        --against)
            [ $# -gt 1 ] && [ -x "$2" ] || fail "--against needs a built program"
            against=$2
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "$1: unknown option; see --help" ;;
        esac
        shift
    done
    parts=${only:-$parts}
    for part in $parts; do
        case " $all " in *" $part "*) ;; *) fail "--only $part: expected some of $all" ;; esac
    done
}

# ------------------------------------------------------------------------------------------- set-up

prepare_python() {
    local modules="torch, diffusers, peft, transformers, safetensors, psutil, accelerate, numpy"
    "$python" -c "import $modules" 2>/dev/null && return
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q torch diffusers peft transformers safetensors psutil accelerate numpy
}

prepare_sara() {
    [ -z "${SARA:-}" ] || return 0
    scripts/setup.sh
    cmake -S . -B build-bench -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF >/dev/null
    cmake --build build-bench -- --quiet
}

# What stays on the disk while it is trained lies in a folder.
prepare_families() {
    local shape
    case " $parts " in *" families "*) ;; *) return 0 ;; esac
    for shape in $shapes; do
        [ ! -e "$work/$shape" ] || continue
        rm -rf "$work/$shape.part"
        "$python" bench/peer_family.py "$shape" --save "$work/$shape.part"
        mv "$work/$shape.part" "$work/$shape"
    done
}

# One model for all others. Neither the U-Net's folder nor model_index.json is there before it is
# complete.
prepare_model() {
    [ "$parts" != families ] || return 0
    if [ ! -e "$model/unet" ]; then
        rm -rf "$model/unet.part"
        "$python" bench/peer_step.py save --model "$model/unet.part"
        mv "$model/unet.part" "$model/unet"
    fi
    case " $parts " in *" generate "*) ;; *) return 0 ;; esac
    [ -e "$model/model_index.json" ] || "$python" bench/peer_step.py save-pipeline --model "$model"
}

prepare_results() {
    local cpu commit
    cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sed -n 1p)
    commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
    [ -z "${SARA:-}" ] || commit="built elsewhere"
    $append || rm -f "$results"
    printf '{"run": "host", "cpu": "%s", "threads": %d, "budget": %s, "commit": "%s"}\n' \
        "${cpu:-$(uname -m)}" "$threads" "$budget" "$commit" >>"$results"
}

# ----------------------------------------------------------------------------------------- the plan
# Lines of: run latents batch budget threads

step_plan() { # RUN...: each configuration
    local config run
    for config in "${configs[@]}"; do
        for run in "$@"; do
            echo "$run $config $budget $threads"
        done
    done
}

plan_time() {
    step_plan lora16 sara masked
    echo "rank 0 0 $budget $threads"
}

plan_memory() { step_plan lora16 sara; }
plan_weights16() { step_plan lora16 sara sara-16bit; }
plan_checkpointing() { step_plan lora16 sara-16bit-checkpointing; }

plan_budgets() { # the first configuration
    local fraction
    echo "lora16 ${configs[0]} $budget $threads"
    for fraction in 0.6 2.3 "$budget" 20 50; do
        echo "sara ${configs[0]} $fraction $threads"
    done
}

plan_threads() { # the first configuration
    local count
    for count in 1 2; do
        echo "lora16 ${configs[0]} $budget $count"
        echo "sara ${configs[0]} $budget $count"
    done
}

plan_full() {
    local config
    for config in "64 1" "32 1"; do
        case " ${configs[*]} " in *" $config "*) ;; *) continue ;; esac
        echo "full-fused $config $budget $threads"
        echo "full $config $budget $threads"
    done
}

plan_methods() { # the first configuration: each beside its peer
    local run
    for run in lora16 lora dora16 dora shira32 shira adaptformer64 adaptformer masked ltsft; do
        echo "$run ${configs[0]} $budget $threads"
    done
}

plan_generate() {
    echo "diffusers-images 64 1 $budget $threads"
    echo "sara-images 64 1 $budget $threads"
}

plan_load() {
    echo "read 0 0 $budget $threads"
    echo "read-whole 0 0 $budget $threads"
    echo "load 0 0 $budget $threads"
}

plan_families() {
    local shape latent run
    for latent in $latents; do
        for shape in $shapes; do
            for run in peft sara sara_offload lora lora_offload; do
                echo "$run-$shape $latent 1 $budget $threads"
            done
        done
    done
}

# Every run once, those of a configuration side by side.
plan() {
    local part
    for part in $parts; do
        "plan_$part"
    done | awk '!seen[$0]++' | sort -s -k2,2nr -k3,3n
}

# --------------------------------------------------------------------------------------------- runs

# A family's real shape with random weights in bf16, checkpointing on both sides.
set_family_command() { # RUN-SHAPE LATENTS
    local shape=${1#*-} text=77 size=(--latent "$2" --steps "$steps")
    local of=(--shape "$shape" --gradient_checkpointing)
    [ "$shape" != sd3-medium ] || text=333 # of CLIP and of T5
    size+=(--text_length "$text")
    case $1 in *_offload-*) of=(-m "$work/$shape" --disk_offload) ;; esac
    command=("$sara" bench "${of[@]}" --weight_dtype bf16 --json "${size[@]}")
    case $1 in
    peft-*) command=("$python" bench/peer_family.py "$shape" "${size[@]}") ;;
    sara*) command+=(--method sara --trainable "$budget%") ;;
    lora*) command+=(--method lora --rank 16) ;;
    esac
}

set_command() { # RUN LATENTS BATCH BUDGET
    local fraction
    fraction=$(awk -v percent="$4" 'BEGIN { print percent / 100 }')
    local size=(--latent "$2" --batch "$3" --steps "$steps")
    local ours=("$sara" bench -m "$model/unet" --json)
    local theirs=("$python" bench/peer_step.py "$1" --model "$model/unet" "${size[@]}")
    local selective=("${ours[@]}" --method sara --trainable "$fraction")
    case $1 in
    peft-* | sara-sd* | lora-* | *_offload-*) set_family_command "$1" "$2" ;;
    lora16 | dora16 | shira32 | adaptformer64 | full-fused) command=("${theirs[@]}") ;;
    masked) command=("${theirs[@]}" --fraction "$fraction") ;;
    sara) command=("${selective[@]}" "${size[@]}") ;;
    full) command=("${ours[@]}" --method full "${size[@]}") ;;
    lora | dora) command=("${ours[@]}" --method "$1" --rank 16 "${size[@]}") ;;
    shira) command=("${ours[@]}" --method shira --rank 32 "${size[@]}") ;;
    adaptformer) command=("${ours[@]}" --method adaptformer --adapter_width 64 "${size[@]}") ;;
    ltsft) command=("${ours[@]}" --method ltsft --trainable "$fraction" "${size[@]}") ;;
    sara-16bit) command=("${selective[@]}" "${size[@]}" --weight_dtype bf16) ;;
    sara-16bit-checkpointing)
        command=("${selective[@]}" "${size[@]}" --weight_dtype bf16 --gradient_checkpointing)
        ;;
    diffusers-images) command=("$python" bench/peer_step.py generate --model "$model") ;;
    sara-images) command=(python3 bench/time_images.py "$sara" "$model" "$work") ;;
    rank) command=("${selective[@]}" --latent 32 --batch 1 --steps 1 --time_rank_term) ;;
    read) command=(dd "if=$weights" of=/dev/null bs=1M status=none) ;;
    read-whole) command=(dd "if=$weights" of=/dev/null bs=4G count=1 iflag=fullblock status=none) ;;
    load) command=("${ours[@]}" --method forward --latent 32 --batch 1 --steps 1) ;;
    esac
}

measured() { # COMMAND...: of measure.py; tells what went wrong
    python3 bench/measure.py "$@" 2>"$work/stderr" </dev/null && return
    tail -n 5 "$work/stderr" >&2
    failures=$((failures + 1))
}

run() { # ROUND RUN LATENTS BATCH BUDGET THREADS
    local command
    set_command "$2" "$3" "$4" "$5"
    echo "round $1 of $rounds: $2, latents $3, batch $4, budget $5 %, threads $6" >&2
    case $2 in read* | load) cat "$weights" >/dev/null ;; esac # into the page cache
    OMP_NUM_THREADS=$6 measured "$results" round="$1" run="$2" latent="$3" batch="$4" budget="$5" \
        threads="$6" -- "${command[@]}"
}

run_all() {
    local round line
    for round in $(seq "$rounds"); do
        while read -r line; do
            # shellcheck disable=SC2086 # the line's fields
            run "$round" $line
        done < <(plan)
    done
}

# The same shape and random weights on both sides; which of them comes first alternates.
run_against() {
    local results=$work/against.jsonl config pair side sides program
    rm -f "$results"
    for config in "${configs[@]}"; do
        for pair in $(seq "$pairs"); do
            sides=(this other)
            [ $((pair % 2)) -eq 1 ] || sides=(other this)
            echo "pair $pair of $pairs: latents and batch $config" >&2
            for side in "${sides[@]}"; do
                program=$sara
                [ "$side" = this ] || program=$against
                OMP_NUM_THREADS=$threads measured "$results" run="$side" latent="${config% *}" \
                    batch="${config#* }" pair="$pair" -- "$program" bench --shape sd15 --json \
                    --latent "${config% *}" --batch "${config#* }" --steps "$steps"
            done
        done
    done
    [ "$failures" -eq 0 ] || fail "$failures runs failed"
    python3 bench/against.py "$results"
}

parse_arguments "$@"
mkdir -p "$work"
if [ -n "$against" ]; then
    prepare_sara
    run_against
    exit
fi
prepare_python
prepare_sara
prepare_model
prepare_families
prepare_results
run_all
python3 bench/table.py "$results"
[ "$failures" -eq 0 ] || fail "$failures runs failed"
