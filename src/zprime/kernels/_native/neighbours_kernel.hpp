// The search of points for the nearest of each query; included by instruction_set.hpp alone.
#include "neighbours.hpp"

namespace zprime {
namespace INSIDE(SET) {

constexpr std::size_t R4 = BYTES / 4, BROAD = 3 * R4;  // numbers of a register, and of a panel's width

// Squared distance of two rows in float64, by the direct form. The order of the sum is the same for every instruction set.
template <class T> static inline double apart(const double *x, const T *y, std::size_t d, double inverse) {
    typedef double D __attribute__((vector_size(64)));
    typedef T S __attribute__((vector_size(8 * sizeof(T))));
    D sum[4] = {};  // of many parts, so that none waits for the one before
    const auto take = [&](std::size_t at, D &to) {
        D u;
        S s;
        __builtin_memcpy(&u, x + at, sizeof u), __builtin_memcpy(&s, y + at, sizeof s);
        u = (u - __builtin_convertvector(s, D)) * inverse;
        to += u * u;
    };
    std::size_t j = 0;
    for (; j + 32 <= d; j += 32)
        for (int part = 0; part < 4; ++part) take(j + 8 * part, sum[part]);
    for (; j + 8 <= d; j += 8) take(j, sum[0]);
    double rest = 0;
    for (; j < d; ++j) {
        const double u = (x[j] - (double)y[j]) * inverse;
        rest += u * u;
    }
    const D a = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7])) + rest;
}

// The next float above.
static inline float above(double x) {
    const float near = (float)x;
    return near + __builtin_fabsf(near) * 2.4e-7f + 1e-38f;
}

// Squared distance in float32.
static inline float close(const float *x, const float *y, std::size_t d) {
    V<float> a{}, b{};
    std::size_t j = 0;
    for (; j + 2 * R4 <= d; j += 2 * R4) {
        const V<float> u = load(x + j) - load(y + j), v = load(x + j + R4) - load(y + j + R4);
        a += u * u, b += v * v;
    }
    a += b;
    typedef float Part __attribute__((vector_size(16)));
    Part part[R4 / 4];
    __builtin_memcpy(part, &a, sizeof a);
    for (std::size_t l = R4 / 8; l > 0; l /= 2)
        for (std::size_t i = 0; i < l; ++i) part[i] += part[i + l];
    float sum = (part[0][0] + part[0][1]) + (part[0][2] + part[0][3]);
    for (; j < d; ++j) sum += (x[j] - y[j]) * (x[j] - y[j]);
    return sum;
}

constexpr std::size_t LATER = 64;  // pairs of a query that wait for the comparison in float64: the nearest of them go first

template <class T> struct Asked {
    const Points<T> &p;
    const Queries &w;
    const std::int64_t *at;
    std::size_t count, found[QUERIES], waiting[QUERIES], compared;
    float limit[QUERIES];  // a pair whose value in the sieve is above is not among the nearest,
    float most[QUERIES];   // nor one whose squared distance there is above this
    float distance[QUERIES][LATER];
    std::int64_t point[QUERIES][LATER];
};

// Compares query i with point j in float64.
template <class T> static void compare(Asked<T> &a, std::size_t i, std::int64_t j) {
    const std::size_t k = a.w.k, at = (std::size_t)a.at[i], d = a.p.d;
    double *distance = a.w.distance + at * k;
    std::int64_t *index = a.w.index + at * k;
    const double x = apart(a.w.row + at * d, a.p.row + (std::size_t)j * d, d, a.p.inverse);
    ++a.compared;
    std::size_t place = a.found[i];
    if (place == k) {
        if (x > distance[k - 1] || (x == distance[k - 1] && j > index[k - 1])) return;
        --place;
    } else ++a.found[i];
    for (; place > 0 && (x < distance[place - 1] || (x == distance[place - 1] && j < index[place - 1])); --place)
        distance[place] = distance[place - 1], index[place] = index[place - 1];  // equal ones go by position
    distance[place] = x, index[place] = j;
    if (a.found[i] == k) {
        a.limit[i] = above(0.5 * distance[k - 1] + a.w.base[at]);
        a.most[i] = above(distance[k - 1] + a.w.error[at]);
    }
}

// Compares what waits, the nearest first: little of what is left passes then.
template <class T> static __attribute__((noinline)) void settle(Asked<T> &a, std::size_t i) {
    for (std::size_t n = a.waiting[i]; n > 0; --n) {
        std::size_t best = 0;
        for (std::size_t l = 1; l < n; ++l)
            if (a.distance[i][l] < a.distance[i][best]) best = l;
        if (a.distance[i][best] > a.most[i]) break;
        const std::int64_t j = a.point[i][best];
        a.distance[i][best] = a.distance[i][n - 1], a.point[i][best] = a.point[i][n - 1];
        compare(a, i, j);
    }
    a.waiting[i] = 0;
}

