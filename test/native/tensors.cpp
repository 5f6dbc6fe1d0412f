#include "native/tensors.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace noema::test {

namespace {

constexpr int64_t kFence = 32;  // elements before and after each tensor
constexpr uint8_t kPoison =
    0xFB;  // as f32, bf16, f64: large negative finite garbage; no op yields exactly this pattern

uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

uint64_t hash(const std::string& text) {
    uint64_t h = seed();
    for (unsigned char c : text) h = mix(h ^ c);
    return h;
}

struct Random {
    uint64_t state;
    uint64_t bits() { return state = mix(state); }
    double uniform() { return (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53; }
    double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()); }
};

float bf16_value(uint16_t h) {
    return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

uint16_t bf16_bits(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    return static_cast<uint16_t>((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

double rounded_to(double value, DType t) {
    if (t == DType::f32) return static_cast<float>(value);
    if (t == DType::bf16) return bf16_value(bf16_bits(static_cast<float>(value)));
    return value;
}

void put(const View& v, int64_t offset, double value) {
    switch (v.dtype) {
        case DType::f32: v.as<float>()[offset] = static_cast<float>(value); break;
        case DType::f64: v.as<double>()[offset] = value; break;
        case DType::bf16: v.as<uint16_t>()[offset] = bf16_bits(static_cast<float>(value)); break;
        case DType::f16: v.as<uint16_t>()[offset] = static_cast<uint16_t>(value); break;
        case DType::i32: v.as<int32_t>()[offset] = static_cast<int32_t>(value); break;
        case DType::i64: v.as<int64_t>()[offset] = static_cast<int64_t>(value); break;
        case DType::u8: v.as<uint8_t>()[offset] = static_cast<uint8_t>(value); break;
    }
}

double take(const View& v, int64_t offset) {
    switch (v.dtype) {
        case DType::f32: return v.as<float>()[offset];
        case DType::f64: return v.as<double>()[offset];
        case DType::bf16: return bf16_value(v.as<uint16_t>()[offset]);
        case DType::f16: return v.as<uint16_t>()[offset];
        case DType::i32: return v.as<int32_t>()[offset];
        case DType::i64: return static_cast<double>(v.as<int64_t>()[offset]);
        case DType::u8: return v.as<uint8_t>()[offset];
    }
    return 0;
}

/// Calls f(offset) for every element in logical order.
template <class F>
void each_offset(const View& v, const F& f) {
    const int64_t n = v.size();
    for (int64_t i = 0; i < n; ++i) {
        int64_t rest = i, offset = 0;
        for (int axis = v.rank - 1; axis >= 0; --axis) {
            offset += rest % v.shape[axis] * v.stride[axis];
            rest /= v.shape[axis];
        }
        f(offset);
    }
}

}  // namespace

bool is_float(DType t) {
    return t == DType::f32 || t == DType::bf16 || t == DType::f64 || t == DType::f16;
}

class Memory {
 public:
    Memory(const Field& field, const std::string& title, bool wide, bool padded) : field(field) {
        view.dtype = wide && is_float(field.dtype) ? DType::f64 : field.dtype;
        view.rank = static_cast<int>(field.shape.size());
        const int64_t pad = padded && !field.contiguous && view.rank >= 2 ? 3 : 0;
        int64_t stride = 1;
        for (int i = view.rank - 1; i >= 0; --i) {
            view.shape[i] = field.shape[i];
            view.stride[i] = stride;
            stride = stride * field.shape[i] + (i == view.rank - 1 ? pad : 0);
        }
        elements = stride + 2 * kFence;
        bytes = elements * dtype_size(view.dtype);
        block.reset(static_cast<uint8_t*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64)));
        std::memset(block.get(), kPoison, bytes);
        view.data = block.get() + kFence * dtype_size(view.dtype);
        fill(title);
        before.assign(block.get(), block.get() + bytes);
    }

    void fill(const std::string& title) {
        if (field.role == Role::output) return;
        Random random{hash(title + "/" + field.name)};
        size_t i = 0;
        each_offset(view, [&](int64_t offset) {
            double value = 0;
            if (!field.fill.values.empty()) {
                value = field.fill.values.at(i++);
            } else if (is_float(field.dtype)) {
                value = random.normal() * field.fill.scale + field.fill.shift;
            } else {
                value = static_cast<double>(field.fill.low +
                                            static_cast<int64_t>(random.bits() % (field.fill.high - field.fill.low)));
            }
            put(view, offset, rounded_to(value, field.dtype));
        });
    }

    /// Which bytes belong to elements.
    std::vector<bool> inside() const {
        std::vector<bool> mine(bytes, false);
        const size_t size = dtype_size(view.dtype);
        each_offset(view, [&](int64_t offset) {
            for (size_t b = 0; b < size; ++b) mine[(kFence + offset) * size + b] = true;
        });
        return mine;
    }

    std::string complaint() const {
        const std::vector<bool> mine = inside();
        for (size_t b = 0; b < bytes; ++b) {
            const bool changed = block[b] != before[b];
            if (changed && !mine[b]) return field.name + ": written outside its bounds";
            if (changed && field.role == Role::input) return field.name + ": an input was changed";
        }
        return field.role == Role::output ? unwritten() : "";
    }

    std::string unwritten() const {
        const size_t size = dtype_size(view.dtype);
        if (size == 1) return "";  // one poisoned byte may be a right answer
        std::string text;
        each_offset(view, [&](int64_t offset) {
            const uint8_t* p = block.get() + (kFence + offset) * size;
            bool poisoned = true;
            for (size_t b = 0; b < size; ++b) poisoned &= p[b] == kPoison;
            if (poisoned) text = field.name + ": element at offset " + std::to_string(offset) + " was not written";
        });
        return text;
    }

    struct Free {
        void operator()(uint8_t* p) const { std::free(p); }
    };

    Field field;
    View view;
    int64_t elements = 0;
    size_t bytes = 0;
    std::unique_ptr<uint8_t[], Free> block;
    std::vector<uint8_t> before;
};

Field input(std::string name, std::vector<int64_t> shape, Fill fill, DType dtype) {
    return {std::move(name), dtype, std::move(shape), Role::input, std::move(fill)};
}
Field ids(std::string name, std::vector<int64_t> shape, int64_t low, int64_t high, DType dtype) {
    Fill fill;
    fill.low = low;
    fill.high = high;
    return {std::move(name), dtype, std::move(shape), Role::input, fill, true};
}
Field output(std::string name, std::vector<int64_t> shape, DType dtype) {
    return {std::move(name), dtype, std::move(shape), Role::output};
}
Field in_out(std::string name, std::vector<int64_t> shape, Fill fill, DType dtype) {
    return {std::move(name), dtype, std::move(shape), Role::in_out, std::move(fill)};
}
Field contiguous(Field field) {
    field.contiguous = true;
    return field;
}

Tensors::Tensors() = default;
Tensors::Tensors(Tensors&&) noexcept = default;
Tensors::~Tensors() = default;

View Tensors::operator[](const std::string& name) const {
    for (const Memory& m : memory_)
        if (m.field.name == name) return m.view;
    return {};
}

std::vector<double> Tensors::values(const std::string& name) const {
    const View v = (*this)[name];
    std::vector<double> out;
    each_offset(v, [&](int64_t offset) { out.push_back(take(v, offset)); });
    return out;
}

Tensors make_tensors(const std::vector<Field>& fields, const std::string& title, bool wide, bool padded) {
    Tensors t;
    for (const Field& f : fields) t.memory_.emplace_back(f, title, wide, padded);
    return t;
}

std::string broken_fences(const Tensors& tensors) {
    for (const Memory& m : tensors.memory_)
        if (std::string text = m.complaint(); !text.empty()) return text;
    return "";
}

Status run_on(const OpCase& op, const Tensors& tensors, const char* backend, ThreadTeam& team) {
    Arena measure;
    Context context{find_backend(backend), team.stream(), &measure};
    NOEMA_TRY(op.run(tensors, context));
    const size_t bytes = measure.high_water() + 64;
    std::unique_ptr<uint8_t, void (*)(void*)> block(static_cast<uint8_t*>(context.backend->allocate(bytes)),
                                                    context.backend->release);
    std::memset(block.get(), kPoison, bytes);
    Arena arena(block.get(), bytes);
    context.arena = &arena;
    return op.run(tensors, context);
}

OnDevice::OnDevice(Tensors& tensors, Engine& engine) : tensors_(tensors), engine_(engine) {
    for (Memory& m : tensors.memory_) {
        Buffer block(engine.backend(), m.bytes);
        if (!block.data())
            status_ = Status::error(Code::out_of_memory, "no device memory for tensor %s", m.field.name.c_str());
        if (status_.ok()) status_ = engine.upload(block.data(), m.block.get(), m.bytes);
        if (!status_.ok()) return;
        m.view.data = static_cast<uint8_t*>(block.data()) + (m.view.as<uint8_t>() - m.block.get());
        m.view.device = engine.backend().device;
        blocks_.push_back(std::move(block));
    }
}

void OnDevice::point_home() {
    for (size_t i = 0; i < blocks_.size(); ++i) {
        Memory& m = tensors_.memory_[i];
        m.view.data = m.block.get() + (m.view.as<uint8_t>() - static_cast<uint8_t*>(blocks_[i].data()));
        m.view.device = Device::cpu;
    }
    blocks_.clear();
}

Status OnDevice::send_again() {
    for (size_t i = 0; i < blocks_.size(); ++i)
        NOEMA_TRY(engine_.upload(blocks_[i].data(), tensors_.memory_[i].block.get(), tensors_.memory_[i].bytes));
    return {};
}

Status OnDevice::bring_back() {
    for (size_t i = 0; i < blocks_.size(); ++i) {
        Memory& m = tensors_.memory_[i];
        NOEMA_TRY(engine_.download(m.block.get(), blocks_[i].data(), m.bytes));
    }
    point_home();
    return {};
}

Status run_on_device(const OpCase& op, Tensors& tensors, Engine& engine) {
    OnDevice moved(tensors, engine);
    NOEMA_TRY(moved.status());
    NOEMA_TRY(engine.execute([&](Context& c) { return op.run(tensors, c); }));
    return moved.bring_back();
}

std::vector<int64_t> awkward_sizes(int64_t limit) {
    std::vector<int64_t> out;
    for (int64_t n : {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 61, 64, 65, 127, 128, 131, 257, 509, 512, 513})
        if (n <= limit) out.push_back(n);
    return out;
}

uint64_t seed() {
    static const uint64_t value = [] {
        const char* text = std::getenv("NOEMA_SEED");
        return text ? std::strtoull(text, nullptr, 10) : 20261122u;
    }();
    return value;
}

int64_t choose(const std::string& title, int64_t n) {
    return static_cast<int64_t>(hash(title) % static_cast<uint64_t>(n));
}

}  // namespace noema::test
