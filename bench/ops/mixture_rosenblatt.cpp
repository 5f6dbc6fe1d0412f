#include <cmath>

#include "ops/bench.h"
#include "ops/searches.h"

using namespace noema;
using namespace noema::test;
using namespace noema::bench;

namespace {

struct Size {
    int64_t R, K, d;
    double sigma;

    std::string text() const {
        char text[80];
        std::snprintf(text, sizeof text, "%lld tokens of %lld, K %lld, sigma %g", static_cast<long long>(R),
                      static_cast<long long>(d), static_cast<long long>(K), sigma);
        return text;
    }
    double weights() const { return static_cast<double>(R * K); }
};

class Normals {
 public:
    double next() {
        const double r = std::sqrt(-2 * std::log(uniform())), angle = 6.283185307179586 * uniform();
        return r * std::cos(angle);
    }

 private:
    double uniform() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return (static_cast<double>(state_ >> 11) + 0.5) * 0x1p-53;
    }
    uint64_t state_ = 1;
};

/// A table, and latents of its tokens.
struct Values {
    std::vector<double> mean, z;

    explicit Values(const Size& s) {
        Normals normals;
        for (int64_t n = 0; n < s.K * s.d; ++n) mean.push_back(normals.next());
        for (int64_t n = 0; n < s.R * s.d; ++n) {
            const int64_t k = n / s.d * 7919 % s.K;
            z.push_back(mean[k * s.d + n % s.d] + s.sigma * normals.next());
        }
    }
};

Case named(const std::string& op, const Size& s, std::vector<Field> more) {
    Case c;
    c.name = op + "/" + s.text();
    const Values values(s);
    c.op.fields = {input("z", {s.R, s.d}, {.values = values.z}), input("logits", {s.R, s.K}, {.scale = 2}),
                   input("mean", {s.K, s.d}, {.values = values.mean}),
                   input("log_sigma", {s.K}, {.scale = 0, .shift = std::log(s.sigma)})};
    for (Field& f : more) c.op.fields.push_back(std::move(f));
    c.work.exps = 2 * s.weights();  // of the first scalar: the weight's and the bell's
    c.work.bytes = 4 * s.weights();
    c.tolerance = 1e-4;  // u of the right token is some 1e-5 off where tokens meet
    return c;
}

/// The first rows of a tensor.
View rows(const Tensors& t, const char* name, int64_t n) {
    View v = t[name];
    if (v) v.shape[0] = std::min(v.shape[0], n);
    return v;
}

/// The largest error of `measured` rows against the reference's, relative to their root mean square.
double against(const View& measured, const std::vector<float>& truth) {
    const int64_t C = measured.shape[1];
    return worst_sample(measured.size(), [&](int64_t i) {
        return Compared{truth[static_cast<size_t>(i)], measured.at<float>(i / C)[i % C]};
    });
}

constexpr int64_t kJudged = 2;  // rows

Context reference_context() {
    Context context;
    context.backend = find_backend("reference");
    return context;
}

Case forward(const Size& s) {
    Case c = named("mixture_rosenblatt", s, {output("u", {s.R, s.d}), output("log_det", {s.R})});
    c.op.run = [](const Tensors& t, Context& context) {
        return mixture_rosenblatt({.z = t["z"],
                                   .logits = t["logits"],
                                   .mean = t["mean"],
                                   .log_sigma = t["log_sigma"],
                                   .u = t["u"],
                                   .log_det = t["log_det"]},
                                  context);
    };
    c.error = [s](const Tensors& t) {
        const View u = rows(t, "u", kJudged);
        std::vector<float> truth(static_cast<size_t>(u.size()));
        Context context = reference_context();
        const Status status = mixture_rosenblatt({.z = rows(t, "z", kJudged),
                                                  .logits = rows(t, "logits", kJudged),
                                                  .mean = t["mean"],
                                                  .log_sigma = t["log_sigma"],
                                                  .u = view(truth.data(), DType::f32, u.shape[0], s.d)},
                                                 context);
        return status.ok() ? against(u, truth) : NAN;
    };
    c.scalars = static_cast<double>(s.R * s.d);
    c.evaluations = [scalars = c.scalars](const Tensors&) { return scalars; };
    return c;
}

Case density(const Size& s) {
    Case c = named("mixture_rosenblatt density", s, {output("log_density", {s.R})});
    c.op.run = [](const Tensors& t, Context& context) {
        return mixture_rosenblatt({.z = t["z"],
                                   .logits = t["logits"],
                                   .mean = t["mean"],
                                   .log_sigma = t["log_sigma"],
                                   .log_density = t["log_density"]},
                                  context);
    };
    c.work.exps = 0;
    c.work.flops = 3 * s.weights() * static_cast<double>(s.d);  // a subtraction, a multiply-add
    c.error = [](const Tensors& t) {
        const View density = rows(t, "log_density", kJudged);
        std::vector<float> truth(static_cast<size_t>(density.size()));
        Context context = reference_context();
        const Status status = mixture_rosenblatt({.z = rows(t, "z", kJudged),
                                                  .logits = rows(t, "logits", kJudged),
                                                  .mean = t["mean"],
                                                  .log_sigma = t["log_sigma"],
                                                  .log_density = view(truth.data(), DType::f32, density.shape[0])},
                                                 context);
        return status.ok() ? worst_sample(density.size(),
                                          [&](int64_t i) {
                                              return Compared{truth[static_cast<size_t>(i)], density.as<float>()[i]};
                                          })
                           : NAN;
    };
    return c;
}

