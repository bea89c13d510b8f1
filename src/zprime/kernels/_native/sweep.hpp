// The sweep of points over a panel of components; included by set.hpp alone.
#include "mixture.hpp"

namespace zprime {
namespace INSIDE(SET) {

// The direct form in float64 for one component, from the caller's own numbers, in bits.
template <class T> static double exactly(const T *z, const T *mean, const T *scale, std::size_t d) {
    typedef double D __attribute__((vector_size(32)));
    typedef T S __attribute__((vector_size(4 * sizeof(T))));
    D a{}, b{};
    std::size_t j = 0;
    for (; j + 8 <= d; j += 8) {
        S x, y, s;
        __builtin_memcpy(&x, z + j, sizeof x), __builtin_memcpy(&y, mean + j, sizeof y);
        __builtin_memcpy(&s, scale + j, sizeof s);
        D u = (__builtin_convertvector(x, D) - __builtin_convertvector(y, D)) / __builtin_convertvector(s, D);
        a += u * u;
        __builtin_memcpy(&x, z + j + 4, sizeof x), __builtin_memcpy(&y, mean + j + 4, sizeof y);
        __builtin_memcpy(&s, scale + j + 4, sizeof s);
        D v = (__builtin_convertvector(x, D) - __builtin_convertvector(y, D)) / __builtin_convertvector(s, D);
        b += v * v;
    }
    a += b;
    double rest = 0;
    for (; j < d; ++j) {
        double u = ((double)z[j] - (double)mean[j]) / (double)scale[j];
        rest += u * u;
    }
    return 0.72134752044448170368 * ((a[0] + a[1]) + (a[2] + a[3]) + rest);  // log2(e) / 2
}

constexpr std::size_t START = 8;    // groups that a few points begin with
constexpr int MUCH = 3;             // bits below the sum so far at which a term stops being much of it,
constexpr int LITTLE = 7;           // and further bits at which its rounding matters little
constexpr int HOPELESS = 4;         // errors this many times too large in too many terms: float32 will not do
constexpr std::size_t FLUSH = 128;  // groups after which a score in T goes to float64

// The relative error of a: subtraction, product and the stored r round once each and are squared, the constant rounds
// twice, then the sum.
template <class T> static inline T slack(std::size_t d) {
    return (T)((9 + d) * (sizeof(T) == 4 ? 5.9604645e-8 : 1.1102230246251565e-16) * 1.01);
}

template <class T> struct Block {  // what a thread keeps of its points
    std::size_t at[POINTS];        // their places in the caller's arrays
    double shift[POINTS], total[POINTS], doubt[POINTS];
    T limit[POINTS];               // a term whose a is above this is not looked at
    T lowest[POINTS];              // the least a so far
    std::int64_t left[POINTS];     // how many terms may still be computed again
    std::size_t without[POINTS];   // lane of the component that does not count
    std::size_t since[POINTS];     // groups since the last flush
    T *gradient;                   // [POINTS, d, lanes], or null
};

template <class T> static void flush(const Packed<T> &k, const State<T> &s, Block<T> &b, std::size_t i) {
    double *out = s.score + b.at[i] * k.d;
    T *g = b.gradient + i * k.d * lanes<T>();
    for (std::size_t j = 0; j < k.d; ++j) out[k.column[j]] += sum(g + j * lanes<T>());
    __builtin_memset(g, 0, k.d * LINE);
    b.since[i] = 0;
}

template <class T> static inline void relimit(const Packed<T> &k, const Limits &l, Block<T> &b, std::size_t i) {
    // total >= 2^e: what is dropped is small beside the sum, not only beside its largest term
    int e = 0;
    if (b.total[i] > 0) {
        std::int64_t bits;
        __builtin_memcpy(&bits, &b.total[i], 8);
        e = (int)((bits >> 52) & 2047) - 1023;
    }
    const double limit = k.reference - b.shift[i] - e + l.dropped;
    const double bound = limit + 2 * slack<T>(k.d) * (limit < 0 ? -limit : limit) + 1e-6;
    b.limit[i] = bound < 1e38 ? (T)bound : (T)INF;
}

// Move the shift of point i to that of a larger term.
template <class T> static void raise(const Packed<T> &k, const State<T> &s, Block<T> &b, std::size_t i, double t) {
    double up = (double)(std::int64_t)t;  // towards zero: t - up lies between -1 and 1
    if (t > 9e15 || t < -9e15) up = t;
    const double factor = shifted(b.shift[i] - up);
    b.shift[i] = up;
    b.total[i] *= factor;
    b.doubt[i] *= factor;
    if (b.gradient) {
        flush(k, s, b, i);
        double *out = s.score + b.at[i] * k.d;
        for (std::size_t j = 0; j < k.d; ++j) out[j] *= factor;
    }
}

// Add one component in float64.
template <class T>
static __attribute__((noinline)) void add_exactly(const Packed<T> &k, const State<T> &s, Block<T> &b, std::size_t i,
                                                  std::size_t component) {
    const T *mean = k.mean + component * k.d, *scale = k.scale + component * k.d, *z = s.z + b.at[i] * k.d;
    const double t = k.exact[component] - exactly(z, mean, scale, k.d);
    if (!(t > -INF)) return;
    if (t > b.shift[i]) raise(k, s, b, i, t);
    const double share = power(t - b.shift[i]);
    b.total[i] += share;
    if (s.score) {
        double *out = s.score + b.at[i] * k.d;
        for (std::size_t j = 0; j < k.d; ++j) {
            const double v = scale[j];
            out[j] += share * (((double)mean[j] - (double)z[j]) / v / v);
        }
    }
}

// Add a group of components, whose a is given, to point i.
template <class T>
static __attribute__((noinline)) void absorb(const Packed<T> &k, const State<T> &s, const Limits &l, Block<T> &b,
                                             std::size_t i, std::size_t group, const V<T> *given) {
    constexpr std::size_t W = lanes<T>(), R = BYTES / sizeof(T);
    if (b.shift[i] != b.shift[i]) return;
    V<T> a[NV];
    M<T> near[NV], again{}, higher{};
    const T sure = sizeof(T) == 4 ? (T)(l.rounding / slack<T>(k.d)) : (T)3e38;
    const T shift = (T)(k.reference - b.shift[i]);
    if (b.without[i] / W == group) {
        T kept[W];
        for (int v = 0; v < NV; ++v) store(kept + v * R, given[v]);
        kept[b.without[i] % W] = (T)INF;
        for (int v = 0; v < NV; ++v) a[v] = load(kept + v * R);
    } else
        for (int v = 0; v < NV; ++v) a[v] = given[v];
    M<T> lower{};
    for (int v = 0; v < NV; ++v) lower |= a[v] < b.lowest[i];
    if (any(lower)) {
        // the sum will hold this term: what is far below it need not be looked at, even before it is added
        T least = b.lowest[i];
        for (int v = 0; v < NV; ++v)
            for (std::size_t w = 0; w < R; ++w) least = a[v][w] < least ? a[v][w] : least;
        b.lowest[i] = least;
        const double bound = (double)least * (1 + 4 * slack<T>(k.d)) + l.dropped + 1e-6;
        if (bound < b.limit[i]) b.limit[i] = (T)bound;
    }
    // In float64 comes a term that is much of the sum so far (where one posterior dominates, its rounding would be the
    // answer's), and one whose error is large and that is not small beside the sum; not too many of these.
    const T much = sizeof(T) == 4 ? b.limit[i] - (T)l.dropped + (T)MUCH : (T)-INF;
    const T also = b.left[i] > 0 ? much + (T)LITTLE : much;
    for (int v = 0; v < NV; ++v) {
        near[v] = ~(a[v] > b.limit[i]) & (a[v] != (T)INF);
        const M<T> exact = near[v] & (~(a[v] >= much) | (~(a[v] <= sure) & ~(a[v] >= also)));
        again |= exact;
        near[v] &= ~exact;
        higher |= near[v] & (a[v] < shift);
    }
    if (any(again)) {
        T flat[W];
        for (int v = 0; v < NV; ++v) store(flat + v * R, a[v]);
        for (std::size_t w = 0; w < W; ++w) {
            const std::int64_t component = k.at[group * W + w];
            if (component < 0 || flat[w] > b.limit[i] || group * W + w == b.without[i]) continue;
            const bool failed = !(flat[w] <= sure);
            if (flat[w] >= much && (!failed || flat[w] >= also)) continue;
            if (failed && --b.left[i] < 0 && flat[w] > HOPELESS * sure) {
                b.shift[i] = __builtin_nan("");
                b.limit[i] = (T)-INF;
                return;
            }
            add_exactly(k, s, b, i, (std::size_t)component);
        }
    }
    M<T> some{};
    for (int v = 0; v < NV; ++v) some |= near[v];
    if (any(some)) {
        if (any(higher)) {
            T least = (T)INF;
            for (int v = 0; v < NV; ++v) {
                const V<T> x = choose<T>(near[v], a[v], all((T)INF));
                for (std::size_t w = 0; w < R; ++w) least = x[w] < least ? x[w] : least;
            }
            if (k.reference - (double)least > b.shift[i]) raise(k, s, b, i, k.reference - (double)least);
        }
        const T now = (T)(k.reference - b.shift[i]);
        V<T> share[NV];
        for (int v = 0; v < NV; ++v) share[v] = choose<T>(near[v], power(now - a[v]), V<T>{});
        b.total[i] += sum(share);
        if (sizeof(T) == 4) {
            V<T> doubt[NV];
            for (int v = 0; v < NV; ++v) doubt[v] = choose<T>(near[v], share[v] * a[v], V<T>{});
            b.doubt[i] += sum(doubt);
        }
        if (b.gradient) {
            const T *data = k.data + group * k.d * 2 * W, *z = s.z + b.at[i] * k.d;
            T *g = b.gradient + i * k.d * W;
            for (std::size_t j = 0; j < k.d; ++j, data += 2 * W, g += W)
                for (int v = 0; v < NV; ++v) {
                    // r^2 = log2(e) / 2 / s^2; where a share is 0 the rest may overflow
                    V<T> r = load(data + W + v * R), u = (load(data + v * R) - z[k.column[j]]) * r;
                    u = share[v] * (u * r) * (T)1.3862943611198906;
                    store(g + v * R, load(g + v * R) + choose<T>(share[v] > 0, u, V<T>{}));
                }
            if (++b.since[i] >= FLUSH) flush(k, s, b, i);
        }
    }
    relimit(k, l, b, i);
}

// Sum some dimensions of P points, [dimension][point], and one group.
template <class T, int P>
static inline void distances(const T *data, const T *z, std::size_t d, V<T> (&a)[P][NV]) {
    constexpr std::size_t W = lanes<T>(), R = BYTES / sizeof(T);
    for (std::size_t j = 0; j < d; ++j, data += 2 * W, z += P)
        for (int v = 0; v < NV; ++v) {
            const V<T> mean = load(data + v * R), scale = load(data + W + v * R);
            for (int p = 0; p < P; ++p) {
                const V<T> u = (z[p] - mean) * scale;
                a[p][v] += u * u;
            }
        }
}

// A tile of points against a group.
template <class T>
static inline void visit(const Packed<T> &k, const State<T> &s, const Limits &l, Block<T> &b, std::size_t here,
                         std::size_t count, std::size_t group, const T *z) {
    constexpr std::size_t W = lanes<T>(), R = BYTES / sizeof(T);
    V<T> a[TILE][NV];
    for (int v = 0; v < NV; ++v)
        for (int p = 0; p < TILE; ++p) a[p][v] = load(k.constant + group * W + v * R);
    distances<T, TILE>(k.data + group * k.d * 2 * W, z, k.d, a);
    M<T> far = a[0][0] > b.limit[here];
    for (int p = 0; p < TILE; ++p)
        for (int v = 0; v < NV; ++v) far &= a[p][v] > b.limit[here + p];
    if (__builtin_expect(!any(~far), 1)) return;
    for (std::size_t p = 0; p < TILE && here + p < count; ++p) {
        far = a[p][0] > b.limit[here + p];
        for (int v = 1; v < NV; ++v) far &= a[p][v] > b.limit[here + p];
        if (any(~far)) absorb(k, s, l, b, here + p, group, a[p]);
    }
}

// One point against a group, as far as its first `some` dimensions; false if they say that all is far.
template <class T>
static inline bool look(const Packed<T> &k, T limit, std::size_t group, const T *z, std::size_t some, V<T> (&a)[1][NV]) {
    constexpr std::size_t W = lanes<T>(), R = BYTES / sizeof(T);
    for (int v = 0; v < NV; ++v) a[0][v] = load(k.constant + group * W + v * R);
    distances<T, 1>(k.data + group * k.d * 2 * W, z, some, a);
    M<T> far = a[0][0] > limit;
    for (int v = 1; v < NV; ++v) far &= a[0][v] > limit;
    return any(~far);
}

// Of some groups those that are not far from a point by their first dimensions. No branch depends on the data: it would
// be guessed wrong half the time.
template <class T, std::size_t SOME>
static inline std::size_t sieve(const Packed<T> &k, T limit, const T *z, std::uint32_t *list, std::size_t n) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < n; ++i) {
        V<T> a[1][NV];
        const std::uint32_t group = list[i];
        const bool near = look<T>(k, limit, group, z, SOME, a);
        list[kept] = group;
        kept += near;
    }
    return kept;
}

