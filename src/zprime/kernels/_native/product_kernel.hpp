// Log-ratios of posteriors and components with full covariance; included by instruction_set.hpp alone.
#include "product.hpp"

namespace zprime {
namespace INSIDE(SET) {

constexpr std::size_t PIVOTS = 8;  // pivots of whose product one logarithm is taken: it holds those from 1e-38 to 1e38

// One posterior beside the components of a register. P = L D L' is factorised in place, a column at a time; what a column
// takes from those behind it is independent of one another, so that no sum waits for the one before.
static inline void product(const Product &k, std::size_t i, std::size_t block, std::size_t lane, double *a, double *h) {
    constexpr std::size_t R = BYTES / 8;
    const std::size_t d = k.d, size = d * (d + 1) / 2;
    const double *inverse = k.inverse + block * size * 8 + lane, *shift = k.shift + block * d * 8 + lane;
    const double *own = k.own + i * d, *pull = k.pull + i * d;
    for (std::size_t j = 0, at = 0; j < d; ++j) {
        store(h + j * R, load(shift + j * 8) + pull[j]);
        store(a + at * R, load(inverse + at * 8) + own[j] - 1.0);
        for (std::size_t l = 1; l < d - j; ++l) store(a + (at + l) * R, load(inverse + (at + l) * 8));
        at += d - j;
    }
    V<double> quadratic{}, gathered = all(1.0), logarithm{};
    M<double> bad{};
    for (std::size_t j = 0, at = 0; j < d; ++j) {
        const std::size_t rest = d - j;
        const V<double> pivot = load(a + at * R), y = load(h + j * R), reciprocal = 1.0 / pivot;
        bad |= ~(pivot > 0.0);
        quadratic += y * y * reciprocal;
        gathered *= pivot;
        if (j % PIVOTS == PIVOTS - 1 || j + 1 == d) {
            for (std::size_t r = 0; r < R; ++r) logarithm[r] += __builtin_log(gathered[r]);
            gathered = all(1.0);
        }
        const double *column = a + at * R;
        double *to = a + (at + rest) * R;
        for (std::size_t l = 1; l < rest; ++l) {
            const V<double> f = load(column + l * R) * reciprocal;
            store(h + (j + l) * R, load(h + (j + l) * R) - f * y);
            for (std::size_t r = l; r < rest; ++r, to += R) store(to, load(to) - f * load(column + r * R));
        }
        at += rest;
    }
    const V<double> value = choose<double>(bad, all(INF), 0.5 * (quadratic - logarithm + load(k.constant + block * 8 + lane) + k.offset[i]));
    const std::size_t first = block * 8 + lane;
    for (std::size_t r = 0; r < R && first + r < k.n; ++r) k.out[i * k.n + first + r] = value[r];
}

static void products(const Product &k, std::size_t first, std::size_t count, std::size_t block, double *room) {
    const std::size_t used = k.n - block * 8 < 8 ? k.n - block * 8 : 8;
    for (std::size_t i = first; i < first + count; ++i)
        for (std::size_t lane = 0; lane < used; lane += BYTES / 8) product(k, i, block, lane, room, room + k.d * (k.d + 1) / 2 * (BYTES / 8));
}

}  // namespace INSIDE(SET)
}  // namespace zprime
