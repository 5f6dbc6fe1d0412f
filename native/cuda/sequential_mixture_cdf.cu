// The grouped head of mixture_cdf is a chain: a scalar's parameters need the scalars before it. A sequence's chain is one block's, as an
// exchange between blocks costs more than what it would share out: a scalar reads some 16000 weights, 64 KB.
#include "common/states.h"
#include "maf.h"
#include "prepared_components.h"
#include "sequential_body.h"

namespace noema::cuda {

namespace {

template <int kKept>
class Chain {
 public:
    /// Row `row` of those treated, position n of sequence b.
    __device__ __forceinline__ Chain(const SequentialArguments& p, const SequentialMixtureCdf& a, int row, int b, int n)
        : p_(p),
          a_(a),
          row_(row),
          b_(b),
          n_(n),
          width_(whole_steps((p.c - 1) * a.E)),
          features_(dynamic_shared<float>(0, width_)),
          hidden_(dynamic_shared<float>(4 * width_, whole_steps(a.M))),
          scratch_(dynamic_shared<float>(p.shared.sums, p.shared.sums_floats)),
          parameters_(a.parameters + static_cast<int64_t>(blockIdx.x) * 3 * a.K) {}

    __device__ __forceinline__ void run(Shared<double> found) {
        const int thread = static_cast<int>(threadIdx.x);
        for (int i = thread; i < width_; i += kSequentialThreads) features_[i] = 0;
        for (int m = a_.M + thread; m < whole_steps(a_.M); m += kSequentialThreads) hidden_[m] = 0;
        __syncthreads();
        int failed = 0;
        for (int i = 0; i < p_.c; ++i) {
            if (i > 0) add_features(i - 1, static_cast<float>(static_cast<double>(found[0])));
            make_hidden(i);
            make_parameters(i);
            if (thread < 32) solve(i, found, failed);
            __syncthreads();
        }
        const bool kept = p_.is_fixed(b_, n_);
        if (thread == 0 && failed && !kept) p_.failed[b_ * p_.failed_stride[0] + n_ * p_.failed_stride[1]] = failed;
    }

 private:
    /// Of scalar j alone, as the head reads it.
    __device__ __forceinline__ void add_features(int j, float x) const {
        for (int e = static_cast<int>(threadIdx.x); e < a_.E; e += kSequentialThreads)
            features_[j * a_.E + e] = maf_feature(weights_of(a_.embed, a_.embed_bias, j * a_.E + e), x);
        __syncthreads();
    }
    /// gelu(context_i + features_i y[scalars before i]).
    __device__ __forceinline__ void make_hidden(int i) const {
        const float* context = p_.made + static_cast<int64_t>(row_) * p_.made_columns + i * a_.M;
        if (i == 0) {
            for (int m = static_cast<int>(threadIdx.x); m < a_.M; m += kSequentialThreads)
                hidden_[m] = gelu_erf(__ldcg(context + m));
            __syncthreads();
            return;
        }
        multiply(features_, i * a_.E, a_.M, a_.features, i * a_.M,
                 [&](int m, float sum) { hidden_[m] = gelu_erf(__ldcg(context + m) + sum); });
    }
    /// out_i hidden_i + bias_i.
    __device__ __forceinline__ void make_parameters(int i) const {
        const int first = i * 3 * a_.K;
        multiply(hidden_, a_.M, 3 * a_.K, a_.out, first,
                 [&](int k, float sum) { parameters_[k] = sum + a_.out_bias[first + k]; });
    }
    template <class Put>
    __device__ __forceinline__ void multiply(Shared<float> row, int K, int lines, const Operand& weight, int first,
                                             const Put& put) const {
        FirstWeights<FmaSums<1>> none;
        multiply_lines(
            FactorRows<float>{row, 0, 1}, K, Span{0, lines}, [&](int i) { return line_of(weight, first + i); }, none,
            scratch_,
            [&](int, int i, float low, float high) {
                put(i, low);
                if (i + 1 < lines) put(i + 1, high);
            });
    }
    /// Scalar i either way, by the first warp.
    __device__ __forceinline__ void solve(int i, Shared<double> found, int& failed) const {
        const MixtureGrid grid{parameters_, 0, 0, 1, 1, a_.K, mixture_width(a_.K)};
        const MyScalar me = MyScalar::alone(grid);
        const MyComponents<kKept> components(grid, me);
        const Prepared<kKept> of(components, me);
        const int64_t place = p_.place(b_, n_) + i;
        if (p_.forward) {
            const double h = p_.h[place], u = point_at(of, me, h).u;
            if (me.writes) p_.u[place] = on_grid(u, p_.grid), found[0] = h;
            return;
        }
        const Root root = root_of(of, me, p_.u[place]);
        failed += root.failed;
        if (!me.writes) return;
        const double h = on_grid(root.x, p_.grid);
        if (!p_.is_fixed(b_, n_)) p_.h[place] = h;
        found[0] = h;
    }

    const SequentialArguments& p_;
    const SequentialMixtureCdf& a_;
    const int row_, b_, n_, width_;
    const Shared<float> features_, hidden_, scratch_;
    float* parameters_;
};

template <int kKept>
struct MixtureCdfCoupling {
    using Arguments = SequentialMixtureCdf;

    static __device__ __forceinline__ void run(const SequentialArguments& p, const Arguments& a,
                                               const SequentialRows& rows) {
        SHARED_ARRAY(double, found, 1);
        for (int row = rows.begin + static_cast<int>(blockIdx.x); row < rows.end; row += static_cast<int>(gridDim.x)) {
            Chain<kKept>(p, a, row - rows.begin, rows.sequence(row), rows.position(row)).run(found);
            __syncthreads();
        }
    }
};

}  // namespace

Status launch_sequential(const SequentialLaunch& launched, const SequentialMixtureCdf& a, const Stream& stream) {
    if (a.K <= 32 * kFewComponents) return launch_positions<MixtureCdfCoupling<kFewComponents>>(launched, a, stream);
    return launch_positions<MixtureCdfCoupling<0>>(launched, a, stream);
}
Status launch_coupling(const SequentialLaunch& launched, const SequentialMixtureCdf& a, const SequentialRows& rows,
                       const Stream& stream) {
    if (a.K <= 32 * kFewComponents) return launch_rows<MixtureCdfCoupling<kFewComponents>>(launched, a, rows, stream);
    return launch_rows<MixtureCdfCoupling<0>>(launched, a, rows, stream);
}

}  // namespace noema::cuda
