// The emulation's conscience: kernels that are wrong in the ways it promises to see, and instructions against their definition.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "common/reduce.h"
#include "cuda/small_device.h"
#include "doctest/doctest.h"

using namespace noema;
using namespace noema::cuda;

namespace {

/// What a launch says; empty when all is well.
template <class... P, class... A>
std::string said(const Grid& grid, void (*kernel)(P...), const A&... arguments) {
    Device device;
    const Status status = launch("culprit", device.stream, grid, kernel, arguments...);
    return status.ok() ? "" : status.text;
}
template <class... P, class... A>
std::string said(int threads, void (*kernel)(P...), const A&... arguments) {
    return said(Grid{.blocks = dim3(1), .threads = threads, .shared_bytes = 1024}, kernel, arguments...);
}

/// 9 KB of its own.
void has_much(float* out) {
    SHARED_ARRAY(float, s, 2304);
    s[threadIdx.x] = 1;
    out[threadIdx.x] = s[threadIdx.x];
}

bool mentions(const std::string& text, const std::string& what) {
    const bool found =
        text.find(what) != std::string::npos && text.find("culprit, block (0,0,0), thread") != std::string::npos;
    if (!found) MESSAGE("said: ", text);
    return found;
}

void reads_unwritten(float* out) {
    SHARED_ARRAY(float, s, 64);
    if (threadIdx.x < 32) s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
void reads_beyond(float* out) {
    SHARED_ARRAY(float, s, 64);
    s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x + 1];
}
void reads_too_early(float* out) {
    SHARED_ARRAY(float, s, 64);
    s[threadIdx.x] = 1;
    out[threadIdx.x] = s[threadIdx.x / 2];
}
void writes_too_early(float* out) {
    SHARED_ARRAY(float, s, 64);
    s[threadIdx.x] = 1;
    __syncthreads();
    const float x = s[(threadIdx.x + 1) % 64];
    s[threadIdx.x] = x + 1;
    out[threadIdx.x] = x;
}
void syncs_only_its_warp(float* out) {
    SHARED_ARRAY(float, s, 64);
    s[threadIdx.x] = 1;
    __syncwarp();
    out[threadIdx.x] = s[threadIdx.x ^ 1];                          // the own warp: well
    if (threadIdx.x >= 32) out[threadIdx.x] = s[threadIdx.x ^ 32];  // the other: not
}
void leaves_early(float* out) {
    if (threadIdx.x == 5) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
void two_barriers(float* out) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = 1;
}
void shuffles_half(float* out) {
    float x = 1;
    if (threadIdx.x % 32 < 16) x = __shfl_xor_sync(kAllLanes, x, 1);
    __syncthreads();
    out[threadIdx.x] = x;
}
void shuffles_from_outside(float* out) {
    float x = 1;
    if (threadIdx.x % 32 < 16) x = __shfl_sync(0xFFFFu, x, 20);
    out[threadIdx.x] = x;
}
void does_not_wait(float* out) {
    SHARED_ARRAY(float, s, 256);
    copy_async_16(s + 4 * threadIdx.x, out + 4 * threadIdx.x);
    copy_async_commit();
    __syncthreads();
    out[threadIdx.x] = s[4 * threadIdx.x];
    copy_async_wait<0>();
}
void waits_for_the_wrong_group(float* out) {
    SHARED_ARRAY(float, s, 256);
    copy_async_16(s + 4 * threadIdx.x, out + 4 * threadIdx.x);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    out[threadIdx.x] = s[4 * threadIdx.x];
    copy_async_wait<0>();
}
void takes_too_much(float* out) {
    const Shared<float> s = dynamic_shared<float>(512, 129);
    s[0] = 1;
    out[threadIdx.x] = 1;
}
void barrier_of_the_grid(float* out, unsigned* counter) {
    grid_barrier(counter);
    out[threadIdx.x] = 1;
}

}  // namespace

TEST_CASE("emulation: wrong kernels are named, with block and thread") {
    Array<float> out(std::vector<float>(512));
    CHECK(mentions(said(64, reads_unwritten, out.data), "is read before anything wrote it"));
    CHECK(mentions(said(64, reads_beyond, out.data), "is read out of range"));
    CHECK(mentions(said(64, reads_too_early, out.data), "(no barrier between)"));
    CHECK(mentions(said(64, writes_too_early, out.data), "is written while another thread reads it"));
    CHECK(mentions(said(64, syncs_only_its_warp, out.data), "(no barrier between)"));
    CHECK(mentions(said(64, leaves_early, out.data), "divergent barrier"));
    CHECK(mentions(said(64, two_barriers, out.data), "divergent barrier"));
    CHECK(mentions(said(64, shuffles_half, out.data), "divergent"));
    CHECK(mentions(said(64, shuffles_from_outside, out.data), "not in its mask"));
    CHECK(mentions(said(64, does_not_wait, out.data), "is read before anything wrote it"));
    CHECK(mentions(said(64, waits_for_the_wrong_group, out.data), "is read before anything wrote it"));
    CHECK(mentions(said(64, takes_too_much, out.data), "dynamic shared memory"));
    Array<unsigned> counter(std::vector<unsigned>{0});
    CHECK(mentions(said(64, barrier_of_the_grid, out.data, counter.data), "cooperative"));
}

