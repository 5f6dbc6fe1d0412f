#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Size {
    int64_t R, V, d;
    double sigma = 0.5;   // about
    double spread = 0.2;  // of log_sigma
    double outlying = 1;  // scale of z

    std::string text() const {
        return std::to_string(R) + " of " + std::to_string(V) + "x" + std::to_string(d) + " sigma " +
               std::to_string(sigma) + " z " + std::to_string(outlying);
    }
    Field log_sigma() const { return input("log_sigma", {V}, {.scale = spread, .shift = std::log(sigma)}); }
};

OpCase encode(const Size& s) {
    return {"codebook_encode " + s.text(),
            {ids("ids", {s.R}, 0, s.V), input("mean", {s.V, s.d}), s.log_sigma(), input("eps", {s.R, s.d}),
             output("z", {s.R, s.d})},
            [](const Tensors& t, Context& c) {
                return codebook_encode(
                    {.ids = t["ids"], .mean = t["mean"], .log_sigma = t["log_sigma"], .eps = t["eps"], .z = t["z"]}, c);
            }};
}

OpCase encode_backward(const Size& s, double scale = 1) {
    return {"codebook_encode_backward " + s.text(),
            {ids("ids", {s.R}, 0, s.V), s.log_sigma(), input("eps", {s.R, s.d}), input("d_z", {s.R, s.d}),
             in_out("d_mean", {s.V, s.d}, {.scale = scale}), in_out("d_log_sigma", {s.V}, {.scale = scale})},
            [](const Tensors& t, Context& c) {
                return codebook_encode_backward({.ids = t["ids"],
                                                 .log_sigma = t["log_sigma"],
                                                 .eps = t["eps"],
                                                 .d_z = t["d_z"],
                                                 .d_mean = t["d_mean"],
                                                 .d_log_sigma = t["d_log_sigma"]},
                                                c);
            },
            4 + 0.01 * static_cast<double>(s.R)};  // a sum of R terms, which the naive one may be lucky with
}

OpCase decode(const Size& s) {
    return {"codebook_decode " + s.text(),
            {input("z", {s.R, s.d}, {.scale = s.outlying}), input("mean", {s.V, s.d}), s.log_sigma(),
             output("log_sum", {s.R}), output("best", {s.R}, DType::i32), output("confidence", {s.R})},
            [](const Tensors& t, Context& c) {
                return codebook_decode({.z = t["z"],
                                        .mean = t["mean"],
                                        .log_sigma = t["log_sigma"],
                                        .log_sum = t["log_sum"],
                                        .best = t["best"],
                                        .confidence = t["confidence"]},
                                       c);
            }};
}

/// What forward saves: the values of its fields in double.
std::vector<double> saved(const OpCase& forward, const std::string& name) {
    ThreadTeam one(1);
    const Tensors t = make_tensors(forward.fields, forward.title, true, false);
    REQUIRE(run_on(forward, t, "reference", one).ok());
    return t.values(name);
}

OpCase decode_backward(const Size& s, bool accumulate, double scale = 1) {
    const OpCase forward = decode(s);
    const auto same = [&](size_t i) {
        Field field = forward.fields[i];
        field.fill.values = saved(forward, field.name);
        return field;
    };
    // exp(log N - log_sum) has the absolute error of its two terms: a few roundings of the largest |log_sum|.
    const std::vector<double> log_sum = saved(forward, "log_sum");
    double most = 0;
    for (const double x : log_sum) most = std::max(most, std::fabs(x));
    return {"codebook_decode_backward " + s.text(),
            {same(0), same(1), same(2), input("log_sum", {s.R}, {.values = log_sum}), input("d_log_sum", {s.R}),
             accumulate ? in_out("d_z", {s.R, s.d}) : output("d_z", {s.R, s.d}),
             in_out("d_mean", {s.V, s.d}, {.scale = scale}), in_out("d_log_sigma", {s.V}, {.scale = scale})},
            [accumulate](const Tensors& t, Context& c) {
                return codebook_decode_backward({.z = t["z"],
                                                 .mean = t["mean"],
                                                 .log_sigma = t["log_sigma"],
                                                 .log_sum = t["log_sum"],
                                                 .d_log_sum = t["d_log_sum"],
                                                 .d_z = t["d_z"],
                                                 .d_mean = t["d_mean"],
                                                 .d_log_sigma = t["d_log_sigma"],
                                                 .accumulate_z = accumulate},
                                                c);
            },
            4 + most};
}

constexpr Size kSizes[] = {
    {0, 3, 2},        {1, 1, 1},          {3, 2, 1, 0.5, 0}, {5, 27, 5, 0.1}, {66, 33, 5, 1, 0},
    {9, 31, 16, 0.3}, {4, 300, 3},        {7, 65, 17, 2},    {2, 1025, 4, 1}, {35, 64, 2, 0.3, 0.5, 8},
    {5, 40, 5, 3e-3}, {3, 600, 16, 0.05}, {130, 7, 3}};

/// The outputs of one backend, whatever its Status says of non-finite input.
Tensors outputs_of(const OpCase& c, const std::string& isa) {
    ThreadTeam one(1);
    EachIsa::use(isa);
    Tensors t = make_tensors(c.fields, c.title, false, false);
    REQUIRE(run_on(c, t, "cpu", one).ok());
    return t;
}

void each_backend(const OpCase& c, const std::function<void(const Tensors&)>& judge) {
    EachIsa isas;
    for (const std::string& isa : isas.names) judge(outputs_of(c, isa));
    for (const std::string& device : devices()) {
        Tensors t = make_tensors(c.fields, c.title, false, false);
        REQUIRE(run_on_device(c, t, device_engine(device)).ok());
        judge(t);
    }
}

}  // namespace

