#include "models/config_checks.h"
#include "models/layers/block_roles.h"
#include "models/masked/dit.h"
#include "models/masked/weights.h"

namespace noema {

Status MaskedConfig::validate() const {
    NOEMA_TRY(config_in_range("vocab_size", vocab_size, 2, kLargestSize));
    NOEMA_TRY(config_in_range("num_layers", num_layers, 1, 4096));
    NOEMA_TRY(config_in_range("max_positions", max_positions, 1, kLargestSize));
    NOEMA_TRY(config_in_range("mask_token_id", mask_token_id, 0, vocab_size - 1));
    NOEMA_TRY(config_in_range("condition_size", condition_size, 0, kWidestCondition));
    if (is_dit() && (qkv_bias || causal || tied_embeddings || num_kv_heads != num_heads))
        return Status::error(Code::unsupported,
                             "config: a DiT has no biases of queries, no causal mask, no tied head, "
                             "and as many key heads as heads");
    return validate_block_config({hidden_size, num_heads, num_kv_heads, intermediate_size, rope_theta, rms_norm_eps});
}

std::vector<TensorSpec> masked_tensors(const MaskedConfig& c) {
    const int64_t C = c.hidden_size, F = c.intermediate_size, kv = c.num_kv_heads * c.head_width();
    constexpr TensorUse product = TensorUse::product, table = TensorUse::table;
    std::vector<TensorSpec> matrices{{"embed.weight", c.vocab_size, C, c.tied_embeddings ? product : table}}, vectors;
    const BlockSizes sizes{c.num_layers, C, kv, F};
    if (c.is_dit())
        add_dit_tensors(c, matrices, vectors);
    else
        add_block_tensors("", sizes, matrices, vectors);
    if (c.qkv_bias) add_bias_tensors(sizes, vectors);
    if (!c.tied_embeddings) matrices.push_back({"head.weight", c.vocab_size, C, product});
    vectors.push_back({"norm.weight", C, 0});
    matrices.insert(matrices.end(), vectors.begin(), vectors.end());
    return matrices;
}

}  // namespace noema