namespace {

void sums(const float* x, float* y) {
    SHARED_ARRAY(float, scratch, 8);
    const float sum = block_reduce(x[blockIdx.x * blockDim.x + threadIdx.x], Sum{}, scratch);
    const float most = block_reduce(x[blockIdx.x * blockDim.x + threadIdx.x], Max{}, scratch);
    if (threadIdx.x == 0) y[blockIdx.x] = sum + 1000 * most;
}

}  // namespace

TEST_CASE("emulation: static arrays count among the 48 KB that need not be asked for") {
    Array<float> out(std::vector<float>(64));
    const auto with_dynamic = [&](size_t bytes) {
        return said(Grid{.blocks = dim3(1), .threads = 64, .shared_bytes = bytes}, has_much, out.data);
    };
    CHECK(with_dynamic(39 << 10) == "");
    CHECK(mentions(with_dynamic(40 << 10), "50176 bytes of shared memory, 9216 of them static, were not asked for"));
    CHECK(with_dynamic(41 << 10) == "");  // launch() asks
}

TEST_CASE("emulation: block_reduce, and the engine goes on after a wrong kernel") {
    Device device;
    std::vector<float> x(3 * 256);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7);
    Array<float> in(x), out(std::vector<float>(3));
    CHECK(!said(64, reads_beyond, in.data).empty());
    cudaMemcpyAsync(in.data, x.data(), x.size() * sizeof(float), cudaMemcpyHostToDevice, nullptr);
    REQUIRE(launch("sums", device.stream, {.blocks = dim3(3), .threads = 256}, sums, static_cast<const float*>(in.data),
                   out.data)
                .ok());
    for (int b = 0; b < 3; ++b) {
        float sum = 6000;
        for (int i = 0; i < 256; ++i) sum += x[256 * b + i];
        CHECK(out.values()[b] == sum);
    }
}

namespace {

// One warp: d = a b for a [16,16], b [16,8] (columns side by side), through the matrix loads.
void multiply(const bf16* a, const bf16* b, float* d) {
    SHARED_ARRAY(bf16, sa, 16 * 16);
    SHARED_ARRAY(bf16, sb, 16 * 16);  // [k][n], n padded to 16
    const int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) sa[i] = a[i];
    for (int i = lane; i < 256; i += 32) sb[i] = i % 16 < 8 ? b[i / 16 * 8 + i % 16] : to_bf16(0);
    __syncthreads();
    uint32_t fa[4], fb[4];
    load_matrices_x4(fa, sa + lane % 16 * 16 + lane / 16 * 8);
    load_matrices_x4_transposed(fb, sb + lane % 16 * 16 + lane / 16 * 8);
    const uint32_t low[2] = {fb[0], fb[1]};
    float sum[4] = {};
    mma_16x8x16(sum, fa, low);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sum[i];
}

}  // namespace

TEST_CASE("emulation: matrix loads and products follow their definition") {
    std::vector<bf16> a(256), b(128);
    for (int i = 0; i < 256; ++i) a[i] = to_bf16(static_cast<float>(i % 11) - 5);
    for (int i = 0; i < 128; ++i) b[i] = to_bf16(static_cast<float>(i % 13) - 6);
    Array<bf16> da(a), db(b);
    Array<float> d(std::vector<float>(128));
    Device device;
    REQUIRE(launch("multiply", device.stream, {.blocks = dim3(1), .threads = 32}, multiply,
                   static_cast<const bf16*>(da.data), static_cast<const bf16*>(db.data), d.data)
                .ok());
    const std::vector<float> got = d.values();
    for (int m = 0; m < 16; ++m)
        for (int n = 0; n < 8; ++n) {
            float sum = 0;
            for (int k = 0; k < 16; ++k) sum += to_float(a[16 * m + k]) * to_float(b[8 * k + n]);
            CHECK(got[8 * m + n] == sum);
        }
}

