// The log-density of mixtures with full covariance; included by instruction_set.hpp alone, behind the kernel of low rank, whose last
// step it shares. Differences are taken before they are multiplied, so that means far apart cost no digits.
#include "full.hpp"

namespace zprime {
namespace INSIDE(SET) {

// sum[3] += squares of C rows of W times the differences gap[depth][ACROSS]; W is 0 behind `depth`.
template <int C> static inline void lengthen(const double *w, std::size_t d, const double *gap, std::size_t depth, V<double> (&sum)[3]) {
    constexpr std::size_t R = BYTES / 8;
    V<double> acc[C][3];
    for (int t = 0; t < C; ++t)
        for (int v = 0; v < 3; ++v) acc[t][v] = V<double>{};
    for (std::size_t j = 0; j < depth; ++j, ++w, gap += ACROSS) {
        const V<double> x0 = load(gap), x1 = load(gap + R), x2 = load(gap + 2 * R);
        for (int t = 0; t < C; ++t) {
            const V<double> u = all(w[t * d]);
            acc[t][0] += u * x0, acc[t][1] += u * x1, acc[t][2] += u * x2;
        }
    }
    for (int t = 0; t < C; ++t)
        for (int v = 0; v < 3; ++v) sum[v] += acc[t][v] * acc[t][v];
}

template <int C = TILE>
static inline void lengthen(std::size_t rows, const double *w, std::size_t d, const double *gap, std::size_t depth, V<double> (&sum)[3]) {
    if (rows == C) lengthen<C>(w, d, gap, depth, sum);
    else if constexpr (C > 1) lengthen<C - 1>(rows, w, d, gap, depth, sum);
}

template <class T> static void full(const Full &k, const T *z, std::size_t first, std::size_t count, double *room) {
    constexpr std::size_t R = BYTES / 8;
    const std::size_t d = k.d, groups = (d + TILE - 1) / TILE, used = up_to(count, ACROSS);
    double *turned = room, *gap = turned + CODES * d, *sums = gap + ACROSS * d;  // [point / ACROSS][d][ACROSS]; [components][CODES]
    for (std::size_t i = 0; i < used; ++i) {
        const T *from = z + (first + (i < count ? i : 0)) * d;
        double *to = turned + i / ACROSS * ACROSS * d + i % ACROSS;
        for (std::size_t j = 0; j < d; ++j) to[j * ACROSS] = (double)from[j];
    }
    for (std::size_t c = 0; c < k.components; ++c) {
        const double *mean = k.mean + c * d, *w = k.whiten + c * d * d;
        for (std::size_t start = 0; start < used; start += ACROSS) {
            for (std::size_t j = 0; j < d; ++j)
                for (int v = 0; v < 3; ++v) store(gap + j * ACROSS + v * R, load(turned + start * d + j * ACROSS + v * R) - mean[j]);
            V<double> sum[3] = {};
            for (std::size_t g = 0; g < groups; ++g) {
                const std::size_t row = d * g / groups, depth = d * (g + 1) / groups;
                lengthen(depth - row, w + row * d, d, gap, depth, sum);
            }
            for (int v = 0; v < 3; ++v) store(sums + c * CODES + start + v * R, sum[v]);
        }
    }
    const LowRank rest{k.n, d, k.components, 0, 0, nullptr, nullptr, nullptr, k.constant, nullptr, k.log_prob, nullptr};
    finish(rest, first, count, sums);
}

}  // namespace INSIDE(SET)
}  // namespace zprime
