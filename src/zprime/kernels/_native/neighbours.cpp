// Exact nearest neighbours: packs points for the sieve, shares queries out among threads.
#include "bindings.hpp"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <vector>

namespace zprime {
namespace {

// Puts rows into an order in which near ones lie together: halved along the widest column, down to pieces of `size`.
class Halving {
  public:
    Halving(const float *row, std::size_t columns, std::size_t size) : row_(row), columns_(columns), size_(size) {}

    std::vector<std::int64_t> operator()(std::size_t n) const {
        std::vector<std::int64_t> order(n);
        std::iota(order.begin(), order.end(), 0);
        halve(order.data(), n);
        return order;
    }

  private:
    float at(std::int64_t i, std::size_t column) const { return row_[static_cast<std::size_t>(i) * columns_ + column]; }

    void halve(std::int64_t *first, std::size_t n) const {
        if (n <= size_) return;
        const std::size_t column = widest(first, n), left = (n / size_ + 1) / 2 * size_;
        std::nth_element(first, first + left, first + n, [&](std::int64_t i, std::int64_t j) {
            const float x = at(i, column), y = at(j, column);
            return x < y || (x == y && i < j);
        });
        halve(first, left);
        halve(first + left, n - left);
    }

    std::size_t widest(const std::int64_t *first, std::size_t n) const {
        const std::size_t step = std::max<std::size_t>(1, n / 64);  // some rows tell
        std::vector<double> sum(columns_), square(columns_);
        double count = 0;
        for (std::size_t i = 0; i < n; i += step, ++count)
            for (std::size_t j = 0; j < columns_; ++j) {
                const double x = at(first[i], j);
                sum[j] += x, square[j] += x * x;
            }
        std::size_t best = 0;
        for (std::size_t j = 0; j < columns_; ++j) {
            square[j] -= sum[j] * sum[j] / count;
            if (square[j] > square[best]) best = j;
        }
        return best;
    }

    const float *row_;
    std::size_t columns_, size_;
};

// What is sieved, in panels as wide as the instruction set at hand likes them.
class Sieve {
  public:
    Sieve(Rows<float> sieved, std::optional<Rows<float>> fine)
        : n_(sieved.shape(0)), columns_(sieved.shape(1)), more_(fine ? fine->shape(1) : 0), set_(chosen) {
        if (fine && fine->shape(0) != n_) throw std::invalid_argument("sieved and fine: shapes differ");
        nb::gil_scoped_release release;
        const std::size_t wide = 6 * set_->tile, panels = (n_ + wide - 1) / wide, padded = neighbours_panels(n_, set_->tile);
        order_ = Halving(sieved.data(), columns_, wide)(n_);
        panel_ = aligned<float>(panels * columns_ * wide);
        half_ = aligned<float>(panels * wide);
        centre_ = aligned<float>(columns_ * padded);
        radius_ = aligned<float>(padded);
        fine_ = aligned<float>(n_ * more_);
        std::fill_n(centre_.get(), columns_ * padded, 0.0f);
        std::fill_n(radius_.get(), padded, 0.0f);
        for (std::size_t i = 0; i < panels * wide; ++i) {
            double sum = 0;
            const float *row = i < n_ ? sieved.data() + static_cast<std::size_t>(order_[i]) * columns_ : nullptr;
            for (std::size_t j = 0; i < n_ && j < columns_; ++j) sum += static_cast<double>(row[j]) * row[j];
            half_[i] = i < n_ ? static_cast<float>(0.5 * sum) : std::numeric_limits<float>::quiet_NaN();
            if (i < n_ && more_) std::copy_n(fine->data() + static_cast<std::size_t>(order_[i]) * more_, more_, fine_.get() + i * more_);
        }
        for (std::size_t panel = 0; panel < panels; ++panel) pack(sieved.data(), panel, wide, padded);
    }

