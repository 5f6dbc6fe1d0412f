// sequential_inverse of an affine flow against plain loops in double, and what it refuses. With the other couplings it is compared with
// the composition of its ops in test/models/flow_sequential.cpp.
#include <cmath>
#include <memory>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr int64_t B = 2, N = 5, c = 3, C = 20, H = 2, D = C / H, F = 37, S = 10, kPosition = 4, kLayers = 2;
constexpr const char* kMatrices[] = {"q", "k", "v", "o", "gate", "up", "down"};

std::string named(const std::string& name, int64_t layer) {
    return name + std::to_string(layer);
}

std::vector<Field> fields() {
    std::vector<Field> all{input("start", {c}),
                           input("input", {C, c}, {.scale = 0.5}),
                           input("input_bias", {C}),
                           input("norm", {C}, {.scale = 0.1, .shift = 1}),
                           input("head", {2 * c, C}, {.scale = 0.2}),
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
            all.push_back(input(named(name, i), {to_inner ? F : C, name == "down" ? F : C}, {.scale = 0.2}));
        }
        for (const char* cache : {"keys", "values"}) all.push_back(contiguous(in_out(named(cache, i), {B, S, H, D})));
    }
    return all;
}

/// Weights in the backend's arrangement, as long as it lives.
class Packer {
 public:
    explicit Packer(Context& context) : context_(context) {}
    Weight operator()(const View& v, Precision precision) {
        const Backend& backend = *context_.backend;
        memory_.emplace_back(backend, backend.packed_bytes(v, precision));
        void* packed = memory_.back().data();
        REQUIRE(matmul_pack({.weight = v, .packed = packed, .precision = precision}, context_).ok());
        return {v, packed, precision};
    }

 private:
    Context& context_;
    std::vector<Buffer> memory_;
};

using Change = std::function<void(SequentialInverse&, InverseBlock&)>;

OpCase inverse_case(Precision precision = Precision::f32, const Change& change = {}) {
    return {"sequential_inverse", fields(), [=](const Tensors& t, Context& context) {
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
                                    .position = kPosition,
                                    .H = H,
                                    .precision = precision};
                if (change) change(p, blocks[1]);
                return sequential_inverse(p, context);
            }};
}

// --- plain loops -------------------------------------------------------------------------------------------------------

using Row = std::vector<double>;

class PlainLoops {
 public:
    explicit PlainLoops(const Tensors& t) : t_(t), u_(t.values("u")), h_(t.values("h")), fixed_(t.values("fixed")) {
        for (int64_t i = 0; i < kLayers; ++i) {
            keys_.push_back(t.values(named("keys", i)));
            values_.push_back(t.values(named("values", i)));
        }
    }

    const Row& run() {
        for (int64_t b = 0; b < B; ++b)
            for (int64_t n = 0; n < N; ++n) position(b, n);
        return h_;
    }

 private:
    void position(int64_t b, int64_t n) {
        double* h = &h_[(b * N + n) * c];
        const Row before = n ? Row(h - c, h) : t_.values("start"), bias = t_.values("input_bias");
        Row x = times("input", before);
        for (int64_t i = 0; i < C; ++i) x[i] += bias[i];
        for (int64_t i = 0; i < kLayers; ++i) block(i, b, kPosition + n, x);
        const Row made = times("head", normed(x, "norm")), made_bias = t_.values("head_bias");
        for (int64_t i = 0; i < c && fixed_[b * N + n] == 0; ++i) {
            const double a = made[i] + made_bias[i], shift = made[c + i] + made_bias[c + i];
            h[i] = u_[(b * N + n) * c + i] * std::exp(4 * std::tanh(a / 4)) + shift;
        }
    }

