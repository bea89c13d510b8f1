// The E-step of EM on components: packs the parameters, shares data out among threads.
#include "bindings.hpp"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

namespace zprime {
namespace {

constexpr std::size_t PARTS = 8;         // sums that are kept apart, and added up in order: the same on any number of threads
constexpr std::size_t SUMMED = 1 << 23;  // numbers of all of them

void expectation(Rows<double> mean, std::optional<Rows<double>> variance, Column<double> weight, Rows<double> natural,
                 Table<double> statistics, Sums<double> log_total, int threads) {
    const std::size_t n = mean.shape(0), d = mean.shape(1), f = natural.shape(0), k = natural.shape(1);
    if ((f != 2 * d + 1 && f != d * (d + 1) / 2 + d + 1) || k == 0 || weight.shape(0) != n || log_total.shape(0) != n ||
        statistics.shape(0) != k || statistics.shape(1) != f ||
        (variance && (variance->shape(0) != n || variance->shape(1) != d)))
        throw std::invalid_argument("mean, variance, weight, natural, statistics and log_total: shapes differ");
    nb::gil_scoped_release release;
    const Kernels &set = *chosen;
    const std::size_t tile = set.tile, rows = up_to(k, tile), columns = up_to(f, 3 * tile), blocks = (n + DATA - 1) / DATA;
    auto packed = aligned<double>(rows * f);
    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < f; ++j)
            packed[(i / tile * f + j) * tile + i % tile] = i < k ? natural.data()[j * k + i] * 1.4426950408889634074 : 0;
    const double *spread = variance ? variance->data() : nullptr;
    const Expectation e{n, d, f, k, mean.data(), spread, weight.data(), packed.get(), log_total.data()};
    const std::size_t parts = std::clamp<std::size_t>(std::min(blocks / 8, SUMMED / (rows * columns)), 1, PARTS);
    auto sums = aligned<double>(parts * rows * columns);
    std::fill_n(sums.get(), parts * rows * columns, 0.0);
    share_out(parts, threads, [&](auto next) {
        auto room = aligned<double>(expectation_room(d, f, k, tile));
        for (std::size_t part; (part = next()) < parts;)
            for (std::size_t b = blocks * part / parts; b < blocks * (part + 1) / parts; ++b)
                set.expectation(e, b * DATA, std::min(DATA, n - b * DATA), sums.get() + part * rows * columns, room.get());
    });
    for (std::size_t i = 0; i < k; ++i)
        for (std::size_t j = 0; j < f; ++j) {
            double sum = 0;
            for (std::size_t part = 0; part < parts; ++part) sum += sums[(part * rows + i) * columns + j];
            statistics.data()[i * f + j] = sum;
        }
}

}  // namespace

void bind_expectation(nb::module_ &m) {
    m.def("expectation", &expectation, nb::arg("mean"), nb::arg("variance").none(), nb::arg("weight"), nb::arg("natural"),
          nb::arg("statistics").noconvert(), nb::arg("log_total").noconvert(), nb::arg("threads"));
}

}  // namespace zprime
