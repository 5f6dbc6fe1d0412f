#include "cpu/head_product.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/matmul_packing.h"

namespace noema::cpu {

namespace {

// Rows of a chunked block. The weight is read once per block: at 256 rows its traffic (2 or 4 bytes per 512 operations)
// is far below what the products take, and 256 x 2048 logits are 2 MiB.
constexpr int64_t kChunkedRows = 256;
// Logits of a block of complete rows: 32 MiB, or 16 rows.
constexpr int64_t kBlockLogits = int64_t{8} << 20;

int64_t rows_of_block(int64_t V, int64_t R, Keep keep) {
    const int64_t complete = std::clamp<int64_t>(kBlockLogits / std::max<int64_t>(V, 1) / 16 * 16, 16, 1024);
    return std::min(std::max<int64_t>(R, 1), keep == Keep::chunk ? kChunkedRows : complete);
}

}  // namespace

HeadProduct::HeadProduct(const HeadInput& input, int64_t R, Keep keep)
    : in_(input),
      keep_(keep),
      V_(input.weight.view.shape[0]),
      C_(input.hidden.shape[1]),
      block_rows_(rows_of_block(V_, R, keep)),
      pitch_((keep == Keep::rows ? V_ : std::min(V_, kHeadChunk)) + 15) {
    pitch_ = pitch_ / 16 * 16;
}

size_t HeadProduct::product_workspace(const Stream& stream) const {
    const auto bytes = [&](int64_t n) {
        return n == 0 ? 0 : largest_product(stream, block_rows_, [&](int64_t rows) { return product(rows, 0, n); });
    };
    return std::max(bytes(std::min(V_, kHeadChunk)), bytes(V_ % kHeadChunk));
}

size_t HeadProduct::workspace(const Stream& stream, size_t other) const {
    return workspace_bytes<float>(block_rows_ * C_) + workspace_bytes<float>(block_rows_ * pitch_) +
           std::max(product_workspace(stream), other);
}

void HeadProduct::open(Workspace& workspace) {
    hidden_ = workspace.take<float>(block_rows_ * C_);
    logits_ = workspace.take<float>(block_rows_ * pitch_);
    rest_ = workspace;
}

void HeadProduct::gather(const Stream& stream, const int32_t* rows, int64_t first, int64_t count) {
    each_row(stream, count, [&](int64_t i, int) {
        std::memcpy(hidden_row(i), in_.hidden.at<float>(rows ? rows[i] : first + i), sizeof(float) * C_);
    });
}

// A packed weight is panels of 16 columns, so a chunk of it is again a packed weight.
Matmul HeadProduct::product(int64_t count, int64_t first, int64_t n) const {
    Matmul m{.a = view(hidden_, DType::f32, count, C_),
             .b = in_.weight.view,
             .c = view(nullptr, DType::f32, count, n),
             .precision = in_.precision,
             .transpose_b = true};
    const int64_t row_bytes = m.b.stride[0] * static_cast<int64_t>(dtype_size(m.b.dtype));
    if (m.b.data) m.b.data = static_cast<std::byte*>(m.b.data) + first * row_bytes;
    m.b.shape[0] = n;
    if (logits_) m.c.data = logits(0, first);
    m.c.stride[0] = pitch_;
    if (in_.bias) {
        m.bias = view(in_.bias.as<float>(), DType::f32, n);
        if (in_.bias.data) m.bias.data = in_.bias.as<float>() + first;
    }
    if (in_.weight.packed && in_.weight.packed_precision == in_.precision) {
        const int64_t panel_bytes = panel_steps(C_, panel_packing(in_.precision)) * kStepBytes;
        m.packed_b = static_cast<const std::byte*>(in_.weight.packed) + first / kPanelColumns * panel_bytes;
    }
    return m;
}

Status HeadProduct::form(const Stream& stream, int64_t count, int64_t first, int64_t n) {
    NOEMA_TRY(multiply(stream, product(count, first, n)));
    const int64_t out = in_.excluded_id - first;
    if (out >= 0 && out < n)
        for (int64_t row = 0; row < count; ++row) logits(row, first)[out] = -HUGE_VALF;
    return {};
}

Status HeadProduct::multiply(const Stream& stream, const Matmul& product) const {
    const Op<Matmul> op = matmul_entry();
    if (op.workspace && op.workspace(product, stream) > rest_.size)
        return Status::error(Code::internal, "head: a product needs more workspace than was counted");
    return op.run(product, stream, rest_);
}

}  // namespace noema::cpu