    void block(int64_t layer, int64_t b, int64_t p, Row& x) {
        const Row n1 = normed(x, named("attention_norm", layer));
        const Row q = turned(times(named("q", layer), n1), p), k = turned(times(named("k", layer), n1), p);
        std::copy(k.begin(), k.end(), &keys_[layer][(b * S + p) * C]);
        const Row v = times(named("v", layer), n1);
        std::copy(v.begin(), v.end(), &values_[layer][(b * S + p) * C]);
        add(x, times(named("o", layer), attended(layer, b, p, q)));
        const Row n2 = normed(x, named("mlp_norm", layer));
        const Row gate = times(named("gate", layer), n2);
        Row inner = times(named("up", layer), n2);
        for (int64_t i = 0; i < F; ++i) inner[i] *= gate[i] / (1 + std::exp(-gate[i]));
        add(x, times(named("down", layer), inner));
    }

    Row attended(int64_t layer, int64_t b, int64_t p, const Row& q) const {
        Row out(C);
        for (int64_t head = 0; head < H; ++head) {
            double sum = 0;
            for (int64_t j = 0; j <= p; ++j) {
                const int64_t at = (b * S + j) * C + head * D;
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
        const Row w = t_.values(name);
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

    static Row turned(Row x, int64_t p) {
        for (int64_t i = 0; i < C; ++i) {
            if (i % D >= D / 2) continue;
            const double angle = static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i % D) / D);
            const double a = x[i], b = x[i + D / 2];
            x[i] = a * std::cos(angle) - b * std::sin(angle);
            x[i + D / 2] = b * std::cos(angle) + a * std::sin(angle);
        }
        return x;
    }

    static void add(Row& x, const Row& y) {
        for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
    }

    const Tensors& t_;
    const Row u_;
    Row h_;
    const Row fixed_;
    std::vector<Row> keys_, values_;
};

double worst_difference(const Row& a, const Row& b) {
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double error = std::fabs(a[i] - b[i]);
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

}  // namespace

TEST_CASE("sequential_inverse: an affine flow is what plain loops make of it") {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        const OpCase op = inverse_case(precision);
        const Row truth = PlainLoops(make_tensors(op.fields, op.title, false, false)).run();
        EachIsa each;
        for (const std::string& isa : each.names) {
            EachIsa::use(isa);
            Row first;
            for (const int threads : {1, 2, 3, 5}) {
                INFO(isa, ", ", threads, " threads");
                ThreadTeam team(threads);
                const Tensors t = make_tensors(op.fields, op.title, false, false);
                const Status status = run_on(op, t, "cpu", team);
                REQUIRE_MESSAGE(status.ok(), status.text);
                CHECK(broken_fences(t) == "");
                const Row h = t.values("h"), failed = t.values("failed");
                // f32: sums of 37 products pass five times; bf16 keeps 8 bits of what enters them.
                CHECK(worst_difference(h, truth) <= (precision == Precision::f32 ? 2e-5 : 0.2));
                CHECK(std::count(failed.begin(), failed.end(), 0.0) == B * N);
                if (first.empty()) first = h;
                CHECK(h == first);
            }
        }
    }
}

TEST_CASE("sequential_inverse forward gives the noise that leads back, to the bit") {
    constexpr double kGrid = 0x1p-20;
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        OpCase there = inverse_case(precision, [](SequentialInverse& p, InverseBlock&) {
            std::swap(p.u, p.h);
            p.fixed = {}, p.forward = true;
        });
        OpCase back =
            inverse_case(precision, [](SequentialInverse& p, InverseBlock&) { p.fixed = {}, p.grid = kGrid; });
        // h has the name u while it is given.
        Row h = make_tensors(there.fields, there.title, false, false).values("u");
        for (double& x : h) x = std::nearbyint(x / kGrid) * kGrid;
        there.fields[6].fill.values = h;
        EachIsa each;
        for (const std::string& isa : each.names) {
            INFO(isa);
            EachIsa::use(isa);
            ThreadTeam two(2), three(3);
            const Tensors noise = make_tensors(there.fields, there.title, false, false);
            REQUIRE(run_on(there, noise, "cpu", two).ok());
            back.fields[6].fill.values = noise.values("h");
            const Tensors found = make_tensors(back.fields, back.title, false, false);
            REQUIRE(run_on(back, found, "cpu", three).ok());
            CHECK(found.values("h") == h);
        }
    }
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
