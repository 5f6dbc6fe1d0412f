// Attention as sequential_inverse computes it, one query after the other: where a flow's sweeps, which take many positions at once, are to
// find what the sequential inverse finds, to the bit.
#include <algorithm>
#include <cmath>

#include "cpu/attention_kernels.h"
#include "cpu/sequential_inverse.h"

namespace noema::cpu {

namespace {

bool copies(const Attention& p) {
    return p.precision == Precision::bf16 || p.k.stride[1] != p.v.stride[1];
}

/// Of a head of one sequence.
struct Scratch {
    float *query, *weights;
    float *keys, *values;  // [Tk,D] copies, where they have to be rounded or lie apart differently

    template <class Take>
    void lay_out(const Attention& p, const Take& take) {
        const int64_t Tk = p.k.shape[1], D = p.q.shape[3], copied = copies(p) ? Tk * D : 0;
        take(query, D);
        take(weights, room_for_weights(Tk));
        take(keys, copied);
        take(values, copied);
    }
};

class Head {
 public:
    Head(const Attention& p, const Scratch& scratch, int64_t b, int64_t h)
        : p_(p), x_(scratch), b_(b), h_(h), D_(p.q.shape[3]), rounding_(p.precision == Precision::bf16) {}

    void run() {
        const View &k = p_.k, &v = p_.v;
        CachedHead head{.q = nullptr, .k = nullptr, .v = nullptr, .angles = nullptr};
        head.keys = copies(p_) ? copied(k, x_.keys) : k.at<float>(b_, 0, h_);
        head.values = copies(p_) ? copied(v, x_.values) : v.at<float>(b_, 0, h_);
        head.next_keys = head.keys, head.next_values = head.values;
        head.stride = copies(p_) ? D_ : k.stride[1];
        head.D = D_, head.scale = p_.scale, head.rounding = rounding_;
        head.query = x_.query, head.weights = x_.weights;
        for (int64_t i = 0; i < p_.q.shape[1]; ++i) {
            std::copy_n(p_.q.at<const float>(b_, i, h_), D_, x_.query);
            if (rounding_) round_row(x_.query, D_);
            head.position = std::min(p_.mask.query_offset + i, k.shape[1] - 1);
            head.out = p_.out.at<float>(b_, i, h_);
            attend_query(head);
        }
    }

 private:
    float* copied(const View& rows, float* to) const {
        for (int64_t j = 0; j < rows.shape[1]; ++j) std::copy_n(rows.at<const float>(b_, j, h_), D_, to + j * D_);
        if (rounding_) round_row(to, rows.shape[1] * D_);
        return to;
    }

    const Attention& p_;
    const Scratch& x_;
    const int64_t b_, h_, D_;
    const bool rounding_;
};

}  // namespace

size_t one_by_one_workspace(const Attention& p, const Stream& stream) {
    return scratch_bytes<Scratch>(p) * stream.threads;
}

void attend_one_by_one(const Attention& p, const Stream& stream, Workspace workspace) {
    const int64_t H = p.q.shape[2];
    const size_t bytes = scratch_bytes<Scratch>(p);
    parallel_for(stream, p.q.shape[0] * H, [&](int64_t i, int worker) {
        const Scratch scratch = cut_scratch<Scratch>(p, {workspace.data + worker * bytes, bytes});
        Head(p, scratch, i / H, i % H).run();
    });
}

}  // namespace noema::cpu
