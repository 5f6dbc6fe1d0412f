// The op-test harness: describe a call once, and have it compared with the reference on every backend, instruction set
// and thread count of this machine, at the sizes you sweep, with fences around every tensor.
//
// The two-error rule: the truth is the reference run in double; the yardstick is the same maths done naively in the
// tensors' own type ("naive" backend). A backend may err at most twice as much as the yardstick, plus a few roundings
// of the largest value of that output.
//
// NOEMA_SEED=n replays a run; the seed is printed by the executable.
// NOEMA_TEST_DEVICES=cuda compares on these devices alone (and on no instruction set of the processor); NOEMA_TEST_LARGEST=n leaves out cases of more
// than n elements: what compute-sanitizer has time for.
#pragma once

#include "native/tensors.h"

namespace noema::test {

/// Compares every instruction set x {1, 3 threads} of the CPU and every device with the reference; results must not
/// depend on threads, nor differ between two runs, bit for bit.
void check(const OpCase& op);

/// Expects a clear refusal: the code, and a text that names `mentions`.
void check_refused(const OpCase& op, Code code, const std::string& mentions);

/// The reference backward against central differences of the reference forward, in double.
/// upstream: pairs (forward output, backward's input that holds its gradient); gradients: pairs (forward input,
/// backward output). Backward's fields that have a forward field's name get forward's values, saved outputs included.
struct GradientCase {
    OpCase forward;
    OpCase backward;
    std::vector<std::pair<std::string, std::string>> upstream;
    std::vector<std::pair<std::string, std::string>> gradients;
    double tolerance = 1e-6;  // of the gradient's largest entry
    double step = 1e-5;
};
void check_gradient(const GradientCase& gradient);

/// Backends with memory of their own that this machine offers: "cuda-emulated" where the build has it, "cuda" where there is a GPU.
const std::vector<std::string>& devices();
/// One engine per device, kept for the whole run.
Engine& device_engine(const std::string& name);

/// Every instruction set of the cpu backend, best first; sets it back to the best at the end of the scope.
class EachIsa {
 public:
    EachIsa();
    ~EachIsa();
    std::vector<std::string> names;
    static void use(const std::string& name);
};

}  // namespace noema::test
