// The registry: which backends this build has, and the modules that bring more. Backends are declared here by name,
// never included.
#include <cstdlib>
#include <cstring>

#include "device_module.h"
#include "noema/backend.h"

namespace noema {

const Backend* cpu_backend();
const Backend* reference_backend();
const Backend* naive_backend();

namespace {

constexpr const char* kNames[] = {"cpu", "reference", "naive", nullptr};

/// "cuda:2" is device 2 of the module "cuda"; without a number, device 0. False when the text is no such name.
bool split_device(const char* name, const char* module, int* device) {
    const size_t n = std::strlen(module);
    if (std::strncmp(name, module, n) != 0) return false;
    *device = 0;
    if (name[n] == 0) return true;
    char* end = nullptr;
    const long value = name[n] == ':' ? std::strtol(name + n + 1, &end, 10) : -1;
    *device = static_cast<int>(value);
    return end && end != name + n + 1 && *end == 0 && value >= 0 && value < 64;
}

}  // namespace

Status open_backend(const char* name, const Backend** out) {
    *out = nullptr;
    if (std::strcmp(name, "cpu") == 0) *out = cpu_backend();
    if (std::strcmp(name, "reference") == 0) *out = reference_backend();
    if (std::strcmp(name, "naive") == 0) *out = naive_backend();
    if (*out) return {};
    int device = 0;
    for (const char* module : {"cuda", "cuda-emulated"})
        if (split_device(name, module, &device)) return open_module(module, device, out);
    return Status::error(Code::unknown_option, "there is no backend '%s': cpu, reference, naive, cuda or cuda:N", name);
}

const Backend* find_backend(const char* name) {
    const Backend* backend = nullptr;
    open_backend(name, &backend);
    return backend;
}

const char* const* backend_names() {
    return kNames;
}

}  // namespace noema
