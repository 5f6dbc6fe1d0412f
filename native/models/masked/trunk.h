// What lies between the embedding and the head of a network in training: one implementation per kind of block.
#pragma once

#include <memory>

#include "models/masked/weights.h"

namespace noema {

class Trunk {
 public:
    virtual ~Trunk() = default;
    View input;   // [R,C] of the first block
    View output;  // [R,C] of the final norm
    virtual Status forward(Context& context) = 0;
    /// d_x [R,C]: assigned the gradient of the input; those of the weights are added.
    virtual Status backward(const View& d_output, const View& d_x, Context& context) = 0;
};
struct TrunkParts {
    const MaskedConfig& config;
    const MaskedWeights& weights;
    const MaskedGradients& gradients;
    const BlockShape& shape;
};
std::unique_ptr<Trunk> llama_trunk(const TrunkParts& parts, Arena& arena);
std::unique_ptr<Trunk> dit_trunk(const TrunkParts& parts, Arena& arena);

inline Status cancelled_during(const char* what) {
    return Status::error(Code::aborted, "the %s pass was cancelled", what);
}

}  // namespace noema
