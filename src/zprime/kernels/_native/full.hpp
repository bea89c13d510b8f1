// Mixtures of Gaussians with full covariance: what the compiled parts share.
//
// With W = L^-1, L L^T the covariance, a squared distance is |W (z - mean)|^2.
#pragma once
#include <cstddef>

#include "low_rank.hpp"

namespace zprime {

struct Full {
    std::size_t n, d, components;
    const double *mean;      // [components, d]
    const double *whiten;    // W, [components, d, d], lower triangular: what is above the diagonal is 0
    const double *constant;  // [components], log-weight and normaliser in nats
    double *log_prob;        // [n]
};

// Points first to first + count (at most CODES) of z [n, d], with room for `full_room` numbers.
template <class T> using FullKernel = void (*)(const Full &, const T *z, std::size_t first, std::size_t count, double *room);

static constexpr std::size_t full_room(std::size_t d, std::size_t components, std::size_t tile) {
    return CODES * d + 3 * tile * d + components * CODES;
}

}  // namespace zprime
