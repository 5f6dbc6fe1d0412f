#include "models/weight_store.h"

#include <algorithm>

#include "models/views.h"

namespace noema {

namespace {

Status malformed(const std::string& name, const char* what) {
    return Status::error(Code::bad_checkpoint, "tensor %s: %s", name.c_str(), what);
}

const TensorSource* find_source(const std::vector<TensorSource>& sources, const std::string& name) {
    for (const TensorSource& s : sources)
        if (s.name == name) return &s;
    return nullptr;
}

View as_matrix(const View& v) {
    return v.rank == 2 ? v : on_device(view(v.data, v.dtype, 1, v.shape[0]), v.device);
}

}  // namespace

Status WeightStore::load(Engine& engine, const std::vector<TensorSpec>& specs, const std::vector<TensorSource>& sources,
                         Precision precision, std::unique_ptr<WeightStore>& out, const std::atomic<bool>* cancelled,
                         bool both_ways) {
    auto store = std::make_unique<WeightStore>();
    store->both_ways_ = both_ways;
    NOEMA_TRY(store->make_room(engine, specs, precision));
    SourceFiles files;
    for (const TensorSpec& spec : specs) {
        if (cancelled && cancelled->load()) return Status::error(Code::aborted, "loading was cancelled");
        const TensorSource* source = find_source(sources, spec.name);
        if (!source) return malformed(spec.name, "missing");
        if (source->shape != spec.shape())
            return malformed(spec.name, "its shape does not follow from the configuration");
        const View shape = spec.is_matrix() ? view(nullptr, source->dtype, spec.rows, spec.columns)
                                            : view(nullptr, source->dtype, spec.rows);
        NOEMA_TRY(store->add(engine, spec, {files, *source, shape}, precision));
    }
    out = std::move(store);
    return {};
}

namespace {

/// Rows that stay elsewhere than they are read to: on a device, or in another dtype.
Status place(Engine& engine, const View& rows, const View& to) {
    if (rows.dtype == to.dtype) return engine.upload(to.data, rows.data, rows.bytes());
    return engine.execute([&](Context& c) { return cast({.x = c.upload(rows), .y = to}, c); });
}

}  // namespace

Status WeightStore::own(Engine& engine, const Origin& origin, DType dtype, View& to) {
    to = on_device(origin.shape, engine.backend().device);
    to.dtype = dtype;
    NOEMA_TRY(origin.files.check(origin.source, origin.shape.bytes()));
    buffers_.emplace_back(engine.backend(), to.bytes());
    to.data = buffers_.back().data();
    if (!to.data) return engine.no_memory(to.bytes(), "weights");
    bytes_ += to.bytes();
    if (to.device == Device::cpu && dtype == origin.shape.dtype)
        return origin.files.read(origin.source, 0, to.bytes(), to.data);

    // In pieces: a whole matrix besides its copy would be memory that nothing needs later.
    constexpr int64_t kPieceBytes = int64_t{8} << 20;
    const View from = as_matrix(origin.shape), into = as_matrix(to);
    const int64_t R = from.shape[0], row_bytes = from.shape[1] * static_cast<int64_t>(dtype_size(from.dtype));
    const int64_t most = std::clamp<int64_t>(kPieceBytes / row_bytes, 1, R);
    std::vector<std::byte> piece(most * row_bytes);
    for (int64_t first = 0; first < R; first += most) {
        View rows = from;
        rows.data = piece.data();
        rows.shape[0] = std::min(most, R - first);
        NOEMA_TRY(origin.files.read(origin.source, first * row_bytes, rows.bytes(), rows.data));
        NOEMA_TRY(place(engine, rows, rows_of(into, first, rows.shape[0])));
    }
    return {};
}

namespace {

Status refuse_non_finite(Engine& engine, const std::string& name, const View& v) {
    const View m = as_matrix(v);
    std::vector<float> counts(m.shape[0]);
    NOEMA_TRY(engine.execute([&](Context& c) {
        const View y = c.arena->tensor(DType::f32, m.shape[0]);
        NOEMA_TRY(reduce({.x = m, .y = y, .kind = ReduceKind::count_non_finite}, c));
        c.fetch(y, counts.data());
        return Status{};
    }));
    for (int64_t r = 0; r < m.shape[0]; ++r)
        if (counts[r] > 0)
            return Status::error(Code::non_finite, "tensor %s holds a NaN or an infinity in row %lld", name.c_str(),
                                 static_cast<long long>(r));
    return {};
}

}  // namespace

namespace {

bool is_product(TensorUse use) {
    return use == TensorUse::product || use == TensorUse::exact_product;
}
Precision product_precision(TensorUse use, Precision precision) {
    return use == TensorUse::exact_product ? Precision::f32 : precision;
}

}  // namespace

/// Of a weight as products read it, in whole lines of the cache; 0 where they read it as it lies, or there is an arrangement already.
size_t WeightStore::packed_room(Engine& engine, const View& weight, Precision precision, bool transposed) const {
    if (transposed && (!both_ways_ || engine.backend().packs_both_ways)) return 0;
    return (engine.backend().packed_bytes(weight, precision, transposed) + 63) / 64 * 64;
}

Status WeightStore::make_room(Engine& engine, const std::vector<TensorSpec>& specs, Precision precision) {
    size_t bytes = 0;
    for (const TensorSpec& spec : specs)
        for (const bool transposed : {false, true})
            if (is_product(spec.use))
                bytes += packed_room(engine, view(nullptr, DType::f32, spec.rows, spec.columns),
                                     product_precision(spec.use, precision), transposed);
    if (bytes == 0) return {};
    packed_ = Buffer(engine.backend(), bytes);
    if (!packed_.data()) return engine.no_memory(bytes, "packed weights");
    bytes_ += bytes;
    return {};
}

Status WeightStore::pack(Engine& engine, const View& weight, Precision precision, bool transposed,
                         const void*& packed) {
    const size_t bytes = packed_room(engine, weight, precision, transposed);
    if (bytes == 0) return {};
    void* room = static_cast<std::byte*>(packed_.data()) + packed_used_;
    packed_used_ += bytes;
    packed = room;
    const MatmulPack task{.weight = weight, .packed = room, .precision = precision, .transposed = transposed};
    return engine.execute([&](Context& c) { return matmul_pack(task, c); });
}

Status WeightStore::pack_weight(Engine& engine, Weight& weight, Precision precision) {
    weight.packed_precision = precision;
    NOEMA_TRY(pack(engine, weight.view, precision, false, weight.packed));
    NOEMA_TRY(pack(engine, weight.view, precision, true, weight.packed_transposed));
    if (engine.backend().packs_both_ways) weight.packed_transposed = weight.packed;
    return {};
}

Status WeightStore::add(Engine& engine, const TensorSpec& spec, const Origin& origin, Precision precision) {
    const DType stored = origin.source.dtype;
    if (stored != DType::f32 && stored != DType::bf16 && stored != DType::f16)
        return malformed(spec.name, "its dtype is none of f32, bf16, f16");
    // Element-wise ops read f32, and no op reads f16.
    const bool wide = spec.use == TensorUse::values || stored == DType::f16;
    Weight weight;
    NOEMA_TRY(own(engine, origin, wide ? DType::f32 : stored, weight.view));
    NOEMA_TRY(refuse_non_finite(engine, spec.name, weight.view));
    if (is_product(spec.use)) NOEMA_TRY(pack_weight(engine, weight, product_precision(spec.use, precision)));
    weights_[spec.name] = weight;
    return {};
}

Status WeightStore::copy_to(Engine& engine, const std::vector<TensorSpec>& specs, float* flat) const {
    for (const TensorSpec& spec : specs) {
        const View from = as_matrix(find(spec.name).view);
        NOEMA_TRY(engine.execute([&](Context& c) {
            const View wide = c.arena->tensor(DType::f32, from.shape[0], from.shape[1]);
            NOEMA_TRY(cast({.x = from, .y = wide}, c));
            c.fetch(wide, flat);
            return Status{};
        }));
        flat += spec.size();
    }
    return {};
}

int64_t total_size(const std::vector<TensorSpec>& specs) {
    int64_t n = 0;
    for (const TensorSpec& spec : specs) n += spec.size();
    return n;
}

std::vector<TensorSource> sources_of(const std::vector<TensorSpec>& specs, const float* flat) {
    std::vector<TensorSource> sources;
    for (const TensorSpec& spec : specs) {
        TensorSource source{.name = spec.name, .data = flat};
        source.shape = spec.shape();
        sources.push_back(std::move(source));
        flat += spec.size();
    }
    return sources;
}

}  // namespace noema
