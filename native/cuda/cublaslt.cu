#include "common/cublaslt.h"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace noema::cuda {

namespace {

// What is used of cublasLt.h (the same from version 11 on), by its values.
using Handle = struct HandleOpaque*;
using Desc = struct DescOpaque*;
using Layout = struct LayoutOpaque*;
using Preference = struct PreferenceOpaque*;
struct Algorithm {
    uint64_t data[8];
};
struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
constexpr int kSuccess = 0, kNoMemory = 3, kCompute32F = 68, kReal32F = 0, kReal16BF = 14;
constexpr int kDescTransA = 3, kDescTransB = 4;
constexpr int32_t kNormal = 0, kTransposed = 1;
constexpr int kPreferWorkspace = 1, kPreferReductions = 3, kPreferAlignmentA = 5;  // B, C, D follow A
constexpr int kConfigSplits = 2;

struct Library {
    int (*cublasLtCreate)(Handle*);
    int (*cublasLtDestroy)(Handle);
    int (*cublasLtMatmulDescCreate)(Desc*, int compute, int scale);
    int (*cublasLtMatmulDescSetAttribute)(Desc, int, const void*, size_t);
    int (*cublasLtMatmulDescDestroy)(Desc);
    int (*cublasLtMatrixLayoutCreate)(Layout*, int type, uint64_t rows, uint64_t columns, int64_t pitch);
    int (*cublasLtMatrixLayoutDestroy)(Layout);
    int (*cublasLtMatmulPreferenceCreate)(Preference*);
    int (*cublasLtMatmulPreferenceSetAttribute)(Preference, int, const void*, size_t);
    int (*cublasLtMatmulPreferenceDestroy)(Preference);
    int (*cublasLtMatmulAlgoGetHeuristic)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, Preference, int wanted,
                                          Heuristic*, int* found);
    int (*cublasLtMatmulAlgoConfigGetAttribute)(const Algorithm*, int, void*, size_t, size_t* written);
    int (*cublasLtMatmulAlgoCheck)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, const Algorithm*, Heuristic*);
    int (*cublasLtMatmul)(Handle, Desc, const void* alpha, const void* a, Layout, const void* b, Layout,
                          const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*, void* workspace,
                          size_t, cudaStream_t);
    bool complete = false;
};

Library functions_of(void* file) {
    Library l = {.complete = true};
    const auto find = [&](auto& function, const char* name) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(file, name));
        if (!function) l.complete = false;
    };
#define NOEMA_FIND(name) find(l.name, #name)
    NOEMA_FIND(cublasLtCreate);
    NOEMA_FIND(cublasLtDestroy);
    NOEMA_FIND(cublasLtMatmulDescCreate);
    NOEMA_FIND(cublasLtMatmulDescSetAttribute);
    NOEMA_FIND(cublasLtMatmulDescDestroy);
    NOEMA_FIND(cublasLtMatrixLayoutCreate);
    NOEMA_FIND(cublasLtMatrixLayoutDestroy);
    NOEMA_FIND(cublasLtMatmulPreferenceCreate);
    NOEMA_FIND(cublasLtMatmulPreferenceSetAttribute);
    NOEMA_FIND(cublasLtMatmulPreferenceDestroy);
    NOEMA_FIND(cublasLtMatmulAlgoGetHeuristic);
    NOEMA_FIND(cublasLtMatmulAlgoConfigGetAttribute);
    NOEMA_FIND(cublasLtMatmulAlgoCheck);
    NOEMA_FIND(cublasLtMatmul);
#undef NOEMA_FIND
    // One of a newer CUDA than the driver's opens, and then does nothing.
    Handle handle = nullptr;
    if (l.complete && l.cublasLtCreate(&handle) == kSuccess)
        l.cublasLtDestroy(handle);
    else
        l.complete = false;
    return l;
}

Library open_library() {
    Library l = {};
    const char* given = std::getenv("NOEMA_CUBLASLT");
    // Under the emulation the library would find no device.
    if (std::strcmp(NOEMA_MODULE_NAME, "cuda") != 0 || (given && std::strcmp(given, "off") == 0)) return l;
    for (const char* name : {given, "libcublasLt.so.13", "libcublasLt.so.12"}) {
        void* file = name && *name ? dlopen(name, RTLD_NOW | RTLD_LOCAL) : nullptr;
        if (file && (l = functions_of(file)).complete) return l;
    }
    return {};
}

