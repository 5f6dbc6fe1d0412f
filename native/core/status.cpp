#include "noema/status.h"

#include "noema/tensor.h"

namespace noema {

const char* code_name(Code code) {
    static constexpr const char* names[] = {
#define NOEMA_STATUS(name, code, meaning) code,
#include "noema/status.def"
#undef NOEMA_STATUS
    };
    return names[static_cast<int>(code)];
}

const char* code_meaning(Code code) {
    static constexpr const char* meanings[] = {
#define NOEMA_STATUS(name, code, meaning) meaning,
#include "noema/status.def"
#undef NOEMA_STATUS
    };
    return meanings[static_cast<int>(code)];
}

const char* dtype_name(DType t) {
    static constexpr const char* names[] = {"f32", "bf16", "f16", "f64", "i32", "i64", "u8"};
    return names[static_cast<int>(t)];
}

}  // namespace noema
