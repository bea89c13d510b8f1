// Log-density of a mixture of diagonal Gaussians: what the compiled parts share.
//
// Everything is in bits (base 2) until the end. Component k contributes 2^t, where -t = a >= 0 up to a reference:
//   a = reference - log2(w_k) + sum_j log2(s_kj) + d/2 log2(2 pi) + sum_j ((z_j - mu_kj) r_kj)^2,
//   r_kj = sqrt(log2(e) / 2) / s_kj.
#pragma once
#include <cstddef>
#include <cstdint>

#include "line.hpp"

namespace zprime {

constexpr std::size_t POINTS = 128;  // points that a thread takes at a time
constexpr std::size_t TRIED = 32;    // points of a block that are tried with boxes
constexpr std::size_t FEW = 4;       // of them, side by side, that are compared with groups of components together

// Components of one panel, in groups of one cache line per dimension.
template <class T> struct Packed {
    std::size_t n, d, groups;
    const T *data;            // mu and r: [group][dimension][2][lane]
    const T *constant;        // a without its sum: [group][lane]; inf pads, NaN sends to the exact form
    const std::int64_t *at;   // position of each lane among the caller's components, or -1
    const std::int64_t *place;  // and of each of those among the lanes, [n]
    const std::int32_t *column;  // the caller's column of each dimension, most telling first, [d]
    double reference;         // an integer
    const T *mean, *scale;    // the caller's rows, [n, d]
    const double *exact;      // log2 of each component's largest density times weight, [n]
    // Boxes round the groups, or null: least mu, greatest mu, least r, [groups / lanes][dimension][3][lane], and the
    // least constant, [groups / lanes][lane].
    const T *box, *least;
};

// Running sums of some points: the density so far is total * 2^shift, shift an integer or -inf; NaN asks for float64.
template <class T> struct State {
    const T *z;                  // [m, d]
    double *shift, *total;       // [m]
    double *doubt;               // [m], sum of terms times their a, in the units of total: what rounding may have cost
    double *score;               // [m, d], in the units of total, or null
    const std::int64_t *without; // [m], position of a component that does not count, or -1; or null
    const std::int64_t *order;   // [m], in which order to take the points, or null
};

struct Limits {
    double dropped;   // a term this many bits below the sum so far is not looked at
    double rounding;  // error in bits above which a term that counts is computed again in float64
};

// Points first to first + count (at most POINTS), with room for `mixture_room` numbers. Returns what it cost with boxes, as a
// multiple of what it would have cost without.
template <class T>
using MixtureKernel = double (*)(const Packed<T> &, const State<T> &, const Limits &, std::size_t first, std::size_t count, T *room);
constexpr std::size_t mixture_room(std::size_t d, std::size_t lanes, bool score) { return POINTS * d * (score ? 3 + lanes : 3); }

}  // namespace zprime
