// What each instruction set has to offer.
#pragma once
#include "em.hpp"
#include "mixture.hpp"
#include "points.hpp"

namespace zprime {

struct Kernels {
    const char *name;
    std::size_t tile;  // components, or queries, whose sums are held in registers together
    Sweep<float> single;
    Sweep<double> wide;
    Expect expect;
    Search<float> search_single;
    Search<double> search_wide;
};

extern const Kernels baseline, avx2, avx512;

}  // namespace zprime
