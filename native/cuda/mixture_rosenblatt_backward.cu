// Given every token's sums (TokenInfo), components are independent of each other. A thread walks a component through the scalars, while it can
// still come to something, and back: scalar i has a gradient by the log weight, e_i, and one by the distance directly, c_i; what comes
// after scalar j moves its distance by -distance_j E_j, E_j = sum_{i > j} e_i + w (the last posterior). It is walked twice: by threads along a
// token's components, for d_z and d_logits, and by a thread per component along tokens, for the table; so no sum needs atomics.
#include "cuda.h"
#include "rosenblatt.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 128;

struct Backward {
    ComponentTable table;
    TokenInfo info;
    const float *z, *logits;
    float *d_z, *d_logits;
    TableSums sums;
    float* slots;  // [3, d, slot_stride] distance, e and c of every thread's component; of rows' threads also d_z
    int64_t z_stride, logits_stride, d_z_stride, d_logits_stride, slot_stride, R, chunk_rows;
};

/// A posterior weight under e^-45 passes nothing on; where a scalar is far out, under e^-45 of its tail.
constexpr float kNegligibleWeight = -45.0f;

/// e and c.
struct Pull {
    float by_weight, by_distance;
};

/// Far out: relative to the tail's largest term, which any component may have.
__device__ __forceinline__ Pull far_pull(const TokenInfo& info, int64_t i, float x, float distance) {
    const float at = within_squares(distance) * info.at(TokenInfo::side, i), top = info.at(TokenInfo::exponent, i);
    const Exponents<float> e = relative_to<float>({top, top, 0}, x, at, 1.0f);
    return {info.at(TokenInfo::share, i) * e.below - info.at(TokenInfo::weight, i) * expf(x),
            info.at(TokenInfo::bell, i) * e.density};
}

__device__ __forceinline__ Pull pull_of(const TokenInfo& info, int64_t i, float x, float distance) {
    if (info.at(TokenInfo::exponent, i) < 0) return far_pull(info, i, x, distance);
    if (!(x >= -kPrunedBelow)) return {0, 0};
    const Shares s = shares_of(x, expf(x), distance);
    const float tail = info.at(TokenInfo::side, i) > 0 ? s.below : s.above;
    return {info.at(TokenInfo::share, i) * tail - info.at(TokenInfo::weight, i) * s.weight,
            info.at(TokenInfo::bell, i) * s.bell};
}

/// A scalar as a component met it.
struct Meeting {
    float distance;
    Pull pull;
};

/// This thread's meetings with the scalars from 1 on.
struct Slots {
    float* data;
    int64_t stride, d;

    __device__ __forceinline__ void put(int64_t i, const Meeting& m) const {
        data[i * stride] = m.distance;
        data[(d + i) * stride] = m.pull.by_weight;
        data[(2 * d + i) * stride] = m.pull.by_distance;
    }
    __device__ __forceinline__ Meeting get(int64_t i) const {
        return {data[i * stride], {data[(d + i) * stride], data[(2 * d + i) * stride]}};
    }
};

/// What a component passes on.
struct Gradient {
    float by_logit, by_log_sigma, first;  // first: by z_0
};

/// f(j, by z_j) for the scalars from 1 on that it met.
template <class F>
__device__ __forceinline__ Gradient walk(const ComponentTable& t, const TokenInfo& info, const float* z, int64_t k,
                                         float logit, const Slots& slots, F f) {
    const float inverse = t.inv_sigma[k], peak = t.neg_log_sigma[k], prior = logit - info.at(TokenInfo::most, 0);
    const Meeting first{(z[0] - t.mean.at(0, k)) * inverse,
                        pull_of(info, 0, prior, (z[0] - t.mean.at(0, k)) * inverse)};
    float y = weight_after(prior, first.distance, peak), later = 0, by_log_sigma = 0;
    int64_t i = 1;
    for (; i < info.d; ++i) {
        const float x = y - info.at(TokenInfo::most, i);
        if (x + info.at(TokenInfo::reach, i) < kNegligibleWeight) break;
        const float distance = (z[i] - t.mean.at(i, k)) * inverse;
        slots.put(i, {distance, pull_of(info, i, x, distance)});
        y = weight_after(x, distance, peak);
    }
    if (i == info.d) later = info.number(TokenInfo::by_last) * expf(y - info.at(TokenInfo::most, i));
    const auto back = [&](const Meeting& m) {
        const float by_distance = m.pull.by_distance - m.distance * later;
        by_log_sigma -= fmaf(m.distance, by_distance, later);
        later += m.pull.by_weight;
        return by_distance * inverse;
    };
    for (--i; i > 0; --i) f(i, back(slots.get(i)));
    const float by_first = back(first);
    return {later - info.number(TokenInfo::by_prior) * expf(prior), by_log_sigma, by_first};
}

