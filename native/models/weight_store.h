// WeightStore: one place that owns a network's tensors. Files are mapped where their dtype can be used as it is; everything else is
// converted once. Matrices that enter products are also held in the backend's packed arrangement.
#pragma once

#include <map>

#include "noema/model.h"

namespace noema {

/// A file mapped for reading, unmapped with its owner.
class MappedFile {
 public:
    MappedFile() = default;
    static Status open(const std::string& path, MappedFile& out);
    MappedFile(MappedFile&& other) noexcept { swap(other); }
    MappedFile& operator=(MappedFile&& other) noexcept {
        swap(other);
        return *this;
    }
    ~MappedFile();

    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

 private:
    void swap(MappedFile& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
    }
    const uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

/// Values of all tensors.
int64_t total_size(const std::vector<TensorSpec>& specs);
/// All tensors in memory, one after the other.
std::vector<TensorSource> sources_of(const std::vector<TensorSpec>& specs, const float* flat);

class WeightStore {
 public:
    /// Takes the tensors of `specs` from `sources`; each must be there once with the right shape and only finite values. `both_ways`:
    /// products are packed for gradients of their inputs, too.
    static Status load(Engine& engine, const std::vector<TensorSpec>& specs, const std::vector<TensorSource>& sources,
                       Precision precision, std::unique_ptr<WeightStore>& out, bool both_ways = false);

    Weight find(const std::string& name) const { return weights_.at(name); }
    size_t bytes() const { return bytes_; }
    /// Copies all tensors, f32, one after the other.
    Status copy_to(Engine& engine, const std::vector<TensorSpec>& specs, float* flat) const;

 private:
    Status add(Engine& engine, const TensorSpec& spec, const TensorSource& source, Precision precision);
    Status source_bytes(const TensorSource& source, size_t bytes, const uint8_t*& out);
    Status own(Engine& engine, const View& from, DType dtype, View& to);
    Status make_room(Engine& engine, const std::vector<TensorSpec>& specs, Precision precision);
    size_t packed_room(Engine& engine, const View& weight, Precision precision, bool transposed) const;
    Status pack(Engine& engine, const View& weight, Precision precision, bool transposed, const void*& packed);
    Status pack_weight(Engine& engine, Weight& weight, Precision precision);

    std::map<std::string, Weight> weights_;
    std::map<std::string, MappedFile> files_;
    std::vector<Buffer> buffers_;
    // All packed matrices, one behind the other: many small blocks would be spread over small pages, and a model's step reads all.
    Buffer packed_;
    size_t packed_used_ = 0;
    bool both_ways_ = false;
    size_t bytes_ = 0;
};

}  // namespace noema
