// What needs the logits of a row together: a block per row, over logits that lie in the second-level cache.
//
// Cuts are found digit by digit of the logits' order: a histogram of the first 11 bits, then of the next among those that share them.
// Masses are whole numbers (2^-40 of the likeliest token's), so their sums are the same in any order.
#include "head_state.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kBins = 2048;
using Weight64 = unsigned long long;

/// Rises with the logit; the two zeros are one.
__device__ __forceinline__ uint32_t key_of(float x) {
    const uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct RowShared {
    Shared<Weight64> bins;     // kBins, also of less
    Shared<Weight64> partial;  // kWarps
    Shared<Weight64> found;    // 2
};

/// Sums and what stands before a warp's part, of whole numbers.
__device__ __forceinline__ Weight64 block_sum(Weight64 mine, const RowShared& s, Weight64* before_warp) {
    const int warp = threadIdx.x / 32;
    mine = warp_reduce(mine, Sum{});
    if (threadIdx.x % 32 == 0) s.partial[warp] = mine;
    __syncthreads();
    Weight64 all = 0, before = 0;
    for (int w = 0; w < kWarps; ++w) {
        if (w == warp) before = all;
        all += s.partial[w];
    }
    __syncthreads();
    if (before_warp) *before_warp = before;
    return all;
}

/// The largest key so that it and those above weigh `goal` or more together, and what those above weigh.
struct Cut {
    uint32_t key;
    Weight64 above;
};

/// A warp: in which bin, downwards, the weights reach goal, and what those above it weigh.
template <class Weight>
__device__ __forceinline__ void find_bin(Shared<Weight> bins, Weight64 goal, Shared<Weight64> found) {
    constexpr int kOfLane = kBins / 32;
    const int lane = threadIdx.x % 32, top = kBins - 1 - lane * kOfLane;  // lane 0 has the highest bins
    Weight64 own = 0;
    for (int i = 0; i < kOfLane; ++i) own += static_cast<Weight>(bins[top - i]);
    Weight64 up_to = own;
    for (unsigned step = 1; step < 32; step *= 2) {
        const Weight64 other = __shfl_up_sync(kAllLanes, up_to, step);
        if (lane >= static_cast<int>(step)) up_to += other;
    }
    const unsigned reached = __ballot_sync(kAllLanes, up_to >= goal);
    if (lane != __ffs(static_cast<int>(reached)) - 1) return;
    Weight64 above = up_to - own;
    int bin = top;
    for (; bin > top - kOfLane + 1 && above + static_cast<Weight>(bins[bin]) < goal; --bin)
        above += static_cast<Weight>(bins[bin]);
    found[0] = static_cast<Weight64>(bin);
    found[1] = above;
}

/// entry(i, key) gives an entry's key and weight; entries of weight 0 are not there. All weights together reach goal. Weight: counts
/// are added by one instruction, masses of 64 bits by several.
template <class Weight, class Entry>
__device__ __forceinline__ Cut find_cut(int n, Weight64 goal, const RowShared& s, const Entry& entry) {
    const Shared<Weight> bins = s.bins.as<Weight>();
    uint32_t prefix = 0;
    Weight64 above = 0;
    for (int shift = 21; shift >= -1; shift -= 11) {
        const int low = max(shift, 0), digits = shift < 0 ? 10 : 11;
        for (int i = threadIdx.x; i < kBins; i += kThreads) bins[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += kThreads) {
            uint32_t key;
            const Weight weight = entry(i, key);
            if (weight == 0 || (shift < 21 && key >> (low + digits) != prefix)) continue;
            atomic_add(bins + static_cast<int>(key >> low & ((1u << digits) - 1)), weight);
        }
        __syncthreads();
        if (threadIdx.x < 32) find_bin(bins, goal - above, s.found);
        __syncthreads();
        prefix = prefix << digits | static_cast<uint32_t>(s.found[0]);
        above += s.found[1];
        __syncthreads();
    }
    return {prefix, above};
}

/// A row: its logits, and which of its tokens are still in the running.
struct Row {
    const float* x;
    int V, excluded;
    uint32_t least;  // key; of tokens with it only those up to id `last`
    int last;

    __device__ __forceinline__ bool keeps(int id, uint32_t key) const {
        return id != excluded && (key > least || (key == least && id <= last));
    }
    // A warp's part of the row, so that ids rise with lanes and warps.
    __device__ __forceinline__ int part_begin() const { return min(static_cast<int>(threadIdx.x / 32) * part(), V); }
    __device__ __forceinline__ int part_end() const { return min(part_begin() + part(), V); }
    __device__ __forceinline__ int part() const { return ((V + kWarps - 1) / kWarps + 31) / 32 * 32; }
};

/// The id of the `wanted`-th token (from 1) with this key.
__device__ __forceinline__ int id_of_equal(const Row& row, uint32_t key, int wanted, const RowShared& s) {
    const int lane = threadIdx.x % 32, begin = row.part_begin(), end = row.part_end();
    Weight64 mine = 0, before;
    for (int id = begin + lane; id < end; id += 32) mine += id != row.excluded && key_of(row.x[id]) == key ? 1 : 0;
    block_sum(mine, s, &before);
    int seen = static_cast<int>(before);
    for (int first = begin; first < end; first += 32) {
        const int id = first + lane;
        const bool equal = id < end && id != row.excluded && key_of(row.x[id]) == key;
        const unsigned votes = __ballot_sync(kAllLanes, equal);
        if (equal && seen + __popc(votes & (0xFFFFFFFFu >> (31 - lane))) == wanted)
            s.found[0] = static_cast<Weight64>(id);
        seen += __popc(votes);
    }
    __syncthreads();
    const int found = static_cast<int>(static_cast<Weight64>(s.found[0]));
    __syncthreads();
    return found;
}

/// Leaves the K likeliest in the running; there are as many. No fewer than K threads have seen a logit of at least the K-th largest
/// of what each saw at most: only the few from there on enter the histograms.
__device__ __forceinline__ void cut_to_count(Row& row, int K, const RowShared& s, Shared<uint32_t> maxima) {
    uint32_t floor = 0;
    if (K <= kThreads && row.V >= 4 * kThreads) {
        uint32_t most = 0;
        for (int id = threadIdx.x; id < row.V; id += kThreads)
            if (id != row.excluded) most = max(most, key_of(row.x[id]));
        maxima[threadIdx.x] = most;
        __syncthreads();
        const auto entry = [&](int i, uint32_t& key) {
            key = maxima[i];
            return 1u;
        };
        floor = find_cut<uint32_t>(kThreads, static_cast<Weight64>(K), s, entry).key;
    }
    const auto entry = [&](int id, uint32_t& key) {
        key = key_of(row.x[id]);
        return id != row.excluded && key >= floor ? 1u : 0u;
    };
    const Cut cut = find_cut<uint32_t>(row.V, static_cast<Weight64>(K), s, entry);
    row.last = id_of_equal(row, cut.key, K - static_cast<int>(cut.above), s);
    row.least = cut.key;
}

// --- lists -----------------------------------------------------------------------------------------------------------

struct Lists {
    KeptRows kept;
    int32_t* ids;
    float* logits;
    int64_t ids_stride, logits_stride;
    int K, sorted;  // sorted: K as a power of two
};

/// Rising.
__device__ __forceinline__ void sort(Shared<Weight64> items, int n) {
    for (int size = 2; size <= n; size *= 2)
        for (int step = size / 2; step > 0; step /= 2) {
            for (int i = threadIdx.x; i < n / 2; i += kThreads) {
                const int low = i / step * 2 * step + i % step, high = low + step;
                const Weight64 a = items[low], b = items[high];
                if ((a > b) == ((low & size) == 0)) {
                    items[low] = b;
                    items[high] = a;
                }
            }
            __syncthreads();
        }
}

__device__ __forceinline__ void write_broken(const Lists& p, int row) {
    for (int k = threadIdx.x; k < p.K; k += kThreads) {
        p.ids[row * p.ids_stride + k] = p.kept.excluded >= 0 && k >= p.kept.excluded ? k + 1 : k;
        p.logits[row * p.logits_stride + k] = __int_as_float(0x7FC00000);
    }
}

__global__ void __launch_bounds__(kThreads, 2) list_row(Lists p) {
    SHARED_ARRAY(Weight64, bins, kBins);
    SHARED_ARRAY(Weight64, partial, kWarps);
    SHARED_ARRAY(Weight64, found, 2);
    SHARED_ARRAY(uint32_t, maxima, kThreads);
    SHARED_ARRAY(Weight64, items, kMaxTopK);
    SHARED_ARRAY(int, taken, 1);
    const int r = blockIdx.x;
    if (is_broken(read_state(p.kept.states + r))) return write_broken(p, r);
    Row row{p.kept.logits + r * p.kept.pitch, p.kept.V, p.kept.excluded, 0, 0};
    cut_to_count(row, p.K, {bins, partial, found}, maxima);
    if (threadIdx.x == 0) taken[0] = 0;
    for (int i = p.K + threadIdx.x; i < p.sorted; i += kThreads) items[i] = ~Weight64{0};
    __syncthreads();
    // In any order: sorting tells them apart, no two are equal.
    for (int id = threadIdx.x; id < row.V; id += kThreads) {
        const uint32_t key = key_of(row.x[id]);
        if (row.keeps(id, key))
            items[atomic_add(taken, 1)] = static_cast<Weight64>(~key) << 32 | static_cast<uint32_t>(id);
    }
    __syncthreads();
    sort(items, p.sorted);
    for (int k = threadIdx.x; k < p.K; k += kThreads) {
        const int id = static_cast<int>(static_cast<Weight64>(items[k]) & 0xFFFFFFFFu);
        p.ids[r * p.ids_stride + k] = id;
        p.logits[r * p.logits_stride + k] = row.x[id];
    }
}

// --- draws -----------------------------------------------------------------------------------------------------------

struct Draws {
    KeptRows kept;
    Noise noise;
    int32_t* tokens;
    float* logit;
    int top_k, first_token;
    float top_p, unit;  // unit: the likeliest token's mass
    bool categorical;
};

/// A token's share, relative to the likeliest one's.
__device__ __forceinline__ Weight64 mass_of(const Draws& p, float x, float max) {
    return static_cast<Weight64>(exp_of((x - max) * p.noise.beta) * p.unit);
}

/// The mass of a lane's tokens in its warp's part.
__device__ __forceinline__ Weight64 lane_mass(const Draws& p, const Row& row, float max) {
    Weight64 mass = 0;
    for (int id = row.part_begin() + static_cast<int>(threadIdx.x) % 32; id < row.part_end(); id += 32)
        if (row.keeps(id, key_of(row.x[id]))) mass += mass_of(p, row.x[id], max);
    return mass;
}

__device__ __forceinline__ void cut_to_mass(const Draws& p, Row& row, float max, const RowShared& s) {
    const Weight64 total = block_sum(lane_mass(p, row, max), s, nullptr);
    const double wanted = static_cast<double>(p.top_p) * static_cast<double>(total);
    Weight64 goal = static_cast<Weight64>(wanted);
    goal += static_cast<double>(goal) < wanted ? 1 : 0;
    goal = goal == 0 ? 1 : goal < total ? goal : total;
    const auto entry = [&](int id, uint32_t& key) {
        const float x = row.x[id];
        key = key_of(x);
        return row.keeps(id, key) ? mass_of(p, x, max) : Weight64{0};
    };
    const Cut cut = find_cut<Weight64>(row.V, goal, s, entry);
    const uint32_t bits = cut.key & 0x80000000u ? cut.key & 0x7FFFFFFFu : ~cut.key;
    const Weight64 each = mass_of(p, __uint_as_float(bits), max);
    row.last = id_of_equal(row, cut.key, static_cast<int>((goal - cut.above + each - 1) / each), s);
    row.least = cut.key;
}

/// argmax of logit beta + noise among those in the running.
__device__ __forceinline__ int noisy_token(const Draws& p, const Row& row, float max, int r, const RowShared& s) {
    const RowSeed seed = row_seed(p.noise, r);
    float best_score = -HUGE_VALF;
    int best = kNobody;
    for (int block = threadIdx.x; 4 * block < row.V; block += kThreads) {
        const Philox bits = token_bits(seed, block);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int id = 4 * block + k;
            if (id >= row.V) break;
            const float x = row.x[id];
            if (!row.keeps(id, key_of(x))) continue;
            const float score = fmaf(x - max, p.noise.beta, gumbel_of(bits.x[k]));
            if (score > best_score) best_score = score, best = id;
        }
    }
    // Score and then the lower id, as one number.
    Weight64 item = static_cast<Weight64>(key_of(best_score)) << 32 | static_cast<uint32_t>(~best);
    item = block_reduce(item, Max{}, s.partial);
    return static_cast<int>(~static_cast<uint32_t>(item));
}

