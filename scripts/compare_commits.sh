#!/usr/bin/env bash
# Runs two versions of the program side by side on this machine and compares all they make, to the
# bit: adapters, checkpoints, merged models, exports, pictures, reports.
#   scripts/compare_commits.sh BEFORE [AFTER] [--only REGEX] [--list] [--output DIR]
# BEFORE, AFTER: a commit, which is built in build-compare/, or a built program (build/sara).
# AFTER alone may be missing: it is then this working tree, built in build-compare/tree.
# Exit code 1: something differs, or a case could not be run on both sides. About three minutes.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)

# build FOLDER SOURCE: prints the path of the program
build() {
    # What setup.sh fetched once is a part of the program.
    if [ -e "$top/vendor" ] && [ ! -e "$2/vendor" ]; then cp -r "$top/vendor" "$2/vendor"; fi
    cmake -S "$2" -B "$1" -G Ninja -DBUILD_TESTING=OFF >"$1.log" 2>&1 &&
        cmake --build "$1" >>"$1.log" 2>&1 || { tail -n 30 "$1.log" >&2; return 1; }
    echo "$1/sara"
}

# program WHICH: of a commit, or the file itself; prints its path
program() {
    local commit folder=$top/build-compare
    if [ -f "$1" ] && [ -x "$1" ]; then
        realpath "$1"
        return
    fi
    if ! commit=$(git -C "$top" rev-parse --verify --quiet "$1^{commit}"); then
        echo "$1: neither a commit nor a program" >&2
        return 1
    fi
    mkdir -p "$folder"
    if [ ! -e "$folder/$commit" ]; then
        rm -rf "$folder/part"
        mkdir "$folder/part"
        git -C "$top" archive "$commit" | tar -x -C "$folder/part"
        mv "$folder/part" "$folder/$commit"
    fi
    build "$folder/$commit.build" "$folder/$commit"
}

sides=()
while [ $# -gt 0 ] && [[ $1 != -* ]]; do
    sides+=("$1")
    shift
done
if [ ${#sides[@]} -eq 0 ] || [ ${#sides[@]} -gt 2 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    [ ${#sides[@]} -eq 0 ] && [[ ${1:-} =~ ^(-h|--help)$ ]] && exit 0
    exit 2
fi
before=$(program "${sides[0]}")
if [ ${#sides[@]} -eq 2 ]; then
    after=$(program "${sides[1]}")
else
    mkdir -p "$top/build-compare"
    after=$(build "$top/build-compare/tree" "$top")
fi
exec python3 -B "$top/scripts/compare_commits/compare.py" "$before" "$after" "$@"