/// d_z and d_logits, block by token.
template <int threads>
__global__ void __launch_bounds__(threads) walk_rows(Backward p) {
    using T = Team<threads, float>;
    SHARED_ARRAY(float, scratch, T::kScratch);
    const T team(scratch);
    const int64_t d = p.table.mean.d, K = p.table.mean.N;
    const int64_t me = static_cast<int64_t>(blockIdx.x) * T::kThreads + threadIdx.x;
    const Slots slots{p.slots + me, p.slot_stride, d};
    float* sums = p.slots + 3 * d * p.slot_stride + me;
    for (int64_t r = blockIdx.x; r < p.R; r += gridDim.x) {
        const TokenInfo info = p.info.of(r);
        const float *z = p.z + r * p.z_stride, *logits = p.logits + r * p.logits_stride;
        float *d_z = p.d_z + r * p.d_z_stride, *d_logits = p.d_logits + r * p.d_logits_stride;
        const bool broken = info.number(TokenInfo::broken) > 0;
        float first = broken ? NAN : 0.0f;
        for (int64_t i = 1; i < d; ++i) sums[i * p.slot_stride] = first;
        for (int64_t k = T::thread(); k < K; k += T::kThreads) {
            if (broken) {
                d_logits[k] = NAN;
                continue;
            }
            const Gradient g = walk(p.table, info, z, k, logits[k], slots,
                                    [&](int64_t i, float by_z) { sums[i * p.slot_stride] += by_z; });
            d_logits[k] = g.by_logit;
            first += g.first;
        }
        for (int64_t i = 0; i < d; ++i) {
            const float sum = team.sum(i ? sums[i * p.slot_stride] : first);
            if (T::thread() == 0) d_z[i] = sum;
        }
    }
}

/// d_mean and d_log_sigma, a thread per component along a chunk of tokens.
__global__ void __launch_bounds__(kThreads) walk_table(Backward p) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, d = p.table.mean.d;
    if (k >= p.table.mean.N) return;
    const int64_t me = static_cast<int64_t>(blockIdx.y) * p.sums.stride + k;
    const Slots slots{p.slots + me, p.slot_stride, d};
    const int64_t last = min(p.R, (blockIdx.y + 1) * p.chunk_rows);
    float first = 0, stretch = 0;
    for (int64_t i = 1; i < d; ++i) p.sums.at(blockIdx.y, i)[k] = 0;
    for (int64_t r = blockIdx.y * p.chunk_rows; r < last; ++r) {
        const TokenInfo info = p.info.of(r);
        if (info.number(TokenInfo::broken) > 0) continue;
        const Gradient g = walk(p.table, info, p.z + r * p.z_stride, k, p.logits[r * p.logits_stride + k], slots,
                                [&](int64_t i, float by_z) { p.sums.at(blockIdx.y, i)[k] -= by_z; });
        first -= g.first;
        stretch += g.by_log_sigma;
    }
    p.sums.at(blockIdx.y, 0)[k] = first;
    p.sums.at(blockIdx.y, d)[k] = stretch;
}

bool of_table(const MixtureRosenblattBackward& p) {
    return p.d_mean || p.d_log_sigma;
}

/// Some 512 blocks for the multiprocessors, but no chunk of under 64 tokens, and no more than 128 MB of sums.
int64_t chunk_rows(const MixtureRosenblattBackward& p) {
    const int64_t R = p.z.shape[0], K = p.mean.shape[0], blocks = ceil_div(K, kThreads);
    const int64_t room = (int64_t{1} << 25) / ((p.mean.shape[1] + 1) * Columns::stride_of(K));
    int64_t most = blocks < 512 ? 512 / blocks : 1;
    most = most > room ? (room > 0 ? room : 1) : most;
    const int64_t rows = ceil_div(R, most);
    return rows < 64 ? 64 : rows;
}

