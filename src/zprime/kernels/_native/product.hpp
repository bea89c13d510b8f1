// Log E_q[N(z; mean_k, C_k) / N(z; 0, I)] of q = N(mu, diag(s^2)), every q and k: what the compiled parts share.
//
// The product q N_k / p has precision P = S^-1 + C^-1 - I. With h = S^-1 mu + C^-1 mean, twice the log-ratio is
// h' P^-1 h - log det P and what belongs to q or to k alone.
#pragma once
#include <cstddef>

#include "line.hpp"

namespace zprime {

struct Product {
    std::size_t m, d, n;            // posteriors, dimensions, components
    const double *own, *pull;       // [m, d], the diagonal of S^-1, and S^-1 mu
    const double *offset;           // [m], what belongs to q
    const double *inverse, *shift;  // [n / 8, columns of C^-1 from the diagonal on, 8], and C^-1 mean, [n / 8, d, 8]
    const double *constant;         // [n padded to 8], what belongs to k
    double *out;                    // [m, n], nats; infinite where P is not positive definite
};

constexpr std::size_t TAKEN = 64;  // posteriors that a thread takes at a time, with 8 components

// Posteriors first to first + count and components 8 block to 8 block + 7, with room for `product_room` numbers.
using ProductKernel = void (*)(const Product &, std::size_t first, std::size_t count, std::size_t block, double *room);

static constexpr std::size_t product_room(std::size_t d) { return (d * (d + 1) / 2 + d) * lanes<double>(); }

}  // namespace zprime
