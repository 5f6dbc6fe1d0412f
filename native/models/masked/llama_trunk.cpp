// Llama's blocks and final norm in training: forward, then the same lines from bottom to top.
#include "models/masked/trunk.h"

namespace noema {

namespace {

class LlamaTrunk : public Trunk {
 public:
    LlamaTrunk(const TrunkParts& p, Arena& arena) : w_(p.weights), g_(p.gradients), s_(p.shape) {
        for (size_t i = 0; i < w_.blocks.size(); ++i) blocks_.push_back(keep_activations(s_, arena));
        last_ = arena.tensor(DType::f32, s_.rows(), s_.C);
        inv_rms_ = arena.tensor(DType::f32, s_.rows());
        input = blocks_[0].x;
        output = arena.tensor(DType::f32, s_.rows(), s_.C);
    }

    Status forward(Context& c) override {
        for (size_t i = 0; i < blocks_.size(); ++i) {
            if (c.stream.is_cancelled()) return cancelled_during("forward");
            const View& out = i + 1 < blocks_.size() ? blocks_[i + 1].x : last_;
            NOEMA_TRY(block_forward_keeping(s_, w_.blocks[i], blocks_[i], out, c));
        }
        return rms_norm({.x = last_, .weight = w_.norm, .y = output, .inv_rms = inv_rms_, .epsilon = s_.epsilon}, c);
    }

    Status backward(const View& d_output, const View& d_x, Context& c) override {
        // output = rms_norm(last)
        NOEMA_TRY(rms_norm_backward(
            {.x = last_, .weight = w_.norm, .inv_rms = inv_rms_, .d_y = d_output, .d_x = d_x, .d_weight = g_.norm}, c));

        for (size_t i = blocks_.size(); i-- > 0;) {
            if (c.stream.is_cancelled()) return cancelled_during("backward");
            NOEMA_TRY(block_backward(s_, w_.blocks[i], blocks_[i], g_.blocks[i], d_x, c));
        }
        return {};
    }

 private:
    const MaskedWeights& w_;
    const MaskedGradients& g_;
    const BlockShape& s_;
    std::vector<BlockActivations> blocks_;
    View last_;     // [R,C] the last block's output
    View inv_rms_;  // [R] of the final norm
};

}  // namespace

std::unique_ptr<Trunk> llama_trunk(const TrunkParts& parts, Arena& arena) {
    return std::make_unique<LlamaTrunk>(parts, arena);
}

}  // namespace noema
