// The names of a block's tensors, in one place: `matrix` and `vector` are told where each canonical name belongs.
#pragma once

#include <string>
#include <vector>

#include "models/layers/transformer_block.h"
#include "noema/model.h"

namespace noema {

/// Blocks: a vector of BlockWeights or BlockGradients.
template <class Blocks, class Matrix, class Vector>
void each_block_role(const std::string& prefix, Blocks& blocks, const Matrix& matrix, const Vector& vector) {
    for (size_t i = 0; i < blocks.size(); ++i) {
        auto& b = blocks[i];
        const std::string name = prefix + "layers." + std::to_string(i) + ".";
        vector(name + "attention_norm.weight", b.attention_norm);
        matrix(name + "q.weight", b.q);
        matrix(name + "k.weight", b.k);
        matrix(name + "v.weight", b.v);
        matrix(name + "o.weight", b.o);
        vector(name + "mlp_norm.weight", b.mlp_norm);
        matrix(name + "gate.weight", b.gate);
        matrix(name + "up.weight", b.up);
        matrix(name + "down.weight", b.down);
    }
}

/// The biases of blocks that have them.
template <class Blocks, class Vector>
void each_bias_role(Blocks& blocks, const Vector& vector) {
    for (size_t i = 0; i < blocks.size(); ++i) {
        const std::string name = "layers." + std::to_string(i) + ".";
        vector(name + "q.bias", blocks[i].q_bias);
        vector(name + "k.bias", blocks[i].k_bias);
        vector(name + "v.bias", blocks[i].v_bias);
    }
}

/// The tensors of what reads latents.
template <class Blocks, class Matrix, class Vector>
void each_cross_role(Blocks& blocks, const Matrix& matrix, const Vector& vector) {
    for (size_t i = 0; i < blocks.size(); ++i) {
        auto& cross = blocks[i].cross;
        const std::string name = "layers." + std::to_string(i) + ".";
        vector(name + "cross_norm.weight", cross.norm);
        matrix(name + "cross_q.weight", cross.q);
        matrix(name + "cross_k.weight", cross.k);
        matrix(name + "cross_v.weight", cross.v);
        matrix(name + "cross_o.weight", cross.o);
        vector(name + "latent_embedding.weight", cross.place);
    }
}

/// The specs of the same tensors, `layers` blocks of C channels, kv key and value channels, F inner ones.
struct BlockSizes {
    int64_t layers, C, kv, F;
};
inline void add_block_tensors(const std::string& prefix, const BlockSizes& s, std::vector<TensorSpec>& matrices,
                              std::vector<TensorSpec>& vectors) {
    constexpr TensorUse product = TensorUse::product;
    for (int64_t i = 0; i < s.layers; ++i) {
        const std::string name = prefix + "layers." + std::to_string(i) + ".";
        matrices.push_back({name + "q.weight", s.C, s.C, product});
        matrices.push_back({name + "k.weight", s.kv, s.C, product});
        matrices.push_back({name + "v.weight", s.kv, s.C, product});
        matrices.push_back({name + "o.weight", s.C, s.C, product});
        matrices.push_back({name + "gate.weight", s.F, s.C, product});
        matrices.push_back({name + "up.weight", s.F, s.C, product});
        matrices.push_back({name + "down.weight", s.C, s.F, product});
        vectors.push_back({name + "attention_norm.weight", s.C});
        vectors.push_back({name + "mlp_norm.weight", s.C});
    }
}

inline void add_bias_tensors(const BlockSizes& s, std::vector<TensorSpec>& vectors) {
    for (int64_t i = 0; i < s.layers; ++i) {
        const std::string name = "layers." + std::to_string(i) + ".";
        vectors.push_back({name + "q.bias", s.C});
        vectors.push_back({name + "k.bias", s.kv});
        vectors.push_back({name + "v.bias", s.kv});
    }
}

inline void add_cross_tensors(int64_t layers, int64_t C, int64_t M, std::vector<TensorSpec>& matrices,
                              std::vector<TensorSpec>& vectors) {
    for (int64_t i = 0; i < layers; ++i) {
        const std::string name = "layers." + std::to_string(i) + ".";
        for (const char* role : {"cross_q", "cross_k", "cross_v", "cross_o"})
            matrices.push_back({name + role + ".weight", C, C, TensorUse::product});
        matrices.push_back({name + "latent_embedding.weight", M, C, TensorUse::table});
        vectors.push_back({name + "cross_norm.weight", C});
    }
}

/// A decoder of tokens by role. W: Weight or View; Block: BlockWeights or BlockGradients.
template <class W, class Block>
struct LanguageModelRoles {
    W embed;  // [V,C]
    std::vector<Block> blocks;
    View norm;  // [C]
    W head;     // [V,C]; the embedding when tied
};
using LanguageModelWeights = LanguageModelRoles<Weight, BlockWeights>;
using LanguageModelGradients = LanguageModelRoles<View, BlockGradients>;

template <class Roles, class Matrix, class Vector>
void each_language_model_role(Roles& roles, bool tied, const Matrix& matrix, const Vector& vector) {
    matrix("embed.weight", roles.embed);
    each_block_role("", roles.blocks, matrix, vector);
    vector("norm.weight", roles.norm);
    matrix(tied ? "embed.weight" : "head.weight", roles.head);
}

}  // namespace noema
