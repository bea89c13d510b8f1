// Log E_q[N(z; mean_k, t_k^2) / N(z; 0, I)] of q = N(x, v), every q and k: what the compiled parts share.
//
// With A = v + t^2 - v t^2 it is half the sum over dimensions of [x^2 t^2 + mean^2 v - (x - mean)^2] / A - log A.
#pragma once
#include <cstddef>

#include "line.hpp"

namespace zprime {

constexpr std::size_t STRETCH = 512;  // components whose dimensions stay in the second cache

struct Ratio {
    std::size_t n, d;             // components: a multiple of STRETCH
    const float *mean, *variance; // [d, n]
    std::size_t m;                // posteriors
    const float *x, *v;           // [m, d], means and variances
    float *out;                   // [m, n], nats; infinite where some A is not above 0
};

// Components first to first + STRETCH - 1.
using RatioKernel = void (*)(const Ratio &, std::size_t first);

}  // namespace zprime
