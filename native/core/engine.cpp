#include "noema/engine.h"

namespace noema {

Status Engine::reserve(size_t bytes) {
    if (bytes <= block_.bytes() && block_.data()) return {};
    block_ = Buffer();  // before the new one: both at once might not fit
    block_ = Buffer(backend_, bytes + 64);
    if (!block_.data())
        return Status::error(Code::out_of_memory, "the engine could not have %zu bytes of working memory", bytes);
    return {};
}

}  // namespace noema
