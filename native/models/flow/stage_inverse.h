// The inverse of one flow, in its own order, of wide states: modules of neighbouring positions one after the other, each swept until it rests. A
// module of one position is right after one sweep, so the sequential inverse is the one whose modules are positions. Where the backend
// has an op for all of it (stage_inverse_fused.cpp), that is one call; where the ops one by one would not add up in that op's order, it has
// one for a sweep, too. The other way, by the sequential inverse's steps, is what a trace takes.
#pragma once

#include "models/flow/coupling.h"

namespace noema {

/// A run of positions that is solved as one.
struct Module {
    int64_t first, count;
};
/// How a plan cuts N positions.
std::vector<Module> modules_of(const InversePlan& plan, int64_t N);
/// Most sweeps of a module.
int64_t most_sweeps(const InversePlan& plan, const Module& module);
/// How a module's sweeps ended.
struct Rest {
    const InversePlan& plan;
    const Module& module;
    const float* changes;  // [B] what the last of them changed
};
/// not_converged where a sequence still moved in the last of fewer sweeps than the module has positions.
Status check_rest(const FlowShape& shape, size_t flow, const Rest& rest, std::optional<FlowFault>& fault);

/// An ancestral draw of a whole flow. The noise u is that of its values.
struct StageDraw {
    View uniform;    // [B*N,c] of mixture_cdf
    View seeds;      // [B] i64
    View positions;  // [N,P,B] i32: of mixture_rosenblatt
    AncestralDraw way;
};

class StageInverse {
 public:
    StageInverse(const FlowShape& shape, const FlowWeights& weights, size_t flow, Context& context);

    /// u [B*N,c] f64 is the flow's noise; h [B*N,c] f64 receives its input, but where it is fixed, where it has it already. Forward: h is
    /// given, u received.
    struct Task {
        View prefix;  // [B*m,c]
        View u, h;    // [B*N,c]
        View failed;  // [N * B * searches] of every module what uncouple counts
        View sweeps;  // [B] i32 +=
        View fixed;   // [B,N] u8 in the flow's order, or absent
        float*
            changes;  // [N,B] host: at a module's first position what its last sweep changed, when the run is through
        std::optional<FlowFault>* fault = nullptr;  // where sweeps did not come to rest
        InversePlan plan;
        const StageDraw* draw = nullptr;  // instead of an inverse; sequentially
        double grid = 0;                  // of what is received
        bool forward = false;
    };
    Status run(const Task& task);
    /// change [B] = max |u - f(h)| of what run() has found for the task, but where it is fixed, by a step of each module forward: what the
    /// last sweep at rest took for granted. Leaves f(h) in u.
    Status look_back(const Task& task, const View& change);

 private:
    Status read_prefix(const View& prefix);
    Status advance(int64_t position, const View& x, int64_t T);
    Status shift(const Task& task, const Module& module, const View& before);
    Status lift(const Task& task, const Module& module, const View& x);
    Status read(const Task& task, const Module& module, const View& x);
    Status start(const Task& task, const Module& module);
    Status propose(const Task& task, const Module& module, const View& next);
    Status draw(const Task& task, const Module& module, const View& x, const View& next);
    Status put(const Task& task, const Module& module, const View& next);
    View state_of(const Task& task, const Module& module) const;
    Status anything(const View& change);
    Status map(const Task& task, const Module& module);
    Status solve(const Task& task, const Module& module);
    Status sweep_until_rest(const Task& task, const Module& module);
    bool has_fused_weights() const;
    bool can_fuse() const { return c_.backend->ops.sequential_inverse.run && has_fused_weights(); }
    bool can_fuse_sweeps() const { return c_.backend->ops.sequential_sweep.run && has_fused_weights(); }
    Status run_fused(const Task& task);
    Status sweep_fused(const Task& task, const Module& module, const View& u, const View& h);
    std::vector<InverseBlock> fused_blocks() const;
    SequentialInverse fused(const std::vector<InverseBlock>& blocks) const;
    InverseHead fused_head() const;
    View failures(const View& failed, const Module& module) const;
    View part(const View& rows, int64_t first, int64_t count) const;
    View tensor(int64_t rows, int64_t width) const { return c_.arena->tensor(DType::f32, rows, width); }
    View wide(int64_t rows, int64_t width) const { return c_.arena->tensor(DType::f64, rows, width); }

    const FlowShape& s_;
    const StageWeights& w_;
    const Coupling coupling_;
    const size_t flow_;
    Context& c_;
    std::vector<BlockCache> caches_;
};

}  // namespace noema
