// Parts of tensors, and contiguous ones in other shapes. A view without memory (a measuring run's) stays without.
#pragma once

#include <cstddef>
#include <initializer_list>

#include "noema/tensor.h"

namespace noema {

/// The view, some elements further on.
inline View moved(View v, int64_t elements) {
    if (v.data) v.data = static_cast<std::byte*>(v.data) + elements * static_cast<int64_t>(dtype_size(v.dtype));
    return v;
}

inline View rows_of(const View& v, int64_t first, int64_t count) {
    if (!v) return {};
    View part = moved(v, first * v.stride[0]);
    part.shape[0] = count;
    return part;
}

inline View columns_of(const View& v, int64_t first, int64_t count) {
    View part = moved(v, first);
    part.shape[1] = count;
    return part;
}

/// A contiguous tensor in another shape; what lies behind it is left out.
inline View as_shape(const View& v, std::initializer_list<int64_t> shape) {
    View out;
    out.data = v.data, out.dtype = v.dtype, out.device = v.device;
    out.rank = static_cast<int>(shape.size());
    int64_t stride = 1;
    for (int i = out.rank; i-- > 0;) {
        out.shape[i] = shape.begin()[i];
        out.stride[i] = stride;
        stride *= out.shape[i];
    }
    return out;
}

}  // namespace noema
