// How the ops of mixture_rosenblatt cut their rows into tasks, and what a worker scribbles on.
#pragma once

#include "cpu/component_table.h"
#include "cpu/tasks.h"
#include "noema/ops/mixture_rosenblatt.h"

namespace noema::cpu {

/// The widest vector's, whichever runs.
constexpr int64_t kMostLanes = 16;
constexpr int64_t kMostTokens = 64;

inline int64_t whole_vectors(int64_t n) {
    return ceil_div(n, kMostLanes) * kMostLanes;
}

/// What one token's posterior needs (posterior-inl.h): arrays over components, with a vector to spare, and over scalars.
template <class T>
struct PosteriorMemory {
    T *log_weight, *inverse, *peak;  // [components]
    T* kept;                         // [components] for whoever uses the posterior
    int32_t* index;                  // [components]
    T *most, *z;                     // [d + 1], [d]

    static int64_t components(int64_t K) { return whole_vectors(K) + 2 * kMostLanes; }
    static int64_t values(int64_t K, int64_t d) { return 5 * components(K) + 2 * whole_vectors(d + 1); }
    PosteriorMemory() = default;
    PosteriorMemory(T* memory, int64_t K, int64_t d)
        : log_weight(memory),
          inverse(memory + components(K)),
          peak(memory + 2 * components(K)),
          kept(memory + 3 * components(K)),
          index(reinterpret_cast<int32_t*>(memory + 4 * components(K))),
          most(memory + 5 * components(K)),
          z(most + whole_vectors(d + 1)) {}
};

/// Room for a scalar's components (probit_root-inl.h), in doubles.
inline int64_t component_doubles(int64_t K) {
    return kComponentArrays * (whole_vectors(K) + 2 * kMostLanes);
}

/// What a worker needs that takes one token after the other in f32: the posterior, its components side by side, the scalars' sums.
struct TokenMemory {
    double* components;
    PosteriorMemory<float> posterior;
    float* sums;
    int64_t scalars;  // room for each kind of sum

    static constexpr int64_t kSumArrays = 7;
    static int64_t scalars_of(int64_t d) { return whole_vectors(kMostTokens * d) + kMostLanes; }
    static int64_t floats(int64_t K, int64_t d) {
        return 2 * component_doubles(K) + PosteriorMemory<float>::values(K, d) + kSumArrays * scalars_of(d);
    }
    static size_t bytes(int64_t K, int64_t d, int threads) { return workspace_bytes<float>(floats(K, d) * threads); }
    TokenMemory(float* memory, int worker, const ComponentTable& t)
        : components(reinterpret_cast<double*>(memory + worker * floats(t.K, t.d))),
          posterior(memory + worker * floats(t.K, t.d) + 2 * component_doubles(t.K), t.K, t.d),
          sums(memory + (worker + 1) * floats(t.K, t.d) - kSumArrays * scalars_of(t.d)),
          scalars(scalars_of(t.d)) {}
};

/// What backward needs beside that: the components that its second pass goes through, and arrays over scalars, of numbers and of vectors.
struct BackwardMemory {
    int32_t* met;
    float* numbers;  // [kNumbers, whole_vectors(d + 1)]
    float* vectors;  // [kVectors, d, kMostLanes]

    static constexpr int64_t kNumbers = 6, kVectors = 4;
    static int64_t floats(int64_t K, int64_t d) {
        return whole_vectors(K) + kMostLanes + kNumbers * whole_vectors(d + 1) + kVectors * d * kMostLanes;
    }
    BackwardMemory(float* memory, int worker, const ComponentTable& t) {
        memory += worker * floats(t.K, t.d);
        met = reinterpret_cast<int32_t*>(memory);
        numbers = memory + whole_vectors(t.K) + kMostLanes;
        vectors = numbers + kNumbers * whole_vectors(t.d + 1);
    }
};

/// What a worker needs in double for each of the tokens that it takes side by side: those of wide states, and all on their way back.
struct WideMemory {
    double* memory;
    int64_t K, d;

    static int64_t tokens(int64_t K) { return std::clamp<int64_t>((int64_t{1} << 14) / K, 1, kMostLanes / 2); }
    static int64_t token_doubles(int64_t K, int64_t d) {
        return PosteriorMemory<double>::values(K, d) + component_doubles(K);
    }
    static int64_t doubles(int64_t K, int64_t d) { return tokens(K) * token_doubles(K, d); }
    PosteriorMemory<double> posterior(int64_t token) const { return {memory + token * token_doubles(K, d), K, d}; }
    double* components(int64_t token) const {
        return memory + token * token_doubles(K, d) + PosteriorMemory<double>::values(K, d);
    }
};

/// Tokens [first, last) of the inverse, or of forward where states are wide, by one worker.
void invert_tokens(const MixtureRosenblattInverse& p, const ComponentTable& table, const WideMemory& memory,
                   int64_t first, int64_t last);
void pass_wide_tokens(const MixtureRosenblatt& p, const ComponentTable& table, const WideMemory& memory, int64_t first,
                      int64_t last);

/// What a call of mixture_rosenblatt_backward works with.
struct RosenblattBackward {
    const MixtureRosenblattBackward& p;
    ComponentTable table;
    TableSums sums;  // one per chunk of rows; none without gradients of the table
    int64_t chunk;   // rows
};

/// Calls f(first, last, worker) on runs of tokens: those of 2^13 weights, some 20 microseconds, but no more than 64.
template <class F>
void parallel_tokens(const Stream& stream, int64_t R, const ComponentTable& t, const F& f) {
    const int64_t rows = std::clamp<int64_t>((int64_t{1} << 13) / (t.K * t.d), 1, kMostTokens);
    parallel_for(stream, ceil_div(R, rows),
                 [&](int64_t i, int worker) { f(i * rows, std::min(R, (i + 1) * rows), worker); });
}

}  // namespace noema::cpu
