#!/bin/sh
# One command for a machine with a GPU, without Node:
#
#   bench/gpu/check.sh [--tree FOLDER] [--out FOLDER] [--node FILE] [--golden FOLDER] [--limit SECONDS] [--quick]
#
# Builds (nvcc, a C++ compiler, cmake and libhwy are needed), or takes a tree that bench/gpu/pack.sh made elsewhere (--tree: then only the driver is
# needed). Runs the op tests on the GPU, the golden checkpoints where a node binary is given, the benches, beside PyTorch's own operators where
# PyTorch is, then memcheck and racecheck on the op tests at small sizes where compute-sanitizer is. Writes check.json, check.md and logs to --out
# (default: gpu-check), after every part. All but the build is done after --limit seconds (default 460), finished or not. Exits with 1 when anything was
# wrong; parts that could not run are named and do not count as wrong.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tree= out=gpu-check node= golden= seconds=0.15 allowed=460
while [ $# -gt 0 ]; do
    case $1 in
        --tree) tree=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --node) node=$2; shift 2 ;;
        --golden) golden=$2; shift 2 ;;
        --limit) allowed=$2; shift 2 ;;
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

# The rows are one to a line in bench.json, written by noema-bench itself, which may have been stopped in the middle of one.
rows() {
    grep -o '^ *{"case": .*}' "$out/bench.json" 2>/dev/null
}

report() {
    date=$(date -u +%Y-%m-%d)
    {
        printf '{"gpu": "%s", "date": "%s", "ok": %s, "cases": [\n' "$gpu" "$date" "$([ $wrong = 0 ] && echo true || echo false)"
        rows | sed '$!s/$/,/'
        printf ']}\n'
    } >"$out/check.json"
    {
        printf '# %s, %s\n\n' "$gpu" "$date"
        sed 's/^/    /' "$out/summary.txt"
        printf '\n    noema-bench --device %s --seconds %s\n\n' "$device" "$seconds"
        printf '| case | best us | median us | share of ceiling | bound | PyTorch us | we / PyTorch |\n|---|---|---|---|---|---|---|\n'
        rows | awk '
            function text(name) { return match($0, "\"" name "\": \"[^\"]*\"") ? substr($0, RSTART + length(name) + 5, RLENGTH - length(name) - 6) : "" }
            function number(name) { return match($0, "\"" name "\": [0-9.e+-]+") ? substr($0, RSTART + length(name) + 4, RLENGTH - length(name) - 4) + 0 : 0 }
            number("best_seconds") > 0 {
                best = number("best_seconds"); peer = number("peer_seconds"); share = number("share")
                printf "| %s | %.1f | %.1f | %s | %s | %s | %s |\n", text("case"), best * 1e6, number("median_seconds") * 1e6,
                    (share > 0 ? sprintf("%.0f %%", 100 * share) : ""), text("bound"),
                    (peer > 0 ? sprintf("%.1f", peer * 1e6) : ""), (peer > 0 ? sprintf("%.2f", best / peer) : "")
                next
            }
            { printf "| %s | %s |||||\n", text("case"), text("failure") }'
    } >"$out/check.md"
}

# part NAME SECONDS COMMAND...: its output goes to NAME.log; one line of what came of it. It has what is left of the time at most.
part() {
    name=$1 limit=$2
    shift 2
    started=$(date +%s)
    left=$((deadline - started))
    if [ $left -lt 5 ]; then
        say "$name: not run, no time was left"
        wrong=1
        return 1
    fi
    [ "$limit" -lt $left ] || limit=$left
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    spent=$(($(date +%s) - started))
    case $status in
        0) say "$name: passed, $spent s" ;;
        124 | 137) say "$name: FAILED, not done after $limit s"; wrong=1 ;;
        *) say "$name: FAILED with $status after $spent s; the end of its output:"; tail -n 15 "$out/$name.log" | tee -a "$out/summary.txt"; wrong=1 ;;
    esac
    report
    return $status
}

skip() {
    say "$1: skipped, $2"
}

if command -v nvidia-smi >/dev/null; then
    gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1)
else
    gpu="no nvidia-smi"
fi
if [ -z "$tree" ]; then
    tree=$root/build-gpu
    deadline=$(($(date +%s) + 1200))
    part build 1200 sh -c "cmake -S '$root' -B '$tree' -DCMAKE_BUILD_TYPE=Release >/dev/null && cmake --build '$tree' --parallel '$(nproc)' --target noema-test noema-bench noema-cuda" || exit 1
    noema=$root
else
    noema=$tree/noema
fi
deadline=$(($(date +%s) + allowed))
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

# Libraries that pack.sh laid beside the executables are theirs alone: Python and node bring their own.
own="LD_LIBRARY_PATH=$tree/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

export NOEMA_TEST_DEVICES=$device NOEMA_REQUIRE=$device
part tests 150 env "$own" "$tree/noema-test" ${filter:+"--test-case=*${filter%%/*}*"} && tested=yes || tested=

if [ -n "$node" ] && [ -n "$golden" ] && [ -f "$noema/dist/cli/main.js" ]; then
    for folder in "$golden"/*/; do
        name=$(basename "$folder")
        before=$wrong
        # A checkpoint of a family or layout that this version does not read is refused with this code.
        if ! part "golden-$name" 60 "$node" "$noema/dist/cli/main.js" verify "$folder" --backend "$device" &&
            grep -q 'ERR_UNSUPPORTED' "$out/golden-$name.log"; then
            say "golden-$name: that was a layout this version does not read"
            wrong=$before
        fi
    done
else
    skip golden "a node binary, a golden folder and noema itself are needed"
fi

peers=
env "$own" "$tree/noema-bench" --list >"$out/cases.txt"
if command -v python3 >/dev/null && python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    timeout -k 5 90 python3 "$here/peers.py" "$out/cases.txt" >"$out/peers.txt" 2>"$out/peers.log"
    say "peers: PyTorch $(python3 -c 'import torch; print(torch.__version__)'), $(wc -l <"$out/peers.txt") figures; said: $(tail -n 1 "$out/peers.log")"
    peers=yes
else
    skip peers "no PyTorch with CUDA"
fi
part bench 200 env "$own" "$tree/noema-bench" --device "$device" --seconds "$seconds" --json "$out/bench.json" ${peers:+--peers "$out/peers.txt"} ${filter:+--filter "$filter"} || true

# Whole models take too long there; of flows, the persistent kernel's own tests are among those of ops.
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -z "$sanitizer" ]; then
    skip "memcheck, racecheck" "compute-sanitizer is not here"
elif [ -z "$tested" ]; then
    skip "memcheck, racecheck" "the tests did not pass without them"
elif timeout -k 5 60 env "$own" "$sanitizer" "$tree/noema-test" --test-case=swiglu 2>&1 | grep -qi 'not supported'; then
    skip "memcheck, racecheck" "compute-sanitizer does not support this device or its virtual machine"
else
    for tool in memcheck racecheck; do
        NOEMA_TEST_LARGEST=4000 part "$tool" 120 env "$own" "$sanitizer" --tool "$tool" --error-exitcode 1 "$tree/noema-test" \
            --test-case-exclude='masked*,emulation*,device*,autoregressive*,flow: *,thought*' || true
    done
fi
report
say "written: $out/check.json, $out/check.md"
exit $wrong
