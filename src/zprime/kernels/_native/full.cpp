// Mixtures of Gaussians with full covariance: checks shapes, shares points out among threads.
#include "bindings.hpp"

#include <algorithm>
#include <stdexcept>

namespace zprime {
namespace {

using Matrices = nb::ndarray<const double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <class T>
void full(Rows<T> z, Rows<double> mean, Matrices whiten, Column<double> constant, Sums<double> log_prob, int threads) {
    const std::size_t n = z.shape(0), d = z.shape(1), k = mean.shape(0);
    if (d == 0 || mean.shape(1) != d || whiten.shape(0) != k || whiten.shape(1) != d || whiten.shape(2) != d || constant.shape(0) != k ||
        log_prob.shape(0) != n)
        throw std::invalid_argument("z, mean, whiten, constant and log_prob: shapes differ");
    nb::gil_scoped_release release;
    const Kernels &set = *chosen;
    const Full mixture{n, d, k, mean.data(), whiten.data(), constant.data(), log_prob.data()};
    FullKernel<T> run;
    if constexpr (sizeof(T) == 4) run = set.full_single;
    else run = set.full_double;
    const std::size_t blocks = (n + CODES - 1) / CODES;
    share_out(blocks, threads, [&](auto next) {
        auto room = aligned<double>(full_room(d, k, set.tile));
        for (std::size_t b; (b = next()) < blocks;) run(mixture, z.data(), b * CODES, std::min(CODES, n - b * CODES), room.get());
    });
}

template <class T> void bind(nb::module_ &m) {
    m.def("full", &full<T>, nb::arg("z"), nb::arg("mean"), nb::arg("whiten"), nb::arg("constant"), nb::arg("log_prob").noconvert(),
          nb::arg("threads"));
}

}  // namespace

void bind_full(nb::module_ &m) {
    bind<float>(m);
    bind<double>(m);
}

}  // namespace zprime
