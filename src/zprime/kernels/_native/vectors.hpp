// Vectors of one instruction set, and what is computed of them; included by instruction_set.hpp alone.
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace zprime {
namespace INSIDE(SET) {

constexpr double INF = __builtin_inf();

template <class T> struct Vector;
template <> struct Vector<float> {
    typedef float type __attribute__((vector_size(BYTES)));
    typedef std::int32_t mask __attribute__((vector_size(BYTES)));
};
template <> struct Vector<double> {
    typedef double type __attribute__((vector_size(BYTES)));
    typedef std::int64_t mask __attribute__((vector_size(BYTES)));
};
template <class T> using V = typename Vector<T>::type;
template <class T> using M = typename Vector<T>::mask;

constexpr int NV = LINE / BYTES;  // registers of a line

template <class T> static inline V<T> load(const T *p) {
    V<T> v;
    __builtin_memcpy(&v, p, BYTES);
    return v;
}
template <class T> static inline void store(T *p, V<T> v) { __builtin_memcpy(p, &v, BYTES); }
template <class T> static inline V<T> all(T x) { return x - V<T>{}; }
template <class T> static inline V<T> choose(M<T> m, V<T> a, V<T> b) { return m ? a : b; }

template <class Mask> static inline bool any(Mask m) {
#if defined(__AVX512F__) && BYTES == 64
    return _mm512_test_epi32_mask((__m512i)m, (__m512i)m) != 0;
#elif defined(__AVX__) && BYTES == 32
    return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#elif defined(__SSE2__) && BYTES == 16
    return _mm_movemask_epi8((__m128i)m) != 0;
#else
    typedef std::uint64_t words __attribute__((vector_size(BYTES)));
    words w = (words)m;
    std::uint64_t found = 0;
    for (unsigned i = 0; i < BYTES / 8; ++i) found |= w[i];
    return found != 0;
#endif
}

// One bit a lane of a line, the first lane lowest; lanes of a mask are all ones or all zeros.
template <class T> static inline unsigned bits(const M<T> (&m)[NV]) {
    constexpr unsigned R = BYTES / sizeof(T);
    unsigned out = 0;
    for (unsigned v = 0; v < NV; ++v) {
#if defined(__AVX512DQ__) && BYTES == 64
        const unsigned some = sizeof(T) == 4 ? (unsigned)_mm512_movepi32_mask((__m512i)m[v]) : (unsigned)_mm512_movepi64_mask((__m512i)m[v]);
#elif defined(__AVX__) && BYTES == 32
        const unsigned some = (unsigned)(sizeof(T) == 4 ? _mm256_movemask_ps((__m256)m[v]) : _mm256_movemask_pd((__m256d)m[v]));
#elif defined(__SSE2__) && BYTES == 16
        const unsigned some = (unsigned)(sizeof(T) == 4 ? _mm_movemask_ps((__m128)m[v]) : _mm_movemask_pd((__m128d)m[v]));
#else
        unsigned some = 0;
        for (unsigned w = 0; w < R; ++w) some |= (unsigned)(m[v][w] & 1) << w;
#endif
        out |= some << (v * R);
    }
    return out;
}

// 2^x for x < 1; below the smallest normal number, that.  Relative error 1e-7 and 3e-16.
static inline V<float> power(V<float> x) {
    typedef std::int32_t I __attribute__((vector_size(BYTES)));
    x = choose<float>(x < -126.0f, all(-126.0f), x);
    V<float> n = (x + 12582912.0f) - 12582912.0f, f = x - n;
    V<float> p = all(1.54035304e-4f);
    p = p * f + 1.33335581e-3f;
    p = p * f + 9.61812911e-3f;
    p = p * f + 5.55041087e-2f;
    p = p * f + 2.40226507e-1f;
    p = p * f + 6.93147181e-1f;
    p = p * f + 1.0f;
    I bits = (__builtin_convertvector(n, I) + 127) << 23;
    return p * (V<float>)bits;
}
static inline V<double> power(V<double> x) {
    typedef std::int64_t I __attribute__((vector_size(BYTES)));
    x = choose<double>(x < -1022.0, all(-1022.0), x);
    const double magic = 6755399441055744.0;  // 1.5 * 2^52: the integer stands in the lowest bits
    V<double> shifted = x + magic, n = shifted - magic, f = (x - n) * 0.693147180559945309417;
    V<double> p = all(1.0 / 479001600);
    p = p * f + 1.0 / 39916800;
    p = p * f + 1.0 / 3628800;
    p = p * f + 1.0 / 362880;
    p = p * f + 1.0 / 40320;
    p = p * f + 1.0 / 5040;
    p = p * f + 1.0 / 720;
    p = p * f + 1.0 / 120;
    p = p * f + 1.0 / 24;
    p = p * f + 1.0 / 6;
    p = p * f + 0.5;
    p = p * f + 1.0;
    p = p * f + 1.0;
    I bits = ((I)shifted - (I)all(magic) + 1023) << 52;
    return p * (V<double>)bits;
}
static inline double power(double x) { return x < -1022 ? 0.0 : power(all(x))[0]; }

// 2^n for an integer n <= 0, exactly; 0 below the normal numbers.
static inline double shifted(double n) {
    if (!(n >= -1022)) return 0;
    std::int64_t bits = ((std::int64_t)n + 1023) << 52;
    double out;
    __builtin_memcpy(&out, &bits, 8);
    return out;
}

// Sums in float64.
template <class T> static inline double sum(const T *p) {
    double a = 0, b = 0, c = 0, d = 0;
    for (std::size_t i = 0; i < lanes<T>(); i += 4) a += p[i], b += p[i + 1], c += p[i + 2], d += p[i + 3];
    return (a + b) + (c + d);
}
static inline double sum(const V<float> (&x)[NV]) {
    typedef float Half __attribute__((vector_size(16)));
    typedef double Wide __attribute__((vector_size(32)));
    Half part[LINE / 16];
    __builtin_memcpy(part, x, LINE);
    const Wide w = (__builtin_convertvector(part[0], Wide) + __builtin_convertvector(part[1], Wide)) +
                   (__builtin_convertvector(part[2], Wide) + __builtin_convertvector(part[3], Wide));
    return (w[0] + w[1]) + (w[2] + w[3]);
}
static inline double sum(const V<double> (&x)[NV]) {
    double flat[LINE / 8];
    __builtin_memcpy(flat, x, LINE);
    return sum(flat);
}

}  // namespace INSIDE(SET)
}  // namespace zprime
