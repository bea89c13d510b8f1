// Mixtures of Gaussians of low rank: checks shapes, shares points out among threads.
#include "bindings.hpp"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

namespace zprime {
namespace {

using Factors = nb::ndarray<const double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <class T>
void low_rank(Rows<T> z, Rows<double> mean, Rows<double> inverse, Factors factor, Column<double> constant,
              std::optional<Table<double>> terms, Sums<double> log_prob, std::optional<Table<double>> score, int threads) {
    const std::size_t n = z.shape(0), d = z.shape(1), k = mean.shape(0), rank = factor.shape(1);
    if (d % lanes<double>() != 0 || mean.shape(1) != d || inverse.shape(0) != k || inverse.shape(1) != d || factor.shape(0) != k ||
        factor.shape(2) < d || constant.shape(0) != k || (terms && (terms->shape(0) != n || terms->shape(1) != k)) ||
        log_prob.shape(0) != n || (score && (score->shape(0) != n || score->shape(1) != d)))
        throw std::invalid_argument("z, mean, inverse, factor, constant, terms, log_prob and score: shapes differ, or d is no multiple of 8");
    nb::gil_scoped_release release;
    const Kernels &set = *chosen;
    const LowRank mixture{n, d, k, rank, factor.shape(2), mean.data(), inverse.data(), factor.data(), constant.data(),
                          terms ? terms->data() : nullptr, log_prob.data(), score ? score->data() : nullptr};
    LowRankKernel<T> run;
    if constexpr (sizeof(T) == 4) run = set.low_rank_single;
    else run = set.low_rank_double;
    const std::size_t blocks = (n + CODES - 1) / CODES;
    share_out(blocks, threads, [&](auto next) {
        auto room = aligned<double>(low_rank_room(k, rank, set.tile));
        for (std::size_t b; (b = next()) < blocks;) run(mixture, z.data(), b * CODES, std::min(CODES, n - b * CODES), room.get());
    });
}

template <class T> void bind(nb::module_ &m) {
    m.def("low_rank", &low_rank<T>, nb::arg("z"), nb::arg("mean"), nb::arg("inverse"), nb::arg("factor"), nb::arg("constant"),
          nb::arg("terms").noconvert().none(), nb::arg("log_prob").noconvert(), nb::arg("score").noconvert().none(),
          nb::arg("threads"));
}

}  // namespace

void bind_low_rank(nb::module_ &m) {
    bind<float>(m);
    bind<double>(m);
}

}  // namespace zprime