    template <class T>
    std::size_t search(Rows<T> rows, double inverse, Rows<double> queries, Rows<float> sieved, std::optional<Rows<float>> fine, Column<double> base,
                       Column<double> error, std::optional<Column<std::int64_t>> without, Table<double> distance, Table<std::int64_t> index,
                       int threads) const {
        const std::size_t m = queries.shape(0), d = rows.shape(1), k = distance.shape(1);
        if (rows.shape(0) != n_ || queries.shape(1) != d || sieved.shape(0) != m || sieved.shape(1) != columns_ ||
            (fine ? fine->shape(1) : 0) != more_ || (fine && fine->shape(0) != m) || base.shape(0) != m || error.shape(0) != m ||
            (without && without->shape(0) != m) || distance.shape(0) != m || index.shape(0) != m || index.shape(1) != k || k == 0 || k > n_)
            throw std::invalid_argument("points, queries, base, error, without, distance and index: shapes differ");
        nb::gil_scoped_release release;
        const std::vector<std::int64_t> order = Halving(sieved.data(), columns_, QUERIES)(m);
        const Points<T> points{n_,           d,           columns_,      more_,      panel_.get(), half_.get(), centre_.get(),
                               radius_.get(), fine_.get(), order_.data(), rows.data(), inverse};
        const Queries wanted{queries.data(),
                             sieved.data(),
                             fine ? fine->data() : nullptr,
                             base.data(),
                             error.data(),
                             without ? without->data() : nullptr,
                             order.data(),
                             k,
                             distance.data(),
                             index.data()};
        NeighboursKernel<T> run;
        if constexpr (sizeof(T) == 4) run = set_->neighbours_single;
        else run = set_->neighbours_double;
        std::atomic<std::size_t> compared{0};
        const std::size_t blocks = (m + QUERIES - 1) / QUERIES;
        share_out(blocks, threads, [&](auto next) {
            auto room = aligned<float>(neighbours_room(n_, columns_, set_->tile));
            for (std::size_t b; (b = next()) < blocks;)
                compared += run(points, wanted, b * QUERIES, std::min(QUERIES, m - b * QUERIES), room.get());
        });
        return compared;
    }

  private:
    // The columns of a panel's points, and the ball about them.
    void pack(const float *sieved, std::size_t panel, std::size_t wide, std::size_t padded) {
        const std::size_t start = panel * wide, used = std::min(wide, n_ - start);
        double far[96] = {};  // squared distances from the centre: as many as the widest panel has points
        float *to = panel_.get() + start * columns_;
        for (std::size_t j = 0; j < columns_; ++j, to += wide) {
            double sum = 0;
            for (std::size_t l = 0; l < wide; ++l) to[l] = l < used ? sieved[static_cast<std::size_t>(order_[start + l]) * columns_ + j] : 0;
            for (std::size_t l = 0; l < used; ++l) sum += to[l];
            const float middle = static_cast<float>(sum / static_cast<double>(used));
            centre_[j * padded + panel] = middle;
            for (std::size_t l = 0; l < used; ++l) {
                const double u = static_cast<double>(to[l]) - middle;
                far[l] += u * u;
            }
        }
        radius_[panel] = static_cast<float>(std::sqrt(*std::max_element(far, far + used)) * (1 + 1e-6)) + 1e-37f;
    }

    std::size_t n_, columns_, more_;
    const Kernels *set_;
    std::vector<std::int64_t> order_;
    Aligned<float> panel_, half_, centre_, radius_, fine_;
};

template <class T> void bind(nb::class_<Sieve> &c) {
    c.def("search", &Sieve::search<T>, nb::arg("rows"), nb::arg("inverse"), nb::arg("queries"), nb::arg("sieved"),
          nb::arg("fine").none(), nb::arg("base"), nb::arg("error"), nb::arg("without").none(), nb::arg("distance").noconvert(), nb::arg("index").noconvert(),
          nb::arg("threads"),
          "Fills in squared distances and positions; how many pairs were compared in float64.");
}

}  // namespace

void bind_neighbours(nb::module_ &m) {
    nb::class_<Sieve> c(m, "Sieve");
    c.def(nb::init<Rows<float>, std::optional<Rows<float>>>(), nb::arg("sieved"), nb::arg("fine").none());
    bind<float>(c);
    bind<double>(c);
}

}  // namespace zprime
