// The tensors of one load.
#pragma once

#include "runtime.h"

namespace noema::napi {

/// Sources, and copies of those that came as typed arrays.
struct Tensors {
    std::vector<TensorSource> sources;
    std::vector<std::vector<float>> copies;
};
std::shared_ptr<Tensors> read_tensors(const Napi::Value& list, const char* function);

}  // namespace noema::napi
