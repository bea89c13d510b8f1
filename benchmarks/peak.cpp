// Fused multiply-adds that one core can do: single precision GFLOP a second, to compare kernels with.
// Eight independent sums, so that none waits for itself.
#include <cstdio>
#include <ctime>
typedef float V __attribute__((vector_size(32)));

int main() {
    V sum[8], x, y;
    for (int i = 0; i < 8; ++i) x[i] = 0.999f, y[i] = 1e-9f;
    for (int k = 0; k < 8; ++k) sum[k] = x * static_cast<float>(k);
    double best = 0;
    for (int r = 0; r < 5; ++r) {
        const clock_t start = clock();
        for (long i = 0; i < 50000000; ++i)
            for (int k = 0; k < 8; ++k) sum[k] = sum[k] * x + y;
        const double seconds = static_cast<double>(clock() - start) / CLOCKS_PER_SEC;
        const double rate = 50e6 * 8 * 16 / seconds / 1e9;
        if (rate > best) best = rate;
    }
    float used = 0;
    for (int k = 0; k < 8; ++k) used += sum[k][0];
    std::printf("%.1f %g\n", best, used);
}
