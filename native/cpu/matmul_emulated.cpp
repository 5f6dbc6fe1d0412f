// AMX's tiles by their documented meaning, in plain loops: so that machines without them compile and test the kernel.
#include <cstring>

#include "cpu/matmul_tiles-inl.h"

namespace noema::cpu {

namespace {

float upper_value(uint32_t pair) {
    pair &= 0xFFFF0000u;
    float f;
    std::memcpy(&f, &pair, sizeof f);
    return f;
}

class EmulatedTiles {
 public:
    void configure(const uint8_t (&rows)[8]) {
        std::memcpy(rows_, rows, sizeof rows_);
        std::memset(tiles_, 0, sizeof tiles_);
    }
    template <int T>
    void zero() {
        std::memset(tiles_[T], 0, sizeof tiles_[T]);
    }
    template <int T>
    void load(const void* from, int64_t pitch) {
        zero<T>();
        for (int r = 0; r < rows_[T]; ++r)
            std::memcpy(tiles_[T][r], static_cast<const std::byte*>(from) + r * pitch, kStepBytes);
    }
    template <int T>
    void store(void* to, int64_t pitch) {
        for (int r = 0; r < rows_[T]; ++r)
            std::memcpy(static_cast<std::byte*>(to) + r * pitch, tiles_[T][r], kStepBytes);
    }
    // Even and odd k have chains of their own over the 16 pairs of a tile; their sum is added to the result.
    template <int Sum, int A, int B>
    void dot() {
        for (int m = 0; m < rows_[A]; ++m)
            for (int n = 0; n < 16; ++n) {
                float even = 0, odd = 0, sum;
                for (int k = 0; k < rows_[B]; ++k) {
                    even += upper_value(tiles_[A][m][k] << 16) * upper_value(tiles_[B][k][n] << 16);
                    odd += upper_value(tiles_[A][m][k]) * upper_value(tiles_[B][k][n]);
                }
                std::memcpy(&sum, &tiles_[Sum][m][n], sizeof sum);
                sum += even + odd;
                std::memcpy(&tiles_[Sum][m][n], &sum, sizeof sum);
            }
    }
    void release() {}

 private:
    uint8_t rows_[8] = {};
    uint32_t tiles_[8][16][16];
};

}  // namespace

void multiply_emulated_tiles(const BlockProduct& p) {
    TileKernel<EmulatedTiles>{{}, p}.run();
}

}  // namespace noema::cpu
