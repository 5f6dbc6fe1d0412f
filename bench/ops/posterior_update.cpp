#include <cmath>
#include <string>
#include <vector>

#include "ops/bench.h"

using namespace noema;
using namespace noema::test;
using namespace noema::bench;

namespace {

enum class Draws { given, made, alone };  // alone: no update, only a draw

/// Compares z of a step that does not change anything (rate 0): mean + eps exp(log_variance / 2).
Case step(int64_t B, int64_t n, Draws draws) {
    const bool made = draws != Draws::given, updates = draws != Draws::alone;
    const char* names[] = {"given", "made", "only"};
    Case c;
    c.name =
        "posterior_update/" + std::to_string(B) + "x" + std::to_string(n) + " draws " + names[static_cast<int>(draws)];
    c.op.fields = {in_out("mean", {B, n}), in_out("log_variance", {B, n}), output("z", {B, n}), output("kl", {B})};
    c.op.fields.push_back(made ? output("next_eps", {B, n}) : input("next_eps", {B, n}));
    if (made) c.op.fields.push_back(ids("seeds", {B}, 0, 1 << 30, DType::i64));
    if (updates)
        for (const char* name : {"d_z", "eps", "mean_m", "mean_v", "log_variance_m", "log_variance_v"})
            c.op.fields.push_back(in_out(name, {B, n}, {.values = std::vector<double>(B * n, 0.5)}));
    c.op.run = [](const Tensors& t, Context& context) {
        return posterior_update({.mean = t["mean"],
                                 .log_variance = t["log_variance"],
                                 .d_z = t["d_z"],
                                 .eps = t["eps"],
                                 .mean_m = t["mean_m"],
                                 .mean_v = t["mean_v"],
                                 .log_variance_m = t["log_variance_m"],
                                 .log_variance_v = t["log_variance_v"],
                                 .next_eps = t["next_eps"],
                                 .seeds = t["seeds"],
                                 .z = t["z"],
                                 .kl = t["kl"],
                                 .step = 3},
                                context);
    };
    // Read: mean, log-variance, a given draw, and with an update d_z, eps and four moments. Written: z, a made draw, and with
    // an update mean, log-variance and moments.
    const double arrays = updates ? 16 : 4, elements = static_cast<double>(B * n);
    c.work = {.bytes = 4 * arrays * elements, .exps = (updates ? 2.0 : 1.0) * elements};
    c.error = [n](const Tensors& t) {
        return worst_sample(t["z"].size(), [&](int64_t i) {
            const auto at = [&](const char* name) { return double{t[name].as<float>()[i]}; };
            return Compared{at("mean") + at("next_eps") * std::exp(at("log_variance") / 2), at("z")};
        });
    };
    return c;
}

const Registered registered([] {
    std::vector<Case> list;
    for (const Draws draws : {Draws::given, Draws::made, Draws::alone}) {
        list.push_back(step(64, 24 * 512, draws));  // 50 MB: from memory
        list.push_back(step(1, 24 * 512, draws));   // 0.8 MB: from the second-level cache
    }
    return list;
});

}  // namespace
