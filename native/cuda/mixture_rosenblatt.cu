// Without u and log_det only the density is wanted (mixture_density.cu). Else block by token, scalar after scalar; wide states by
// themselves (mixture_rosenblatt_wide.cu).
#include "common/mixture_density.h"
#include "common/states.h"
#include "cuda.h"
#include "rosenblatt.h"

namespace noema::cuda {

namespace {

/// A smaller tail than this part of the weights means |u| > kPrunedWithin = 4.
constexpr float kFarTail = 3.1671e-5f;

/// The sums of scalar passed() at z over the log weights from `least` on, by logarithms: relative to the tails' largest terms.
template <class T>
__device__ __forceinline__ MixtureSums far_sums(const Posterior<T>& posterior, float z, float least) {
    const ComponentTable& t = posterior.table();
    const int i = posterior.passed();
    const auto distance = [&](int k) { return within_squares((z - t.mean.at(i, k)) * t.inv_sigma[k]); };
    MixtureSums s{0, 0, 0, 1, {0, -FLT_MAX, -FLT_MAX}, 0, true};
    posterior.each([&](int, int k, float x) {
        if (!(x >= least)) return;
        const Exponents<float> e = exponents_of(x, distance(k));
        s.top.below = max(s.top.below, e.below);
        s.top.above = max(s.top.above, e.above);
    });
    s.top.below = posterior.team().most(s.top.below);
    s.top.above = posterior.team().most(s.top.above);
    posterior.each([&](int, int k, float x) {
        if (!(x >= least)) return;
        const Exponents<float> e = relative_to(s.top, x, distance(k), 1.0f);
        s.weight += expf(x);
        s.below += e.below;
        s.above += e.above;
    });
    s.weight = posterior.team().sum(s.weight);
    s.below = posterior.team().sum(s.below);
    s.above = posterior.team().sum(s.above);
    return s;
}

/// The sums of scalar i of a token, which is passed. all: of all weights before scalar 0.
template <class T>
__device__ __forceinline__ MixtureSums next_sums(Posterior<T>& posterior, const float* logits, const float* z, int i,
                                                 float& all) {
    if (posterior.broken()) return {NAN, NAN, NAN, 1, {0, 0, 0}, 0, false};
    const Found found = posterior.pass(z[i]);
    if (i == 0) all = found.all;
    const float tail = min(found.below, found.above) / found.weight;
    if (tail >= kFarTail) return {found.weight, found.below, found.above, 1, {0, 0, 0}, 0, false};
    posterior.start(logits);
    for (int j = 0; j < i; ++j) posterior.pass(z[j]);
    const MixtureSums far = far_sums(posterior, z[i], posterior.look_far(logf(tail)));
    posterior.pass(z[i]);
    return far;
}

/// What backward needs of a scalar.
__device__ __forceinline__ void note_scalar(const TokenInfo& info, int i, const MixtureSums& s, const Mapped& m,
                                            float d_u) {
    const float rate = d_u * m.mills, e = m.lower ? rate : -rate, tail = 1.0f / (m.lower ? s.below : s.above);
    info.at(TokenInfo::share, i) = e * tail;
    info.at(TokenInfo::weight, i) = e / s.weight;
    info.at(TokenInfo::bell, i) = rate * tail * 0.39894228040f;
    info.at(TokenInfo::side, i) = m.lower ? 1.0f : -1.0f;
    info.at(TokenInfo::exponent, i) = m.lower ? s.top.below : s.top.above;
}

template <class T>
__device__ __forceinline__ void note_token(const TokenInfo& info, const Posterior<T>& posterior, float all, float last,
                                           float by_density) {
    info.number(TokenInfo::by_prior) = by_density / all;
    info.number(TokenInfo::by_last) = by_density / last;
    info.number(TokenInfo::broken) = posterior.broken() ? 1.0f : 0.0f;
    float reach = 0, tail = 0;  // how far log weights may still rise, relative to the largest or to a tail far out
    for (int i = static_cast<int>(info.d); i >= 0; --i) {
        const float most = posterior.broken() ? 0.0f : posterior.most(i);
        info.at(TokenInfo::most, i) = most;
        if (i < info.d) tail = min(tail, info.at(TokenInfo::exponent, i));
        info.at(TokenInfo::reach, i) = reach - tail;
        reach = max(0.0f, reach + posterior.peak() - most);
    }
}

template <int threads>
__global__ void __launch_bounds__(threads, 1) rosenblatt_tokens(Tokens p) {
    using T = Team<threads, float>;
    SHARED_ARRAY(float, scratch, T::kScratch);
    const int d = static_cast<int>(p.table.mean.d);
    const T team(scratch);
    Posterior<T> posterior(team, p.table, p.lists.mine(d));
    for (int64_t r = blockIdx.x; r < p.R; r += gridDim.x) {
        const float *z = p.z + r * p.z_stride, *logits = p.logits + r * p.logits_stride;
        const float d_log_det = p.d_log_det ? p.d_log_det[r] : 0.0f;
        const TokenInfo info = p.info.data ? p.info.of(r) : p.info;
        const bool writes = T::thread() == 0;
        float all = NAN;
        double squares = 0;
        posterior.start(logits);
        for (int i = 0; i < d; ++i) {
            const MixtureSums s = next_sums(posterior, logits, z, i, all);
            const Mapped m = map_of(s);
            squares += static_cast<double>(m.u) * static_cast<double>(m.u);
            if (writes && p.u) p.u[r * p.u_stride + i] = static_cast<float>(on_grid(m.u, p.grid));
            if (writes && p.info.data)
                note_scalar(info, i, s, m, (p.d_u ? p.d_u[r * p.d_u_stride + i] : 0.0f) + m.u * d_log_det);
        }
        const float last = posterior.broken() ? NAN : posterior.weight();
        if (writes) {
            const double density = posterior.broken() ? NAN : posterior.log_density(last, all);
            if (p.log_density) p.log_density[r] = static_cast<float>(density);
            if (p.log_det) p.log_det[r] = static_cast<float>(density + 0.5 * squares + d * 0.91893853320467274178);
            if (p.info.data)
                note_token(info, posterior, all, last, (p.d_log_density ? p.d_log_density[r] : 0.0f) + d_log_det);
        }
        __syncthreads();  // the scalars' shared memory is the next token's
    }
}

struct Densities {
    DensitySums joint, weights;
    float* log_density;
};

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) write_densities(Densities p) {
    const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (r >= p.joint.R) return;
    const ExpSum joint = p.joint.total(r), weights = p.weights.total(r);
    p.log_density[r] = joint.max + logf(joint.sum) - (weights.max + logf(weights.sum));
}

Status density(const MixtureRosenblatt& p, const ComponentTable& table, const Stream& stream, Workspace w) {
    const DensityRows rows{p.z, p.logits, table};
    Densities d{{}, {}, p.log_density.as<float>()};
    Columns z;
    if (!p.log_density) return {};
    NOEMA_TRY(columns_of(p.z, stream, w, z));
    NOEMA_TRY(density_sums(Density::weighted, rows, z, stream, w, d.joint));
    NOEMA_TRY(density_sums(Density::weights, rows, z, stream, w, d.weights));
    const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(z.N, kThreads))), .threads = kThreads};
    return launch("mixture_rosenblatt density", stream, grid, write_densities, d);
}

