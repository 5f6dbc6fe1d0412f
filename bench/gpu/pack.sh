#!/bin/sh
# Makes a tree for check.sh --tree, to be carried to a GPU machine that has only a driver:
#
#   bench/gpu/pack.sh FOLDER [--node]
#
# FOLDER gets the test and bench executables, noema-cuda.so and the libraries they need beside the system's; with --node also noema itself and a stripped,
# compressed node binary (FOLDER/node.xz: unpack it there with `xz -d node.xz && chmod +x node`). Needs what a build needs, nvcc included.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
target=$1
with_node=${2:-}
build=$root/build-gpu
cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$build" --parallel "$(nproc)" --target noema-test noema-bench noema-cuda
mkdir -p "$target/lib"
cp "$build/noema-test" "$build/noema-bench" "$build/noema-cuda.so" "$target/"
strip "$target/noema-test" "$target/noema-bench"
ldd "$target/noema-test" | awk '/libhwy|libstdc\+\+|libgcc_s/ { print $3 }' | xargs -I{} cp -L {} "$target/lib/"
if [ "$with_node" = --node ]; then
    node "$root/scripts/setup.mjs"
    mkdir -p "$target/noema/build/Release"
    cp -r "$root/dist" "$root/package.json" "$target/noema/"
    cp "$root/build/Release/noema.node" "$build/noema-cuda.so" "$target/noema/build/Release/"
    (cd "$target/noema" && npm install --omit=dev --ignore-scripts --no-audit --no-fund --no-package-lock --loglevel=error)
    cp "$(command -v node)" "$target/node"
    strip "$target/node"
    xz -T0 -6 -f "$target/node"
fi
du -sh "$target"
