#include "affine.h"

#include "common/normal.h"
#include "common/states.h"
#include "sequential_body.h"

namespace noema::cuda {

namespace {

/// A thread per scalar.
struct AffineCoupling {
    using Arguments = SequentialAffine;

    static __device__ __forceinline__ void run(const SequentialArguments& p, const Arguments&,
                                               const SequentialRows& rows) {
        const int threads = static_cast<int>(gridDim.x) * kSequentialThreads, count = (rows.end - rows.begin) * p.c;
        for (int at = static_cast<int>(blockIdx.x) * kSequentialThreads + static_cast<int>(threadIdx.x); at < count;
             at += threads) {
            const int row = at / p.c, i = at - row * p.c, b = rows.sequence(rows.begin + row),
                      n = rows.position(rows.begin + row);
            const float* made = p.made + static_cast<int64_t>(row) * p.made_columns + i;
            const double log_scale = soft_clipped(static_cast<double>(__ldcg(made)));
            const float shift = __ldcg(made + p.c);
            const int64_t place = p.place(b, n) + i;
            if (p.forward)
                p.u[place] = on_grid(affine_noise(p.h[place], log_scale, shift), p.grid);
            else if (!p.is_fixed(b, n))
                p.h[place] = on_grid(affine_state(p.u[place], log_scale, shift), p.grid);
        }
    }
};

}  // namespace

Status launch_sequential(const SequentialLaunch& launched, const SequentialAffine& a, const Stream& stream) {
    return launch_positions<AffineCoupling>(launched, a, stream);
}
Status launch_coupling(const SequentialLaunch& launched, const SequentialAffine& a, const SequentialRows& rows,
                       const Stream& stream) {
    return launch_rows<AffineCoupling>(launched, a, rows, stream);
}

}  // namespace noema::cuda
