// Benches of single ops. A bench is a list of cases; each is one call at a real size, what that call has to do, and a
// check of its result. A case whose check fails prints no number and the process exits with 1.
//
// To add one, create bench/ops/x.cpp (nothing else is edited):
//
//   using namespace noema; using namespace noema::test; using namespace noema::bench;
//
//   static Case softmax(int64_t R, int64_t C) {
//       Case c;
//       c.name = "softmax/" + std::to_string(R) + "x" + std::to_string(C);
//       c.op = {c.name, {input("x", {R, C}), output("y", {R, C})},
//               [](const Tensors& t, Context& context) { return softmax({.x = t["x"], .y = t["y"]}, context); }};
//       c.work = {.bytes = 8.0 * R * C, .exps = 1.0 * R * C};
//       c.error = [=](const Tensors& t) {
//           const View x = t["x"], y = t["y"];
//           return worst_sample(R * C, [&](int64_t i) {
//               double truth = ...;                                   // in double, from x
//               return Compared{truth, y.at<float>(i / C)[i % C]};
//           });
//       };
//       return c;
//   }
//   static const Registered cases([] { return std::vector{softmax(512, 4096)}; });
//
// What a time is compared with: the largest of flops / rate, bytes / bandwidth and exps / rate, each ceiling measured on
// this machine in slices between the slices of the case, with the same threads and instruction set. Bandwidth is that of
// reading `work.bytes` again and again (so it is the cache's where the case's data fits a cache), without handing out work:
// what threads lose by waiting for each other counts against the case.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "native/tensors.h"

namespace noema::bench {

struct Work {
    double flops = 0;                      // a multiply-add counts as two
    double bytes = 0;                      // read and written at least once: the compulsory traffic
    double exps = 0;                       // evaluations of exp (also inside sigmoid, tanh, erf)
    double passes = 1;                     // how often `bytes` are gone through, one time after the other
    Precision precision = Precision::f32;  // which rate bounds flops
};

struct Case {
    std::string name;  // "op/what and size"; --filter looks in it
    test::OpCase op;   // title may be empty; run() is the timed call
    Work work;
    /// Runs once before the first call, for instance to pack weights; may be empty.
    std::function<Status(const test::Tensors&, Context&)> prepare = {};
    /// Error of the result after the first call; at most `tolerance`.
    std::function<double(const test::Tensors&)> error;
    double tolerance = 1e-5;
    /// Of mixtures: how many scalars a call finds and, after one, how often it evaluated their distribution. May be empty.
    double scalars = 0;
    std::function<double(const test::Tensors&)> evaluations = {};
};

/// A file's cases, made when the bench runs.
class Registered {
 public:
    explicit Registered(std::function<std::vector<Case>()> make);
};
std::vector<Case> all_cases();

/// A model's step, timed as a user's call is: with the copies to the device and back. Ceilings are measured on the processor alone; a
/// device's are its peers'.
struct Workload {
    std::string name;  // "family/what and size"
    Work work;
    std::function<Status(Engine&)> prepare, step;
    std::function<double()> error;  // after the steps
    double tolerance = 0.02;
    std::function<void()> release;
};

class RegisteredWorkloads {
 public:
    explicit RegisteredWorkloads(std::function<std::vector<Workload>()> make);
};
std::vector<Workload> all_workloads();

struct Compared {
    double truth;
    double measured;
};

/// Largest |truth - measured| over some 200 indices spread over [0, n), first and last included, relative to the root
/// mean square of the truths.
double worst_sample(int64_t n, const std::function<Compared(int64_t)>& at);

/// Memory of a backend that lives as long as the case, for instance of packed weights.
std::shared_ptr<std::byte> memory_of(const Backend& backend, size_t bytes);

struct Settings {
    std::string device;  // empty: the processor; else a backend with memory of its own
    std::string isa;     // empty: the machine's best
    int threads = 1;
    double seconds = 0.5;  // per case
};

struct Figures {
    std::string failure;  // why there is no number; empty when there is
    std::string isa;
    int threads = 1;
    int64_t calls = 0;
    double best = 0, median = 0;                        // seconds per call
    double flop_rate = 0, byte_rate = 0, exp_rate = 0;  // ceilings, per second; 0 when the case needs none
    std::string bound;                                  // "flops", "bytes" or "exps"
    double floor = 0;                                   // seconds that the ceilings allow
    double peer = 0;                                    // seconds of the peer's best call; 0 when there is none
    double evaluations = 0;                             // of a mixture in a call; 0 when the case does not say
    double share() const { return best > 0 ? floor / best : 0; }
    /// Of the time that reading alone allows, whatever the bound.
    double share_of_reading(const Work& w) const {
        return best > 0 && byte_rate > 0 ? w.bytes * w.passes / byte_rate / best : 0;
    }
};

Figures measure(const Case& c, const Settings& settings);
Figures measure(const Workload& w, const Settings& settings);

/// What another library reached on the same device in the same hour: lines "name<TAB>best seconds", and ceilings "@flops bf16", "@flops
/// f32", "@bytes" with rates per second.
class Peers {
 public:
    /// False when the file cannot be read.
    bool read(const std::string& path);
    void compare(const std::string& name, const Work& work, Figures& figures) const;

 private:
    double find(const std::string& name) const;
    std::vector<std::pair<std::string, double>> values_;
};

}  // namespace noema::bench
