#include "common/sort.h"

#include "common/launch.h"
#include "common/reduce.h"

namespace noema::cuda {

namespace {

// A block sorts tiles of 2048 keys by one digit: each warp ranks 8 times 32 of them. 512 digits: a vocabulary of 2^18 takes two passes,
// and 8 warps' counters 16 KB.
constexpr int kThreads = 256, kWarps = kThreads / 32, kRounds = 8, kTile = kThreads * kRounds;
constexpr int kDigitBits = 9, kDigits = 1 << kDigitBits;

struct Pass {
    const int32_t *keys, *rows;  // rows: null in the first pass, where they are 0, 1, 2, ...
    int32_t *to_keys, *to_rows;
    int32_t* counts;  // [tiles, kDigits]
    int64_t n;
    int tiles, shift, bits;

    __device__ __forceinline__ int digit(int32_t key) const { return key >> shift & ((1 << bits) - 1); }
};

/// Which lanes hold the same digit; a lane without a key holds one of its own that nobody else has.
__device__ __forceinline__ unsigned same_digit(int digit, bool valid, int bits) {
    unsigned peers = __ballot_sync(kAllLanes, valid);
    for (int b = 0; b < bits; ++b) {
        const bool set = (digit >> b & 1) != 0;
        const unsigned votes = __ballot_sync(kAllLanes, set);
        peers &= set ? votes : ~votes;
    }
    return peers;
}

/// Key of round k of this warp: a warp's keys lie together, so ranks by warp, round and lane keep their order.
__device__ __forceinline__ int64_t place_of(int tile, int k) {
    const int thread = static_cast<int>(threadIdx.x);
    return static_cast<int64_t>(tile) * kTile + thread / 32 * (32 * kRounds) + 32 * k + thread % 32;
}

/// Counts each warp's digits, [kWarps, kDigits], and calls each(k, digit, rank within the warp's keys of that digit).
template <class F>
__device__ __forceinline__ void rank_keys(const Pass& p, int tile, Shared<int32_t> counts, F each) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
    const Shared<int32_t> mine = counts + thread / 32 * kDigits;
    for (int d = lane; d < kDigits; d += 32) mine[d] = 0;
    __syncwarp();
#pragma unroll
    for (int k = 0; k < kRounds; ++k) {
        const int64_t i = place_of(tile, k);
        const bool valid = i < p.n;
        const int digit = valid ? p.digit(p.keys[i]) : 0;
        const unsigned peers = same_digit(digit, valid, p.bits);
        const int before = __popc(peers & ((1u << lane) - 1));
        const int32_t so_far = valid ? static_cast<int32_t>(mine[digit]) : 0;
        __syncwarp();
        if (valid && before == 0) mine[digit] = so_far + __popc(peers);
        __syncwarp();
        each(k, digit, so_far + before);
    }
}

__global__ void __launch_bounds__(kThreads) count_digits(Pass p) {
    SHARED_ARRAY(int32_t, counts, kWarps * kDigits);
    const int tile = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
    rank_keys(p, tile, counts, [](int, int, int) {});
    __syncthreads();
    for (int d = thread; d < kDigits; d += kThreads) {
        int32_t sum = 0;
        for (int w = 0; w < kWarps; ++w) sum += static_cast<int32_t>(counts[w * kDigits + d]);
        p.counts[tile * kDigits + d] = sum;
    }
}

/// Sum of the values of all threads before this one.
__device__ __forceinline__ int32_t sum_before(int32_t value, Shared<int32_t> scratch) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    int32_t sum = value;
    for (int step = 1; step < 32; step *= 2) {
        const int32_t other = __shfl_up_sync(kAllLanes, sum, static_cast<unsigned>(step));
        if (lane >= step) sum += other;
    }
    if (lane == 31) scratch[warp] = sum;
    __syncthreads();
    int32_t before = sum - value;
    for (int w = 0; w < warp; ++w) before += static_cast<int32_t>(scratch[w]);
    return before;
}

/// Turns counts[w][d] into the place of the first key with digit d of warp w of this tile.
__device__ __forceinline__ void find_places(const Pass& p, int tile, Shared<int32_t> counts, Shared<int32_t> scratch) {
    constexpr int kEach = kDigits / kThreads;  // digits next to each other
    const int first = static_cast<int>(threadIdx.x) * kEach;
    int32_t total[kEach], mine[kEach], all = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) total[e] = mine[e] = 0;
    for (int t = 0; t < p.tiles; ++t)
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
            if (t == tile) mine[e] = total[e];
            total[e] += p.counts[t * kDigits + first + e];
        }
#pragma unroll
    for (int e = 0; e < kEach; ++e) all += total[e];
    int32_t place = sum_before(all, scratch);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        int32_t at = place + mine[e];
        for (int w = 0; w < kWarps; ++w) {
            const int32_t count = counts[w * kDigits + first + e];
            counts[w * kDigits + first + e] = at;
            at += count;
        }
        place += total[e];
    }
}

// One block per multiprocessor is plenty: registers, not occupancy.
__global__ void __launch_bounds__(kThreads, 1) move_keys(Pass p) {
    SHARED_ARRAY(int32_t, counts, kWarps * kDigits);
    SHARED_ARRAY(int32_t, scratch, kWarps);
    const int tile = static_cast<int>(blockIdx.x), warp = static_cast<int>(threadIdx.x) / 32;
    int digits[kRounds], ranks[kRounds];
    rank_keys(p, tile, counts, [&](int k, int digit, int rank) {
        digits[k] = digit;
        ranks[k] = rank;
    });
    __syncthreads();
    find_places(p, tile, counts, scratch);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kRounds; ++k) {
        const int64_t i = place_of(tile, k);
        if (i >= p.n) continue;
        const int32_t to = static_cast<int32_t>(counts[warp * kDigits + digits[k]]) + ranks[k];
        p.to_keys[to] = p.keys[i];
        p.to_rows[to] = p.rows ? p.rows[i] : static_cast<int32_t>(i);
    }
}

int bits_of(int64_t limit) {
    int bits = 1;
    while (int64_t{1} << bits < limit) ++bits;
    return bits;
}

}  // namespace

size_t sort_rows_workspace(int64_t n) {
    return 4 * workspace_bytes<int32_t>(n) + workspace_bytes<int32_t>(ceil_div(n, kTile) * kDigits);
}

Status sort_rows(const int32_t* keys, int64_t n, int64_t limit, const Stream& stream, Workspace& workspace,
                 SortedRows& out) {
    int32_t *to_keys[2], *to_rows[2];
    for (int i = 0; i < 2; ++i) to_keys[i] = workspace.take<int32_t>(n), to_rows[i] = workspace.take<int32_t>(n);
    const int tiles = static_cast<int>(ceil_div(n, kTile)), bits = bits_of(limit);
    const int passes = static_cast<int>(ceil_div(bits, kDigitBits)),
              digit_bits = static_cast<int>(ceil_div(bits, passes));
    int32_t* counts = workspace.take<int32_t>(static_cast<int64_t>(tiles) * kDigits);
    const Grid grid{.blocks = dim3(static_cast<unsigned>(tiles)), .threads = kThreads};
    out = {keys, nullptr};
    for (int i = 0; i < passes; ++i) {
        const Pass p{out.keys, out.rows, to_keys[i % 2], to_rows[i % 2], counts, n, tiles, i * digit_bits, digit_bits};
        NOEMA_TRY(launch("counting digits", stream, grid, count_digits, p));
        NOEMA_TRY(launch("sorting by a digit", stream, grid, move_keys, p));
        out = {p.to_keys, p.to_rows};
    }
    return {};
}

}  // namespace noema::cuda
