// The vocabulary head at the sizes of MDLM, LLaDA and the tales models. The weight is a formula of its index, made in
// `prepare`, so that two gigabytes of it need no second copy for the check.
#include <cmath>
#include <cstring>

#include "ops/bench.h"

using namespace noema;
using namespace noema::test;
using namespace noema::bench;

namespace {

enum class What { row_stats, sample, nucleus, loss, input_gradient, gradients };

struct Shape {
    int64_t R, C, V;
};

struct Options {
    What what;
    Precision precision = Precision::f32;
    bool packed = true;
    DType weight = DType::f32;
};

float weight_at(int64_t i) {
    const uint32_t h = (static_cast<uint32_t>(i) * 2654435761u) ^ (static_cast<uint32_t>(i >> 16) * 40503u);
    // Multiples of 2^-9 below 0.25: exact in bf16.
    return static_cast<float>(static_cast<int32_t>(h >> 16 & 0xFF) - 128) * 0x1p-9f;
}

void fill_weight(const View& weight) {
    for (int64_t i = 0; i < weight.size(); ++i) {
        const float value = weight_at(i);
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        if (weight.dtype == DType::bf16)
            weight.as<uint16_t>()[i] = static_cast<uint16_t>(bits >> 16);
        else
            weight.as<float>()[i] = value;
    }
}

std::vector<double> logits_of(const Tensors& t, const Shape& s, int64_t r) {
    const float* hidden = t["hidden"].at<float>(r);
    std::vector<double> logits(static_cast<size_t>(s.V));
    for (int64_t v = 0; v < s.V; ++v)
        for (int64_t c = 0; c < s.C; ++c) logits[v] += double{hidden[c]} * weight_at(v * s.C + c);
    return logits;
}

double lse_of(const std::vector<double>& logits) {
    double sum = 0;
    for (const double l : logits) sum += std::exp(l);
    return std::log(sum);
}

/// Of the last row: its log-sum-exp, and with a gradient eight columns of d_hidden.
double error_of(const Tensors& t, const Shape& s, What what) {
    const int64_t r = s.R - 1;
    const std::vector<double> logits = logits_of(t, s, r);
    const double lse = lse_of(logits);
    double worst = std::fabs(t["lse"].as<float>()[r] - lse) / std::fabs(lse);
    for (int64_t c = 0; what >= What::input_gradient && c < 8; ++c) {
        double d = -weight_at(t["targets"].as<int32_t>()[r] * s.C + c);
        for (int64_t v = 0; v < s.V; ++v) d += std::exp(logits[v] - lse) * weight_at(v * s.C + c);
        worst = std::max(worst, std::fabs(t["d_hidden"].at<float>(r)[c] - d));
    }
    return worst;
}

Status call(const Tensors& t, Context& c, const Weight& weight, const Options& o) {
    const RowStatsOutputs out{.argmax = t["argmax"],
                              .lse = t["lse"],
                              .entropy = t["entropy"],
                              .margin = t["margin"],
                              .top_ids = t["top_ids"],
                              .top_logits = t["top_logits"]};
    if (o.what == What::row_stats)
        return row_stats({.hidden = t["hidden"], .weight = weight, .out = out, .precision = o.precision}, c);
    if (o.what == What::sample || o.what == What::nucleus)
        return sample({.hidden = t["hidden"],
                       .weight = weight,
                       .seeds = t["seeds"],
                       .positions = t["positions"],
                       .tokens = t["tokens"],
                       .out = out,
                       .top_p = o.what == What::nucleus ? 0.9f : 1.0f,
                       .precision = o.precision},
                      c);
    return cross_entropy({.hidden = t["hidden"],
                          .weight = weight,
                          .targets = t["targets"],
                          .loss = t["loss"],
                          .lse = t["lse"],
                          .d_hidden = t["d_hidden"],
                          .d_weight = t["d_weight"],
                          .precision = o.precision},
                         c);
}

std::vector<Field> fields_of(const Shape& s, What what) {
    std::vector<Field> fields{input("hidden", {s.R, s.C}), output("lse", {s.R})};
    const auto add = [&](std::initializer_list<Field> more) { fields.insert(fields.end(), more); };
    if (what == What::row_stats)
        add({output("argmax", {s.R}, DType::i32), output("entropy", {s.R}), output("margin", {s.R}),
             output("top_ids", {s.R, 8}, DType::i32), output("top_logits", {s.R, 8})});
    if (what == What::sample || what == What::nucleus)
        add({ids("seeds", {s.R}, 0, 1 << 30, DType::i64), ids("positions", {s.R}, 0, 1024),
             output("tokens", {s.R}, DType::i32)});
    if (what >= What::loss) add({ids("targets", {s.R}, 0, s.V), output("loss", {s.R})});
    if (what >= What::input_gradient) add({output("d_hidden", {s.R, s.C})});
    if (what == What::gradients) add({in_out("d_weight", {s.V, s.C})});
    return fields;
}

std::string name_of(const Shape& s, const Options& o) {
    const char* names[] = {"row_stats/top-8 ",
                           "sample/gumbel ",
                           "sample/top_p 0.9 ",
                           "cross_entropy/loss ",
                           "cross_entropy/input gradient ",
                           "cross_entropy/gradients "};
    return names[static_cast<int>(o.what)] + std::string(o.precision == Precision::bf16 ? "bf16 " : "f32 ") +
           std::to_string(s.R) + "x" + std::to_string(s.C) + "x" + std::to_string(s.V) + (o.packed ? " packed" : "");
}

struct Memory {
    std::shared_ptr<std::byte> rows, packed, packed_transposed;
    Weight weight;  // its shape is there from the start: workspaces are measured before `prepare`
};

/// Gives back what another case made: the largest ones together would fill the machine.
void release_others(const std::shared_ptr<Memory>& mine) {
    static std::shared_ptr<Memory> last;
    if (last && last != mine) {
        last->weight.view.data = nullptr;
        last->weight.packed = nullptr;
        last->rows.reset();
        last->packed.reset();
        last->weight.packed_transposed = nullptr;
        last->packed_transposed.reset();
    }
    last = mine;
}

Status pack(const Weight& weight, bool transposed, std::shared_ptr<std::byte>& room, Context& context) {
    const Precision precision = weight.packed_precision;
    const size_t bytes = context.backend->packed_bytes(weight.view, precision, transposed);
    if (bytes == 0) return {};
    room = memory_of(*context.backend, bytes);
    return matmul_pack({.weight = weight.view, .packed = room.get(), .precision = precision, .transposed = transposed},
                       context);
}

Status make_weight(Memory& m, bool packed, bool transposed, Context& context) {
    const Backend& backend = *context.backend;
    if (context.arena->measuring()) return {};
    const auto host = memory_of(*find_backend("cpu"), m.weight.view.bytes());
    m.weight.view.data = host.get();
    fill_weight(m.weight.view);
    m.rows = memory_of(backend, m.weight.view.bytes());
    m.weight.view = on_device(m.weight.view, backend.device);
    m.weight.view.data = m.rows.get();
    NOEMA_TRY(backend.upload(m.rows.get(), host.get(), m.weight.view.bytes(), context.stream));
    if (!packed) return {};
    NOEMA_TRY(pack(m.weight, false, m.packed, context));
    m.weight.packed = m.packed.get();
    if (!transposed) return {};
    NOEMA_TRY(pack(m.weight, true, m.packed_transposed, context));
    m.weight.packed_transposed = m.packed_transposed.get();
    return {};
}

Case head(const Shape& s, const Options& o) {
    Case c;
    c.name = name_of(s, o);
    c.op.fields = fields_of(s, o.what);
    const auto memory = std::make_shared<Memory>();
    memory->weight = {view(nullptr, o.weight, s.V, s.C), nullptr, o.precision};
    c.prepare = [=](const Tensors&, Context& context) {
        release_others(memory);
        return make_weight(*memory, o.packed, o.what == What::input_gradient, context);
    };
    c.op.run = [=](const Tensors& t, Context& context) { return call(t, context, memory->weight, o); };
    const double product = static_cast<double>(s.R) * static_cast<double>(s.C) * static_cast<double>(s.V);
    const double weight_bytes = o.packed ? (o.precision == Precision::bf16 ? 2.0 : 4.0) : double(dtype_size(o.weight));
    const bool gradient = o.what >= What::input_gradient, gradients = o.what == What::gradients;
    c.work.flops = (gradients ? 6.0 : gradient ? 4.0 : 2.0) * product;
    c.work.bytes = (gradients ? 4.0 : gradient ? 2.0 : 1.0) * weight_bytes * static_cast<double>(s.C * s.V);
    c.work.exps = (gradients ? 2.0 : 1.0) * static_cast<double>(s.R * s.V);
    c.work.precision = o.precision;
    c.error = [=](const Tensors& t) { return error_of(t, s, o.what); };
    c.tolerance = o.precision == Precision::bf16 ? 2e-3 : 2e-5;
    return c;
}

std::vector<Case> cases() {
    constexpr Shape mdlm{1024, 768, 50258}, tales{2048, 384, 4096}, llada{32, 4096, 126464}, thought{1024, 512, 50258};
    std::vector<Case> list;
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        for (const What what : {What::row_stats, What::sample, What::nucleus, What::loss})
            list.push_back(head(mdlm, {.what = what, .precision = precision}));
        for (const What what : {What::row_stats, What::sample, What::loss})
            list.push_back(head(tales, {.what = what, .precision = precision}));
        list.push_back(head(tales, {.what = What::loss, .precision = precision, .packed = false}));
        list.push_back(head(tales, {.what = What::gradients, .precision = precision, .packed = false}));
        list.push_back(head(thought, {.what = What::input_gradient, .precision = precision}));
        list.push_back(head(llada, {.what = What::row_stats, .precision = precision, .weight = DType::bf16}));
        list.push_back(head(llada, {.what = What::sample, .precision = precision, .weight = DType::bf16}));
    }
    return list;
}

const Registered registered(cases);

}  // namespace
