// Logits for a block of rows and a chunk of the vocabulary at a time, in workspace. All sizes depend on shapes only.
#pragma once

#include "cpu/cpu.h"
#include "cpu/head_kernels.h"

namespace noema::cpu {

struct HeadInput {
    View hidden;  // [N,C]
    Weight weight;
    View bias;
    Precision precision;
    int64_t excluded_id;
};

/// chunk: one chunk of logits is there at a time, in the same place. rows: a block's rows are complete in the end.
enum class Keep { chunk, rows };

class HeadProduct {
 public:
    HeadProduct(const HeadInput& input, int64_t R, Keep keep);

    int64_t block_rows() const { return block_rows_; }
    int64_t vocabulary() const { return V_; }
    int64_t pitch() const { return pitch_; }

    /// Room for the block, and for one product at a time: of logits, or another that needs `other` bytes.
    size_t workspace(const Stream& stream, size_t other = 0) const;
    /// To be opened last: the rest of the workspace is the products'.
    void open(Workspace& workspace);

    /// Copies hidden rows into the block: rows[i], or first + i when rows is null.
    void gather(const Stream& stream, const int32_t* rows, int64_t first, int64_t count);
    /// Forms the logits of the ids first .. first + n - 1 for `count` gathered rows; the excluded one is -infinity.
    Status form(const Stream& stream, int64_t count, int64_t first, int64_t n);

    float* logits(int64_t row, int64_t id) const {
        return logits_ + row * pitch_ + (keep_ == Keep::rows ? id : id % kHeadChunk);
    }
    float* hidden_row(int64_t row) const { return hidden_ + row * C_; }

    /// Calls form for each chunk, then f(row of the block, its logits, first id, n, worker) for every row.
    template <class F>
    Status each_chunk(const Stream& stream, int64_t count, const F& f) {
        for (int64_t first = 0; first < V_; first += kHeadChunk) {
            const int64_t n = V_ - first < kHeadChunk ? V_ - first : kHeadChunk;
            NOEMA_TRY(form(stream, count, first, n));
            each_row(stream, count, [&](int64_t row, int worker) { f(row, logits(row, first), first, n, worker); });
        }
        return {};
    }
    /// Calls f(row, worker) for the rows of a block, eight to a task: 8 x 2048 exponentials are some 5 us.
    template <class F>
    static void each_row(const Stream& stream, int64_t count, const F& f) {
        parallel_for(stream, (count + 7) / 8, [&](int64_t task, int worker) {
            for (int64_t row = task * 8; row < task * 8 + 8 && row < count; ++row) f(row, worker);
        });
    }
    /// Runs one product in the shared workspace.
    Status multiply(const Stream& stream, const Matmul& product) const;

 private:
    Matmul product(int64_t count, int64_t first, int64_t n) const;
    size_t product_workspace(const Stream& stream) const;

    HeadInput in_;
    Keep keep_;
    int64_t V_, C_, block_rows_, pitch_;
    float* hidden_ = nullptr;
    float* logits_ = nullptr;
    Workspace rest_;
};

/// The most workspace that product_of(count) needs for any count of 1..rows: how many rows a last block has may depend
/// on the targets, and a product may need more memory for fewer rows.
template <class F>
size_t largest_product(const Stream& stream, int64_t rows, const F& product_of) {
    const Op<Matmul> op = matmul_entry();
    size_t most = 0;
    for (int64_t count = 1; op.workspace && count <= rows; ++count) {
        const size_t bytes = op.workspace(product_of(count), stream);
        if (bytes > most) most = bytes;
    }
    return most;
}

}  // namespace noema::cpu