// The least that a can be between a box of points and each of a line of groups' boxes.
template <class T>
static inline void between(const Packed<T> &k, std::size_t line, const T *low, const T *high, T limit, V<T> (&a)[NV]) {
    constexpr std::size_t W = lanes<T>(), R = BYTES / sizeof(T), STEP = 8;
    const T *box = k.box + line * k.d * 3 * W;
    for (int v = 0; v < NV; ++v) a[v] = load(k.least + line * W + v * R);
    for (std::size_t start = 0; start < k.d; start += STEP) {
        const std::size_t stop = start + STEP < k.d ? start + STEP : k.d;
        for (std::size_t j = start; j < stop; ++j, box += 3 * W)
            for (int v = 0; v < NV; ++v) {
                const V<T> under = load(box + v * R) - high[j], over = low[j] - load(box + W + v * R);
                V<T> gap = choose<T>(under > over, under, over);
                gap = choose<T>(gap > 0, gap, V<T>{}) * load(box + 2 * W + v * R);
                a[v] += gap * gap;
            }
        M<T> far = a[0] > limit;
        for (int v = 1; v < NV; ++v) far &= a[v] > limit;
        if (!any(~far)) return;
    }
}

// All points of a block against all components.
template <class T>
static inline void everything(const Packed<T> &k, const State<T> &s, const Limits &l, Block<T> &b, std::size_t count, T *points) {
    const std::size_t tiles = (count + TILE - 1) / TILE;
    for (std::size_t i = 0; i < tiles * TILE; ++i) {
        const T *z = s.z + b.at[i < count ? i : count - 1] * k.d;
        T *out = points + i / TILE * k.d * TILE + i % TILE;
        for (std::size_t j = 0; j < k.d; ++j) out[j * TILE] = z[k.column[j]];
    }
    const std::size_t bytes = k.d * 2 * LINE;  // of a group
    std::size_t step = 12288 / bytes;          // what stays in the first cache, and as much again on its way there
    if (step < 1) step = 1;
    for (std::size_t start = 0; start < k.groups; start += step) {
        const std::size_t stop = start + step < k.groups ? start + step : k.groups;
        // the next components are fetched while these are worked on, a part with each tile
        const std::size_t next = stop + step < k.groups ? stop + step : k.groups;
        const std::size_t part = ((next - stop) * bytes / LINE + tiles - 1) / tiles * LINE;
        const char *ahead = reinterpret_cast<const char *>(k.data) + stop * bytes, *end = ahead + (next - stop) * bytes;
        for (std::size_t tile = 0; tile < tiles; ++tile) {
            for (std::size_t at = 0; at < part && ahead < end; at += LINE, ahead += LINE) __builtin_prefetch(ahead);
            for (std::size_t group = start; group < stop; ++group)
                visit<T>(k, s, l, b, tile * TILE, count, group, points + tile * k.d * TILE);
        }
    }
}

