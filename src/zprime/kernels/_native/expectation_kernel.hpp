// Shares of data in components, and their sums; included by instruction_set.hpp alone. Two products of matrices, blocked by hand:
// what is made of DATA data stays in the second cache, what a tile reads of it in the first.
#include "expectation.hpp"

namespace zprime {
namespace INSIDE(SET) {

constexpr std::size_t R8 = BYTES / 8, WIDE = 3 * R8;  // numbers of a register, and of a tile's width
constexpr std::size_t DEPTH = 256;                    // features that are multiplied in one go
constexpr std::size_t GROUP = 8;                      // tiles of components that are taken together
constexpr double LEAST = -900;                        // bits: a share below counts as this; all would be slow, and nothing

// c[TILE][DATA] (+)= sum over depth of w[depth][TILE] x[depth][WIDE].
static inline void multiply(const double *w, const double *x, std::size_t depth, double *c, bool more) {
    V<double> acc[TILE][3];
    for (int t = 0; t < TILE; ++t)
        for (int v = 0; v < 3; ++v) acc[t][v] = more ? load(c + t * DATA + v * R8) : V<double>{};
    for (std::size_t j = 0; j < depth; ++j, w += TILE, x += WIDE) {
        const V<double> x0 = load(x), x1 = load(x + R8), x2 = load(x + 2 * R8);
        for (int t = 0; t < TILE; ++t) {
            const V<double> u = all(w[t]);
            acc[t][0] += u * x0, acc[t][1] += u * x1, acc[t][2] += u * x2;
        }
    }
    for (int t = 0; t < TILE; ++t)
        for (int v = 0; v < 3; ++v) store(c + t * DATA + v * R8, acc[t][v]);
}

// s[TILE][stride] += sum over data of share[TILE][DATA] x[DATA][WIDE].
static inline void gather(const double *share, const double *x, double *s, std::size_t stride) {
    V<double> acc[TILE][3];
    for (int t = 0; t < TILE; ++t)
        for (int v = 0; v < 3; ++v) acc[t][v] = load(s + t * stride + v * R8);
    for (std::size_t i = 0; i < DATA; ++i, x += WIDE) {
        const V<double> x0 = load(x), x1 = load(x + R8), x2 = load(x + 2 * R8);
        for (int t = 0; t < TILE; ++t) {
            const V<double> u = all(share[t * DATA + i]);
            acc[t][0] += u * x0, acc[t][1] += u * x1, acc[t][2] += u * x2;
        }
    }
    for (int t = 0; t < TILE; ++t)
        for (int v = 0; v < 3; ++v) store(s + t * stride + v * R8, acc[t][v]);
}

// Features of some data, twice: down [datum / WIDE][feature][WIDE], and along [feature / WIDE][datum][WIDE].
static void features(const Expectation &e, std::size_t first, std::size_t count, double *down, double *along, double *mean) {
    const std::size_t d = e.d, padded = up_to(e.features, WIDE);
    const bool diagonal = e.features == 2 * d + 1;
    double *variance = mean + d * DATA;  // both turned, [dimension][datum]
    for (std::size_t i = 0; i < DATA; ++i) {
        const std::size_t row = (first + (i < count ? i : 0)) * d;
        for (std::size_t j = 0; j < d; ++j) mean[j * DATA + i] = e.mean[row + j];
        for (std::size_t j = 0; j < d; ++j) variance[j * DATA + i] = e.variance ? e.variance[row + j] : 0;
    }
    for (std::size_t start = 0; start < DATA; start += WIDE) {
        double *out = down + start * padded;
        for (std::size_t j = 0; j < d; ++j)
            for (std::size_t l = j; l < (diagonal ? j + 1 : d); ++l, out += WIDE)
                for (std::size_t v = start; v < start + WIDE; v += R8) {
                    V<double> x = load(mean + j * DATA + v) * load(mean + l * DATA + v);
                    if (l == j) x += load(variance + j * DATA + v);
                    store(out + v - start, x);
                }
        for (std::size_t j = 0; j < d; ++j, out += WIDE) __builtin_memcpy(out, mean + j * DATA + start, WIDE * sizeof(double));
        for (std::size_t j = e.features - 1; j < padded; ++j)
            for (std::size_t v = 0; v < WIDE; ++v) *out++ = j < e.features;
        for (std::size_t j = 0; j < padded; j += WIDE) {
            const double *from = down + start * padded + j * WIDE;
            double *to = along + j * DATA + start * WIDE;
            for (std::size_t i = 0; i < WIDE; ++i)
                for (std::size_t l = 0; l < WIDE; ++l) to[i * WIDE + l] = from[l * WIDE + i];
        }
    }
}

// From bits to shares times weights, in place, [component][DATA]; log2 of their sums.
static void shares(const Expectation &e, std::size_t first, std::size_t count, double *c) {
    for (std::size_t start = 0; start < DATA; start += LINE / 8) {
        V<double> largest[NV], total[NV];
        double factor[LINE / 8];
        for (int v = 0; v < NV; ++v) largest[v] = load(c + start + v * R8), total[v] = V<double>{};
        for (std::size_t k = 1; k < e.components; ++k)
            for (int v = 0; v < NV; ++v) {
                const V<double> x = load(c + k * DATA + start + v * R8);
                largest[v] = choose<double>(x > largest[v], x, largest[v]);
            }
        for (std::size_t k = 0; k < e.components; ++k)
            for (int v = 0; v < NV; ++v) {
                double *at = c + k * DATA + start + v * R8;
                V<double> x = load(at) - largest[v];
                x = power(choose<double>(x < LEAST, all(LEAST), x));
                store(at, x);
                total[v] += x;
            }
        for (std::size_t i = 0; i < LINE / 8; ++i) {
            const double sum = total[i / R8][i % R8];
            factor[i] = 0;
            if (start + i >= count) continue;
            factor[i] = e.weight[first + start + i] / sum;
            e.log_total[first + start + i] = largest[i / R8][i % R8] + __builtin_log2(sum);
        }
        for (std::size_t k = 0; k < e.components; ++k)
            for (int v = 0; v < NV; ++v) {
                double *at = c + k * DATA + start + v * R8;
                store(at, load(at) * load(factor + v * R8));
            }
    }
}

static void expectation(const Expectation &e, std::size_t first, std::size_t count, double *statistics, double *room) {
    const std::size_t f = e.features, tiles = (e.components + TILE - 1) / TILE, padded = up_to(f, WIDE);
    double *down = room, *along = down + DATA * padded, *c = along + DATA * padded;
    features(e, first, count, down, along, c + DATA * tiles * TILE);
    for (std::size_t from = 0; from < f; from += DEPTH) {
        const std::size_t depth = f - from < DEPTH ? f - from : DEPTH;
        for (std::size_t group = 0; group < tiles; group += GROUP) {
            const std::size_t last = group + GROUP < tiles ? group + GROUP : tiles;
            for (std::size_t start = 0; start < DATA; start += WIDE)
                for (std::size_t t = group; t < last; ++t)
                    multiply(e.natural + (t * f + from) * TILE, down + start * padded + from * WIDE, depth,
                             c + t * TILE * DATA + start, from > 0);
        }
    }
    shares(e, first, count, c);
    for (std::size_t j = 0; j < padded; j += WIDE)
        for (std::size_t t = 0; t < tiles; ++t)
            gather(c + t * TILE * DATA, along + j * DATA, statistics + t * TILE * padded + j, padded);
}

}  // namespace INSIDE(SET)
}  // namespace zprime
