// The kernels of one instruction set.
#pragma once
#include "expectation.hpp"
#include "full.hpp"
#include "low_rank.hpp"
#include "mixture.hpp"
#include "neighbours.hpp"
#include "product.hpp"
#include "ratio.hpp"

namespace zprime {

struct Kernels {
    const char *name;
    std::size_t tile;  // components, or queries, whose sums are held in registers together
    MixtureKernel<float> mixture_single;
    MixtureKernel<double> mixture_double;
    ExpectationKernel expectation;
    NeighboursKernel<float> neighbours_single;
    NeighboursKernel<double> neighbours_double;
    LowRankKernel<float> low_rank_single;
    LowRankKernel<double> low_rank_double;
    FullKernel<float> full_single;
    FullKernel<double> full_double;
    RatioKernel ratio;
    ProductKernel product;
};

extern const Kernels baseline, avx2, avx512;

}  // namespace zprime
