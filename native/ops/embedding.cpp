#include "front_door.h"

namespace noema {

Status embedding(const Embedding& p, Context& context) {
    const int64_t R = dim(p.ids, 0), V = dim(p.table, 0), C = dim(p.table, 1);
    return FrontDoor("embedding", context)
        .typed("ids", p.ids, DType::i32, {R})
        .stored("table", p.table, {V, C})
        .real("y", p.y, {R, C})
        .that(p.y.data != p.table.data || !p.y.data, "y", "may not be the table")
        .ids("ids", p.ids, 0, V)
        .call(&OpTable::embedding, p);
}

Status embedding_backward(const EmbeddingBackward& p, Context& context) {
    const int64_t R = dim(p.ids, 0), V = dim(p.d_table, 0), C = dim(p.d_table, 1);
    return FrontDoor("embedding_backward", context)
        .typed("ids", p.ids, DType::i32, {R})
        .real("d_y", p.d_y, {R, C})
        .real("d_table", p.d_table, {V, C})
        .that(p.d_y.data != p.d_table.data || !p.d_y.data, "d_table", "may not be d_y")
        .ids("ids", p.ids, 0, V)
        .call(&OpTable::embedding_backward, p);
}

}  // namespace noema