/// The first token in ascending id whose cumulative mass exceeds u of the whole.
__device__ __forceinline__ int token_at(const Draws& p, const Row& row, float max, int r, const RowShared& s) {
    const int lane = threadIdx.x % 32;
    const Weight64 mine = lane_mass(p, row, max), of_warp = warp_reduce(mine, Sum{});
    Weight64 before;
    const Weight64 total = block_sum(mine, s, &before);
    const float u = to_uniform(token_bits(row_seed(p.noise, r), 0).x[0]);
    const Weight64 goal = static_cast<Weight64>(static_cast<double>(u) * static_cast<double>(total));
    const bool here = before <= goal && goal < before + of_warp;
    for (int first = row.part_begin(); here && first < row.part_end(); first += 32) {
        const int id = first + lane;
        const bool kept = id < row.part_end() && row.keeps(id, key_of(row.x[id]));
        Weight64 up_to = kept ? mass_of(p, row.x[id], max) : 0;
        for (unsigned step = 1; step < 32; step *= 2) {
            const Weight64 other = __shfl_up_sync(kAllLanes, up_to, step);
            if (lane >= static_cast<int>(step)) up_to += other;
        }
        const unsigned beyond = __ballot_sync(kAllLanes, before + up_to > goal);
        if (beyond) {
            if (lane == __ffs(static_cast<int>(beyond)) - 1) s.found[0] = static_cast<Weight64>(id);
            break;
        }
        before += __shfl_sync(kAllLanes, up_to, 31);
    }
    __syncthreads();
    return static_cast<int>(static_cast<Weight64>(s.found[0]));
}

