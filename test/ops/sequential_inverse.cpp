// sequential_inverse of an affine flow against plain loops in double, sequential_sweep there and back, and what they refuse. With the other couplings it is compared with
// the composition of its ops in test/models/flow_sequential.cpp.
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr int64_t kLayers = 2;
struct Sizes {
    int64_t B = 2, N = 5, c = 3, C = 20, H = 2, F = 37, position = 4;
    int64_t D() const { return C / H; }
    int64_t S() const { return position + N + 1; }
};
constexpr const char* kMatrices[] = {"q", "k", "v", "o", "gate", "up", "down"};

std::string named(const std::string& name, int64_t layer) {
    return name + std::to_string(layer);
}

std::vector<Field> fields(const Sizes& s) {
    const auto [B, N, c, C, H, F, position] = s;
    const double wide = std::sqrt(20.0 / static_cast<double>(C));  // sums of more terms, of the same size
    std::vector<Field> all{input("start", {c}),
                           input("input", {C, c}, {.scale = 0.5}),
                           input("input_bias", {C}),
                           input("norm", {C}, {.scale = 0.1, .shift = 1}),
                           input("head", {2 * c, C}, {.scale = 0.2 * wide}),
                           input("head_bias", {2 * c}, {.scale = 0.1}),
                           contiguous(input("u", {B, N, c}, {}, DType::f64)),
                           contiguous(in_out("h", {B, N, c}, {}, DType::f64)),
                           ids("fixed", {B, N}, 0, 2, DType::u8),
                           output("failed", {N, B}, DType::i32)};
    for (int64_t i = 0; i < kLayers; ++i) {
        for (const char* norm : {"attention_norm", "mlp_norm"})
            all.push_back(input(named(norm, i), {C}, {.scale = 0.1, .shift = 1}));
        for (const std::string name : kMatrices) {
            const bool to_inner = name == "gate" || name == "up";
            all.push_back(input(named(name, i), {to_inner ? F : C, name == "down" ? F : C}, {.scale = 0.2 * wide}));
        }
        for (const char* cache : {"keys", "values"})
            all.push_back(contiguous(in_out(named(cache, i), {B, s.S(), H, s.D()})));
    }
    return all;
}

/// Weights in the backend's arrangement, as long as it lives.
class Packer {
 public:
    explicit Packer(Context& context) : context_(context) {}
    Weight operator()(const View& v, Precision precision) {
        const Backend& backend = *context_.backend;
        memory_.emplace_back(backend, backend.packed_bytes(v, precision, false));
        void* packed = memory_.back().data();
        REQUIRE(matmul_pack({.weight = v, .packed = packed, .precision = precision}, context_).ok());
        return {v, packed, precision};
    }

 private:
    Context& context_;
    std::vector<Buffer> memory_;
};

using Change = std::function<void(SequentialInverse&, InverseBlock&)>;
using Call = std::function<Status(SequentialInverse&, const Tensors&, Context&)>;

OpCase inverse_case(Precision precision = Precision::f32, const Change& change = {}, const Sizes& s = {},
                    const Call& call = {}) {
    return {"sequential_inverse", fields(s), [=](const Tensors& t, Context& context) {
                Packer pack(context);
                std::vector<InverseBlock> blocks;
                for (int64_t i = 0; i < kLayers; ++i) {
                    const auto weight = [&](const char* name) { return pack(t[named(name, i)], precision); };
                    blocks.push_back({t[named("attention_norm", i)], weight("q"), weight("k"), weight("v"), weight("o"),
                                      t[named("mlp_norm", i)], weight("gate"), weight("up"), weight("down"),
                                      t[named("keys", i)], t[named("values", i)]});
                }
                View failed = t["failed"];
                std::swap(failed.shape[0], failed.shape[1]), std::swap(failed.stride[0], failed.stride[1]);
                SequentialInverse p{.blocks = blocks.data(),
                                    .layers = kLayers,
                                    .start = t["start"],
                                    .input = pack(t["input"], Precision::f32),
                                    .input_bias = t["input_bias"],
                                    .norm = t["norm"],
                                    .head = {.weight = pack(t["head"], Precision::f32), .bias = t["head_bias"]},
                                    .u = t["u"],
                                    .h = t["h"],
                                    .fixed = t["fixed"],
                                    .failed = failed,
                                    .position = s.position,
                                    .H = s.H,
                                    .precision = precision};
                if (change) change(p, blocks[1]);
                return call ? call(p, t, context) : sequential_inverse(p, context);
            }};
}

