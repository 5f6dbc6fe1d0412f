// embedding: y[r] = table[ids[r]]. With a table of activations it is a gather of rows.
#pragma once

#include "noema/tensor.h"

namespace noema {

struct Embedding {
    View ids;    // [R] i32, each in [0, V): the front door checks them on the host
    View table;  // [V,C] f32 or bf16
    View y;      // [R,C] f32
};

struct EmbeddingBackward {
    View ids;      // [R] i32
    View d_y;      // [R,C]
    View d_table;  // [V,C] += ; rows with the same id are added in ascending r
};

}  // namespace noema
