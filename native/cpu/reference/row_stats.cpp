#include "head.h"

namespace noema::reference {

namespace {

template <class A>
Status row_stats_loop(const RowStats& p) {
    const int64_t R = p.rows ? p.rows.shape[0] : p.hidden.shape[0];
    for (int64_t r = 0; r < R; ++r) {
        const int64_t row = p.rows ? p.rows.as<int32_t>()[r] : r;
        const std::vector<A> logits = row_logits<A>(p.hidden, row, p.weight, p.bias, p.excluded_id, p.precision);
        write_row_stats(p.out, r, logits, ranking(logits, p.excluded_id));
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(row_stats, RowStats)

}  // namespace noema::reference
