// The search of points for the nearest of each query; included by instruction_set.hpp alone.
#include "neighbours.hpp"

namespace zprime {
namespace INSIDE(SET) {

constexpr std::size_t R4 = BYTES / 4, BROAD = 3 * R4;  // numbers of a register, and of a panel's width

// Squared distance of two rows in float64, by the direct form.
template <class T> static inline double apart(const double *x, const T *y, std::size_t d, double inverse) {
    typedef double D __attribute__((vector_size(32)));
    typedef T S __attribute__((vector_size(4 * sizeof(T))));
    D a{}, b{};
    std::size_t j = 0;
    for (; j + 8 <= d; j += 8) {
        D u, v;
        S s, t;
        __builtin_memcpy(&u, x + j, sizeof u), __builtin_memcpy(&v, x + j + 4, sizeof v);
        __builtin_memcpy(&s, y + j, sizeof s), __builtin_memcpy(&t, y + j + 4, sizeof t);
        u = (u - __builtin_convertvector(s, D)) * inverse, v = (v - __builtin_convertvector(t, D)) * inverse;
        a += u * u, b += v * v;
    }
    a += b;
    double rest = 0;
    for (; j < d; ++j) {
        const double u = (x[j] - (double)y[j]) * inverse;
        rest += u * u;
    }
    return (a[0] + a[1]) + (a[2] + a[3]) + rest;
}

// The next float above.
static inline float above(double x) {
    const float near = (float)x;
    return near + __builtin_fabsf(near) * 2.4e-7f + 1e-38f;
}

template <class T> struct Asked {
    const Points<T> &p;
    const Queries &w;
    std::size_t first, count, found[QUERIES], compared;
    float limit[QUERIES];  // a pair whose value in the sieve is above is not among the nearest
};

// Those of a panel that pass the sieve for query i, compared one by one.
template <class T> static __attribute__((noinline)) void compare(Asked<T> &a, std::size_t i, std::size_t panel, const float *value) {
    const std::size_t k = a.w.k, at = a.first + i, d = a.p.d;
    double *distance = a.w.distance + at * k;
    std::int64_t *index = a.w.index + at * k;
    const std::int64_t without = a.w.without ? a.w.without[at] : -1;
    for (std::size_t l = 0; l < BROAD; ++l) {
        if (!(value[l] <= a.limit[i])) continue;
        const std::size_t j = panel * BROAD + l;
        if ((std::int64_t)j == without) continue;
        const double x = apart(a.w.row + at * d, a.p.row + j * d, d, a.p.inverse);
        ++a.compared;
        std::size_t place = a.found[i];
        if (place == k) {
            if (!(x < distance[k - 1])) continue;  // equal ones go by position, and this one comes later
            --place;
        } else ++a.found[i];
        for (; place > 0 && x < distance[place - 1]; --place) distance[place] = distance[place - 1], index[place] = index[place - 1];
        distance[place] = x, index[place] = (std::int64_t)j;
        if (a.found[i] == k) a.limit[i] = above(0.5 * distance[k - 1] + a.w.base[at]);
    }
}

template <class T> static std::size_t neighbours(const Points<T> &p, const Queries &w, std::size_t first, std::size_t count, float *room) {
    const std::size_t columns = p.columns, tiles = (count + TILE - 1) / TILE, panels = (p.n + BROAD - 1) / BROAD;
    const std::size_t steps = (columns + STEP - 1) / STEP;
    float *queries = room, *sums = room + QUERIES * columns;  // [tile][column][TILE], negative; and [query][BROAD]
    Asked<T> a{p, w, first, count, {}, 0, {}};
    for (std::size_t i = 0; i < tiles * TILE; ++i) {
        a.limit[i] = i < count ? (float)INF : -(float)INF;
        const float *in = w.sieved + (first + (i < count ? i : 0)) * columns;
        for (std::size_t j = 0; j < columns; ++j) queries[(i / TILE * columns + j) * TILE + i % TILE] = -in[j];
    }
    for (std::size_t panel = 0; panel < panels; ++panel)
        for (std::size_t step = 0; step < steps; ++step) {
            const std::size_t from = columns * step / steps, depth = columns * (step + 1) / steps - from;
            for (std::size_t tile = 0; tile < tiles; ++tile) {
                const float *x = p.panel + (panel * columns + from) * BROAD, *q = queries + (tile * columns + from) * TILE;
                float *sum = sums + tile * TILE * BROAD;
                V<float> acc[TILE][3];
                for (int t = 0; t < TILE; ++t)
                    for (int v = 0; v < 3; ++v) acc[t][v] = load(step ? sum + t * BROAD + v * R4 : p.half + panel * BROAD + v * R4);
                for (std::size_t j = 0; j < depth; ++j, x += BROAD, q += TILE) {
                    const V<float> x0 = load(x), x1 = load(x + R4), x2 = load(x + 2 * R4);
                    for (int t = 0; t < TILE; ++t) {
                        const V<float> u = all(q[t]);
                        acc[t][0] += u * x0, acc[t][1] += u * x1, acc[t][2] += u * x2;
                    }
                }
                if (step + 1 == steps) {
                    M<float> near{};
                    for (int t = 0; t < TILE; ++t)
                        for (int v = 0; v < 3; ++v) near |= acc[t][v] <= a.limit[tile * TILE + t];
                    if (__builtin_expect(!any(near), 1)) continue;
                }
                for (int t = 0; t < TILE; ++t)
                    for (int v = 0; v < 3; ++v) store(sum + t * BROAD + v * R4, acc[t][v]);
                if (step + 1 == steps)
                    for (std::size_t i = tile * TILE; i < tile * TILE + TILE && i < count; ++i) compare(a, i, panel, sums + i * BROAD);
            }
        }
    return a.compared;
}

}  // namespace INSIDE(SET)
}  // namespace zprime
