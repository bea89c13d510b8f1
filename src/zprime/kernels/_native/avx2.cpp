#define SET avx2
#define BYTES 32
#define TILE 4
#include "instruction_set.hpp"
