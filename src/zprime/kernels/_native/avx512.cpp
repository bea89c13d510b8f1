#define SET avx512
#define BYTES 64
#define TILE 8
#include "instruction_set.hpp"
