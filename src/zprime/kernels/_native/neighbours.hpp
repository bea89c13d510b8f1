// Exact nearest neighbours: what the compiled parts share.
//
// A sieve in float32, then the direct form in float64. The sieve compares in coordinates of its own, in which squared
// distances are never larger than between the rows themselves: those rows, scaled, or their projections on some axes.
// Points lie in panels, near ones together, each with a ball about it: a panel whose ball is too far off is left out. What
// passes the sieve may be compared in more coordinates, in float32 too, before it is compared in float64.
#pragma once
#include <cstddef>
#include <cstdint>

#include "line.hpp"

namespace zprime {

constexpr std::size_t QUERIES = 96;  // that a thread takes at a time: a multiple of every set's tile
constexpr std::size_t STEP = 192;    // columns of a panel that are multiplied in one go, about

template <class T> struct Points {
    std::size_t n, d, columns, more;  // points, and their width as rows, in the sieve, and in what follows it (or 0)
    const float *panel;               // [point / (6 tile)][column][6 tile]
    const float *half;                // half of each one's squared length there; NaN pads
    const float *centre, *radius;     // of each panel's ball, there: [column][panels padded to lines], [panels padded]
    const float *fine;                // [n, more], in the order of the panels
    const std::int64_t *order;        // [n], positions of the points as they lie in the panels
    const T *row;                     // [n, d]
    double inverse;                   // of the unit that rows are measured in
};

struct Queries {
    const double *row;           // [m, d]
    const float *sieved;         // [m, columns]
    const float *fine;           // [m, more]
    const double *base;          // [m], half of what the sieve may err by, less half the squared length there
    const double *error;         // [m], what squared distances there may err by
    const std::int64_t *without; // [m], position of a point that does not count, or -1; or null
    const std::int64_t *order;   // [m], the order in which they are searched for: near ones together
    std::size_t k;
    double *distance;            // [m, k], squared, in units; ascending: written
    std::int64_t *index;         // [m, k]
};

// Queries order[first] to order[first + count - 1] (at most QUERIES), with room for `neighbours_room` numbers. Returns how
// many pairs were compared in float64.
template <class T> using NeighboursKernel = std::size_t (*)(const Points<T> &, const Queries &, std::size_t first, std::size_t count, float *room);
static constexpr std::size_t neighbours_panels(std::size_t n, std::size_t tile) { return up_to((n + 6 * tile - 1) / (6 * tile), lanes<float>()); }
static constexpr std::size_t neighbours_room(std::size_t n, std::size_t columns, std::size_t tile) {
    return QUERIES * (columns + 6 * tile) + (QUERIES + 1) * neighbours_panels(n, tile);
}

}  // namespace zprime
