// Counter-based random numbers (Philox4x32-10): a pure function of (seed, stream, step, row, lane), so a draw does not
// depend on call order, batch, thread count or backend. lib/rng.ts is the same function; a test compares them.
// constexpr, so that device code may call it too.
#pragma once

#include <cstdint>

namespace noema {

/// What a stream of draws is for. Two purposes never share numbers.
enum class RngStream : uint32_t {
    token = 0,
    order = 1,
    time = 2,
    corruption = 3,
    init = 4,
    shuffle = 5,
    remask = 6,
    latent = 7,
    thought = 8
};

struct Philox {
    uint32_t x[4];
};

constexpr Philox philox4x32(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
        const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
        const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c1 = static_cast<uint32_t>(p1);
        c3 = static_cast<uint32_t>(p0);
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

/// Four draws, for lanes 4*block .. 4*block+3. Counter words: block, row, step, stream.
constexpr Philox rng_block(uint64_t seed, RngStream stream, uint32_t step, uint32_t row, uint32_t block) {
    return philox4x32(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), block, row, step,
                      static_cast<uint32_t>(stream));
}

/// (0, 1): 23 bits, centred in their cells (24 would round up to 1), so neither 0 nor 1 occurs and log() is finite.
constexpr float to_uniform(uint32_t bits) {
    return (static_cast<float>(bits >> 9) + 0.5f) * (1.0f / 8388608.0f);
}

/// Standard normals (lib/normals.ts): draw i of a (seed, stream, step) is element i % kNormalRow of row i / kNormalRow, whose
/// elements 2 j and 2 j + 1 are Box-Muller's pair of its uniforms u, v at lanes 2 j and 2 j + 1: sqrt(-2 log u) times the cosine
/// and the sine of 2 pi v.
constexpr int64_t kNormalRow = 4096;

constexpr float rng_uniform(uint64_t seed, RngStream stream, uint32_t step, uint32_t row, uint32_t lane) {
    return to_uniform(rng_block(seed, stream, step, row, lane / 4).x[lane % 4]);
}

}  // namespace noema