// The groups nearest to a few points, nearest first.
template <class T> struct Nearest {
    T a[START];
    std::uint32_t group[START];
    std::size_t found;
};

template <class T> static inline void insert(Nearest<T> &n, T a, std::uint32_t group) {
    std::size_t i = n.found < START ? n.found++ : START - 1;
    for (; i > 0 && a < n.a[i - 1]; --i) n.a[i] = n.a[i - 1], n.group[i] = n.group[i - 1];
    n.a[i] = a, n.group[i] = group;
}

// Points of a block, FEW neighbours at a time, against the components that are near enough to matter.
template <class T>
static inline double neighbours(const Packed<T> &k, const State<T> &s, const Limits &l, Block<T> &b, std::size_t count, T *points) {
    constexpr std::size_t W = lanes<T>();
    constexpr double BOX = 3, ALONE = 2;  // cost of a dimension of a box, and of a group met by one point alone
    double spent = 0;
    const std::size_t d = k.d, few = (count + FEW - 1) / FEW, lines = (k.groups + W - 1) / W;
    T *low = points + POINTS * d, *high = low + POINTS * d;
    Nearest<T> nearest[POINTS / FEW];
    for (std::size_t f = 0; f < few; ++f) {
        nearest[f].found = 0;
        for (std::size_t j = 0; j < d; ++j) low[f * d + j] = (T)INF, high[f * d + j] = (T)-INF;
        for (std::size_t i = f * FEW; i < count && i < f * FEW + FEW; ++i)
            for (std::size_t j = 0; j < d; ++j) {
                const T z = s.z[b.at[i] * d + k.column[j]];
                points[i * d + j] = z;
                if (z < low[f * d + j]) low[f * d + j] = z;
                if (z > high[f * d + j]) high[f * d + j] = z;
            }
    }
    // those nearest by their boxes come first: what they sum to tells which others can be passed over
    for (std::size_t line = 0; line < lines; ++line)
        for (std::size_t f = 0; f < few; ++f) {
            Nearest<T> &n = nearest[f];
            V<T> a[NV];
            M<T> nearer[NV];
            const T limit = n.found < START ? (T)INF : n.a[START - 1];
            between<T>(k, line, low + f * d, high + f * d, limit, a);
            for (int v = 0; v < NV; ++v) nearer[v] = a[v] < limit;
            for (unsigned rest = bits<T>(nearer); rest; rest &= rest - 1) {
                const unsigned w = (unsigned)__builtin_ctz(rest);
                const T x = a[w / (W / NV)][w % (W / NV)];
                if (n.found < START || x < n.a[START - 1]) insert<T>(n, x, (std::uint32_t)(line * W + w));
            }
        }
    for (std::size_t i = 0; i < count; ++i)
        for (std::size_t n = 0; n < nearest[i / FEW].found; ++n) {
            V<T> a[1][NV];
            const std::size_t group = nearest[i / FEW].group[n];
            if (look<T>(k, b.limit[i], group, points + i * d, d, a)) absorb(k, s, l, b, i, group, a[0]);
        }
    constexpr std::size_t MOST = 8;  // lines taken together
    std::size_t step = 12288 / (d * 3 * LINE);
    step = step < 1 ? 1 : step > MOST ? MOST : step;
    std::uint32_t list[MOST * W];
    for (std::size_t start = 0; start < lines; start += step)
        for (std::size_t f = 0; f < few; ++f) {
            const std::size_t end = count < f * FEW + FEW ? count : f * FEW + FEW;
            T limit = b.limit[f * FEW];
            for (std::size_t i = f * FEW; i < end; ++i) limit = b.limit[i] > limit ? b.limit[i] : limit;
            unsigned near[MOST], some = 0;
            const std::size_t stop = start + step < lines ? start + step : lines;
            for (std::size_t line = start; line < stop; ++line) {
                V<T> a[NV];
                M<T> m[NV];
                between<T>(k, line, low + f * d, high + f * d, limit, a);
                for (int v = 0; v < NV; ++v) m[v] = ~(a[v] > limit);
                unsigned found = bits<T>(m);
                if (k.groups - line * W < W) found &= (1u << (k.groups - line * W)) - 1;
                for (std::size_t n = 0; n < nearest[f].found; ++n)
                    if (nearest[f].group[n] / W == line) found &= ~(1u << (nearest[f].group[n] % W));
                near[line - start] = found;
                some |= found;
            }
            if (!some) continue;
            for (std::size_t i = f * FEW; i < end; ++i) {
                const T *z = points + i * d;
                std::size_t n = 0;
                for (std::size_t line = start; line < stop; ++line) {
                    if (!near[line - start]) continue;
                    spent += BOX * d;
                    V<T> a[NV];
                    M<T> m[NV];
                    between<T>(k, line, z, z, b.limit[i], a);
                    for (int v = 0; v < NV; ++v) m[v] = ~(a[v] > b.limit[i]);
                    for (unsigned rest = bits<T>(m) & near[line - start]; rest; rest &= rest - 1)
                        list[n++] = (std::uint32_t)(line * W) + (std::uint32_t)__builtin_ctz(rest);
                }
                if (d > 12) spent += ALONE * 8 * n, n = sieve<T, 8>(k, b.limit[i], z, list, n);
                if (d > 24) spent += ALONE * 16 * n, n = sieve<T, 16>(k, b.limit[i], z, list, n);
                if (d > 48) spent += ALONE * 32 * n, n = sieve<T, 32>(k, b.limit[i], z, list, n);
                spent += ALONE * d * n;
                for (std::size_t j = 0; j < n; ++j) {
                    V<T> a[1][NV];
                    if (look<T>(k, b.limit[i], list[j], z, d, a)) absorb(k, s, l, b, i, list[j], a[0]);
                }
            }
        }
    spent += BOX * d * lines * few * 2;
    return spent / (static_cast<double>(k.groups) * d * count);
}