/// Stays open: its kernels may be in recordings.
const Library& library() {
    static const Library l = open_library();
    return l;
}

/// The library counts by columns, where a matrix by rows is its own transpose: it is asked for C' = op(B)' op(A)'.
class Description {
 public:
    explicit Description(const LibraryProduct& p) {
        const int32_t of_b = p.transpose_b ? kTransposed : kNormal, of_a = p.transpose_a ? kTransposed : kNormal;
        keep(library().cublasLtMatmulDescCreate(&desc_, kCompute32F, kReal32F));
        if (ok_) keep(library().cublasLtMatmulDescSetAttribute(desc_, kDescTransA, &of_b, sizeof of_b));
        if (ok_) keep(library().cublasLtMatmulDescSetAttribute(desc_, kDescTransB, &of_a, sizeof of_a));
        create(b_, kReal16BF, p.transpose_b ? p.N : p.K, p.transpose_b ? p.K : p.N, p.b_stride);
        create(a_, kReal16BF, p.transpose_a ? p.K : p.M, p.transpose_a ? p.M : p.K, p.a_stride);
        create(c_, kReal32F, p.M, p.N, p.add ? p.add_stride : p.c_stride);
        create(d_, kReal32F, p.M, p.N, p.c_stride);
    }
    ~Description() {
        for (Layout l : {a_, b_, c_, d_})
            if (l) library().cublasLtMatrixLayoutDestroy(l);
        if (desc_) library().cublasLtMatmulDescDestroy(desc_);
    }
    Description(const Description&) = delete;
    Description& operator=(const Description&) = delete;

    bool ok() const { return ok_; }
    int heuristic(Handle handle, Preference preference, Heuristic* results, int wanted) const {
        int found = 0;
        const int status = library().cublasLtMatmulAlgoGetHeuristic(handle, desc_, b_, a_, c_, d_, preference, wanted,
                                                                    results, &found);
        return status == kSuccess ? found : 0;
    }
    /// Whether it is an algorithm for these shapes, without workspace.
    bool takes(Handle handle, const Algorithm& algorithm) const {
        Heuristic result = {};
        const int status = library().cublasLtMatmulAlgoCheck(handle, desc_, b_, a_, c_, d_, &algorithm, &result);
        return ok_ && status == kSuccess && result.state == kSuccess && result.workspace == 0;
    }
    int multiply(Handle handle, const LibraryProduct& p, const Algorithm& algorithm, cudaStream_t stream) const {
        const float alpha = 1, beta = p.add ? 1 : 0;
        return library().cublasLtMatmul(handle, desc_, &alpha, p.b, b_, p.a, a_, &beta, p.add ? p.add : p.c, c_, p.c,
                                        d_, &algorithm, nullptr, 0, stream);
    }

 private:
    void keep(int status) { ok_ = ok_ && status == kSuccess; }
    /// Of a matrix of `rows` rows in memory.
    void create(Layout& l, int type, int64_t rows, int64_t columns, int64_t stride) {
        if (ok_)
            keep(library().cublasLtMatrixLayoutCreate(&l, type, static_cast<uint64_t>(columns),
                                                      static_cast<uint64_t>(rows), stride));
    }

    Desc desc_ = nullptr;
    Layout a_ = nullptr, b_ = nullptr, c_ = nullptr, d_ = nullptr;
    bool ok_ = true;
};

struct Choice {
    bool usable = false;
    Algorithm algorithm = {};
};

constexpr int64_t kChosenRows = 512;

/// Nothing but a plain sum over the whole of K, without workspace, for addresses that are multiples of 16.
bool prefer_plain(Preference preference) {
    const uint64_t workspace = 0;
    const uint32_t reductions = 0, alignment = 16;
    const auto set = [&](int attribute, const auto& value) {
        return library().cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value) == kSuccess;
    };
    bool ok = set(kPreferWorkspace, workspace) && set(kPreferReductions, reductions);
    for (int i = 0; i < 4; ++i) ok = ok && set(kPreferAlignmentA + i, alignment);
    return ok;
}

