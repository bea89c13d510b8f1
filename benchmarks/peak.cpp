// Fused multiply-adds that one core can do: single precision GFLOP a second, to compare kernels with.
// Independent sums, so that none waits for itself; vectors as wide as those of the instruction set it is compiled for.
#include <cstdio>
#include <ctime>
#ifdef __AVX512F__
constexpr int LANES = 16, SUMS = 12;
#else
constexpr int LANES = 8, SUMS = 8;
#endif
typedef float V __attribute__((vector_size(4 * LANES)));

int main() {
    V sum[SUMS], x, y;
    for (int i = 0; i < LANES; ++i) x[i] = 0.999f, y[i] = 1e-9f;
    for (int k = 0; k < SUMS; ++k) sum[k] = x * static_cast<float>(k);
    double best = 0;
    for (int r = 0; r < 5; ++r) {
        const clock_t start = clock();
        for (long i = 0; i < 20000000; ++i)
            for (int k = 0; k < SUMS; ++k) sum[k] = sum[k] * x + y;
        const double seconds = static_cast<double>(clock() - start) / CLOCKS_PER_SEC;
        const double rate = 20e6 * SUMS * 2 * LANES / seconds / 1e9;
        if (rate > best) best = rate;
    }
    float used = 0;
    for (int k = 0; k < SUMS; ++k) used += sum[k][0];
    std::printf("%.1f %g\n", best, used);
}