// --- plain loops -------------------------------------------------------------------------------------------------------

using Row = std::vector<double>;

double largest_difference(const Row& a, const Row& b) {
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double error = std::fabs(a[i] - b[i]);
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

class PlainLoops {
 public:
    PlainLoops(const Sizes& sizes, const Tensors& t)
        : s_(sizes), t_(t), u_(t.values("u")), h_(t.values("h")), fixed_(t.values("fixed")) {
        for (int64_t i = 0; i < kLayers; ++i) {
            keys_.push_back(t.values(named("keys", i)));
            values_.push_back(t.values(named("values", i)));
        }
        for (int64_t b = 0; b < s_.B; ++b)
            for (int64_t n = 0; n < s_.N; ++n) position(b, n);
    }

    const Row& h() const { return h_; }
    /// What a call should have made of its tensors, at worst.
    double worst_difference(const Tensors& t) const {
        double worst = largest_difference(t.values("h"), h_);
        for (int64_t i = 0; i < kLayers; ++i) {
            worst = std::max(worst, largest_difference(t.values(named("keys", i)), keys_[i]));
            worst = std::max(worst, largest_difference(t.values(named("values", i)), values_[i]));
        }
        return worst;
    }

 private:
    void position(int64_t b, int64_t n) {
        const int64_t N = s_.N, c = s_.c;
        double* h = &h_[(b * N + n) * c];
        const Row before = n ? Row(h - c, h) : t_.values("start"), bias = t_.values("input_bias");
        Row x = times("input", before);
        for (int64_t i = 0; i < s_.C; ++i) x[i] += bias[i];
        for (int64_t i = 0; i < kLayers; ++i) block(i, b, s_.position + n, x);
        const Row made = times("head", normed(x, "norm")), made_bias = t_.values("head_bias");
        for (int64_t i = 0; i < c && fixed_[b * N + n] == 0; ++i) {
            const double a = made[i] + made_bias[i], shift = made[c + i] + made_bias[c + i];
            h[i] = u_[(b * N + n) * c + i] * std::exp(4 * std::tanh(a / 4)) + shift;
        }
    }

    void block(int64_t layer, int64_t b, int64_t p, Row& x) {
        const Row n1 = normed(x, named("attention_norm", layer));
        const Row q = turned(times(named("q", layer), n1), p), k = turned(times(named("k", layer), n1), p);
        std::copy(k.begin(), k.end(), &keys_[layer][(b * s_.S() + p) * s_.C]);
        const Row v = times(named("v", layer), n1);
        std::copy(v.begin(), v.end(), &values_[layer][(b * s_.S() + p) * s_.C]);
        add(x, times(named("o", layer), attended(layer, b, p, q)));
        const Row n2 = normed(x, named("mlp_norm", layer));
        const Row gate = times(named("gate", layer), n2);
        Row inner = times(named("up", layer), n2);
        for (int64_t i = 0; i < s_.F; ++i) inner[i] *= gate[i] / (1 + std::exp(-gate[i]));
        add(x, times(named("down", layer), inner));
    }

    Row attended(int64_t layer, int64_t b, int64_t p, const Row& q) const {
        const int64_t C = s_.C, D = s_.D();
        Row out(C);
        for (int64_t head = 0; head < s_.H; ++head) {
            double sum = 0;
            for (int64_t j = 0; j <= p; ++j) {
                const int64_t at = (b * s_.S() + j) * C + head * D;
                double score = 0;
                for (int64_t i = 0; i < D; ++i) score += q[head * D + i] * keys_[layer][at + i];
                const double weight = std::exp(score / std::sqrt(static_cast<double>(D)));
                sum += weight;
                for (int64_t i = 0; i < D; ++i) out[head * D + i] += weight * values_[layer][at + i];
            }
            for (int64_t i = 0; i < D; ++i) out[head * D + i] /= sum;
        }
        return out;
    }

    Row times(const std::string& name, const Row& x) const {
        const Row& w = weight(name);
        const size_t K = x.size();
        Row y(w.size() / K);
        for (size_t r = 0; r < y.size(); ++r)
            for (size_t k = 0; k < K; ++k) y[r] += w[r * K + k] * x[k];
        return y;
    }

    Row normed(Row x, const std::string& name) const {
        const Row w = t_.values(name);
        double squares = 0;
        for (const double v : x) squares += v * v;
        const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + 1e-5);
        for (size_t i = 0; i < x.size(); ++i) x[i] *= scale * w[i];
        return x;
    }

    Row turned(Row x, int64_t p) const {
        const int64_t D = s_.D();
        for (int64_t i = 0; i < s_.C; ++i) {
            if (i % D >= D / 2) continue;
            const double angle = static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i % D) / D);
            const double a = x[i], b = x[i + D / 2];
            x[i] = a * std::cos(angle) - b * std::sin(angle);
            x[i + D / 2] = b * std::cos(angle) + a * std::sin(angle);
        }
        return x;
    }

    const Row& weight(const std::string& name) const {
        Row& w = weights_[name];
        if (w.empty()) w = t_.values(name);
        return w;
    }

    static void add(Row& x, const Row& y) {
        for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
    }

    const Sizes s_;
    const Tensors& t_;
    mutable std::map<std::string, Row> weights_;
    const Row u_;
    Row h_;
    const Row fixed_;
    std::vector<Row> keys_, values_;
};

