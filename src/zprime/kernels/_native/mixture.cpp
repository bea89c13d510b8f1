// Log-density of a mixture: packs components, shares points out among threads.
#include "bindings.hpp"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>

#include "tree.hpp"

namespace zprime {
namespace {

using Scores = Table<double>;

template <class T> MixtureKernel<T> kernel_of(const Kernels &k) {
    if constexpr (sizeof(T) == 4) return k.mixture_single;
    else return k.mixture_double;
}

// log2 of a product without overflow.
template <class T> double log2_product(const T *s, std::size_t d) {
    double product = 1, exponent = 0;
    for (std::size_t j = 0; j < d; ++j) {
        product *= static_cast<double>(s[j]);
        if (!(product > 1e-200 && product < 1e200)) {
            int e;
            product = std::frexp(product, &e);
            exponent += e;
        }
    }
    return std::log2(product) + exponent;
}

template <class T> class Panel {
  public:
    Panel(Rows<T> mean, Rows<T> scale, Column<double> log_weight, bool sorted) : mean_(mean), scale_(scale) {
        n_ = mean.shape(0), d_ = mean.shape(1);
        if (scale.shape(0) != n_ || scale.shape(1) != d_ || log_weight.shape(0) != n_)
            throw std::invalid_argument("mean, scale and log_weight: shapes differ");
        nb::gil_scoped_release release;
        weigh(log_weight.data());
        arrange(sorted);
        pack();
        if (sorted) enclose();
    }

    // Returns the cost with boxes, as a multiple of that without, where it was found out.
    double sweep(Rows<T> z, Sums<double> shift, Sums<double> total, Sums<double> doubt, std::optional<Scores> score,
               std::optional<Column<std::int64_t>> without, double dropped, double rounding, int threads) const {
        const std::size_t m = z.shape(0);
        if (z.shape(1) != d_ || shift.shape(0) != m || total.shape(0) != m || doubt.shape(0) != m ||
            (score && (score->shape(0) != m || score->shape(1) != d_)) || (without && without->shape(0) != m))
            throw std::invalid_argument("z, shift, total, doubt, score and without: shapes differ");
        nb::gil_scoped_release release;
        std::vector<std::int64_t> order;
        if (box_) {
            order.resize(m);
            for (std::size_t i = 0; i < m; ++i) order[i] = static_cast<std::int64_t>(i);
            sort_by_tree(order, z.data(), d_, unit_, FEW);
        }
        Packed<T> packed{n_,          d_,          groups_,       data_.get(),   constant_.get(),
                               at_.data(),  place_.data(), column_.data(), reference_, mean_.data(),
                               scale_.data(), exact_.data(), box_.get(), least_.get()};
        const State<T> state{z.data(), shift.data(), total.data(), doubt.data(), score ? score->data() : nullptr,
                             without ? without->data() : nullptr, box_ ? order.data() : nullptr};
        const Limits limits{dropped, rounding};
        const MixtureKernel<T> run = kernel_of<T>(*chosen);
        const std::size_t blocks = (m + POINTS - 1) / POINTS;
        const auto take = [&](std::size_t b, std::size_t from, std::size_t to, T *space) {
            const std::size_t end = std::min(to, m - b * POINTS);
            return from < end ? run(packed, state, limits, b * POINTS + from, end - from, space) : 0.0;
        };
        const auto space_for_one = [&] { return aligned<T>(mixture_room(d_, lanes<T>(), state.score != nullptr)); };
        // Where neighbourhoods tell little (broad components, many dimensions), boxes cost more than they spare: some
        // points of one block find that out, or of two where the first tell of gains: the same whatever the number of threads.
        std::size_t tried[2] = {blocks, blocks};
        double cost = 0;
        if (box_) {
            auto space = space_for_one();
            cost = take(tried[0] = blocks / 4, 0, TRIED, space.get());
            if (cost <= 1 && 3 * blocks / 4 != tried[0])
                cost = std::max(cost, take(tried[1] = 3 * blocks / 4, 0, TRIED, space.get()));
            if (cost > 1) packed.box = nullptr;
        }
        share_out(blocks, threads, [&](auto next) {
            auto space = space_for_one();
            for (std::size_t b; (b = next()) < blocks;)
                take(b, b == tried[0] || b == tried[1] ? TRIED : 0, POINTS, space.get());
        });
        return cost;
    }

  private:
    static constexpr std::size_t W = lanes<T>();
    static constexpr double INFINITE = std::numeric_limits<double>::infinity();
    static constexpr double ROOT = 0.84932180028801904;  // sqrt(log2(e) / 2)

    // log2 of weight and largest density of each component; those of weight zero are left out.
    void weigh(const double *log_weight) {
        exact_.resize(n_);
        double reference = -INFINITE;
        for (std::size_t i = 0; i < n_; ++i) {
            const double c = (log_weight[i] - 0.91893853320467274178 * static_cast<double>(d_)) * 1.4426950408889634074 -
                             log2_product(scale_.data() + i * d_, d_);
            exact_[i] = c;
            if (!(c > -INFINITE)) continue;
            order_.push_back(static_cast<std::int64_t>(i));
            reference = std::max(reference, c);
        }
        reference_ = order_.empty() ? 0 : std::ceil(reference);
    }

    // Columns by how much they tell apart; components by neighbourhood, if asked for.
    void arrange(bool sorted) {
        std::vector<double> sum(d_), square(d_), precision(d_), telling(d_);
        const T *m = mean_.data(), *s = scale_.data();
        const std::size_t looked = std::min<std::size_t>(order_.size(), 4096);
        for (std::size_t i = 0; i < looked; ++i) {
            const std::size_t row = static_cast<std::size_t>(order_[i * order_.size() / looked]) * d_;
            for (std::size_t j = 0; j < d_; ++j) {
                const double v = static_cast<double>(m[row + j]), r = 1 / static_cast<double>(s[row + j]);
                sum[j] += v, square[j] += v * v, precision[j] += r * r;
            }
        }
        unit_.resize(d_);
        column_.resize(d_);
        for (std::size_t j = 0; j < d_; ++j) {
            unit_[j] = std::sqrt(precision[j] / static_cast<double>(std::max<std::size_t>(looked, 1)));
            telling[j] = (square[j] - sum[j] * sum[j] / static_cast<double>(std::max<std::size_t>(looked, 1))) * unit_[j] * unit_[j];
            column_[j] = static_cast<std::int32_t>(j);
        }
        std::stable_sort(column_.begin(), column_.end(), [&](auto a, auto b) { return telling[a] > telling[b]; });
        if (sorted) sort_by_tree(order_, m, d_, unit_, W);
    }

    void pack() {
        groups_ = (order_.size() + W - 1) / W;
        data_ = aligned<T>(groups_ * d_ * 2 * W + W);
        constant_ = aligned<T>(groups_ * W + W);
        at_.assign(groups_ * W, -1);
        place_.assign(n_, -1);
        const T *m = mean_.data(), *s = scale_.data();
        for (std::size_t lane = 0; lane < groups_ * W; ++lane) {
            T *out = data_.get() + lane / W * d_ * 2 * W + lane % W;
            if (lane >= order_.size()) {
                for (std::size_t j = 0; j < 2 * d_; ++j) out[j * W] = 0;
                constant_[lane] = std::numeric_limits<T>::infinity();
                continue;
            }
            const std::size_t i = static_cast<std::size_t>(order_[lane]);
            bool wild = false;
            for (std::size_t j = 0; j < d_; ++j) {
                const double r = ROOT / static_cast<double>(s[i * d_ + column_[j]]);
                wild = wild || (sizeof(T) == 4 && !(r > 1e-15 && r < 1e15));
                out[j * 2 * W] = m[i * d_ + column_[j]];
                out[j * 2 * W + W] = static_cast<T>(r);
            }
            if (wild)
                for (std::size_t j = 0; j < 2 * d_; ++j) out[j * W] = 0;
            constant_[lane] = wild ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(reference_ - exact_[i]);
            at_[lane] = order_[lane];
            place_[i] = static_cast<std::int64_t>(lane);
        }
    }

    void enclose() {
        const std::size_t lines = (groups_ + W - 1) / W;
        box_ = aligned<T>(lines * d_ * 3 * W + W);
        least_ = aligned<T>(lines * W + W);
        for (std::size_t group = 0; group < lines * W; ++group) {
            T *out = box_.get() + group / W * d_ * 3 * W + group % W;
            if (group >= groups_) {
                for (std::size_t j = 0; j < 3 * d_; ++j) out[j * W] = 0;
                least_[group] = std::numeric_limits<T>::infinity();
                continue;
            }
            T least = std::numeric_limits<T>::infinity();
            const std::size_t used = std::min(W, order_.size() - group * W);
            for (std::size_t w = 0; w < used; ++w) {
                const T c = constant_[group * W + w];
                if (!(c >= least)) least = c;  // NaN stays: such a group is never passed over
                if (c != c) break;
            }
            least_[group] = least;
            for (std::size_t j = 0; j < d_; ++j) {
                const T *in = data_.get() + (group * d_ + j) * 2 * W;
                out[j * 3 * W] = *std::min_element(in, in + used);
                out[j * 3 * W + W] = *std::max_element(in, in + used);
                out[j * 3 * W + 2 * W] = *std::min_element(in + W, in + W + used);
            }
        }
    }

    Rows<T> mean_, scale_;  // the caller's memory stays alive with the panel
    std::size_t n_, d_, groups_;
    double reference_;
    std::vector<double> exact_, unit_;
    std::vector<std::int64_t> order_, at_, place_;
    std::vector<std::int32_t> column_;
    Aligned<T> data_, constant_, box_, least_;
};

template <class T> void bind(nb::module_ &m, const char *name) {
    nb::class_<Panel<T>>(m, name)
        .def(nb::init<Rows<T>, Rows<T>, Column<double>, bool>(), nb::arg("mean"), nb::arg("scale"), nb::arg("log_weight"),
             nb::arg("sorted"))
        .def("sweep", &Panel<T>::sweep, nb::arg("z"), nb::arg("shift").noconvert(), nb::arg("total").noconvert(),
             nb::arg("doubt").noconvert(), nb::arg("score").none().noconvert(), nb::arg("without").none(), nb::arg("dropped"),
             nb::arg("rounding"), nb::arg("threads"));
}

}  // namespace

void bind_mixture(nb::module_ &m) {
    bind<float>(m, "Single");
    bind<double>(m, "Double");
}

}  // namespace zprime
