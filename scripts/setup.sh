#!/usr/bin/env bash
# Installs what the build needs on Debian and Ubuntu; does nothing where all is there.
#   scripts/setup.sh [--tests]     --tests: also what the tests need
set -euo pipefail

packages=(gcc g++ cmake ninja-build pkg-config libdnnl-dev libjansson-dev libpng-dev libjpeg-dev
          libwebp-dev libutf8proc-dev libssl-dev liblapacke-dev libsentencepiece-dev
          libtomlplusplus-dev python3 python3-pip)
if [ "${1:-}" = --tests ]; then
    packages+=(libcmocka-dev locales)
fi

# CLIP's merges, which single-file checkpoints do not hold, from the package open-clip-torch (MIT).
# Without them (no network) all works but for single files without --tokenizer.
fetch_vocabulary() {
    local folder
    [ -e vendor/clip_merges.txt ] && return
    folder=$(mktemp -d)
    if ! python3 -m pip download -q --disable-pip-version-check --no-deps -d "$folder" \
        open-clip-torch==2.32.0 2>"$folder/log"; then
        tail -n 1 "$folder/log" >&2
        echo "setup: no CLIP vocabulary: single-file checkpoints will need --tokenizer DIR" >&2
        return
    fi
    mkdir -p vendor
    python3 scripts/extract_merges.py "$folder"/*.whl vendor/clip_merges.txt
    rm -rf "$folder"
}

install_packages() {
    local missing as_root log package
    if ! command -v dpkg-query >/dev/null; then
        echo "setup: this is not Debian or Ubuntu; install these by hand: ${packages[*]}" >&2
        return
    fi
    missing=()
    for package in "${packages[@]}"; do
        # A virtual package (libjpeg-dev) counts when a real one provides it.
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed' ||
            missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return

    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "setup: install as root: apt-get install ${missing[*]}" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    echo "installing ${missing[*]}"
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update -q && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
           apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        exit 1
    fi
    rm -f "$log"
}

cd "$(dirname "$0")/.."
install_packages
fetch_vocabulary