/// f32: sums of some hundred products pass five times; bf16 keeps 8 bits of what enters them.
double allowed(Precision precision) {
    return precision == Precision::f32 ? 4e-5 : 0.2;
}

}  // namespace

TEST_CASE("sequential_inverse: an affine flow is what plain loops make of it") {
    // The second: parts of columns that differ in width, which some teams divide and others do not; the third: two parts.
    for (const Sizes& sizes :
         {Sizes(), Sizes{.N = 3, .C = 128, .H = 4, .F = 300}, Sizes{.B = 9, .N = 2, .C = 96, .H = 2, .F = 530}})
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            const OpCase op = inverse_case(precision, {}, sizes);
            const Tensors given = make_tensors(op.fields, op.title, false, false);
            const PlainLoops truth(sizes, given);
            EachIsa each;
            for (const std::string& isa : each.names) {
                EachIsa::use(isa);
                Row first;
                for (const int threads : {1, 2, 3, 4, 5}) {
                    INFO(isa, ", C ", sizes.C, ", ", threads, " threads");
                    ThreadTeam team(threads);
                    const Tensors t = make_tensors(op.fields, op.title, false, false);
                    const Status status = run_on(op, t, "cpu", team);
                    REQUIRE_MESSAGE(status.ok(), status.text);
                    CHECK(broken_fences(t) == "");
                    const Row h = t.values("h"), failed = t.values("failed");
                    CHECK(truth.worst_difference(t) <= allowed(precision));
                    CHECK(std::count(failed.begin(), failed.end(), 0.0) == static_cast<int64_t>(failed.size()));
                    if (first.empty()) first = h;
                    CHECK(h == first);
                }
            }
        }
}

TEST_CASE("sequential_inverse: an affine flow on a device is what plain loops make of it") {
    // The second: several slices of sequences, of F and of K, parts of keys, widths that no vector divides.
    for (const Sizes& sizes : {Sizes(), Sizes{.B = 18, .N = 1, .c = 3, .C = 264, .H = 4, .F = 300, .position = 257},
                               Sizes{.B = 1, .N = 3, .c = 5, .C = 64, .H = 1, .F = 129, .position = 0}})
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            const OpCase op = inverse_case(precision, {}, sizes);
            const Tensors given = make_tensors(op.fields, op.title, false, false);
            const PlainLoops truth(sizes, given);
            for (const std::string& device : devices())
                for (const bool padded : {false, true}) {
                    if (padded && sizes.B > 4) continue;
                    INFO(device, ", C ", sizes.C, ", padded rows: ", padded);
                    Tensors t = make_tensors(op.fields, op.title, false, padded);
                    const Status status = run_on_device(op, t, device_engine(device));
                    REQUIRE_MESSAGE(status.ok(), status.text);
                    CHECK(broken_fences(t) == "");
                    const Row failed = t.values("failed");
                    CHECK(truth.worst_difference(t) <= allowed(precision));
                    CHECK(std::count(failed.begin(), failed.end(), 0.0) == static_cast<int64_t>(failed.size()));
                }
        }
}

