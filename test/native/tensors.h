// Tensors for tests and benches: named, filled by seed, fenced with poison; and OpCase, one call described once.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "noema/engine.h"

namespace noema::test {

enum class Role { input, output, in_out };

/// How an input is filled. Floats: normal(0, 1) * scale + shift. Ids: uniform in [low, high).
struct Fill {
    double scale = 1.0;
    double shift = 0.0;
    int64_t low = 0;
    int64_t high = 2;
    std::vector<double> values;  // used instead, when given (as many as the tensor has)
};

struct Field {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    Role role = Role::input;
    Fill fill = {};
    bool contiguous = false;  // else the harness may pad rows
};

/// Shorthands. A field of dtype f32, bf16 becomes f64 in the truth run (values are rounded to its own dtype first).
Field input(std::string name, std::vector<int64_t> shape, Fill fill = {}, DType dtype = DType::f32);
Field ids(std::string name, std::vector<int64_t> shape, int64_t low, int64_t high, DType dtype = DType::i32);
Field output(std::string name, std::vector<int64_t> shape, DType dtype = DType::f32);
Field in_out(std::string name, std::vector<int64_t> shape, Fill fill = {}, DType dtype = DType::f32);
Field contiguous(Field field);

bool is_float(DType t);

class Memory;
struct OpCase;

/// The tensors of one run, by name. An unknown name gives an empty view: that is how optional arguments are left out.
class Tensors {
 public:
    Tensors();
    Tensors(Tensors&&) noexcept;
    ~Tensors();
    View operator[](const std::string& name) const;
    /// Values in logical order, whatever dtype and strides.
    std::vector<double> values(const std::string& name) const;

 private:
    friend Tensors make_tensors(const std::vector<Field>&, const std::string& title, bool wide, bool padded);
    friend std::string broken_fences(const Tensors&);
    friend class OnDevice;
    std::vector<Memory> memory_;
};

/// Tensors for `fields`, the same values for the same title and seed. wide: floats as f64. padded: rows not adjacent.
Tensors make_tensors(const std::vector<Field>& fields, const std::string& title, bool wide, bool padded);
/// Empty, or what was written outside a tensor, left unwritten inside an output, or changed in an input.
std::string broken_fences(const Tensors& tensors);

struct OpCase {
    std::string title;
    std::vector<Field> fields;
    std::function<Status(const Tensors&, Context&)> run;
    /// Roundings of the largest value that are allowed on top of twice the naive error.
    double roundings = 4;
    /// For ops whose error is not that of the naive loop: an absolute allowance, with the reason as a comment at the
    /// call.
    double allowance = 0;
    /// Judges the outputs instead of the two-error rule (truth, measured); empty text means right.
    std::function<std::string(const Tensors& truth, const Tensors& measured)> judge = {};
};

/// Runs a case on one backend (any arena it needs is made). Also for benches and hand-written checks.
Status run_on(const OpCase& op, const Tensors& tensors, const char* backend, ThreadTeam& team);

/// Tensors, fences and all, in the memory of an engine's device: their views point there until bring_back() or the end of the scope.
class OnDevice {
 public:
    OnDevice(Tensors& tensors, Engine& engine);
    ~OnDevice() { point_home(); }
    const Status& status() const { return status_; }
    /// What is at home over what is on the device.
    Status send_again();
    /// Copies what is on the device over what was at home.
    Status bring_back();

 private:
    void point_home();
    Tensors& tensors_;
    Engine& engine_;
    std::vector<Buffer> blocks_;
    Status status_;
};

/// Runs a case on an engine's device: tensors go there, and come back.
Status run_on_device(const OpCase& op, Tensors& tensors, Engine& engine);

/// Sizes around vector widths and tile edges, primes, none and one; up to `limit`.
std::vector<int64_t> awkward_sizes(int64_t limit);

/// NOEMA_SEED or the default.
uint64_t seed();

/// A short random-but-replayable choice, for sampling big sweeps: uniform in [0, n).
int64_t choose(const std::string& title, int64_t n);

}  // namespace noema::test
