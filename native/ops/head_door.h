// Checks that the ops of the vocabulary head share.
#pragma once

#include "front_door.h"

namespace noema {

/// Tokens that take part in the softmax.
inline int64_t allowed_tokens(const Weight& weight, int64_t excluded_id) {
    return dim(weight.view, 0) - (excluded_id >= 0 ? 1 : 0);
}

inline void check_projection(FrontDoor& door, const View& hidden, const Weight& weight, const View& bias,
                             int64_t excluded_id) {
    const int64_t V = dim(weight.view, 0);
    door.real("hidden", hidden, {dim(hidden, 0), dim(hidden, 1)})
        .stored("weight", weight.view, {V, dim(hidden, 1)})
        .optional_real("bias", bias, {V})
        .that(excluded_id >= -1 && excluded_id < V, "excluded_id", "must be an id of the vocabulary, or -1")
        .that(allowed_tokens(weight, excluded_id) > 0, "weight", "must have a token besides the excluded one")
        .that(V <= INT32_MAX, "weight", "has more rows than ids can name");
}

inline void check_outputs(FrontDoor& door, const RowStatsOutputs& out, int64_t R, int64_t tokens) {
    const int64_t K = dim(out.top_ids, 1);
    door.optional_typed("argmax", out.argmax, DType::i32, {R})
        .optional_real("max_logit", out.max_logit, {R})
        .optional_real("lse", out.lse, {R})
        .optional_real("entropy", out.entropy, {R})
        .optional_real("margin", out.margin, {R})
        .that(!out.top_ids == !out.top_logits, "top_logits", "must be given exactly when top_ids is")
        .optional_typed("top_ids", out.top_ids, DType::i32, {R, K})
        .optional_real("top_logits", out.top_logits, {R, K})
        .that(K <= kMaxTopK, "top_ids", "has more columns than 1024")
        .that(K <= tokens, "top_ids", "has more columns than there are allowed tokens");
}

}  // namespace noema
