// Neighbours side by side: rows in the order of the leaves of a k-d tree.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace zprime {

// Sort `rows` (fewer than 2^32) so that every run of `leaf` of them lies close together, distances in units of `unit` (one a column).
template <class T>
void sort_by_tree(std::vector<std::int64_t> &rows, const T *x, std::size_t d, const std::vector<double> &unit, std::size_t leaf) {
    constexpr std::size_t SAMPLE = 64;  // rows that a node looks at to choose its column
    std::vector<std::pair<std::size_t, std::size_t>> open{{0, rows.size()}};
    std::vector<std::uint64_t> keys(rows.size());  // the value, as an integer of the same order, and the row
    const auto key = [&](std::int64_t row, std::size_t column) {
        const float value = static_cast<float>(x[row * d + column]);
        std::uint32_t bits;
        std::memcpy(&bits, &value, 4);
        bits = bits >> 31 ? ~bits : bits | 0x80000000u;
        return static_cast<std::uint64_t>(bits) << 32 | static_cast<std::uint32_t>(row);
    };
    while (!open.empty()) {
        const auto [start, stop] = open.back();
        open.pop_back();
        const std::size_t n = stop - start;
        if (n <= leaf) continue;
        const std::size_t looked = std::min(n, SAMPLE);
        std::size_t column = 0;
        double widest = -1;
        for (std::size_t j = 0; j < d; ++j) {
            double sum = 0, square = 0;
            for (std::size_t i = 0; i < looked; ++i) {
                const double v = static_cast<double>(x[rows[start + i * n / looked] * d + j]);
                sum += v, square += v * v;
            }
            const double spread = (square - sum * sum / looked) * unit[j] * unit[j];
            if (spread > widest) widest = spread, column = j;
        }
        for (std::size_t i = start; i < stop; ++i) keys[i] = key(rows[i], column);
        const std::size_t half = start + (n / 2 + leaf - 1) / leaf * leaf;
        std::nth_element(keys.begin() + start, keys.begin() + half, keys.begin() + stop);
        for (std::size_t i = start; i < stop; ++i) rows[i] = static_cast<std::int64_t>(keys[i] & 0xffffffffu);
        open.push_back({start, half});
        open.push_back({half, stop});
    }
}

}  // namespace zprime
