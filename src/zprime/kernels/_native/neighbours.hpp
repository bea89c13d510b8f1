// Exact nearest neighbours: what the compiled parts share.
//
// A sieve in float32, then the direct form in float64. The sieve compares in coordinates of its own, in which squared
// distances are never larger than between the rows themselves: those rows, scaled, or their projections on some axes.
#pragma once
#include <cstddef>
#include <cstdint>

#include "line.hpp"

namespace zprime {

constexpr std::size_t QUERIES = 96;  // that a thread takes at a time: a multiple of every set's tile
constexpr std::size_t STEP = 192;    // columns of a panel that are multiplied in one go, about

template <class T> struct Points {
    std::size_t n, d, columns;   // points, and their width as rows and in the sieve
    const float *panel;          // [point / (6 tile)][column][6 tile]
    const float *half;           // half of each one's squared length there; NaN pads
    const T *row;                // [n, d]
    double inverse;              // of the unit that rows are measured in
};

struct Queries {
    const double *row;           // [m, d]
    const float *sieved;         // [m, columns]
    const double *base;          // [m], half of what the sieve may err by, less half the squared length there
    const std::int64_t *without; // [m], position of a point that does not count, or -1; or null
    std::size_t k;
    double *distance;            // [m, k], squared, in units; ascending: written
    std::int64_t *index;         // [m, k]
};

// Queries first to first + count (at most QUERIES), with room for `neighbours_room` numbers. Returns how many pairs were
// compared in float64.
template <class T> using NeighboursKernel = std::size_t (*)(const Points<T> &, const Queries &, std::size_t first, std::size_t count, float *room);
static constexpr std::size_t neighbours_room(std::size_t columns, std::size_t tile) { return QUERIES * (columns + 6 * tile); }

}  // namespace zprime
