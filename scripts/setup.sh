#!/usr/bin/env bash
# Installs what the build needs on Debian and Ubuntu; does nothing where all is there.
#   scripts/setup.sh [--tests]     --tests: also what the tests need
set -euo pipefail

packages=(gcc cmake ninja-build pkg-config libdnnl-dev libjansson-dev libpng-dev libjpeg-dev
          libwebp-dev libutf8proc-dev libssl-dev liblapacke-dev)
if [ "${1:-}" = --tests ]; then
    packages+=(libcmocka-dev python3)
fi

if ! command -v dpkg-query >/dev/null; then
    echo "setup: this is not Debian or Ubuntu; install these by hand: ${packages[*]}" >&2
    exit 0
fi
missing=()
for package in "${packages[@]}"; do
    # A virtual package (libjpeg-dev) counts when a real one provides it.
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "setup: install as root: apt-get install ${missing[*]}" >&2; exit 1; }
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