bool only_density(const MixtureRosenblatt& p) {
    return !p.u && !p.log_det;
}

size_t workspace(const MixtureRosenblatt& p, const Stream&) {
    const int64_t R = p.z.shape[0], K = p.mean.shape[0], d = p.mean.shape[1];
    const size_t table = ComponentTable::bytes(K, d);
    if (p.z.dtype == DType::f64) return table + wide_bytes(p);
    if (only_density(p)) return table + Columns::bytes(R, d) + 2 * DensitySums::bytes(R, K);
    return table + TokenLists<float>::bytes(R, K);
}

Status run(const MixtureRosenblatt& p, const Stream& stream, Workspace w) {
    Tokens t{};
    NOEMA_TRY(component_table(p.mean, p.log_sigma, stream, w, t.table));
    if (p.z.dtype == DType::f64) return pass_wide_tokens(p, t.table, stream, w);
    if (only_density(p)) return density(p, t.table, stream, w);
    t.z = p.z.as<float>();
    t.logits = p.logits.as<float>();
    t.u = p.u.as<float>();
    t.log_density = p.log_density.as<float>();
    t.log_det = p.log_det.as<float>();
    t.z_stride = p.z.stride[0];
    t.logits_stride = p.logits.stride[0];
    t.u_stride = p.u ? p.u.stride[0] : 0;
    t.R = p.z.shape[0];
    t.grid = p.grid;
    t.lists.take(t.R, t.table.K(), w);
    return pass_tokens(t, stream);
}

}  // namespace

Status pass_tokens(const Tokens& t, const Stream& stream) {
    const int64_t K = t.table.K();
    return TokenBlocks::with_threads(K, [&](auto threads) {
        const Grid grid{.blocks = dim3(static_cast<unsigned>(TokenBlocks::count(t.R, K))),
                        .threads = threads.value,
                        .shared_bytes = PosteriorMemory<float>::shared_bytes(t.table.mean.d)};
        return launch("mixture_rosenblatt", stream, grid, rosenblatt_tokens<threads.value>, t);
    });
}

Op<MixtureRosenblatt> mixture_rosenblatt_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