TEST_CASE("codebook_encode") {
    for (const Size& s : kSizes) check(encode(s));
    check(encode({300, 9, 40}));
}

TEST_CASE("codebook_encode_backward") {
    for (const Size& s : kSizes) check(encode_backward(s));
    for (int64_t V : {1, 2, 700}) check(encode_backward({2100, V, 16}));
    check(encode_backward({40, 3, 70}));
    check_gradient({encode({9, 4, 3}),
                    encode_backward({9, 4, 3}, 0),
                    {{"z", "d_z"}},
                    {{"mean", "d_mean"}, {"log_sigma", "d_log_sigma"}}});
}

TEST_CASE("codebook_encode_backward adds equal ids in ascending row order") {
    OpCase c = encode_backward({3, 1, 1});
    c.fields[3].fill.values = {1e8, -1e8, 1};  // their sum is 1 in this order only
    c.fields[4].fill.values = {0};
    each_backend(c, [](const Tensors& t) { CHECK(t.values("d_mean")[0] == 1.0); });
}

TEST_CASE("codebook_decode") {
    for (const Size& s : kSizes) check(decode(s));
    check(decode({3, 8300, 2, 0.1}));  // two spans
    OpCase c = decode({6, 40, 5});
    for (const size_t kept : {3, 4, 5}) {  // every output alone
        OpCase one = c;
        one.fields = {c.fields[0], c.fields[1], c.fields[2], c.fields[kept]};
        check(one);
    }
}

TEST_CASE("codebook_decode gives ties to the lowest component, wherever they lie") {
    for (const int64_t V : {5, 70, 600, 8500})
        for (const int64_t first : {int64_t{0}, V / 3, V - 2}) {
            OpCase c = decode({2, V, 1, 0.5, 0});
            c.fields[0].fill.values = {4, 4.5};
            c.fields[1].fill.values.assign(V, 0.0);
            for (const int64_t k : {first, first + 1, V - 1}) c.fields[1].fill.values[k] = 4;
            c.title += std::to_string(first);
            each_backend(c, [&](const Tensors& t) {
                CHECK(t.values("best")[0] == first);
                CHECK(t.values("best")[1] == first);
            });
        }
}

TEST_CASE("codebook_decode_backward") {
    for (const Size& s : kSizes) check(decode_backward(s, s.R % 2));
    check(decode_backward({3, 1100, 2, 0.3}, true));  // two spans
    for (const Size& s : {Size{5, 4, 3, 1}, Size{3, 2, 5, 2, 0.5}, Size{4, 9, 1}})
        check_gradient({decode(s),
                        decode_backward(s, false, 0),
                        {{"log_sum", "d_log_sum"}},
                        {{"z", "d_z"}, {"mean", "d_mean"}, {"log_sigma", "d_log_sigma"}}});
}

TEST_CASE("codebook_decode's rows do not depend on each other") {
    const Size many{7, 300, 5};
    const OpCase all = decode(many);
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        const Tensors whole = outputs_of(all, isa);
        for (int64_t r = 0; r < many.R; ++r) {
            OpCase one = decode({1, 300, 5});
            for (size_t i = 0; i < 3; ++i) one.fields[i].fill.values = whole.values(all.fields[i].name);
            const std::vector<double> z = whole.values("z");
            one.fields[0].fill.values.assign(z.begin() + r * 5, z.begin() + (r + 1) * 5);
            CHECK(outputs_of(one, isa).values("log_sum")[0] == whole.values("log_sum")[r]);
        }
    }
}

TEST_CASE("codebook ops survive what is not finite") {
    for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY), -static_cast<double>(INFINITY)})
        for (const size_t field : {0, 1, 2}) {
            OpCase c = decode({5, 40, 3});
            c.title += std::to_string(field);
            OpCase b = decode_backward({5, 40, 3}, false);
            for (OpCase* op : {&c, &b}) {
                const Tensors t = make_tensors(op->fields, op->title, false, false);
                op->fields[field].fill.values = t.values(op->fields[field].name);
                op->fields[field].fill.values[2] = bad;
            }
            each_backend(c, [](const Tensors& t) {
                for (const double best : t.values("best")) CHECK((best >= 0 && best < 40));
            });
            each_backend(c, [&](const Tensors& t) {  // NaN is not hidden
                if (std::isnan(bad)) CHECK(std::isnan(t.values("log_sum")[0]));
            });
            each_backend(b, [](const Tensors&) {});
        }
}

TEST_CASE("codebook ops refuse") {
    OpCase c = encode({3, 5, 4});
    c.fields[0].fill.values = {0, 5, 1};
    check_refused(c, Code::invalid_argument, "ids[1] is 5, expected 0 to 4");
    c = encode({3, 5, 4});
    c.fields[2] = input("log_sigma", {4});
    check_refused(c, Code::invalid_argument, "log_sigma has shape [4], expected [5]");
    c = encode_backward({3, 5, 4});
    c.fields[0].fill.values = {0, 1, -1};
    check_refused(c, Code::invalid_argument, "ids[2] is -1, expected 0 to 4");
    c = encode_backward({3, 5, 4});
    c.fields[4] = in_out("d_mean", {5, 3});
    check_refused(c, Code::invalid_argument, "eps has shape [3, 4], expected [3, 3]");
    c = decode({3, 5, 4});
    c.fields[4] = output("best", {3});
    check_refused(c, Code::invalid_argument, "best is f32, expected i32");
    check_refused(decode({3, 0, 4}), Code::invalid_argument, "mean must have a row and a column");
    c = decode_backward({3, 5, 4}, false);
    c.fields[5] = output("d_z", {3, 5});
    check_refused(c, Code::invalid_argument, "d_z has shape [3, 5], expected [3, 4]");
}
