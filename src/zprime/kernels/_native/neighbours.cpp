// Exact nearest neighbours: packs points for the sieve, shares queries out among threads.
#include "bindings.hpp"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <stdexcept>

namespace zprime {
namespace {

// What is sieved, in panels as wide as the instruction set at hand likes them.
class Sieve {
  public:
    explicit Sieve(Rows<float> sieved) : n_(sieved.shape(0)), columns_(sieved.shape(1)), set_(chosen) {
        nb::gil_scoped_release release;
        const std::size_t wide = 6 * set_->tile, panels = (n_ + wide - 1) / wide;
        panel_ = aligned<float>(panels * columns_ * wide);
        half_ = aligned<float>(panels * wide);
        for (std::size_t i = 0; i < panels * wide; ++i) {
            double sum = 0;
            const float *row = sieved.data() + i * columns_;
            for (std::size_t j = 0; i < n_ && j < columns_; ++j) sum += static_cast<double>(row[j]) * row[j];
            half_[i] = i < n_ ? static_cast<float>(0.5 * sum) : std::numeric_limits<float>::quiet_NaN();
        }
        for (std::size_t start = 0; start < panels * wide; start += wide) {
            const std::size_t used = std::min(wide, n_ - start);
            const float *from = sieved.data() + start * columns_;
            float *to = panel_.get() + start * columns_;
            for (std::size_t j = 0; j < columns_; ++j, to += wide) {
                for (std::size_t l = 0; l < used; ++l) to[l] = from[l * columns_ + j];
                for (std::size_t l = used; l < wide; ++l) to[l] = 0;
            }
        }
    }

    template <class T>
    std::size_t search(Rows<T> rows, double inverse, Rows<double> queries, Rows<float> sieved, Column<double> base,
                       std::optional<Column<std::int64_t>> without, Table<double> distance, Table<std::int64_t> index,
                       int threads) const {
        const std::size_t m = queries.shape(0), d = rows.shape(1), k = distance.shape(1);
        if (rows.shape(0) != n_ || queries.shape(1) != d || sieved.shape(0) != m || sieved.shape(1) != columns_ ||
            base.shape(0) != m || (without && without->shape(0) != m) || distance.shape(0) != m || index.shape(0) != m ||
            index.shape(1) != k || k == 0 || k > n_)
            throw std::invalid_argument("points, queries, base, without, distance and index: shapes differ");
        nb::gil_scoped_release release;
        const Points<T> points{n_, d, columns_, panel_.get(), half_.get(), rows.data(), inverse};
        const Queries wanted{queries.data(), sieved.data(),   base.data(), without ? without->data() : nullptr,
                            k,              distance.data(), index.data()};
        NeighboursKernel<T> run;
        if constexpr (sizeof(T) == 4) run = set_->neighbours_single;
        else run = set_->neighbours_double;
        std::atomic<std::size_t> compared{0};
        const std::size_t blocks = (m + QUERIES - 1) / QUERIES;
        share_out(blocks, threads, [&](auto next) {
            auto room = aligned<float>(neighbours_room(columns_, set_->tile));
            for (std::size_t b; (b = next()) < blocks;)
                compared += run(points, wanted, b * QUERIES, std::min(QUERIES, m - b * QUERIES), room.get());
        });
        return compared;
    }

  private:
    std::size_t n_, columns_;
    const Kernels *set_;
    Aligned<float> panel_, half_;
};

template <class T> void bind(nb::class_<Sieve> &c) {
    c.def("search", &Sieve::search<T>, nb::arg("rows"), nb::arg("inverse"), nb::arg("queries"), nb::arg("sieved"),
          nb::arg("base"), nb::arg("without").none(), nb::arg("distance").noconvert(), nb::arg("index").noconvert(),
          nb::arg("threads"),
          "Fills in squared distances and positions; how many pairs were compared in float64.");
}

}  // namespace

void bind_neighbours(nb::module_ &m) {
    nb::class_<Sieve> c(m, "Sieve");
    c.def(nb::init<Rows<float>>(), nb::arg("sieved"));
    bind<float>(c);
    bind<double>(c);
}

}  // namespace zprime
