// matmul: which kernel takes a product, and what lies between them. matmul_kernels.h has the law of its sums.
#include "noema/ops/matmul.h"

#include "common/cublaslt.h"
#include "cuda.h"
#include "matmul_kernels.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256;

// --- small kernels ---------------------------------------------------------------------------------------------------

/// A thread per pair of columns: adds the chunks' sums in their order.
__global__ void __launch_bounds__(kThreads) finish_chunks(ProductArguments p) {
    const int half = (p.out.N + 1) / 2;
    const int64_t pair = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, m = pair / half;
    const int n = static_cast<int>(pair - m * half) * 2;
    if (m >= p.out.M) return;
    const int64_t size = static_cast<int64_t>(p.out.M) * p.out.N;
    const float* from = p.partial + m * p.out.N + n;
    const bool both = n + 1 < p.out.N;
    float low = from[0], high = both ? from[1] : 0;
    for (int chunk = 1; chunk < p.chunks; ++chunk) {
        low += from[chunk * size];
        if (both) high += from[chunk * size + 1];
    }
    finish_pair(p.out, low, high, m, n);
}

struct Conversion {
    const void* from;
    bf16* to;
    int64_t rows, stride;
    int columns, pitch;  // pitch: of `to`, a multiple of 8
    bool is_bf16, vector;
};

/// Eight columns per thread; the padding of a row becomes zero.
__global__ void __launch_bounds__(kThreads) convert_rows(Conversion p) {
    const int pieces = p.pitch / 8;
    const int64_t piece = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, row = piece / pieces;
    const int column = static_cast<int>(piece - row * pieces) * 8;
    if (row >= p.rows) return;
    const auto* from = static_cast<const unsigned char*>(p.from) + (row * p.stride + column) * (p.is_bf16 ? 2 : 4);
    const Raw raw = load_eight(from, p.columns - column, p.is_bf16, p.vector);
    *reinterpret_cast<uint4*>(p.to + row * p.pitch + column) = to_bf16s(raw, p.is_bf16);
}

int64_t bf16_size(const View& v) {
    return v.shape[0] * bf16_pitch(v);
}

Status convert(const View& v, void* to, const Stream& stream) {
    const Operand from = operand(v, v.shape[0]);
    const Conversion p{from.data,
                       static_cast<bf16*>(to),
                       v.shape[0],
                       from.stride,
                       static_cast<int>(v.shape[1]),
                       static_cast<int>(bf16_pitch(v)),
                       from.is_bf16,
                       from.vector};
    return launch("matmul (to bf16)", stream,
                  {.blocks = dim3(static_cast<unsigned>(ceil_div(bf16_size(v) / 8, kThreads))), .threads = kThreads},
                  convert_rows, p);
}

// --- plan ------------------------------------------------------------------------------------------------------------

enum class Path : uint8_t { rows, small_tiles, large_tiles, library };

struct Plan {
    int64_t M, N, K;
    int chunk, chunks;
    bool tensor;  // bf16 products
    Path path;
    bool apart;                 // each chunk in a block of its own (library: the epilogue in a kernel of its own)
    bool convert_a, convert_b;  // to bf16, ahead of the product
    Operand a, b;               // as they are, or packed
};

/// Whether an operand cannot go to shared memory by cp.async as it is.
bool needs_conversion(const Operand& o) {
    return !o.is_bf16 || !o.vector;
}

/// cuBLASLt takes the forms of training: gradients, and weights that change so often that they stay f32 and unpacked. A weight
/// kept as bf16 is read by single rows too, where its tiles would be the wrong shape; and the number of rows may not choose.
/// Without chunks of K a weight gradient needs a wide C to fill the device.
bool library_wanted(const Matmul& p, const Plan& plan) {
    const bool served = !p.transpose_a && p.transpose_b && (p.packed_b || p.b.dtype == DType::bf16);
    const bool wide = plan.N >= (p.transpose_a ? 2048 : 512) && plan.K >= 512 && plan.N % 8 == 0;
    const bool aligned = reinterpret_cast<uintptr_t>(p.c.data) % 16 == 0 && p.c.stride[0] % 4 == 0;
    return plan.tensor && wide && aligned && !served;
}

