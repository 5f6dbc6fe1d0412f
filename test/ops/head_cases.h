// What the tests of the head ops share: fields, whole-numbered values whose logits every precision forms exactly (ties
// included), and logits in double.
#pragma once

#include <cmath>
#include <stdexcept>

#include "native/harness.h"

namespace noema::test {

struct HeadShape {
    int64_t N = 5, C = 12, V = 50;
    DType weight = DType::f32;
    bool bias = true;
    bool whole_numbers = false;
    double scale = 1;  // of hidden
};

inline std::string name_of(const HeadShape& s) {
    return std::to_string(s.N) + "x" + std::to_string(s.C) + "x" + std::to_string(s.V) + (s.bias ? " bias" : "") +
           (s.whole_numbers ? " whole" : "") + (s.weight == DType::bf16 ? " bf16 weight" : "") + " scale " +
           std::to_string(s.scale);
}

/// -2 .. 2, the same for the same title.
inline std::vector<double> whole_values(const std::string& title, int64_t n) {
    std::vector<double> values;
    for (int64_t i = 0; i < n; ++i) values.push_back(static_cast<double>(choose(title + std::to_string(i), 5) - 2));
    return values;
}

inline std::vector<Field> head_fields(const HeadShape& s) {
    std::vector<Field> fields{input("hidden", {s.N, s.C}, {.scale = s.scale}),
                              input("weight", {s.V, s.C}, {.scale = 0.5}, s.weight)};
    if (s.bias) fields.push_back(input("bias", {s.V}));
    if (s.whole_numbers)
        for (Field& f : fields) {
            int64_t n = 1;
            for (const int64_t extent : f.shape) n *= extent;
            f.fill.values = whole_values(f.name, n);
        }
    return fields;
}

inline Field& field_of(OpCase& c, const std::string& name) {
    for (Field& f : c.fields)
        if (f.name == name) return f;
    throw std::runtime_error("no field " + name);
}

inline std::vector<double> logits_of(const Tensors& t, int64_t row, int64_t excluded_id) {
    const int64_t V = t["weight"].shape[0], C = t["weight"].shape[1];
    const std::vector<double> hidden = t.values("hidden"), weight = t.values("weight");
    std::vector<double> logits = t["bias"] ? t.values("bias") : std::vector<double>(static_cast<size_t>(V));
    for (int64_t v = 0; v < V; ++v)
        for (int64_t c = 0; c < C; ++c) logits[v] += hidden[row * C + c] * weight[v * C + c];
    if (excluded_id >= 0) logits[excluded_id] = -INFINITY;
    return logits;
}

/// The cpu backend and every device.
inline std::vector<std::string> backends() {
    std::vector<std::string> names = devices();
    names.insert(names.begin(), "cpu");
    return names;
}

/// Runs a case on one backend.
inline Tensors run_alone(const OpCase& c, const std::string& backend = "cpu") {
    ThreadTeam one(1);
    Tensors t = make_tensors(c.fields, c.title, false, false);
    const Status status = backend == "cpu" ? run_on(c, t, "cpu", one) : run_on_device(c, t, device_engine(backend));
    if (!status.ok()) throw std::runtime_error(status.text);
    return t;
}

/// The case with only the given row of the fields that have one per row, for comparing a row of a batch with itself
/// alone.
inline OpCase only_row(const OpCase& c, int64_t R, int64_t row) {
    const Tensors all = make_tensors(c.fields, c.title, false, false);
    OpCase one = c;
    for (Field& f : one.fields) {
        if (f.shape[0] != R) {
            if (f.role != Role::output) f.fill.values = all.values(f.name);
            continue;
        }
        int64_t n = 1;
        for (size_t i = 1; i < f.shape.size(); ++i) n *= f.shape[i];
        f.shape[0] = 1;
        if (f.role == Role::output) continue;
        const std::vector<double> values = all.values(f.name);
        f.fill.values.assign(values.begin() + row * n, values.begin() + (row + 1) * n);
    }
    return one;
}

/// Empty, or which output of the batch's row differs by a bit from the row alone.
inline std::string row_difference(const OpCase& c, const Tensors& batch, int64_t R, int64_t row,
                                  const std::string& backend) {
    const OpCase one = only_row(c, R, row);
    const Tensors alone = run_alone(one, backend);
    for (const Field& f : c.fields) {
        if (f.role != Role::output || f.shape[0] != R) continue;
        const std::vector<double> a = batch.values(f.name), b = alone.values(f.name);
        for (size_t i = 0; i < b.size(); ++i)
            if (a[static_cast<size_t>(row) * b.size() + i] != b[i]) return f.name + " of row " + std::to_string(row);
    }
    return "";
}

}  // namespace noema::test
