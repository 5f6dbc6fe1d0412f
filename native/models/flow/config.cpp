#include "models/config_checks.h"
#include "models/flow/weights.h"
#include "models/layers/block_roles.h"

namespace noema {

namespace {

constexpr int64_t kMostFlows = 64;
constexpr int64_t kMostChannels = 4096;  // of a position
constexpr int64_t kMostMaf = 4096, kMostMafFeatures = 256;

Status refuse_in(size_t flow, const char* problem) {
    return Status::error(Code::bad_checkpoint, "config: flows[%zu]: %s", flow, problem);
}

Status validate_stage(const FlowConfig& c, size_t l) {
    const FlowStage& f = c.flows[l];
    NOEMA_TRY(config_in_range("num_hidden_layers", f.num_layers, 1, 4096));
    NOEMA_TRY(config_in_range("num_components", f.num_components, 0, kLargestSize));
    NOEMA_TRY(config_in_range("readout_hidden_size", f.readout_hidden, 0, kLargestSize));
    if (f.kind != FlowKind::mixture_cdf) {
        if (f.maf_hidden || f.maf_features) return refuse_in(l, "only mixture-cdf has a grouped head");
        if (f.kind == FlowKind::affine && f.num_components) return refuse_in(l, "an affine flow has no components");
        return {};
    }
    if (c.channels() < 2) return refuse_in(l, "mixture-cdf needs at least 2 channels per position");
    NOEMA_TRY(config_in_range("num_components", f.num_components, 1, kMostMaf));
    NOEMA_TRY(config_in_range("maf_hidden_size", f.maf_hidden, 1, kMostMaf));
    return config_in_range("maf_features", f.maf_features, 1, kMostMafFeatures);
}

void add_stage_tensors(const FlowConfig& c, size_t l, std::vector<TensorSpec>& matrices,
                       std::vector<TensorSpec>& vectors) {
    const FlowStage& f = c.flows[l];
    const int64_t n = c.channels(), C = c.hidden_size, K = f.num_components, M = f.maf_hidden, E = f.maf_features;
    constexpr TensorUse exact = TensorUse::exact_product, table = TensorUse::table, values = TensorUse::values;
    const std::string at = "flows." + std::to_string(l) + ".";
    vectors.push_back({at + "start", n});
    matrices.push_back({at + "input.weight", C, n, exact});
    vectors.push_back({at + "input.bias", C});
    if (c.prefix_conditioning) matrices.push_back({at + "context.weight", C, n, exact});
    add_block_tensors(at, {f.num_layers, C, C, c.intermediate_size}, matrices, vectors);
    vectors.push_back({at + "norm.weight", C});
    if (f.readout_hidden) {
        matrices.push_back({at + "readout.input.weight", c.patch_size * f.readout_hidden, n, exact});
        vectors.push_back({at + "readout.input.bias", c.patch_size * f.readout_hidden});
        matrices.push_back({at + "readout.output.weight", c.vocab_size, f.readout_hidden, TensorUse::product});
    }
    if (f.kind == FlowKind::mixture_cdf) {
        matrices.push_back({at + "maf.embed.weight", (n - 1) * E, 3, values, {n - 1, E, 3}});
        vectors.push_back({at + "maf.embed.bias", (n - 1) * E, 0, values, {n - 1, E}});
        matrices.push_back({at + "maf.context.weight", n * M, C, exact, {n, M, C}});
        vectors.push_back({at + "maf.context.bias", n * M, 0, values, {n, M}});
        matrices.push_back({at + "maf.features.weight", n * M, (n - 1) * E, table, {n, M, n - 1, E}});
        matrices.push_back({at + "maf.out.weight", n * 3 * K, M, table, {n, 3 * K, M}});
        vectors.push_back({at + "maf.out.bias", n * 3 * K, 0, values, {n, 3 * K}});
        return;
    }
    const int64_t rows = f.kind == FlowKind::affine ? 2 * n : c.patch_size * c.components(f);
    matrices.push_back({at + "head.weight", rows, C, exact});
    vectors.push_back({at + "head.bias", rows});
    if (f.kind == FlowKind::affine || !K) return;
    matrices.push_back({at + "components.mean", K, c.latent_size, values});
    vectors.push_back({at + "components.log_sigma", K});
}

}  // namespace

Status FlowConfig::validate() const {
    NOEMA_TRY(config_in_range("vocab_size", vocab_size, 2, kLargestSize));
    NOEMA_TRY(config_in_range("latent_size", latent_size, 1, kMostChannels));
    NOEMA_TRY(config_in_range("patch_size", patch_size, 1, kMostChannels / latent_size));
    NOEMA_TRY(config_in_range("max_position_embeddings", max_positions, 1, kLargestSize));
    NOEMA_TRY(config_in_range("flows", static_cast<int64_t>(flows.size()), 1, kMostFlows));
    NOEMA_TRY(validate_block_config({hidden_size, num_heads, num_heads, intermediate_size, rope_theta, rms_norm_eps}));
    for (size_t l = 0; l < flows.size(); ++l) NOEMA_TRY(validate_stage(*this, l));
    return {};
}

std::vector<TensorSpec> flow_tensors(const FlowConfig& c) {
    std::vector<TensorSpec> all{{"codebook.mean", c.vocab_size, c.latent_size}, {"codebook.log_sigma", c.vocab_size}};
    for (size_t l = 0; l < c.flows.size(); ++l) {
        std::vector<TensorSpec> vectors;
        add_stage_tensors(c, l, all, vectors);
        all.insert(all.end(), vectors.begin(), vectors.end());
    }
    return all;
}

}  // namespace noema