/// Without addresses.
LibraryProduct library_product(const Matmul& p, const Plan& plan) {
    LibraryProduct l;
    l.transpose_a = p.transpose_a, l.transpose_b = p.transpose_b;
    l.M = plan.M, l.N = plan.N, l.K = plan.K;
    return l;
}

/// What the library adds to the product itself: what is there already, or a residual; null: an epilogue is left to be done.
const View* added(const Matmul& p) {
    if (p.bias || p.gate || p.activation != Activation::none || (p.residual && p.accumulate)) return nullptr;
    if (!p.residual) return &p.c;
    const bool aligned = reinterpret_cast<uintptr_t>(p.residual.data) % 16 == 0 && p.residual.stride[0] % 4 == 0;
    return aligned ? &p.residual : nullptr;
}

/// Large tiles where they occupy the whole device, with a block for each chunk if need be: chunks of 512 factors take longer to
/// multiply than their sums to be written and read again (8 bytes for 1024 operations; weight gradients are the case).
/// Else small tiles, and a block for each chunk as long as multiprocessors would be idle.
void plan_tiles(Plan& plan, int64_t processors) {
    constexpr int kWorthApart = 512;
    const auto tiles = [&](int64_t size) { return ceil_div(plan.M, size) * ceil_div(plan.N, size); };
    const int64_t large = tiles(kLargeTile), small = tiles(kSmallTile);
    const bool deep = plan.chunks > 1 && plan.chunk >= kWorthApart;
    plan.path =
        large >= processors || (deep && large * plan.chunks >= processors) ? Path::large_tiles : Path::small_tiles;
    plan.apart = plan.chunks > 1 && (plan.path == Path::large_tiles ? large : small) < processors;
}

Plan make_plan(const Matmul& p, const Stream& stream, bool with_library = true) {
    const Queue& queue = queue_of(stream);
    Plan plan{};
    plan.M = p.c.shape[0], plan.N = p.c.shape[1], plan.K = p.a.shape[p.transpose_a ? 0 : 1];
    plan.chunk = chunk_length(plan.N, plan.K);
    plan.chunks = static_cast<int>(ceil_div(plan.K > 0 ? plan.K : 1, plan.chunk));
    plan.tensor = p.precision == Precision::bf16;
    plan.a = operand(p.a, plan.M);
    plan.b = p.packed_b ? bf16_operand(p.b, p.packed_b, plan.N) : operand(p.b, plan.N);
    const bool streams = !p.transpose_a && p.transpose_b && plan.b.vector && (plan.b.is_bf16 || !plan.tensor);
    if (with_library && library_wanted(p, plan) && cublaslt_takes(queue.cublaslt, library_product(p, plan))) {
        plan.path = Path::library;
        plan.chunks = 1;
        plan.apart = !added(p);
    } else if (streams && rows_fit(plan.M, plan.K, plan.tensor)) {
        plan.path = Path::rows;
    } else {
        plan_tiles(plan, queue.device.multiprocessors);
    }
    const bool copies = plan.tensor && (plan.path == Path::large_tiles || plan.path == Path::library);
    plan.convert_a = copies && needs_conversion(plan.a);
    plan.convert_b = copies && needs_conversion(plan.b);
    return plan;
}

int64_t partial_size(const Plan& plan) {
    return plan.apart ? plan.chunks * plan.M * plan.N : 0;
}

size_t workspace_of(const Matmul& p, const Plan& plan) {
    return workspace_bytes<bf16>(plan.convert_a ? bf16_size(p.a) : 0) +
           workspace_bytes<bf16>(plan.convert_b ? bf16_size(p.b) : 0) + workspace_bytes<float>(partial_size(plan));
}

/// While a run is measured addresses are not known, and with them whether the library will do: room for both.
size_t workspace(const Matmul& p, const Stream& stream) {
    if (p.c.size() == 0) return 0;
    const size_t with = workspace_of(p, make_plan(p, stream)), without = workspace_of(p, make_plan(p, stream, false));
    return with > without ? with : without;
}

