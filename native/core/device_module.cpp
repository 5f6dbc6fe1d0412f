#include "device_module.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

namespace noema {

namespace {

std::string path_from_environment(const std::string& module) {
    std::string variable = "NOEMA_" + module + "_MODULE";
    for (char& c : variable) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    const char* path = std::getenv(variable.c_str());
    return path ? path : "";
}

/// The folder of the addon or executable that holds this function.
std::string own_folder() {
    Dl_info info = {};
    if (!dladdr(reinterpret_cast<void*>(&own_folder), &info) || !info.dli_fname) return ".";
    const std::string file = info.dli_fname;
    const size_t slash = file.rfind('/');
    return slash == std::string::npos ? "." : file.substr(0, slash);
}

struct Opened {
    ModuleEntry entry = nullptr;
    Status status;
};

Opened open_file(const std::string& module) {
    const std::string given = path_from_environment(module);
    const std::string path = given.empty() ? own_folder() + "/noema-" + module + ".so" : given;
    Opened opened;
    if (access(path.c_str(), R_OK) != 0) {
        opened.status =
            Status::error(Code::device_unavailable, "this build has no %s module (%s)", module.c_str(), path.c_str());
        return opened;
    }
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* entry = library ? dlsym(library, kModuleEntry) : nullptr;
    opened.entry = reinterpret_cast<ModuleEntry>(entry);
    if (!entry) {
        const char* reason = dlerror();
        opened.status = Status::error(Code::device_unavailable, "the %s module cannot be opened: %s", module.c_str(),
                                      reason ? reason : path.c_str());
    }
    return opened;
}

}  // namespace

// A module stays open: its code may be on a stream, and CUDA does not like to be unloaded.
Status open_module(const char* module, int device, const Backend** out) {
    static std::mutex lock;
    static std::map<std::string, Opened> modules;
    const std::lock_guard<std::mutex> guard(lock);
    auto found = modules.find(module);
    if (found == modules.end()) found = modules.emplace(module, open_file(module)).first;
    const Opened& opened = found->second;
    return opened.entry ? opened.entry(kBackendVersion, device, out) : opened.status;
}

}  // namespace noema
