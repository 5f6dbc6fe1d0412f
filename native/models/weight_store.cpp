#include "models/weight_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

namespace noema {

MappedFile::~MappedFile() {
    if (data_) munmap(const_cast<uint8_t*>(data_), size_);
}

Status MappedFile::open(const std::string& path, MappedFile& out) {
    // Without O_NONBLOCK a named pipe would hold the engine's thread until somebody writes to it.
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return Status::error(Code::io, "%s: %s", path.c_str(), std::strerror(errno));
    struct stat info = {};
    const bool regular = fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0;
    void* memory = regular ? mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    ::close(file);
    if (memory == MAP_FAILED) return Status::error(Code::io, "%s: cannot be mapped", path.c_str());
    out.data_ = static_cast<const uint8_t*>(memory);
    out.size_ = info.st_size;
    return {};
}

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
                         Precision precision, std::unique_ptr<WeightStore>& out, bool both_ways) {
    auto store = std::make_unique<WeightStore>();
    store->both_ways_ = both_ways;
    NOEMA_TRY(store->make_room(engine, specs, precision));
    for (const TensorSpec& spec : specs) {
        const TensorSource* source = find_source(sources, spec.name);
        if (!source) return malformed(spec.name, "missing");
        if (source->shape != spec.shape())
            return malformed(spec.name, "its shape does not follow from the configuration");
        NOEMA_TRY(store->add(engine, spec, *source, precision));
    }
    out = std::move(store);
    return {};
}

Status WeightStore::source_bytes(const TensorSource& source, size_t bytes, const uint8_t*& out) {
    if (source.data) {
        out = reinterpret_cast<const uint8_t*>(source.data);
        return {};
    }
    MappedFile& file = files_[source.path];
    if (!file.data()) NOEMA_TRY(MappedFile::open(source.path, file));
    if (source.offset > file.size() || bytes > file.size() - source.offset)
        return malformed(source.name, "its bytes lie beyond the end of the file");
    out = file.data() + source.offset;
    return {};
}

Status WeightStore::own(Engine& engine, const View& host, DType dtype, View& to) {
    to = on_device(host, engine.backend().device);
    to.dtype = dtype;
    buffers_.emplace_back(engine.backend(), to.bytes());
    to.data = buffers_.back().data();
    if (!to.data) return engine.no_memory(to.bytes(), "weights");
    bytes_ += to.bytes();
    if (dtype == host.dtype) return engine.upload(to.data, host.data, host.bytes());
    return engine.execute([&](Context& c) {
        const View from = as_matrix(c.upload(host));
        return cast({.x = from, .y = as_matrix(to)}, c);
    });
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

Status WeightStore::add(Engine& engine, const TensorSpec& spec, const TensorSource& source, Precision precision) {
    if (source.dtype != DType::f32 && source.dtype != DType::bf16 && source.dtype != DType::f16)
        return malformed(spec.name, "its dtype is none of f32, bf16, f16");
    View v = spec.is_matrix() ? view(nullptr, source.dtype, spec.rows, spec.columns)
                              : view(nullptr, source.dtype, spec.rows);
    const uint8_t* bytes = nullptr;
    NOEMA_TRY(source_bytes(source, v.bytes(), bytes));
    v.data = const_cast<uint8_t*>(bytes);

    // Values are read in f32. A misaligned or f16 matrix, or memory that its owner may change, is copied; for a device
    // everything is.
    Weight weight;
    const bool wide = spec.use == TensorUse::values;
    const bool here = engine.backend().device == Device::cpu;
    const bool aligned = !here || reinterpret_cast<uintptr_t>(bytes) % dtype_size(v.dtype) == 0;
    const bool usable = here && !wide && v.dtype != DType::f16 && aligned && !source.data;
    if (usable) {
        weight.view = v;
    } else if (aligned) {
        NOEMA_TRY(own(engine, v, !wide && v.dtype == DType::bf16 ? DType::bf16 : DType::f32, weight.view));
    } else {
        View straight;
        NOEMA_TRY(own(engine, v, v.dtype, straight));
        weight.view = straight;
        if (wide || v.dtype == DType::f16) NOEMA_TRY(own(engine, straight, DType::f32, weight.view));
    }
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
