// The Python module: picks the instruction set.
#include "bindings.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

using namespace zprime;

namespace {

std::vector<const Kernels *> runnable() {
    std::vector<const Kernels *> out;
#if defined(ZPRIME_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) out.push_back(&avx512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) out.push_back(&avx2);
#endif
    out.push_back(&baseline);
    return out;
}

}  // namespace

const Kernels *zprime::chosen = runnable().front();

namespace {

std::vector<std::string> sets() {
    std::vector<std::string> out;
    for (auto *k : runnable()) out.emplace_back(k->name);
    return out;
}

void use(const std::string &name) {
    for (auto *k : runnable())
        if (name == k->name) {
            chosen = k;
            return;
        }
    throw std::invalid_argument("this machine cannot run the instruction set " + name);
}

}  // namespace

NB_MODULE(_compiled, m) {
    nb::set_leak_warnings(false);  // what is cached at the end of the process is no leak
    bind_mixture(m);
    bind_expectation(m);
    bind_neighbours(m);
    bind_low_rank(m);
    bind_full(m);
    bind_ratio(m);
    bind_product(m);
    m.attr("interface") = 8;  // counted up with every change of what is below, here and in compiled.py
#if defined(ZPRIME_X86)
    m.attr("built") = std::vector<std::string>{avx512.name, avx2.name, baseline.name};
#else
    m.attr("built") = std::vector<std::string>{baseline.name};
#endif
    m.def("sets", &sets, "Instruction sets that were compiled and that this machine can run, best first.");
    m.def("use", &use, nb::arg("name"), "Choose an instruction set.");
    m.def("used", [] { return std::string(chosen->name); }, "The instruction set in use.");
}