Epilogue epilogue(const Matmul& p) {
    const auto even = [](const View& v) {
        return !v || (reinterpret_cast<uintptr_t>(v.data) % 8 == 0 && (v.rank == 1 || v.stride[0] % 2 == 0));
    };
    Epilogue e;
    e.c = p.c.as<float>(), e.c_stride = p.c.stride[0];
    e.bias = p.bias.as<float>();
    e.gate = p.gate.as<float>(), e.gate_stride = p.gate.stride[0];
    e.residual = p.residual.as<float>(), e.residual_stride = p.residual.stride[0];
    e.M = static_cast<int>(p.c.shape[0]), e.N = static_cast<int>(p.c.shape[1]);
    e.activation = p.activation;
    e.accumulate = p.accumulate;
    e.pairs = even(p.c);
    return e;
}

Status multiply_by_library(const Matmul& p, const Plan& plan, float* partial, const Stream& stream) {
    LibraryProduct l = library_product(p, plan);
    l.a = plan.a.data, l.a_stride = plan.a.stride;
    l.b = plan.b.data, l.b_stride = plan.b.stride;
    l.c = partial ? partial : p.c.as<float>(), l.c_stride = partial ? plan.N : p.c.stride[0];
    if (!partial && (p.accumulate || p.residual)) l.add = added(p)->as<float>(), l.add_stride = added(p)->stride[0];
    return cublaslt_multiply(queue_of(stream).cublaslt, l, queue_of(stream).stream);
}

Status multiply(const Matmul& p, const Plan& plan, const ProductArguments& arguments, const Stream& stream) {
    const Form form{p.transpose_a, p.transpose_b};
    switch (plan.path) {
        case Path::library: return multiply_by_library(p, plan, arguments.partial, stream);
        case Path::rows: return multiply_rows(arguments, plan.tensor, stream);
        case Path::small_tiles:
            return plan.tensor ? multiply_tensor_small(arguments, form, stream)
                               : multiply_fma(arguments, form, false, stream);
        case Path::large_tiles:
            return plan.tensor ? multiply_tensor_large(arguments, form, stream)
                               : multiply_fma(arguments, form, true, stream);
    }
    return {};
}

Status run(const Matmul& p, const Stream& stream, Workspace workspace) {
    if (p.c.size() == 0) return {};
    Plan plan = make_plan(p, stream);
    const auto converted = [&](const View& v, Operand& as) {
        bf16* room = workspace.take<bf16>(bf16_size(v));
        as = bf16_operand(v, room, as.lines);
        return convert(v, room, stream);
    };
    if (plan.convert_a) NOEMA_TRY(converted(p.a, plan.a));
    if (plan.convert_b) NOEMA_TRY(converted(p.b, plan.b));
    ProductArguments arguments{plan.a, plan.b, epilogue(p), static_cast<int>(plan.K), plan.chunk, plan.chunks};
    if (plan.apart) arguments.partial = workspace.take<float>(partial_size(plan));
    NOEMA_TRY(multiply(p, plan, arguments, stream));
    if (!plan.apart) return {};
    const int64_t pairs = plan.M * ((plan.N + 1) / 2);
    return launch("matmul (sum of chunks)", stream,
                  {.blocks = dim3(static_cast<unsigned>(ceil_div(pairs, kThreads))), .threads = kThreads},
                  finish_chunks, arguments);
}

Status pack(const MatmulPack& p, const Stream& stream, Workspace) {
    if (p.weight.size() == 0 || packed_bytes(p.weight, p.precision) == 0) return {};
    return convert(p.weight, p.packed, stream);
}

}  // namespace

/// Converted once instead of by every product; all else is read as it is.
size_t packed_bytes(const View& weight, Precision precision, bool) {
    if (precision != Precision::bf16 || weight.dtype == DType::bf16) return 0;
    return static_cast<size_t>(bf16_size(weight)) * sizeof(bf16);
}

Op<Matmul> matmul_entry() {
    return {run, workspace};
}

Op<MatmulPack> matmul_pack_entry() {
    return {pack, nullptr};
}

}  // namespace noema::cuda
