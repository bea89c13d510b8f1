// The running sums of points, and how groups of components are added to them; included by instruction_set.hpp alone.
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

}  // namespace INSIDE(SET)
}  // namespace zprime
