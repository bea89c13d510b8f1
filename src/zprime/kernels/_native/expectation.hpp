// The E-step of EM on components: what the compiled parts share.
//
// A datum is a Gaussian N(mu, diag(v)). With its features F = [mu mu^T + diag(v) (upper triangle, or diagonal), mu, 1]
// the log of its share in component k is row k of F W, and what the M-step needs is the sum of share times F.
#pragma once
#include <cstddef>
#include <cstdint>

#include "line.hpp"

namespace zprime {

constexpr std::size_t DATA = 96;  // that a thread takes at a time: a multiple of every set's width

struct Expectation {
    std::size_t n, d, features, components;  // features == 2 d + 1: diagonal
    const double *mean, *variance;           // [n, d]; variance may be null
    const double *weight;                    // [n]
    const double *natural;                   // W log2(e): [component / tile][feature][tile], zeros behind the last one
    double *log_total;                       // [n], log2 of the sum over components: written
};

// Data first to first + count (at most DATA). Adds shares times weight times features to `statistics`,
// [component, to a multiple of tile][feature, to a multiple of 3 tile]; room for `expectation_room` numbers.
using ExpectationKernel = void (*)(const Expectation &, std::size_t first, std::size_t count, double *statistics, double *room);

static constexpr std::size_t expectation_room(std::size_t d, std::size_t features, std::size_t components, std::size_t tile) {
    return DATA * (2 * d + 2 * up_to(features, 3 * tile) + up_to(components, tile));
}

}  // namespace zprime
