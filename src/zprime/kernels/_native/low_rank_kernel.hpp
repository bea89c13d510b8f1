// The log-density of mixtures of low rank, and its gradient; included by instruction_set.hpp alone. Products of matrices, blocked by
// hand: what a tile reads stays in the first cache, the points of a block and their projections in the second.
#include "low_rank.hpp"

namespace zprime {
namespace INSIDE(SET) {

constexpr std::size_t ACROSS = 3 * BYTES / 8;  // points of a tile
constexpr double NOTHING = 0x1p-100;           // a share below adds nothing to a gradient
constexpr double LN2 = 0.693147180559945309417;

// Some dimensions of a block, turned: [point / ACROSS][dimension][ACROSS]. Few rows at a time, for rows that are a power of
// two apart share their places in the cache.
template <class T> static void turn(const T *z, std::size_t d, std::size_t count, std::size_t used, std::size_t depth, double *out) {
    constexpr std::size_t R = BYTES / 8, L = lanes<double>();
    for (std::size_t first = 0; first < used; first += R) {
        double *to = out + first / ACROSS * ACROSS * depth + first % ACROSS;
        for (std::size_t j = 0; j < depth; j += L)
            for (std::size_t i = 0; i < R; ++i) {
                const T *from = z + (first + i < count ? first + i : 0) * d + j;
                for (std::size_t l = 0; l < L; ++l) to[(j + l) * ACROSS + i] = (double)from[l];
            }
    }
}

// u of some dimensions of a tile, and the sum of its squares: out[ACROSS] (+)= |u|^2.
static inline void whiten(const double *z, const double *mean, const double *inverse, std::size_t depth, double *u, double *out, bool more) {
    constexpr std::size_t R = BYTES / 8;
    V<double> even[3], odd[3];
    for (int v = 0; v < 3; ++v) even[v] = more ? load(out + v * R) : V<double>{}, odd[v] = V<double>{};
    for (std::size_t j = 0; j < depth; j += 2, z += 2 * ACROSS, u += 2 * ACROSS) {
        const V<double> m = all(mean[j]), w = all(inverse[j]), n = all(mean[j + 1]), x = all(inverse[j + 1]);
        for (int v = 0; v < 3; ++v) {
            const V<double> a = (load(z + v * R) - m) * w, b = (load(z + ACROSS + v * R) - n) * x;
            store(u + v * R, a), store(u + ACROSS + v * R, b);
            even[v] += a * a, odd[v] += b * b;
        }
    }
    for (int v = 0; v < 3; ++v) store(out + v * R, even[v] + odd[v]);
}

// out[C][CODES] (+)= sum over depth of b[C][depth] u[depth][ACROSS].
template <int C>
static inline void project(const double *b, std::size_t stride, const double *u, std::size_t depth, double *out, bool more) {
    constexpr std::size_t R = BYTES / 8;
    V<double> acc[C][3];
    for (int t = 0; t < C; ++t)
        for (int v = 0; v < 3; ++v) acc[t][v] = more ? load(out + t * CODES + v * R) : V<double>{};
    for (std::size_t j = 0; j < depth; ++j, ++b, u += ACROSS) {
        const V<double> x0 = load(u), x1 = load(u + R), x2 = load(u + 2 * R);
        for (int t = 0; t < C; ++t) {
            const V<double> w = all(b[t * stride]);
            acc[t][0] += w * x0, acc[t][1] += w * x1, acc[t][2] += w * x2;
        }
    }
    for (int t = 0; t < C; ++t)
        for (int v = 0; v < 3; ++v) store(out + t * CODES + v * R, acc[t][v]);
}

template <int C = TILE>
static inline void project(std::size_t rows, const double *b, std::size_t stride, const double *u, std::size_t depth, double *out, bool more) {
    if (rows == C) project<C>(b, stride, u, depth, out, more);
    else if constexpr (C > 1) project<C - 1>(rows, b, stride, u, depth, out, more);
}

// From |u|^2 and B u to log-densities, and, in the place of |u|^2, each component's share.
static void finish(const LowRank &k, std::size_t first, std::size_t count, double *sums) {
    constexpr std::size_t R = BYTES / 8, L = lanes<double>();
    const std::size_t step = (k.rank + 1) * CODES;
    for (std::size_t start = 0; start < count; start += L) {
        V<double> largest[NV], total[NV];
        for (int v = 0; v < NV; ++v) largest[v] = all(-INF), total[v] = V<double>{};
        for (std::size_t c = 0; c < k.components; ++c)
            for (int v = 0; v < NV; ++v) {
                double *at = sums + c * step + start + v * R;
                V<double> along{};
                for (std::size_t t = 1; t <= k.rank; ++t) {
                    const V<double> p = load(at + t * CODES);
                    along += p * p;
                }
                const V<double> x = k.constant[c] - 0.5 * (load(at) - along);
                store(at, x);
                largest[v] = choose<double>(x > largest[v], x, largest[v]);
            }
        const std::size_t used = start + L < count ? L : count - start;
        if (k.terms)
            for (std::size_t i = 0; i < used; ++i)
                for (std::size_t c = 0; c < k.components; ++c)
                    k.terms[(first + start + i) * k.components + c] = sums[c * step + start + i];
        for (std::size_t c = 0; c < k.components; ++c)
            for (int v = 0; v < NV; ++v) {
                double *at = sums + c * step + start + v * R;
                // -inf everywhere: any finite number will do for the largest
                const V<double> top = choose<double>(largest[v] == all(-INF), V<double>{}, largest[v]);
                const V<double> x = load(at), y = (x - top) * (1 / LN2), share = power(y);
                const V<double> kept = choose<double>(y < -1000.0, V<double>{}, share);
                store(at, choose<double>(x == x, kept, x));
                total[v] += load(at);
            }
        double sum[L], top[L];
        for (int v = 0; v < NV; ++v) store(sum + v * R, total[v]), store(top + v * R, largest[v]);
        for (std::size_t i = 0; i < used; ++i) k.log_prob[first + start + i] = top[i] + LN2 * __builtin_log2(sum[i]);
        if (!k.score) continue;
        for (std::size_t c = 0; c < k.components; ++c)
            for (int v = 0; v < NV; ++v) {
                double *at = sums + c * step + start + v * R;
                store(at, load(at) / total[v]);
            }
    }
}

// score[TILE] -= share (u - B^T B u) / scale, of one component at the points `at`; q[rank][TILE] is share times B u.
template <class T>
static inline void pull(const LowRank &k, std::size_t c, const T *z, const std::size_t *at, const double *share, const double *q) {
    constexpr std::size_t R = BYTES / 8, L = lanes<double>();
    typedef T S __attribute__((vector_size(R * sizeof(T))));
    const double *mean = k.mean + c * k.d, *inverse = k.inverse + c * k.d, *b = k.factor + c * k.rank * k.stride;
    for (std::size_t j = 0; j < k.d; j += L) {
        V<double> acc[TILE][NV];
        for (int p = 0; p < TILE; ++p)
            for (int v = 0; v < NV; ++v) {
                S s;
                __builtin_memcpy(&s, z + at[p] * k.d + j + v * R, sizeof s);
                acc[p][v] = share[p] * ((__builtin_convertvector(s, V<double>) - load(mean + j + v * R)) * load(inverse + j + v * R));
            }
        for (std::size_t t = 0; t < k.rank; ++t)
            for (int v = 0; v < NV; ++v) {
                const V<double> x = load(b + t * k.stride + j + v * R);
                for (int p = 0; p < TILE; ++p) acc[p][v] -= q[t * TILE + p] * x;
            }
        for (int p = 0; p < TILE; ++p)
            for (int v = 0; v < NV; ++v) {
                double *out = k.score + at[p] * k.d + j + v * R;
                store(out, load(out) - acc[p][v] * load(inverse + j + v * R));
            }
    }
}

// The gradient, component by component, at the points where it counts.
template <class T>
static void gradient(const LowRank &k, const T *z, std::size_t first, std::size_t count, const double *sums, double *q) {
    __builtin_memset(k.score + first * k.d, 0, count * k.d * sizeof(double));
    for (std::size_t c = 0; c < k.components; ++c) {
        const double *share = sums + c * (k.rank + 1) * CODES;
        for (std::size_t i = 0; i < count;) {
            std::size_t at[TILE], found = 0;
            double weight[TILE];
            for (; i < count && found < TILE; ++i) {
                if (share[i] < NOTHING) continue;
                weight[found] = share[i];
                for (std::size_t t = 0; t < k.rank; ++t) q[t * TILE + found] = share[i] * share[(t + 1) * CODES + i];
                at[found++] = first + i;
            }
            if (found == 0) break;
            for (std::size_t p = found; p < TILE; ++p) {  // too few for a tile: the first again, without weight
                at[p] = at[0], weight[p] = 0;
                for (std::size_t t = 0; t < k.rank; ++t) q[t * TILE + p] = 0;
            }
            pull(k, c, z, at, weight, q);
        }
    }
}

template <class T> static void low_rank(const LowRank &k, const T *z, std::size_t first, std::size_t count, double *room) {
    double *turned = room, *u = turned + CODES * SLICE, *sums = u + ACROSS * SLICE;
    const std::size_t groups = (k.rank + TILE - 1) / TILE, step = (k.rank + 1) * CODES, used = up_to(count, ACROSS);
    for (std::size_t from = 0; from < k.d; from += SLICE) {
        const std::size_t depth = k.d - from < SLICE ? k.d - from : SLICE;
        turn(z + first * k.d + from, k.d, count, used, depth, turned);
        for (std::size_t c = 0; c < k.components; ++c)
            for (std::size_t start = 0; start < used; start += ACROSS) {
                double *out = sums + c * step + start;
                const double *b = k.factor + c * k.rank * k.stride + from;
                whiten(turned + start * depth, k.mean + c * k.d + from, k.inverse + c * k.d + from, depth, u, out, from > 0);
                for (std::size_t g = 0; g < groups; ++g) {
                    const std::size_t row = k.rank * g / groups, rows = k.rank * (g + 1) / groups - row;
                    project(rows, b + row * k.stride, k.stride, u, depth, out + (1 + row) * CODES, from > 0);
                }
            }
    }
    finish(k, first, count, sums);
    if (k.score) gradient(k, z, first, count, sums, sums + k.components * step);
}

}  // namespace INSIDE(SET)
}  // namespace zprime