Case backward(const Size& s, bool frozen) {
    Case c = named(frozen ? "mixture_rosenblatt_backward frozen" : "mixture_rosenblatt_backward", s,
                   {input("d_u", {s.R, s.d}), input("d_log_det", {s.R}), output("d_z", {s.R, s.d}),
                    output("d_logits", {s.R, s.K})});
    if (!frozen) {
        c.op.fields.push_back(in_out("d_mean", {s.K, s.d}, {.scale = 0}));
        c.op.fields.push_back(in_out("d_log_sigma", {s.K}, {.scale = 0}));
    }
    c.op.run = [](const Tensors& t, Context& context) {
        return mixture_rosenblatt_backward({.z = t["z"],
                                            .logits = t["logits"],
                                            .mean = t["mean"],
                                            .log_sigma = t["log_sigma"],
                                            .d_u = t["d_u"],
                                            .d_log_det = t["d_log_det"],
                                            .d_z = t["d_z"],
                                            .d_logits = t["d_logits"],
                                            .d_mean = t["d_mean"],
                                            .d_log_sigma = t["d_log_sigma"]},
                                           context);
    };
    c.work.exps = 4 * s.weights();
    c.work.bytes = 8 * s.weights();
    c.tolerance = 1e-3;
    c.error = [s](const Tensors& t) {
        const View d_z = rows(t, "d_z", kJudged);
        std::vector<float> truth(static_cast<size_t>(d_z.size())), logits(static_cast<size_t>(d_z.shape[0] * s.K));
        Context context = reference_context();
        const Status status =
            mixture_rosenblatt_backward({.z = rows(t, "z", kJudged),
                                         .logits = rows(t, "logits", kJudged),
                                         .mean = t["mean"],
                                         .log_sigma = t["log_sigma"],
                                         .d_u = rows(t, "d_u", kJudged),
                                         .d_log_det = rows(t, "d_log_det", kJudged),
                                         .d_z = view(truth.data(), DType::f32, d_z.shape[0], s.d),
                                         .d_logits = view(logits.data(), DType::f32, d_z.shape[0], s.K)},
                                        context);
        return status.ok() ? std::max(against(d_z, truth), against(rows(t, "d_logits", kJudged), logits)) : NAN;
    };
    return c;
}

Case inverse(const Size& s) {
    Case c = named("mixture_rosenblatt_inverse", s,
                   {in_out("u", {s.R, s.d}), output("again", {s.R, s.d}), output("evaluations", {s.R}, DType::i32)});
    c.prepare = [](const Tensors& t, Context& context) {
        return mixture_rosenblatt(
            {.z = t["z"], .logits = t["logits"], .mean = t["mean"], .log_sigma = t["log_sigma"], .u = t["u"]}, context);
    };
    c.op.run = [](const Tensors& t, Context& context) {
        return mixture_rosenblatt_inverse({.u = t["u"],
                                           .logits = t["logits"],
                                           .mean = t["mean"],
                                           .log_sigma = t["log_sigma"],
                                           .z = t["again"],
                                           .evaluations = t["evaluations"]},
                                          context);
    };
    // The token it was; and how many evaluations it took.
    c.tolerance = s.sigma;
    c.error = [s](const Tensors& t) {
        const double each = evaluations_of(t) / static_cast<double>(s.R * s.d);
        if (each > kMostEvaluations) return each;
        const View z = t["z"], again = t["again"];
        return worst_sample(s.R * s.d, [&](int64_t i) {
            return Compared{z.at<float>(i / s.d)[i % s.d], again.at<float>(i / s.d)[i % s.d]};
        });
    };
    c.scalars = static_cast<double>(s.R * s.d);
    c.evaluations = evaluations_of;
    return c;
}

Case draw(const Size& s) {
    Case c = named("mixture_rosenblatt_draw", s,
                   {input("uniform", {s.R}, {.scale = 0.1, .shift = 0.5}), input("normal", {s.R, s.d}),
                    output("drawn", {s.R, s.d})});
    c.op.run = [](const Tensors& t, Context& context) {
        return mixture_rosenblatt_draw({.uniform = t["uniform"],
                                        .normal = t["normal"],
                                        .logits = t["logits"],
                                        .mean = t["mean"],
                                        .log_sigma = t["log_sigma"],
                                        .z = t["drawn"]},
                                       context);
    };
    c.work.exps = s.weights();
    c.error = [s](const Tensors& t) {
        const View drawn = rows(t, "drawn", 16);
        std::vector<float> truth(static_cast<size_t>(drawn.size()));
        Context context = reference_context();
        const Status status = mixture_rosenblatt_draw({.uniform = rows(t, "uniform", 16),
                                                       .normal = rows(t, "normal", 16),
                                                       .logits = rows(t, "logits", 16),
                                                       .mean = t["mean"],
                                                       .log_sigma = t["log_sigma"],
                                                       .z = view(truth.data(), DType::f32, drawn.shape[0], s.d)},
                                                      context);
        return status.ok() ? against(drawn, truth) : NAN;
    };
    return c;
}

std::vector<Case> cases() {
    constexpr Size text8{2048, 27, 5, 0.1}, soft{16, 4096, 16, 1.0}, words{8, 50257, 16, 0.1};
    std::vector<Case> list;
    for (const Size& s : {text8, soft, words}) {
        list.push_back(forward(s));
        list.push_back(density(s));
        list.push_back(backward(s, false));
        list.push_back(backward(s, true));
        list.push_back(inverse(s));
        list.push_back(draw(s));
    }
    return list;
}

const Registered registered(cases);

}  // namespace
