// Log-ratios of posteriors and components; included by instruction_set.hpp alone.
#include "ratio.hpp"

namespace zprime {
namespace INSIDE(SET) {

constexpr int ABREAST = BYTES == 64 ? 4 : 2;  // registers of components whose sums are held together
constexpr std::size_t WIDTH = BYTES / 4;        // components of a register

// Takes the exponent out of positive numbers, and leaves their mantissa, from 1 to below 2.
static inline void normalise(V<float> &product, M<float> &exponent) {
    const M<float> bits = (M<float>)product;
    exponent += (bits >> 23) - 127;
    product = (V<float>)((bits & 0x7fffff) | 0x3f800000);
}

// log(mantissa 2^exponent) for a mantissa from 1 to below 2. Error of the logarithm of the mantissa 1e-7.
static inline V<float> logarithm(V<float> mantissa, M<float> exponent) {
    const M<float> large = mantissa > 1.41421356f;
    mantissa = choose<float>(large, 0.5f * mantissa, mantissa);
    exponent -= large;  // all ones: -1
    const V<float> s = (mantissa - 1.0f) / (mantissa + 1.0f), q = s * s;
    V<float> p = all(2.0f / 9);
    p = p * q + 2.0f / 7;
    p = p * q + 2.0f / 5;
    p = p * q + 2.0f / 3;
    p = p * q + 2.0f;
    return p * s + 0.693147180559945f * __builtin_convertvector(exponent, V<float>);
}

// The same number, rounded: no fused multiply-add takes the product in. So r = p gives exactly 0, as it must.
static inline V<float> rounded(V<float> product) {
#if defined(__AVX512F__) && BYTES == 64
    __asm__("" : "+v"(product));
#elif defined(__SSE2__)
    __asm__("" : "+x"(product));
#elif defined(__aarch64__)
    __asm__("" : "+w"(product));
#endif
    return product;
}

static void ratio(const Ratio &r, std::size_t first) {
    for (std::size_t i = 0; i < r.m; ++i)
        for (std::size_t c = first; c < first + STRETCH; c += ABREAST * WIDTH) {
            V<float> total[ABREAST], product[ABREAST], least[ABREAST];
            M<float> exponent[ABREAST];
            for (int u = 0; u < ABREAST; ++u) total[u] = all(0.0f), product[u] = least[u] = all(1.0f), exponent[u] = M<float>{};
            const float *x = r.x + i * r.d, *v = r.v + i * r.d;
            for (std::size_t j = 0; j < r.d; ++j) {
                const V<float> xj = all(x[j]), vj = all(v[j]), square = rounded(xj * xj);
                const float *mean = r.mean + j * r.n + c, *variance = r.variance + j * r.n + c;
                for (int u = 0; u < ABREAST; ++u) {
                    const V<float> m = load(mean + u * WIDTH), t = load(variance + u * WIDTH);
                    const V<float> a = vj * (1.0f - t) + t, gap = xj - m, away = rounded(gap * gap);
                    least[u] = choose<float>(a < least[u], a, least[u]);
                    total[u] += (m * m * vj + square * t - away) / a;
                    product[u] *= a;
                }
                if (j % 3 == 2)  // a product of three, each from 1e-8 to 1e8, and a mantissa
                    for (int u = 0; u < ABREAST; ++u) normalise(product[u], exponent[u]);
            }
            for (int u = 0; u < ABREAST; ++u) {
                normalise(product[u], exponent[u]);
                const V<float> value = 0.5f * (total[u] - logarithm(product[u], exponent[u]));
                store(r.out + i * r.n + c + u * WIDTH, choose<float>(least[u] <= 0.0f, all((float)INF), value));
            }
        }
}

}  // namespace INSIDE(SET)
}  // namespace zprime