template <class T>
static double block(const Packed<T> &k, const State<T> &s, const Limits &l, std::size_t first, std::size_t count, T *room) {
    constexpr std::size_t W = lanes<T>();
    Block<T> b;
    b.gradient = s.score ? room + 3 * POINTS * k.d : nullptr;
    if (b.gradient) __builtin_memset(b.gradient, 0, POINTS * k.d * LINE);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = s.order ? (std::size_t)s.order[first + i] : first + i;
        b.at[i] = at;
        b.shift[i] = s.shift[at], b.total[i] = s.total[at], b.doubt[i] = s.doubt[at];
        b.left[i] = (std::int64_t)(k.groups * W / 64 + 64);
        b.since[i] = 0;
        b.lowest[i] = (T)INF;
        const std::int64_t without = s.without ? s.without[at] : -1;
        b.without[i] = without >= 0 && (std::size_t)without < k.n && k.place[without] >= 0 ? (std::size_t)k.place[without]
                                                                                          : k.groups * W;
        if (b.shift[i] != b.shift[i]) b.limit[i] = (T)-INF;
        else relimit(k, l, b, i);
    }
    for (std::size_t i = count; i < POINTS; ++i) b.limit[i] = (T)-INF;
    double cost = 1;
    if (k.box) cost = neighbours<T>(k, s, l, b, count, room);
    else everything<T>(k, s, l, b, count, room);
    for (std::size_t i = 0; i < count; ++i) {
        if (b.gradient) flush(k, s, b, i);
        s.shift[b.at[i]] = b.shift[i], s.total[b.at[i]] = b.total[i], s.doubt[b.at[i]] = b.doubt[i];
    }
    return cost;
}

}  // namespace INSIDE(SET)
}  // namespace zprime
