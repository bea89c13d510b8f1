// What the parts of the Python module share.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "kernels.hpp"

namespace zprime {

namespace nb = nanobind;

template <class T> using Rows = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T> using Column = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T> using Table = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T> using Sums = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct Free {
    void operator()(void *p) const { ::operator delete[](p, std::align_val_t(LINE)); }
};
template <class T> using Aligned = std::unique_ptr<T[], Free>;
template <class T> Aligned<T> aligned(std::size_t n) {
    return Aligned<T>(static_cast<T *>(::operator new[](n * sizeof(T), std::align_val_t(LINE))));
}

// Take `jobs` of them, in several threads: work(next) calls next() for one after the other, until it gives `jobs`.
template <class Work> void share_out(std::size_t jobs, int threads, Work work) {
    std::atomic<std::size_t> taken{0};
    const auto next = [&] {
        const std::size_t job = taken.fetch_add(1);
        return job < jobs ? job : jobs;
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads && static_cast<std::size_t>(t) < jobs; ++t) others.emplace_back([&] { work(next); });
    work(next);
    for (auto &t : others) t.join();
}

extern const Kernels *chosen;

void bind_mixture(nb::module_ &m);
void bind_expectation(nb::module_ &m);
void bind_neighbours(nb::module_ &m);
void bind_low_rank(nb::module_ &m);
void bind_full(nb::module_ &m);
void bind_ratio(nb::module_ &m);
void bind_product(nb::module_ &m);

}  // namespace zprime