// Those of a panel that pass the sieve for query i.
template <class T> static __attribute__((noinline)) void pass(Asked<T> &a, std::size_t i, std::size_t panel, const float *value) {
    const std::size_t at = (std::size_t)a.at[i], more = a.p.more;
    const std::int64_t without = a.w.without ? a.w.without[at] : -1;
    for (std::size_t r = 0; r < BROAD; r += R4) {
        if (!any(load(value + r) <= a.limit[i])) continue;
        for (std::size_t l = r; l < r + R4; ++l) {
            if (!(value[l] <= a.limit[i])) continue;
            const std::int64_t j = a.p.order[panel * BROAD + l];
            if (j == without) continue;
            if (more) {
                const float x = close(a.w.fine + at * more, a.p.fine + (panel * BROAD + l) * more, more);
                if (x > a.most[i]) continue;
                a.distance[i][a.waiting[i]] = x, a.point[i][a.waiting[i]] = j;
                if (++a.waiting[i] == LATER) settle(a, i);
            } else compare(a, i, j);
        }
    }
}

// Squares of how near a query may at least be to the points of each panel: distances to its ball, less their rounding.
static std::size_t balls(const float *query, const float *centre, const float *radius, std::size_t columns, std::size_t panels, std::size_t padded,
                         float *bound) {
    const float sure = 1 - (float)(columns + 8) * 1.2e-7f;
    std::size_t nearest = 0;
    for (std::size_t p = 0; p < padded; p += R4) {
        V<float> sum{};
        for (std::size_t j = 0; j < columns; ++j) {
            const V<float> u = query[j] - load(centre + j * padded + p);
            sum += u * u;
        }
        store(bound + p, sum);
    }
    for (std::size_t p = 1; p < panels; ++p)
        if (bound[p] < bound[nearest]) nearest = p;
    for (std::size_t p = 0; p < panels; ++p) {
        const float far = __builtin_sqrtf(bound[p]) * sure - radius[p];
        bound[p] = far > 0 ? far * far * sure : 0;
    }
    return nearest;
}

// One panel against all queries that are not known to be too far off.
template <class T> static void sieve(Asked<T> &a, std::size_t panel, const float *queries, const float *bound, std::size_t padded, float *sums) {
    const Points<T> &p = a.p;
    const std::size_t columns = p.columns, tiles = (a.count + TILE - 1) / TILE, steps = (columns + STEP - 1) / STEP;
    bool off[QUERIES / TILE];
    for (std::size_t tile = 0; tile < tiles; ++tile) {
        off[tile] = true;
        for (std::size_t i = tile * TILE; i < tile * TILE + TILE && i < a.count; ++i) off[tile] &= bound[i * padded + panel] > a.most[i];
    }
    for (std::size_t step = 0; step < steps; ++step) {
        const std::size_t from = columns * step / steps, depth = columns * (step + 1) / steps - from;
        for (std::size_t tile = 0; tile < tiles; ++tile) {
            if (off[tile]) continue;
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
                for (std::size_t i = tile * TILE; i < tile * TILE + TILE && i < a.count; ++i) pass(a, i, panel, sums + i * BROAD);
        }
    }
}

template <class T> static std::size_t neighbours(const Points<T> &p, const Queries &w, std::size_t first, std::size_t count, float *room) {
    const std::size_t columns = p.columns, tiles = (count + TILE - 1) / TILE, panels = (p.n + BROAD - 1) / BROAD;
    const std::size_t padded = neighbours_panels(p.n, TILE);
    float *queries = room, *sums = room + QUERIES * columns;  // [tile][column][TILE], negative; and [query][BROAD]
    float *bound = sums + QUERIES * BROAD, *searched = bound + QUERIES * padded;
    Asked<T> a{p, w, w.order + first, count, {}, {}, 0, {}, {}, {}, {}};
    for (std::size_t i = 0; i < tiles * TILE; ++i) {
        a.limit[i] = i < count ? (float)INF : -(float)INF;
        a.most[i] = (float)INF;
        const float *in = w.sieved + (std::size_t)a.at[i < count ? i : 0] * columns;
        for (std::size_t j = 0; j < columns; ++j) queries[(i / TILE * columns + j) * TILE + i % TILE] = -in[j];
    }
    for (std::size_t panel = 0; panel < panels; ++panel) searched[panel] = 0;
    std::size_t nearest[QUERIES];
    for (std::size_t i = 0; i < count; ++i)
        nearest[i] = balls(w.sieved + (std::size_t)a.at[i] * columns, p.centre, p.radius, columns, panels, padded, bound + i * padded);
    for (std::size_t i = 0; i < count; ++i) {  // first where neighbours are likely, so that later little passes
        if (searched[nearest[i]] != 0) continue;
        sieve(a, nearest[i], queries, bound, padded, sums);
        searched[nearest[i]] = 1;
    }
    for (std::size_t i = 0; i < count; ++i) settle(a, i);
    for (std::size_t panel = 0; panel < panels; ++panel)
        if (searched[panel] == 0) sieve(a, panel, queries, bound, padded, sums);
    for (std::size_t i = 0; i < count; ++i) settle(a, i);
    return a.compared;
}

}  // namespace INSIDE(SET)
}  // namespace zprime
