#!/bin/sh
# One command for a machine with a GPU, without Node:
#
#   bench/gpu/check.sh [--tree FOLDER] [--out FOLDER] [--node FILE] [--golden FOLDER] [--quick]
#
# Builds (nvcc, a C++ compiler, cmake and libhwy are needed), or takes a tree that bench/gpu/pack.sh made elsewhere (--tree: then only the driver is
# needed). Runs the op tests on the GPU, memcheck and racecheck on them at small sizes where compute-sanitizer is, the golden checkpoints where a node
# binary is given, then the benches, beside PyTorch's own operators where PyTorch is. Writes check.json, check.md and logs to --out (default: gpu-check). Under 8
# minutes on an H200. Exits with 1 when anything was wrong; parts that could not run are named and do not count as wrong.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tree= out=gpu-check node= golden= seconds=0.15
while [ $# -gt 0 ]; do
    case $1 in
        --tree) tree=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --node) node=$2; shift 2 ;;
        --golden) golden=$2; shift 2 ;;
        --quick) seconds=0.02; shift ;;
        *) echo "check.sh: unknown option $1" >&2; exit 2 ;;
    esac
done
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
device=${NOEMA_CHECK_DEVICE:-cuda}  # cuda-emulated, with a filter of small cases: to try this script itself
filter=${NOEMA_CHECK_FILTER:-}
wrong=0
: >"$out/summary.txt"

say() {
    echo "$1"
    echo "$1" >>"$out/summary.txt"
}

# part NAME SECONDS COMMAND...: its output goes to NAME.log; one line of what came of it.
part() {
    name=$1 limit=$2
    shift 2
    started=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    spent=$(($(date +%s) - started))
    case $status in
        0) say "$name: passed, $spent s" ;;
        124) say "$name: FAILED, not done after $limit s"; wrong=1 ;;
        *) say "$name: FAILED with $status after $spent s; the end of its output:"; tail -n 15 "$out/$name.log" | tee -a "$out/summary.txt"; wrong=1 ;;
    esac
    return $status
}

skip() {
    say "$1: skipped, $2"
}

if [ -z "$tree" ]; then
    tree=$root/build-gpu
    if ! part build 480 sh -c "cmake -S '$root' -B '$tree' -DCMAKE_BUILD_TYPE=Release >/dev/null && cmake --build '$tree' --parallel --target noema-test noema-bench noema-cuda"; then
        exit 1
    fi
fi
LD_LIBRARY_PATH=$tree/lib:${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH

if command -v nvidia-smi >/dev/null; then
    gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1)
else
    gpu="no nvidia-smi"
fi
say "gpu: $gpu"
say "date: $(date -u +%Y-%m-%d)"

# cuBLASLt: where the system's linker knows it, in CUDA's folder, or among PyTorch's own libraries.
if [ -z "${NOEMA_CUBLASLT:-}" ]; then
    torch_folder=$(python3 -c 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))' 2>/dev/null || true)
    NOEMA_CUBLASLT=$({ ldconfig -p | sed -n 's/.*=> //p'; ls /usr/local/cuda/lib64/* "$torch_folder"/nvidia/*/lib/* "$torch_folder"/torch/lib/*; } 2>/dev/null |
        grep -E '/libcublasLt\.so\.1[23]$' | head -n 1)
    export NOEMA_CUBLASLT
fi
say "cuBLASLt: ${NOEMA_CUBLASLT:-none found: all products by our own kernels}"

export NOEMA_TEST_DEVICES=$device NOEMA_REQUIRE=$device
part tests 180 "$tree/noema-test" ${filter:+"--test-case=*${filter%%/*}*"} || true

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -n "$sanitizer" ] && "$sanitizer" "$tree/noema-test" --test-case=swiglu 2>&1 | grep -qi 'not supported'; then
    skip "memcheck, racecheck" "compute-sanitizer does not support this device or its virtual machine"
elif [ -n "$sanitizer" ]; then
    for tool in memcheck racecheck; do
        NOEMA_TEST_LARGEST=6000 part "$tool" 100 \
            "$sanitizer" --tool "$tool" --error-exitcode 1 "$tree/noema-test" --test-case-exclude='masked*,emulation*' || true
    done
else
    skip "memcheck, racecheck" "compute-sanitizer is not here"
fi

if [ -n "$node" ] && [ -n "$golden" ]; then
    for folder in "$golden"/*/; do
        name=$(basename "$folder")
        # A checkpoint of a family or layout that this version does not read is refused with this code.
        if ! part "golden-$name" 60 "$node" "$tree/noema/dist/cli/main.js" verify "$folder" --backend "$device"; then
            if grep -q 'ERR_UNSUPPORTED' "$out/golden-$name.log"; then say "golden-$name: that was a layout this version does not read"; fi
        fi
    done
else
    skip golden "no node binary and golden folder were given"
fi

peers=
"$tree/noema-bench" --list >"$out/cases.txt"
if command -v python3 >/dev/null && python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    if timeout 150 python3 "$here/peers.py" "$out/cases.txt" >"$out/peers.txt" 2>"$out/peers.log"; then
        say "peers: PyTorch $(python3 -c 'import torch; print(torch.__version__)')"
    else
        say "peers: PyTorch's part ended early: $(tail -n 1 "$out/peers.log")"
    fi
    peers="--peers $out/peers.txt"
else
    skip peers "no PyTorch with CUDA"
fi
# shellcheck disable=SC2086
part bench 200 "$tree/noema-bench" --device "$device" --seconds "$seconds" --json "$out/bench.json" $peers ${filter:+--filter "$filter"} || true

{
    printf '{"gpu": "%s", "date": "%s", "ok": %s, "cases":\n' "$gpu" "$(date -u +%Y-%m-%d)" "$([ $wrong = 0 ] && echo true || echo false)"
    cat "$out/bench.json" 2>/dev/null || printf '[]\n'
    printf '}\n'
} >"$out/check.json"
{
    printf '# %s, %s\n\n' "$gpu" "$(date -u +%Y-%m-%d)"
    sed 's/^/    /' "$out/summary.txt"
    printf '\n    noema-bench --device %s --seconds %s\n\n' "$device" "$seconds"
    printf '| case | best us | median us | share of ceiling | bound | PyTorch us | we / PyTorch |\n|---|---|---|---|---|---|---|\n'
    # The rows are one to a line in bench.json, written by noema-bench itself.
    sed -n 's/^ *{"case": "\([^"]*\)".*"best_seconds": \([0-9.e+-]*\), "median_seconds": \([0-9.e+-]*\),.*"bound": "\([a-z]*\)", "share": \([0-9.]*\), "peer_seconds": \([0-9.e+-]*\)}.*/\1\t\2\t\3\t\4\t\5\t\6/p' "$out/bench.json" 2>/dev/null |
        awk -F '\t' '{ printf "| %s | %.1f | %.1f | %s | %s | %s | %s |\n", $1, $2 * 1e6, $3 * 1e6, ($5 > 0 ? sprintf("%.0f %%", 100 * $5) : ""), $4, ($6 > 0 ? sprintf("%.1f", $6 * 1e6) : ""), ($6 > 0 ? sprintf("%.2f", $2 / $6) : "") }'
} >"$out/check.md"
say "written: $out/check.json, $out/check.md"
exit $wrong