int64_t chunks(const MixtureRosenblattBackward& p) {
    return of_table(p) ? ceil_div(p.z.shape[0], chunk_rows(p)) : 0;
}

/// Floats for the slots of both kernels' threads.
int64_t slot_floats(const MixtureRosenblattBackward& p) {
    const int64_t K = p.mean.shape[0], d = p.mean.shape[1];
    const int64_t rows = 4 * d * TokenBlocks::count(p.z.shape[0], K) * TokenBlocks::threads(K);
    const int64_t table = 3 * d * chunks(p) * Columns::stride_of(K);
    return rows > table ? rows : table;
}

size_t workspace(const MixtureRosenblattBackward& p, const Stream&) {
    const int64_t R = p.z.shape[0], K = p.mean.shape[0], d = p.mean.shape[1];
    return ComponentTable::bytes(K, d) + TokenLists<float>::bytes(R, K) +
           workspace_bytes<float>(R * TokenInfo::floats(d)) + TableSums::bytes(chunks(p), K, d) +
           workspace_bytes<float>(slot_floats(p));
}

Tokens tokens_of(const MixtureRosenblattBackward& p, const ComponentTable& table, const TokenInfo& info) {
    Tokens t{};
    t.table = table;
    t.z = p.z.as<float>();
    t.logits = p.logits.as<float>();
    t.d_u = p.d_u.as<float>();
    t.d_log_density = p.d_log_density.as<float>();
    t.d_log_det = p.d_log_det.as<float>();
    t.info = info;
    t.z_stride = p.z.stride[0];
    t.logits_stride = p.logits.stride[0];
    t.d_u_stride = p.d_u ? p.d_u.stride[0] : 0;
    t.R = p.z.shape[0];
    return t;
}

Backward backward_of(const MixtureRosenblattBackward& p, const Tokens& t) {
    Backward b{};
    b.table = t.table;
    b.info = t.info;
    b.z = t.z;
    b.logits = t.logits;
    b.d_z = p.d_z.as<float>();
    b.d_logits = p.d_logits.as<float>();
    b.z_stride = t.z_stride;
    b.logits_stride = t.logits_stride;
    b.d_z_stride = p.d_z.stride[0];
    b.d_logits_stride = p.d_logits.stride[0];
    b.R = t.R;
    b.chunk_rows = chunk_rows(p);
    return b;
}

Status walk_table_of(const MixtureRosenblattBackward& p, Backward b, const Stream& stream) {
    b.slot_stride = b.sums.count * b.sums.stride;
    const Grid grid{
        .blocks = dim3(static_cast<unsigned>(ceil_div(b.sums.K, kThreads)), static_cast<unsigned>(b.sums.count)),
        .threads = kThreads};
    NOEMA_TRY(launch("mixture_rosenblatt_backward table", stream, grid, walk_table, b));
    return add_table_sums(b.sums, p.d_mean, p.d_log_sigma, stream);
}

Status run(const MixtureRosenblattBackward& p, const Stream& stream, Workspace w) {
    const int64_t R = p.z.shape[0], K = p.mean.shape[0], d = p.mean.shape[1];
    if (R == 0) return {};
    ComponentTable table;
    NOEMA_TRY(component_table(p.mean, p.log_sigma, stream, w, table));
    Tokens t = tokens_of(p, table, {w.take<float>(R * TokenInfo::floats(d)), d});
    t.lists.take(R, K, w);
    NOEMA_TRY(pass_tokens(t, stream));
    Backward b = backward_of(p, t);
    b.sums = table_sums(chunks(p), K, d, w);
    b.slots = w.take<float>(slot_floats(p));
    if (of_table(p)) NOEMA_TRY(walk_table_of(p, b, stream));  // first: d_logits may be the logits
    return TokenBlocks::with_threads(K, [&](auto threads) {
        const int64_t blocks = TokenBlocks::count(R, K);
        b.slot_stride = blocks * threads.value;
        const Grid grid{.blocks = dim3(static_cast<unsigned>(blocks)), .threads = threads.value};
        return launch("mixture_rosenblatt_backward", stream, grid, walk_rows<threads.value>, b);
    });
}

}  // namespace

Op<MixtureRosenblattBackward> mixture_rosenblatt_backward_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
