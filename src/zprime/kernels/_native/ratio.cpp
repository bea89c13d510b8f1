// Log-ratios of posteriors and components: checks shapes, shares components out among threads.
#include "bindings.hpp"

#include <stdexcept>

namespace zprime {
namespace {

void log_ratio(Rows<float> x, Rows<float> v, Rows<float> mean, Rows<float> variance, Table<float> out, int threads) {
    const std::size_t m = x.shape(0), d = x.shape(1), n = mean.shape(1);
    if (v.shape(0) != m || v.shape(1) != d || mean.shape(0) != d || variance.shape(0) != d || variance.shape(1) != n ||
        out.shape(0) != m || out.shape(1) != n || n % STRETCH != 0)
        throw std::invalid_argument("x, v, mean, variance and out: shapes differ, or components are no multiple of 512");
    nb::gil_scoped_release release;
    const Ratio r{n, d, mean.data(), variance.data(), m, x.data(), v.data(), out.data()};
    const auto run = chosen->ratio;
    share_out(n / STRETCH, threads, [&](auto next) {
        for (std::size_t b; (b = next()) < n / STRETCH;) run(r, b * STRETCH);
    });
}

}  // namespace

void bind_ratio(nb::module_ &m) {
    m.def("log_ratio", &log_ratio, nb::arg("x"), nb::arg("v"), nb::arg("mean"), nb::arg("variance"), nb::arg("out").noconvert(),
          nb::arg("threads"));
    m.attr("stretch") = STRETCH;
}

}  // namespace zprime
