#include <cmath>

#include "ops/bench.h"

using namespace noema;
using namespace noema::test;
using namespace noema::bench;

namespace {

struct Size {
    int64_t R, V, d;
    double sigma;

    std::string text() const {
        return std::to_string(R) + " of " + std::to_string(V) + "x" + std::to_string(d) + " sigma " +
               std::to_string(sigma).substr(0, 3);
    }
    /// Rows lie near tokens, as they do in a model.
    std::vector<double> latents() const {
        std::vector<double> z(static_cast<size_t>(R * d));
        for (size_t i = 0; i < z.size(); ++i) z[i] = std::sin(12.9898 * static_cast<double>(i + 1)) * 2;
        return z;
    }
    Field sigmas() const { return input("log_sigma", {V}, {.scale = 0.1, .shift = std::log(sigma)}); }
    Field rows() const { return input("z", {R, d}, {.values = latents()}); }
    Field means() const { return input("mean", {V, d}); }
};

double log_normal(const Tensors& t, int64_t r, int64_t k) {
    const int64_t d = t["mean"].shape[1];
    const double log_sigma = t["log_sigma"].as<float>()[k];
    double sum = 0;
    for (int64_t i = 0; i < d; ++i)
        sum += std::pow((t["z"].at<float>(r)[i] - t["mean"].at<float>(k)[i]) * std::exp(-log_sigma), 2);
    return -0.5 * sum - static_cast<double>(d) * (log_sigma + 0.91893853320467274);
}

double log_sum(const Tensors& t, int64_t r) {
    double most = -INFINITY, sum = 0;
    const int64_t V = t["mean"].shape[0];
    for (int64_t k = 0; k < V; ++k) most = std::max(most, log_normal(t, r, k));
    for (int64_t k = 0; k < V; ++k) sum += std::exp(log_normal(t, r, k) - most);
    return most + std::log(sum);
}

Case decode(const Size& s) {
    Case c;
    c.name = "codebook_decode/" + s.text();
    c.op.fields = {s.rows(),
                   s.means(),
                   s.sigmas(),
                   output("log_sum", {s.R}),
                   output("best", {s.R}, DType::i32),
                   output("confidence", {s.R})};
    c.op.run = [](const Tensors& t, Context& context) {
        return codebook_decode({.z = t["z"],
                                .mean = t["mean"],
                                .log_sigma = t["log_sigma"],
                                .log_sum = t["log_sum"],
                                .best = t["best"],
                                .confidence = t["confidence"]},
                               context);
    };
    c.work.flops = 3.0 * static_cast<double>(s.R * s.V * s.d);  // a subtraction, a multiply-add
    c.error = [R = s.R](const Tensors& t) {
        return worst_sample(std::min<int64_t>(R, 16), [&](int64_t r) {
            return Compared{log_sum(t, r), t["log_sum"].as<float>()[r]};
        });
    };
    return c;
}

Case decode_backward(const Size& s) {
    Case c;
    c.name = "codebook_decode_backward/" + s.text();
    c.op.fields = {s.rows(),
                   s.means(),
                   s.sigmas(),
                   in_out("log_sum", {s.R}),
                   input("d_log_sum", {s.R}),
                   output("d_z", {s.R, s.d}),
                   in_out("d_mean", {s.V, s.d}, {.scale = 0}),
                   in_out("d_log_sigma", {s.V}, {.scale = 0})};
    c.prepare = [](const Tensors& t, Context& context) {
        return codebook_decode({.z = t["z"], .mean = t["mean"], .log_sigma = t["log_sigma"], .log_sum = t["log_sum"]},
                               context);
    };
    c.op.run = [](const Tensors& t, Context& context) {
        return codebook_decode_backward({.z = t["z"],
                                         .mean = t["mean"],
                                         .log_sigma = t["log_sigma"],
                                         .log_sum = t["log_sum"],
                                         .d_log_sum = t["d_log_sum"],
                                         .d_z = t["d_z"],
                                         .d_mean = t["d_mean"],
                                         .d_log_sigma = t["d_log_sigma"]},
                                        context);
    };
    c.work.flops = 3.0 * static_cast<double>(s.R * s.V * s.d);  // the rest counts for the few near components
    c.tolerance = 1e-3;                                         // exp of a difference of two numbers around 100
    c.error = [s](const Tensors& t) {
        return worst_sample(std::min<int64_t>(s.R, 16) * s.d, [&](int64_t item) {
            const int64_t r = item / s.d, i = item % s.d;
            const double all = log_sum(t, r);
            double sum = 0;
            for (int64_t k = 0; k < s.V; ++k) {
                const double x = t["mean"].at<float>(k)[i] - t["z"].at<float>(r)[i];
                sum += std::exp(log_normal(t, r, k) - all) * x * std::exp(-2.0 * t["log_sigma"].as<float>()[k]);
            }
            return Compared{sum * t["d_log_sum"].as<float>()[r], t["d_z"].at<float>(r)[i]};
        });
    };
    return c;
}

Case encode(const Size& s) {
    Case c;
    c.name = "codebook_encode/" + s.text();
    c.op.fields = {ids("ids", {s.R}, 0, s.V), s.means(), s.sigmas(), input("eps", {s.R, s.d}), output("z", {s.R, s.d})};
    c.op.run = [](const Tensors& t, Context& context) {
        return codebook_encode(
            {.ids = t["ids"], .mean = t["mean"], .log_sigma = t["log_sigma"], .eps = t["eps"], .z = t["z"]}, context);
    };
    c.work.bytes = 12.0 * static_cast<double>(s.R * s.d);
    c.error = [s](const Tensors& t) {
        return worst_sample(s.R * s.d, [&](int64_t item) {
            const int64_t r = item / s.d, i = item % s.d, k = t["ids"].as<int32_t>()[r];
            return Compared{t["mean"].at<float>(k)[i] +
                                std::exp(static_cast<double>(t["log_sigma"].as<float>()[k])) * t["eps"].at<float>(r)[i],
                            t["z"].at<float>(r)[i]};
        });
    };
    return c;
}

Case encode_backward(const Size& s) {
    Case c;
    c.name = "codebook_encode_backward/" + s.text();
    c.op.fields = {ids("ids", {s.R}, 0, s.V),
                   s.sigmas(),
                   input("eps", {s.R, s.d}),
                   input("d_z", {s.R, s.d}),
                   in_out("d_mean", {s.V, s.d}, {.scale = 0}),
                   in_out("d_log_sigma", {s.V}, {.scale = 0})};
    c.op.run = [](const Tensors& t, Context& context) {
        return codebook_encode_backward({.ids = t["ids"],
                                         .log_sigma = t["log_sigma"],
                                         .eps = t["eps"],
                                         .d_z = t["d_z"],
                                         .d_mean = t["d_mean"],
                                         .d_log_sigma = t["d_log_sigma"]},
                                        context);
    };
    c.work.bytes = 16.0 * static_cast<double>(s.R * s.d);
    c.error = [s](const Tensors& t) {
        return worst_sample(s.V * s.d, [&](int64_t item) {
            double sum = 0;
            for (int64_t r = 0; r < s.R; ++r)
                if (t["ids"].as<int32_t>()[r] == item / s.d) sum += t["d_z"].at<float>(r)[item % s.d];
            return Compared{sum, t["d_mean"].at<float>(item / s.d)[item % s.d]};
        });
    };
    return c;
}

std::vector<Case> cases() {
    constexpr Size text8{4096, 27, 5, 0.1}, words{1024, 50257, 16, 0.3}, soft{1024, 4096, 16, 2.0};
    std::vector<Case> list;
    for (const Size& s : {text8, words}) {
        list.push_back(encode(s));
        list.push_back(encode_backward(s));
    }
    for (const Size& s : {text8, soft, words}) {
        list.push_back(decode(s));
        list.push_back(decode_backward(s));
    }
    return list;
}

const Registered registered(cases);

}  // namespace
