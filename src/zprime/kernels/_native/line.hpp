// The line of memory that everything is laid out in.
#pragma once
#include <cstddef>

namespace zprime {

constexpr std::size_t LINE = 64;  // bytes of a cache line
template <class T> constexpr std::size_t lanes() { return LINE / sizeof(T); }  // numbers of one

// Static: no copy of it that was compiled for one instruction set may serve another.
static constexpr std::size_t up_to(std::size_t n, std::size_t step) { return (n + step - 1) / step * step; }

}  // namespace zprime
