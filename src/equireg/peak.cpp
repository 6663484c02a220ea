// The multiply-adds that one core does at its best: independent chains in registers, no memory.
#include <chrono>

#if defined(__AVX512F__)
#define LANES 16
#define CHAINS 24
#elif defined(__AVX__)
#define LANES 8
#define CHAINS 12
#else
#define LANES 4
#define CHAINS 12
#endif

typedef float Lanes __attribute__((vector_size(4 * LANES)));

// GFLOP/s of ``rounds`` rounds, a multiply-add being two. ``result``, 0 before, is what they make:
// so the compiler can leave none of them out.
extern "C" double peak(int rounds, float* result) {
    Lanes sums[CHAINS];
#pragma GCC unroll 32
    for (int c = 0; c < CHAINS; ++c) sums[c] = Lanes{} + (*result + c);
    const Lanes x = Lanes{} + (*result + 0.999f), y = Lanes{} + (*result + 0.001f);
    const auto began = std::chrono::steady_clock::now();
    for (int k = 0; k < rounds; ++k) {
#pragma GCC unroll 32
        for (int c = 0; c < CHAINS; ++c) sums[c] = sums[c] * x + y;
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    Lanes sum = {};
#pragma GCC unroll 32
    for (int c = 0; c < CHAINS; ++c) sum += sums[c];
    *result = sum[0];
    return 2e-9 * CHAINS * LANES * rounds / took.count();
}
