#!/usr/bin/env bash
# Installs a finished build into a scratch folder and uses it as a stranger would: the header alone
# in C and C++, the example through pkg-config, the installed program.
#   scripts/check_install.sh BUILD_DIR
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT

cmake --install "$build" --prefix "$prefix" >/dev/null
export PKG_CONFIG_PATH
PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name sara.pc)")
library=$(dirname "$PKG_CONFIG_PATH")
flags=$(pkg-config --define-variable=prefix="$prefix" --cflags --libs sara)

for header in sara.h sara_train.h sara_data.h sara_eval.h sara_tensors.h; do
    echo "#include <$header>" | ${CC:-cc} -std=c99 -Wall -Wextra -Wpedantic -Werror -fsyntax-only \
        -I"$prefix/include" -xc -
    echo "#include <$header>" | ${CXX:-c++} -Wall -Wextra -Werror -fsyntax-only \
        -I"$prefix/include" -xc++ -
done
# shellcheck disable=SC2086
for source in examples/*.c; do
    ${CC:-cc} -std=c11 -Wall -Wextra -Werror "$source" $flags -Wl,-rpath,"$library" \
        -o "$prefix/$(basename "$source" .c)"
done
"$prefix/bin/sara" --version
"$prefix/bin/sara" inspect -m examples/emoji/base >/dev/null

# Nothing but the public interface is exported.
hidden=$(nm -D --defined-only "$library/libsara.so" | awk '{print $3}' | while read -r symbol; do
    grep -qh "\b$symbol\b" include/*.h || echo "$symbol"
done)
[ -z "$hidden" ] || { echo "libsara exports what no public header declares: $hidden" >&2; exit 1; }
echo "install: header, example, program and exports are fine"
