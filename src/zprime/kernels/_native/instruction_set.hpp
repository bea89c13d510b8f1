// All that is compiled once per instruction set, with
//   SET    name of the table and, with _set behind it, of the namespace
//   BYTES  bytes of a vector register
//   TILE   points (or components) whose sums are held in registers together
// No function with a definition in a header of the standard library may be called here: the linker would keep one copy
// for all instruction sets, perhaps one that this machine cannot run.
#include "kernels.hpp"

#define INSIDE_(set) set##_set
#define INSIDE(set) INSIDE_(set)

#include "vectors.hpp"

#include "mixture_sums.hpp"

#include "mixture_distances.hpp"

#include "mixture_neighbourhoods.hpp"

#include "mixture_kernel.hpp"

#include "expectation_kernel.hpp"

#include "neighbours_kernel.hpp"

#include "low_rank_kernel.hpp"

#include "full_kernel.hpp"

#include "ratio_kernel.hpp"

#include "product_kernel.hpp"

#define NAME_(set) #set
#define NAME(set) NAME_(set)
namespace zprime {
const Kernels SET = {NAME(SET),
                     TILE,
                     INSIDE(SET)::mixture<float>,
                     INSIDE(SET)::mixture<double>,
                     INSIDE(SET)::expectation,
                     INSIDE(SET)::neighbours<float>,
                     INSIDE(SET)::neighbours<double>,
                     INSIDE(SET)::low_rank<float>,
                     INSIDE(SET)::low_rank<double>,
                     INSIDE(SET)::full<float>,
                     INSIDE(SET)::full<double>,
                     INSIDE(SET)::ratio,
                     INSIDE(SET)::products};
}  // namespace zprime
