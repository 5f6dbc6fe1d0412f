// View: a pointer, a type, a shape and strides. It owns nothing and is copied freely.
#pragma once

#include <cstddef>
#include <cstdint>

namespace noema {

enum class DType : uint8_t { f32, bf16, f16, f64, i32, i64, u8 };
enum class Device : uint8_t { cpu, cuda };

/// What enters a matrix product. bf16: both operands are rounded to bf16 (nearest even) first. Sums are always f32.
enum class Precision : uint8_t { f32, bf16 };

constexpr size_t dtype_size(DType t) {
    switch (t) {
        case DType::f64:
        case DType::i64: return 8;
        case DType::f32:
        case DType::i32: return 4;
        case DType::bf16:
        case DType::f16: return 2;
        case DType::u8: return 1;
    }
    return 0;
}

const char* dtype_name(DType t);

constexpr int kMaxRank = 4;

struct View {
    void* data = nullptr;
    DType dtype = DType::f32;
    Device device = Device::cpu;
    int rank = 0;
    int64_t shape[kMaxRank] = {0, 0, 0, 0};
    int64_t stride[kMaxRank] = {0, 0, 0, 0};  // in elements

    /// An absent optional argument.
    bool empty() const { return rank == 0; }
    explicit operator bool() const { return rank != 0; }

    int64_t size() const {
        int64_t n = rank ? 1 : 0;
        for (int i = 0; i < rank; ++i) n *= shape[i];
        return n;
    }
    size_t bytes() const { return static_cast<size_t>(size()) * dtype_size(dtype); }
    bool contiguous() const {
        int64_t expected = 1;
        for (int i = rank - 1; i >= 0; --i) {
            if (shape[i] != 1 && stride[i] != expected) return false;
            expected *= shape[i];
        }
        return true;
    }
    /// Elements of the last axis lie side by side.
    bool rows_contiguous() const { return rank == 0 || shape[rank - 1] <= 1 || stride[rank - 1] == 1; }

    template <class T>
    T* as() const {
        return static_cast<T*>(data);
    }
    /// First element of row i of a matrix (of block i for higher ranks).
    template <class T>
    T* at(int64_t i) const {
        return as<T>() + i * stride[0];
    }
    template <class T>
    T* at(int64_t i, int64_t j) const {
        return as<T>() + i * stride[0] + j * stride[1];
    }
    template <class T>
    T* at(int64_t i, int64_t j, int64_t k) const {
        return as<T>() + i * stride[0] + j * stride[1] + k * stride[2];
    }
};

/// Contiguous views over given memory.
inline View view(void* data, DType dtype, int64_t a) {
    return {data, dtype, Device::cpu, 1, {a, 0, 0, 0}, {1, 0, 0, 0}};
}
inline View view(void* data, DType dtype, int64_t a, int64_t b) {
    return {data, dtype, Device::cpu, 2, {a, b, 0, 0}, {b, 1, 0, 0}};
}
inline View view(void* data, DType dtype, int64_t a, int64_t b, int64_t c) {
    return {data, dtype, Device::cpu, 3, {a, b, c, 0}, {b * c, c, 1, 0}};
}
inline View view(void* data, DType dtype, int64_t a, int64_t b, int64_t c, int64_t d) {
    return {data, dtype, Device::cpu, 4, {a, b, c, d}, {b * c * d, c * d, d, 1}};
}

/// The same view, in the memory of a device.
inline View on_device(View v, Device device) {
    v.device = device;
    return v;
}

/// A weight matrix [N, K] that acts as y = x Wᵀ. `packed` is the backend's own arrangement (op matmul_pack), or null;
/// `view` stays valid for what reads single rows (embedding) and for backends without an arrangement.
struct Weight {
    View view;                     // [N, K]
    const void* packed = nullptr;  // made by matmul_pack for `packed_precision`
    Precision packed_precision = Precision::f32;
    const void* packed_transposed =
        nullptr;  // likewise, for the gradient d_x = d_y W through weights that stay as they are
};

}  // namespace noema
