// The op-test harness: describe a call once, and have it compared with the reference on every backend, instruction set
// and thread count of this machine, at the sizes you sweep, with fences around every tensor.
//
// The two-error rule: the truth is the reference run in double; the yardstick is the same maths done naively in the
// tensors' own type ("naive" backend). A backend may err at most twice as much as the yardstick, plus a few roundings
// of the largest value of that output.
//
// NOEMA_SEED=n replays a run; the seed is printed by the executable.
#pragma once

#include "native/tensors.h"

namespace noema::test {

/// Compares every backend x instruction set x {1, 3 threads} with the reference; results must not depend on threads,
/// bit for bit.
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

/// Every instruction set of the cpu backend, best first; sets it back to the best at the end of the scope.
class EachIsa {
 public:
    EachIsa();
    ~EachIsa();
    std::vector<std::string> names;
    static void use(const std::string& name);
};

}  // namespace noema::test
