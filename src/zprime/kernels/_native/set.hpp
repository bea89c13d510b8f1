// All that is compiled once per instruction set, with
//   SET    name of the table and, with _set behind it, of the namespace
//   BYTES  bytes of a vector register
//   TILE   points (or components) whose sums are held in registers together
// No function with a definition in a header of the standard library may be called here: the linker would keep one copy
// for all instruction sets, perhaps one that this machine cannot run.
#include "table.hpp"

#define INSIDE_(set) set##_set
#define INSIDE(set) INSIDE_(set)

#include "vectors.hpp"

#include "sweep.hpp"

#include "expect.hpp"

#include "search.hpp"

#define NAME_(set) #set
#define NAME(set) NAME_(set)
namespace zprime {
const Kernels SET = {NAME(SET),
                     TILE,
                     INSIDE(SET)::block<float>,
                     INSIDE(SET)::block<double>,
                     INSIDE(SET)::expect,
                     INSIDE(SET)::search<float>,
                     INSIDE(SET)::search<double>};
}  // namespace zprime