namespace {

void exchanges(int* out) {
    const int me = static_cast<int>(threadIdx.x);
    out[me] = __shfl_sync(kAllLanes, me, (me + 5) % 32);
    out[32 + me] = __shfl_up_sync(kAllLanes, me, 3);
    out[64 + me] = __shfl_down_sync(kAllLanes, me, 3);
    out[96 + me] = __shfl_xor_sync(kAllLanes, me, 9);
    out[128 + me] = static_cast<int>(__ballot_sync(kAllLanes, me % 3 == 0) & 0xFFFF);
    out[160 + me] = __any_sync(kAllLanes, me == 31) + 2 * __all_sync(kAllLanes, me < 31);
    out[192 + me] = __shfl_down_sync(kAllLanes, me, 2, 8);
}

// Every block adds to its neighbour after a barrier of all.
void round_trip(int* values, int* sums, unsigned* counter) {
    if (threadIdx.x == 0) values[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
    grid_barrier(counter);
    if (threadIdx.x == 0) sums[blockIdx.x] = values[(blockIdx.x + 1) % gridDim.x];
    grid_barrier(counter);
    if (threadIdx.x == 0) sums[blockIdx.x] += values[blockIdx.x];
}

// Blocks of a pair wait for each other, the second pair twice as often.
void pairs(int* values, int* sums, unsigned* counters) {
    const int me = static_cast<int>(blockIdx.x);
    unsigned* counter = counters + me / 2;
    for (int turn = 0; turn <= me / 2; ++turn) {
        if (threadIdx.x == 0) values[me] = 10 * turn + me;
        wait_at(counter, arrive_at(counter, 2, me % 2 == 0));
        if (threadIdx.x == 0) sums[me] = values[me ^ 1];
        wait_at(counter, arrive_at(counter, 2, me % 2 == 0));
    }
}
void waits_for_a_third(float* out, unsigned* counter) {
    wait_at(counter, arrive_at(counter, 3, blockIdx.x == 0));
    out[threadIdx.x] = 1;
}

}  // namespace

TEST_CASE("emulation: blocks that wait for some others") {
    Device device;
    Array<int> values(std::vector<int>(4)), sums(std::vector<int>(4));
    Array<unsigned> counters(std::vector<unsigned>{0, 0});
    const Grid two_pairs{.blocks = dim3(4), .threads = 64, .cooperative = true};
    REQUIRE(launch("pairs", device.stream, two_pairs, pairs, values.data, sums.data, counters.data).ok());
    CHECK(sums.values() == std::vector<int>{1, 0, 13, 12});
    Array<float> out(std::vector<float>(64));
    const Grid two{.blocks = dim3(2), .threads = 64, .cooperative = true};
    const Status status = launch("culprit", device.stream, two, waits_for_a_third, out.data, counters.data);
    CHECK_MESSAGE(std::string(status.text).find("blocks that do not arrive") != std::string::npos, status.text);
}

TEST_CASE("emulation: warp exchanges and a barrier of the whole grid") {
    Device device;
    Array<int> out(std::vector<int>(224));
    REQUIRE(launch("exchanges", device.stream, {.blocks = dim3(1), .threads = 32}, exchanges, out.data).ok());
    const std::vector<int> v = out.values();
    for (int i = 0; i < 32; ++i) {
        CHECK(v[i] == (i + 5) % 32);
        CHECK(v[32 + i] == (i < 3 ? i : i - 3));
        CHECK(v[64 + i] == (i > 28 ? i : i + 3));
        CHECK(v[96 + i] == (i ^ 9));
        CHECK(v[128 + i] == 0x9249);
        CHECK(v[160 + i] == 1);
        CHECK(v[192 + i] == (i % 8 < 6 ? i + 2 : i));
    }
    Array<int> values(std::vector<int>(5)), sums(std::vector<int>(5));
    Array<unsigned> counter(std::vector<unsigned>{0});
    const Grid grid{.blocks = dim3(5), .threads = 64, .cooperative = true};
    REQUIRE(launch("round_trip", device.stream, grid, round_trip, values.data, sums.data, counter.data).ok());
    for (int i = 0; i < 5; ++i) CHECK(sums.values()[i] == i + 1 + (i + 1) % 5 + 1);
}

TEST_CASE("emulation: device memory is closed to the host, limited, and freed") {
    Array<float> a(std::vector<float>(64, 1.0f));
    const int zero = open("/dev/zero", O_RDONLY);
    // The kernel of the host's system looks, as a host access would, and says no instead of ending the process.
    CHECK(read(zero, a.data, 4) == -1);
    CHECK(errno == EFAULT);
    close(zero);
    size_t before = 0, during = 0, after = 0, total = 0;
    cudaMemGetInfo(&before, &total);
    void* more = nullptr;
    CHECK(cudaMalloc(&more, total + 1) == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    REQUIRE(cudaMalloc(&more, 1 << 20) == cudaSuccess);
    cudaMemGetInfo(&during, &total);
    cudaFree(more);
    cudaMemGetInfo(&after, &total);
    CHECK(before - during == 1 << 20);
    CHECK(after == before);
    float host = 0;
    CHECK(cudaMemcpyAsync(&host, &host, 4, cudaMemcpyDeviceToHost, nullptr) == cudaErrorInvalidValue);
}
