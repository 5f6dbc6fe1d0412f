// What the families' models share for the N-API layer (and any other host): tensors, and the state of training. Every function that
// computes takes an Engine and runs to its end on the calling thread; hosts call them from a thread of their own.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "noema/engine.h"

namespace noema {

/// What a tensor is for: decides how it is held.
enum class TensorUse : uint8_t {
    product,        // the weight of a product in the model's precision: packed
    exact_product,  // of a product that stays f32 whatever the model's precision: packed for that
    table,          // rows are looked up, or parts enter products: as it is in the file
    values          // read by element-wise ops: f32
};

/// One tensor of a network: canonical name, [rows, columns] (columns 0: a vector), and the axes that files say it with where
/// those are more ([c,3K,M] for [c*3K,M]).
struct TensorSpec {
    std::string name;
    int64_t rows = 0;
    int64_t columns = 0;
    TensorUse use = TensorUse::values;
    std::vector<int64_t> axes = {};

    int64_t size() const { return columns ? rows * columns : rows; }
    bool is_matrix() const { return columns > 0; }
    std::vector<int64_t> shape() const {
        if (!axes.empty()) return axes;
        return is_matrix() ? std::vector<int64_t>{rows, columns} : std::vector<int64_t>{rows};
    }
    /// Weight decay is for matrices that products and look-ups read.
    bool decays() const { return use != TensorUse::values; }
};

/// Where a tensor's values come from: a range of a file, or memory. Either is copied.
struct TensorSource {
    std::string name;
    DType dtype = DType::f32;
    std::vector<int64_t> shape;
    std::string path;
    uint64_t offset = 0;
    const float* data = nullptr;
};

struct OptimiserStep {
    float rate = 0, beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f, weight_decay = 0, max_norm = 0, gradient_scale = 1,
          ema_decay = 0;
    int64_t step = 1;
};

enum class TrainerBuffer : uint8_t { parameter, gradient, m, v, average };

/// Parameters, gradients and optimiser state of a model, each one flat f32 buffer in the order of its tensors.
class TrainingState {
 public:
    /// One AdamW step over all tensors but the frozen ones, then gradients are zero.
    Status step(Engine& engine, const OptimiserStep& options, float& gradient_norm);
    Status discard(Engine& engine);

    const std::vector<TensorSpec>& tensors() const { return specs_; }
    /// Size of the tensor, or -1 when there is none of that name or buffer.
    int64_t size_of(TrainerBuffer buffer, const std::string& name) const;
    Status read(Engine& engine, TrainerBuffer buffer, const std::string& name, float* out) const;
    Status write(Engine& engine, TrainerBuffer buffer, const std::string& name, const float* values);

 protected:
    TrainingState() = default;
    /// `initial`: all tensors one after the other.
    Status allocate(Engine& engine, std::vector<TensorSpec> specs, bool keep_average, const float* initial);
    View view_of(TrainerBuffer buffer, const std::string& name) const;
    bool has(TrainerBuffer buffer) const { return flat(buffer) != nullptr; }
    Status copy_to(Engine& engine, TrainerBuffer buffer, std::vector<float>& out) const;
    /// Tensors that step() leaves alone from now on.
    void freeze(const std::function<bool(const std::string& name)>& frozen);
    uint64_t identity() const { return identity_; }

 private:
    /// Neighbouring tensors that the optimiser treats alike.
    struct Run {
        int64_t begin, end;
        bool decays;
    };
    Status update(const OptimiserStep& options, const View& norm, const View& schedule, const Run& run,
                  Context& context);
    float* flat(TrainerBuffer buffer) const { return static_cast<float*>(buffers_[static_cast<int>(buffer)].data()); }

    std::vector<TensorSpec> specs_;
    std::vector<int64_t> offsets_;
    std::vector<Run> runs_;
    int64_t size_ = 0;
    Device device_ = Device::cpu;
    uint64_t identity_ = next_identity();
    Buffer buffers_[5];
};

}  // namespace noema
