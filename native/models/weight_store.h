// WeightStore: one place that owns a network's tensors. They are read once, into memory of its own: what becomes of the files then is
// nothing to the model. Matrices that enter products are also held in the backend's packed arrangement.
#pragma once

#include <map>

#include "models/source_files.h"

namespace noema {

/// Values of all tensors.
int64_t total_size(const std::vector<TensorSpec>& specs);
/// All tensors in memory, one after the other.
std::vector<TensorSource> sources_of(const std::vector<TensorSpec>& specs, const float* flat);

class WeightStore {
 public:
    /// Takes the tensors of `specs` from `sources`; each must be there once with the right shape and only finite values. `both_ways`:
    /// products are packed for gradients of their inputs, too.
    static Status load(Engine& engine, const std::vector<TensorSpec>& specs, const std::vector<TensorSource>& sources,
                       Precision precision, std::unique_ptr<WeightStore>& out, const std::atomic<bool>* cancelled,
                       bool both_ways = false);

    Weight find(const std::string& name) const { return weights_.at(name); }
    size_t bytes() const { return bytes_; }
    /// Copies all tensors, f32, one after the other.
    Status copy_to(Engine& engine, const std::vector<TensorSpec>& specs, float* flat) const;

 private:
    /// A tensor as its file holds it: where its bytes are, and its shape and dtype.
    struct Origin {
        SourceFiles& files;
        const TensorSource& source;
        View shape;
    };
    Status add(Engine& engine, const TensorSpec& spec, const Origin& origin, Precision precision);
    Status own(Engine& engine, const Origin& origin, DType dtype, View& to);
    Status make_room(Engine& engine, const std::vector<TensorSpec>& specs, Precision precision);
    size_t packed_room(Engine& engine, const View& weight, Precision precision, bool transposed) const;
    Status pack(Engine& engine, const View& weight, Precision precision, bool transposed, const void*& packed);
    Status pack_weight(Engine& engine, Weight& weight, Precision precision);

    std::map<std::string, Weight> weights_;
    std::vector<Buffer> buffers_;
    // All packed matrices, one behind the other: many small blocks would be spread over small pages, and a model's step reads all.
    Buffer packed_;
    size_t packed_used_ = 0;
    bool both_ways_ = false;
    size_t bytes_ = 0;
};

}  // namespace noema
