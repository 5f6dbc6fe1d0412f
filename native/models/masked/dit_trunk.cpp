// A DiT's blocks and final norm in training: forward, then the same lines from bottom to top.
#include "models/masked/trunk.h"

namespace noema {

namespace {

class DitTrunk : public Trunk {
 public:
    DitTrunk(const TrunkParts& p, Arena& arena) : w_(p.weights), g_(p.gradients), s_(p.shape) {
        for (size_t i = 0; i < w_.dit.blocks.size(); ++i) blocks_.push_back(keep_dit_activations(s_, arena));
        last_ = arena.tensor(DType::f32, s_.rows(), s_.C);
        modulation_ = arena.tensor(DType::f32, 1, 2 * s_.C);
        mean_ = arena.tensor(DType::f32, s_.rows());
        inv_std_ = arena.tensor(DType::f32, s_.rows());
        input = blocks_[0].x;
        output = arena.tensor(DType::f32, s_.rows(), s_.C);
    }

    Status forward(Context& c) override {
        NOEMA_TRY(make_condition(w_.dit, condition_, c));
        for (size_t i = 0; i < blocks_.size(); ++i) {
            if (c.stream.is_cancelled()) return cancelled_during("forward");
            const View& out = i + 1 < blocks_.size() ? blocks_[i + 1].x : last_;
            NOEMA_TRY(dit_block_forward_keeping(s_, w_.dit.blocks[i], condition_.vector, blocks_[i], out, c));
        }
        NOEMA_TRY(modulation_of(w_.dit.modulation, condition_.vector, modulation_, c));
        return layer_norm(final_norm(), c);
    }

    Status backward(const View& d_output, const View& d_x, Context& c) override {
        ArenaScope scope(*c.arena);
        const View d_modulation = c.arena->tensor(DType::f32, 1, 2 * s_.C);
        const View d_condition = c.arena->tensor(DType::f32, 1, condition_.vector.shape[1]);
        NOEMA_TRY(c.clear(d_condition));

        // output = layer_norm(last) (1 + scale) + shift
        const LayerNorm norm = final_norm();
        NOEMA_TRY(layer_norm_backward({.x = norm.x,
                                       .weight = norm.weight,
                                       .scale = norm.scale,
                                       .mean = mean_,
                                       .inv_std = inv_std_,
                                       .d_y = d_output,
                                       .d_x = d_x,
                                       .d_weight = g_.norm,
                                       .d_scale = modulation_part(d_modulation, 1, s_.C),
                                       .d_shift = modulation_part(d_modulation, 0, s_.C),
                                       .rows_per_sequence = norm.rows_per_sequence},
                                      c));
        NOEMA_TRY(modulation_backward(w_.dit.modulation, g_.dit.modulation, condition_.vector,
                                      {d_modulation, d_condition}, c));

        for (size_t i = blocks_.size(); i-- > 0;) {
            if (c.stream.is_cancelled()) return cancelled_during("backward");
            const DitBlockPass block{s_, w_.dit.blocks[i], blocks_[i], g_.dit.blocks[i]};
            NOEMA_TRY(dit_block_backward(block, condition_.vector, d_x, d_condition, c));
        }
        return condition_backward(w_.dit, g_.dit, condition_, d_condition, c);
    }

 private:
    LayerNorm final_norm() const {
        LayerNorm norm = modulated_norm(s_, last_, w_.norm, modulation_, 0);
        norm.y = output, norm.mean = mean_, norm.inv_std = inv_std_;
        return norm;
    }

    const MaskedWeights& w_;
    const MaskedGradients& g_;
    const BlockShape& s_;
    std::vector<DitActivations> blocks_;
    Condition condition_;
    View last_;            // [R,C] the last block's output
    View modulation_;      // [1,2C] of the final norm
    View mean_, inv_std_;  // [R] of the final norm
};

}  // namespace

std::unique_ptr<Trunk> dit_trunk(const TrunkParts& parts, Arena& arena) {
    return std::make_unique<DitTrunk>(parts, arena);
}

}  // namespace noema
