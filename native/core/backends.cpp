// The registry: which backends this build has. Backends are declared here by name, never included.
#include <cstring>

#include "noema/backend.h"

namespace noema {

const Backend* cpu_backend();
const Backend* reference_backend();
const Backend* naive_backend();

namespace {

constexpr const char* kNames[] = {"cpu", "reference", "naive", nullptr};

}  // namespace

const Backend* find_backend(const char* name) {
    if (std::strcmp(name, "cpu") == 0) return cpu_backend();
    if (std::strcmp(name, "reference") == 0) return reference_backend();
    if (std::strcmp(name, "naive") == 0) return naive_backend();
    return nullptr;
}

const char* const* backend_names() {
    return kNames;
}

}  // namespace noema
