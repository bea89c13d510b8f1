// Log-ratios of posteriors and components with full covariance: checks shapes, shares pairs out among threads.
#include "bindings.hpp"

#include <algorithm>
#include <stdexcept>

namespace zprime {
namespace {

using Blocks = nb::ndarray<const double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void product(Rows<double> own, Rows<double> pull, Column<double> offset, Blocks inverse, Blocks shift, Column<double> constant, Table<double> out,
             int threads) {
    const std::size_t m = own.shape(0), d = own.shape(1), n = out.shape(1), blocks = (n + 7) / 8;
    if (d == 0 || pull.shape(0) != m || pull.shape(1) != d || offset.shape(0) != m || out.shape(0) != m || constant.shape(0) != 8 * blocks ||
        inverse.shape(0) != blocks || inverse.shape(1) != d * (d + 1) / 2 || inverse.shape(2) != 8 || shift.shape(0) != blocks ||
        shift.shape(1) != d || shift.shape(2) != 8)
        throw std::invalid_argument("own, pull, offset, inverse, shift, constant and out: shapes differ");
    nb::gil_scoped_release release;
    const Product k{m, d, n, own.data(), pull.data(), offset.data(), inverse.data(), shift.data(), constant.data(), out.data()};
    const auto run = chosen->product;
    const std::size_t parts = (m + TAKEN - 1) / TAKEN;
    share_out(blocks * parts, threads, [&](auto next) {
        auto room = aligned<double>(product_room(d));
        for (std::size_t b; (b = next()) < blocks * parts;) {
            const std::size_t first = b % parts * TAKEN;
            run(k, first, std::min(TAKEN, m - first), b / parts, room.get());
        }
    });
}

}  // namespace

void bind_product(nb::module_ &m) {
    m.def("product", &product, nb::arg("own"), nb::arg("pull"), nb::arg("offset"), nb::arg("inverse"), nb::arg("shift"), nb::arg("constant"),
          nb::arg("out").noconvert(), nb::arg("threads"));
}

}  // namespace zprime
