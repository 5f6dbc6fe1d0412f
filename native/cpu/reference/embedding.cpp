#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
Status embedding_loop(const Embedding& p) {
    for (int64_t r = 0; r < p.y.shape[0]; ++r) {
        const int64_t id = p.ids.as<int32_t>()[r];
        for (int64_t c = 0; c < p.y.shape[1]; ++c) set<A>(p.y, get<A>(p.table, id, c), r, c);
    }
    return {};
}

template <class A>
Status embedding_backward_loop(const EmbeddingBackward& p) {
    for (int64_t r = 0; r < p.d_y.shape[0]; ++r) {
        const int64_t id = p.ids.as<int32_t>()[r];
        for (int64_t c = 0; c < p.d_y.shape[1]; ++c) add<A>(p.d_table, get<A>(p.d_y, r, c), id, c);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(embedding, Embedding)
NOEMA_REFERENCE_OP(embedding_backward, EmbeddingBackward)

}  // namespace noema::reference