__global__ void __launch_bounds__(kThreads, 2) choose_token(Draws p) {
    SHARED_ARRAY(Weight64, bins, kBins);
    SHARED_ARRAY(Weight64, partial, kWarps);
    SHARED_ARRAY(Weight64, found, 2);
    SHARED_ARRAY(uint32_t, maxima, kThreads);
    const int r = blockIdx.x;
    const RowShared shared{bins, partial, found};
    const HeadState state = read_state(p.kept.states + r);
    Row row{p.kept.logits + r * p.kept.pitch, p.kept.V, p.kept.excluded, 0, p.kept.V};
    int token = p.first_token;
    if (!is_broken(state)) {
        if (p.top_k > 0) cut_to_count(row, p.top_k, shared, maxima);
        if (p.top_p < 1.0f) cut_to_mass(p, row, state.max, shared);
        token = p.categorical ? token_at(p, row, state.max, r, shared) : noisy_token(p, row, state.max, r, shared);
    }
    if (threadIdx.x != 0) return;
    p.tokens[r] = token;
    if (p.logit) p.logit[r] = is_broken(state) ? __int_as_float(0x7FC00000) : row.x[token];
}

}  // namespace

Status list_best(const KeptRows& kept, const RowStatsOutputs& out, int64_t first, const Stream& stream) {
    Lists p{.kept = kept,
            .ids = out.top_ids.at<int32_t>(first),
            .logits = out.top_logits.at<float>(first),
            .ids_stride = out.top_ids.stride[0],
            .logits_stride = out.top_logits.stride[0],
            .K = static_cast<int>(out.top_ids.shape[1]),
            .sorted = 1};
    if (p.K == 0) return {};
    while (p.sorted < p.K) p.sorted *= 2;
    return launch("head (lists)", stream, {.blocks = dim3(static_cast<unsigned>(kept.rows)), .threads = kThreads},
                  list_row, p);
}

Status choose_tokens(const KeptRows& kept, const Choice& choice, const Stream& stream) {
    // As fine as sums of V of them allow.
    int bits = 40;
    while (bits > 0 && (int64_t{kept.V} >> (62 - bits)) > 0) --bits;
    const Draws p{.kept = kept,
                  .noise = choice.noise,
                  .tokens = choice.tokens,
                  .logit = choice.logit,
                  .top_k = static_cast<int>(choice.top_k),
                  .first_token = kept.excluded == 0 ? 1 : 0,
                  .top_p = choice.top_p,
                  .unit = static_cast<float>(uint64_t{1} << bits),
                  .categorical = choice.categorical};
    return launch("head (draws)", stream, {.blocks = dim3(static_cast<unsigned>(kept.rows)), .threads = kThreads},
                  choose_token, p);
}

}  // namespace noema::cuda
