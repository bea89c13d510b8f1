// Mixtures of Gaussians whose covariances are a diagonal and a few factors: what the compiled parts share.
//
// With u = (z - mean) / scale and B = L^-1 F^T diag(1 / scale), L L^T = I + F^T diag(1 / scale^2) F, a squared distance is
// |u|^2 - |B u|^2 (Woodbury's identity), and its gradient in z is 2 (u - B^T B u) / scale.
#pragma once
#include <cstddef>

#include "line.hpp"

namespace zprime {

constexpr std::size_t CODES = 96;   // points that a thread takes at a time: a multiple of every set's width
constexpr std::size_t SLICE = 128;  // dimensions that are multiplied in one go

struct LowRank {
    std::size_t n, d, components, rank, stride;  // d: a multiple of 8, zeros behind the last; stride: of the rows of a factor
    const double *mean, *inverse;                // [components, d]; 1 / scale
    const double *factor;                        // B, [components, rank, stride]
    const double *constant;                      // [components], log-weight and normaliser in nats
    double *terms;                               // [n, components], nats; or null
    double *log_prob;                            // [n]
    double *score;                               // [n, d], or null
};

// Points first to first + count (at most CODES) of z [n, d], with room for `low_rank_room` numbers.
template <class T>
using LowRankKernel = void (*)(const LowRank &, const T *z, std::size_t first, std::size_t count, double *room);

static constexpr std::size_t low_rank_room(std::size_t components, std::size_t rank, std::size_t tile) {
    return CODES * SLICE + 3 * tile * SLICE + components * (rank + 1) * CODES + rank * tile;
}

}  // namespace zprime
