// mixture_rosenblatt_inverse: block by token, scalar after scalar; each scalar is one search of probit_root.h by the whole block.
#include "cuda.h"
#include "probit_root.h"
#include "rosenblatt.h"

namespace noema::cuda {

namespace {

struct Inverse {
    ComponentTable table;
    const float *u, *logits;
    float* z;
    int32_t *failed, *evaluations;
    float* log_weight;  // [blocks, length]
    int32_t* index;
    float* weight;  // normalised
    int64_t u_stride, logits_stride, z_stride, R, length;
};

/// The components that count in F of the next scalar (those of log weights from `least` on), as a search wants them.
template <class T>
class Counted {
 public:
    __device__ __forceinline__ Counted(const Posterior<T>& posterior, float* weight, float least)
        : posterior_(posterior), weight_(weight), least_(least) {
        float sum = 0;
        posterior.each([&](int, int, float x) { sum += x >= least ? expf(x) : 0.0f; });
        sum = posterior.team().sum(sum);
        log_all = logf(sum);
        const float scale = 1.0f / sum;
        posterior.each([&](int place, int, float x) { weight[place] = expf(x) * scale; });
    }
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        const ComponentTable& t = posterior_.table();
        const int i = posterior_.passed();
        posterior_.each([&](int place, int k, float x) {
            if (!(x >= least_)) return;
            const float weight = weight_[place], inverse = t.inv_sigma[k];  // the thread's own of before
            f(Component{x, weight, t.mean.at(i, k), 1.0f / inverse, inverse});
        });
    }

    float log_all;

 private:
    const Posterior<T>& posterior_;
    const float* weight_;
    float least_;
};

/// z of scalar passed(), and whether it was found.
template <class T>
__device__ __forceinline__ bool find(Posterior<T>& posterior, float* weight, float u, float& z, int& evaluations) {
    const T& team = posterior.team();
    const float least =
        fabsf(u) > kPrunedWithin ? posterior.look_far(logf(tail_factor(fabsf(u))) - 0.5f * u * u) : -kPrunedBelow;
    const Counted<T> of(posterior, weight, least);
    const Bracket bracket = bracket_of(of, team, u);
    Search s{u, start_of(of, team, u), bracket.low, bracket.high, bracket.high - bracket.low, fabsf(u) > kFar};
    s.x = min(max(s.x, s.low), s.high);
    bool done = false;
    for (int n = 0; n < kMostEvaluations && !done; ++n) {
        ++evaluations;
        done = step(s, s.far ? evaluate_far(of, team, s.x) : evaluate(of, team, s.x));
    }
    z = s.x;
    return done && fabsf(z) <= FLT_MAX;
}

template <int threads>
__global__ void __launch_bounds__(threads, 1) invert_tokens(Inverse p) {
    using T = Team<threads>;
    SHARED_ARRAY(float, scratch, T::kScratch);
    const int d = static_cast<int>(p.table.mean.d);
    const T team(scratch);
    const int64_t at = blockIdx.x * p.length;
    const PosteriorMemory memory{p.log_weight + at, p.index + at, dynamic_shared<float>(0, d + 1),
                                 dynamic_shared<float>(static_cast<int>(sizeof(float)) * (d + 1), d)};
    Posterior<T> posterior(team, p.table, memory);
    for (int64_t r = blockIdx.x; r < p.R; r += gridDim.x) {
        int failed = 0, evaluations = 0;
        posterior.start(p.logits + r * p.logits_stride);
        for (int i = 0; i < d; ++i) {
            const float u = p.u[r * p.u_stride + i];
            float z = NAN;
            if (posterior.broken() || !(fabsf(u) <= FLT_MAX))
                ++failed;
            else
                failed += !find(posterior, p.weight + at, u, z, evaluations);
            __syncthreads();  // z may be u: all have read it
            if (T::thread() == 0) p.z[r * p.z_stride + i] = z;
            if (!posterior.broken()) posterior.pass(z);
        }
        if (T::thread() == 0) {
            if (p.failed) p.failed[r] = failed;
            if (p.evaluations) p.evaluations[r] = evaluations;
        }
        __syncthreads();  // the scalars' shared memory is the next token's
    }
}

size_t workspace(const MixtureRosenblattInverse& p, const Stream&) {
    const int64_t R = p.u.shape[0], K = p.mean.shape[0], d = p.mean.shape[1];
    return ComponentTable::bytes(K, d) + Tokens::bytes(R, K) +
           workspace_bytes<float>(TokenBlocks::count(R, K) * TokenBlocks::length(K));
}

Status run(const MixtureRosenblattInverse& p, const Stream& stream, Workspace w) {
    const int64_t R = p.u.shape[0], K = p.mean.shape[0], d = p.mean.shape[1];
    const int64_t length = TokenBlocks::length(K), blocks = TokenBlocks::count(R, K);
    Inverse n{};
    NOEMA_TRY(component_table(p.mean, p.log_sigma, stream, w, n.table));
    n.u = p.u.as<float>();
    n.logits = p.logits.as<float>();
    n.z = p.z.as<float>();
    n.failed = p.failed.as<int32_t>();
    n.evaluations = p.evaluations.as<int32_t>();
    n.log_weight = w.take<float>(blocks * length);
    n.index = w.take<int32_t>(blocks * length);
    n.weight = w.take<float>(blocks * length);
    n.u_stride = p.u.stride[0];
    n.logits_stride = p.logits.stride[0];
    n.z_stride = p.z.stride[0];
    n.R = R;
    n.length = length;
    return TokenBlocks::with_team(K, [&](auto* team) {
        using T = std::remove_pointer_t<decltype(team)>;
        const Grid grid{.blocks = dim3(static_cast<unsigned>(blocks)),
                        .threads = T::kThreads,
                        .shared_bytes = PosteriorMemory::shared_bytes(d)};
        return launch("mixture_rosenblatt_inverse", stream, grid, invert_tokens<T::kThreads>, n);
    });
}

}  // namespace

Op<MixtureRosenblattInverse> mixture_rosenblatt_inverse_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