bool undivided(const Algorithm& algorithm) {
    int32_t splits = 0;
    size_t written = 0;
    const int status =
        library().cublasLtMatmulAlgoConfigGetAttribute(&algorithm, kConfigSplits, &splits, sizeof splits, &written);
    return status == kSuccess && splits <= 1;
}

/// The same product of M rows, whose matrices lie close.
LibraryProduct with_rows(LibraryProduct p, int64_t M) {
    const auto pitch = [](int64_t columns) { return (columns + 7) / 8 * 8; };
    p.M = M;
    p.a_stride = pitch(p.transpose_a ? p.M : p.K);
    p.b_stride = pitch(p.transpose_b ? p.K : p.N);
    p.c_stride = p.N;
    p.add = nullptr;
    return p;
}

/// Of a weight's gradient the rows are the weight's: always as many.
int64_t fixed_rows(const LibraryProduct& p) {
    return p.transpose_a ? p.M : 0;
}

/// An algorithm may have tiles or clusters that some numbers of rows leave without work, and refuse them.
bool takes_all_rows(Handle handle, const LibraryProduct& p, const Algorithm& algorithm) {
    if (fixed_rows(p)) return true;
    for (const int64_t M : {1, 8, 16, 64, 128, 4096})
        if (!Description(with_rows(p, M)).takes(handle, algorithm)) return false;
    return true;
}

Choice choose(Handle handle, const LibraryProduct& p) {
    Choice choice;
    const Description description(with_rows(p, fixed_rows(p) ? fixed_rows(p) : kChosenRows));
    Preference preference = nullptr;
    if (!description.ok() || library().cublasLtMatmulPreferenceCreate(&preference) != kSuccess) return choice;
    Heuristic results[8] = {};
    const int found = prefer_plain(preference) ? description.heuristic(handle, preference, results, 8) : 0;
    for (int i = 0; i < found && !choice.usable; ++i)
        if (results[i].state == kSuccess && results[i].workspace == 0 && undivided(results[i].algorithm) &&
            takes_all_rows(handle, p, results[i].algorithm))
            choice = {true, results[i].algorithm};
    library().cublasLtMatmulPreferenceDestroy(preference);
    return choice;
}

}  // namespace

class Cublaslt {
 public:
    explicit Cublaslt(Handle handle) : handle_(handle) {}
    ~Cublaslt() { library().cublasLtDestroy(handle_); }

    Handle handle() const { return handle_; }
    const Choice& choice(const LibraryProduct& p) {
        const std::lock_guard<std::mutex> guard(lock_);
        const Key key{p.transpose_a + 2 * p.transpose_b, p.N, p.K, fixed_rows(p)};
        auto found = choices_.find(key);
        if (found == choices_.end()) found = choices_.emplace(key, choose(handle_, p)).first;
        return found->second;
    }

 private:
    using Key = std::array<int64_t, 4>;

    const Handle handle_;
    std::mutex lock_;
    std::map<Key, Choice> choices_;
};

Cublaslt* open_cublaslt() {
    Handle handle = nullptr;
    if (!library().complete || library().cublasLtCreate(&handle) != kSuccess) return nullptr;
    return new Cublaslt(handle);
}

void close_cublaslt(Cublaslt* cublaslt) {
    delete cublaslt;
}

bool cublaslt_takes(Cublaslt* cublaslt, const LibraryProduct& p) {
    return cublaslt && cublaslt->choice(p).usable;
}

Status cublaslt_multiply(Cublaslt* cublaslt, const LibraryProduct& p, cudaStream_t stream) {
    const Description description(p);
    const int status =
        description.ok() ? description.multiply(cublaslt->handle(), p, cublaslt->choice(p).algorithm, stream) : -1;
    if (status == kSuccess) return {};
    return Status::error(
        status == kNoMemory ? Code::out_of_memory : Code::device_unavailable,
        "cuBLASLt: a product of %lld x %lld x %lld failed (status %d); NOEMA_CUBLASLT=off does without it",
        static_cast<long long>(p.M), static_cast<long long>(p.N), static_cast<long long>(p.K), status);
}

}  // namespace noema::cuda
