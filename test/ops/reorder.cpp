#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Way {
    int64_t B, S, c;
    ChannelOrder channels = ChannelOrder::as_is;
    bool reverse = false, first = false, accumulate = false;

    std::string text() const {
        const char* const names[] = {"as is", "even-odd", "interleave"};
        return std::to_string(B) + "x" + std::to_string(S) + "x" + std::to_string(c) + " " +
               names[static_cast<int>(channels)] + (reverse ? " reverse" : "") + (first ? " first" : "") +
               (accumulate ? " +=" : "");
    }
};

OpCase forward(const Way& w) {
    OpCase c{"reorder " + w.text(),
             {input("x", {w.B, w.S, w.c}), output("y", {w.B, w.S, w.c})},
             [w](const Tensors& t, Context& context) {
                 return reorder(
                     {.x = t["x"], .first = t["first"], .y = t["y"], .channels = w.channels, .reverse = w.reverse},
                     context);
             }};
    if (w.first) c.fields.push_back(input("first", {w.c}));
    return c;
}

OpCase backward(const Way& w) {
    OpCase c{
        "reorder_backward " + w.text(),
        {input("d_y", {w.B, w.S, w.c}), w.accumulate ? in_out("d_x", {w.B, w.S, w.c}) : output("d_x", {w.B, w.S, w.c})},
        [w](const Tensors& t, Context& context) {
            return reorder_backward({.d_y = t["d_y"],
                                     .d_x = t["d_x"],
                                     .d_first = t["d_first"],
                                     .channels = w.channels,
                                     .reverse = w.reverse,
                                     .accumulate_x = w.accumulate},
                                    context);
        }};
    if (w.first) c.fields.push_back(in_out("d_first", {w.c}));
    return c;
}

std::vector<Way> ways(int64_t B, int64_t S, int64_t c) {
    std::vector<Way> all;
    for (const ChannelOrder order : {ChannelOrder::as_is, ChannelOrder::even_odd, ChannelOrder::interleave})
        for (const bool reverse : {false, true})
            for (const bool first : {false, true}) all.push_back({B, S, c, order, reverse, first});
    return all;
}

/// Positions [from, from + n) of every sequence.
View positions(View v, int64_t from, int64_t n) {
    v.data = v.as<std::byte>() + from * v.stride[1] * static_cast<int64_t>(dtype_size(v.dtype));
    v.shape[1] = n;
    return v;
}

}  // namespace

TEST_CASE("reorder") {
    for (const int64_t c : {1, 2, 5, 15, 16, 17, 31, 32, 33, 64, 67})
        for (const Way& w : ways(2, 3, c)) check(forward(w));
    for (const Way& w : ways(3, 1, 8)) check(forward(w));
    for (const auto& [B, S, c] : {std::tuple{0, 3, 4}, {2, 0, 4}, {2, 3, 0}, {5, 130, 40}})
        for (const Way& w : ways(B, S, c)) check(forward(w));
}

TEST_CASE("reorder_backward") {
    for (const int64_t c : {1, 2, 5, 16, 17, 32, 33, 64, 67})
        for (Way w : ways(3, 4, c)) {
            check(backward(w));
            w.accumulate = true;
            check(backward(w));
        }
    for (const auto& [B, S, c] : {std::tuple{0, 3, 4}, {2, 0, 4}, {2, 3, 0}, {3, 1, 8}, {70, 33, 12}})
        for (const Way& w : ways(B, S, c)) check(backward(w));
    for (const Way& w : ways(2, 3, 5)) {
        OpCase b = backward(w);
        if (w.first) b.fields.back() = in_out("d_first", {5}, {.scale = 0});
        GradientCase g{forward(w), b, {{"y", "d_y"}}, {{"x", "d_x"}}};
        if (w.first) g.gradients.push_back({"first", "d_first"});
        check_gradient(g);
    }
}

TEST_CASE("reorder reads and writes parts of longer sequences") {
    for (const Way& w : ways(3, 4, 20)) {
        OpCase c = forward(w);
        c.title += ", parts";
        c.fields[0] = input("x", {3, 9, 20});
        c.fields[1] = in_out("y", {3, 6, 20});
        c.run = [w](const Tensors& t, Context& context) {
            return reorder({.x = positions(t["x"], 5, 4),
                            .first = t["first"],
                            .y = positions(t["y"], 1, 4),
                            .channels = w.channels,
                            .reverse = w.reverse},
                           context);
        };
        check(c);
    }
}

TEST_CASE("reorder refuses") {
    OpCase c = forward({2, 3, 8});
    c.fields[1] = output("y", {2, 3, 7});
    check_refused(c, Code::invalid_argument, "y has shape [2, 3, 7], expected [2, 3, 8]");
    c = forward({2, 3, 8, ChannelOrder::as_is, false, true});
    c.fields[2] = input("first", {7});
    check_refused(c, Code::invalid_argument, "first has shape [7], expected [8]");
    c.run = [](const Tensors& t, Context& context) { return reorder({.x = t["x"], .y = t["x"]}, context); };
    check_refused(c, Code::invalid_argument, "y may not be x");
    c.run = [](const Tensors& t, Context& context) {
        return reorder({.x = t["x"], .y = t["y"], .channels = static_cast<ChannelOrder>(3)}, context);
    };
    check_refused(c, Code::invalid_argument, "channels must be as_is, even_odd or interleave");
}