namespace {

constexpr double kGrid = 0x1p-20;

/// The same flow forward: u, under the name of h, of what is given under the name of u.
OpCase forward_case(Precision precision, const Change& change = {}) {
    const Sizes s;
    OpCase op = inverse_case(precision, {}, s, [=](SequentialInverse& p, const Tensors& t, Context& context) {
        std::swap(p.u, p.h);
        p.fixed = {};
        if (change) change(p, const_cast<InverseBlock&>(*p.blocks));
        return sequential_sweep({.flow = p, .before = t["before"], .forward = true}, context);
    });
    op.fields.push_back(contiguous(input("before", {s.B, s.N, s.c})));
    return op;
}

Field& field(OpCase& op, const std::string& name) {
    return *std::find_if(op.fields.begin(), op.fields.end(), [&](const Field& f) { return f.name == name; });
}

/// h [B,N,c] one position late, behind the start.
Row late(const Row& h, const Row& start) {
    const Sizes s;
    Row before;
    for (int64_t b = 0; b < s.B; ++b) {
        before.insert(before.end(), start.begin(), start.end());
        before.insert(before.end(), h.begin() + b * s.N * s.c, h.begin() + ((b + 1) * s.N - 1) * s.c);
    }
    return before;
}

}  // namespace

TEST_CASE("sequential_sweep, forward, gives the noise that leads back, to the bit") {
    for (const Precision precision : {Precision::f32, Precision::bf16})
        for (const std::string& device : devices()) {
            INFO(device);
            OpCase there = forward_case(precision);
            OpCase back = inverse_case(precision, [](auto& p, auto&) { p.fixed = {}, p.grid = kGrid; });
            const Tensors given = make_tensors(there.fields, there.title, false, false);
            Row h = given.values("u");
            for (double& x : h) x = std::nearbyint(x / kGrid) * kGrid;
            field(there, "u").fill.values = h;
            field(there, "before").fill.values = late(h, given.values("start"));
            Tensors noise = make_tensors(there.fields, there.title, false, false);
            REQUIRE(run_on_device(there, noise, device_engine(device)).ok());
            field(back, "u").fill.values = noise.values("h");
            Tensors found = make_tensors(back.fields, back.title, false, false);
            REQUIRE(run_on_device(back, found, device_engine(device)).ok());
            CHECK(found.values("h") == h);
        }
}

TEST_CASE("sequential_sweep refuses") {
    const auto refuses = [](const std::string& mentions, const Change& change) {
        check_refused(forward_case(Precision::f32, change), Code::invalid_argument, mentions);
    };
    refuses("fixed has no meaning with forward", [](auto& p, auto&) { p.fixed = p.failed, p.fixed.dtype = DType::u8; });
    refuses("before has shape", [](auto& p, auto&) { p.u.shape[1] = p.h.shape[1] = 4; });
    refuses("q is not packed", [](auto& p, auto&) { p.precision = Precision::bf16; });
}

TEST_CASE("sequential_inverse refuses") {
    const auto refuses = [](const std::string& mentions, const Change& change) {
        check_refused(inverse_case(Precision::f32, change), Code::invalid_argument, mentions);
    };
    refuses("H must divide the width into heads of even width", [](auto& p, auto&) { p.H = 4; });
    refuses("H must divide", [](auto& p, auto&) { p.H = 0; });
    refuses("position must not be negative", [](auto& p, auto&) { p.position = -1; });
    refuses("keys has no room for all positions", [](auto& p, auto&) { p.position = 6; });
    refuses("down is not packed", [](auto&, auto& block) { block.down.packed = nullptr; });
    refuses("input is not packed", [](auto& p, auto&) { p.input.packed_precision = Precision::bf16; });
    refuses("q is not packed", [](auto& p, auto&) { p.precision = Precision::bf16; });
    refuses("up has shape [37, 20], expected [36, 20]", [](auto& p, auto& block) {
        block.gate.view.shape[0] = 36;
        const_cast<InverseBlock*>(p.blocks)->gate.view.shape[0] = 36;
    });
    refuses("head.weight has shape [5, 20], expected [6, 20]", [](auto& p, auto&) { p.head.weight.view.shape[0] = 5; });
    refuses("u must be contiguous", [](auto& p, auto&) { p.u.stride[1] = 4; });
    refuses("failed must be [B,N]", [](auto& p, auto&) { p.failed = {}; });
    refuses("head.P must divide the channels", [](auto& p, auto&) {
        p.head.kind = CouplingKind::mixture_rosenblatt, p.head.P = 2;
        p.head.mean = p.input.view;
    });
    refuses("head must have features, hidden units and components",
            [](auto& p, auto&) { p.head.kind = CouplingKind::mixture_cdf; });
}
