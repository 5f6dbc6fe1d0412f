// Adam's arithmetic, a vector at a time, for the ops that step by it.
#if defined(NOEMA_CPU_ADAM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_ADAM_INL_H_
#undef NOEMA_CPU_ADAM_INL_H_
#else
#define NOEMA_CPU_ADAM_INL_H_
#endif

#include "cpu/adam.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

HWY_INLINE VF blend(VF old, float keep, VF fresh) {
    return hn::MulAdd(old, hn::Set(DF(), keep), hn::Mul(fresh, hn::Set(DF(), 1.0f - keep)));
}

/// Takes a gradient into the moments at m and v; the step's direction, of length about 1.
template <class Load, class Store>
HWY_INLINE VF adam_direction(const AdamFactors& f, VF gradient, const Load& load, const Store& store, float* m,
                             float* v) {
    const DF d;
    const VF new_m = blend(load(m), f.beta1, gradient);
    const VF new_v = blend(load(v), f.beta2, hn::Mul(gradient, gradient));
    store(new_m, m);
    store(new_v, v);
    const VF root = hn::Sqrt(hn::Mul(new_v, hn::Set(d, f.unbias_v)));
    return hn::Div(hn::Mul(new_m, hn::Set(d, f.unbias_m)), hn::Add(root, hn::Set(d, f.epsilon)));
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
