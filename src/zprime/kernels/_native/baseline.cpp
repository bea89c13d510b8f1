#define SET baseline
#define BYTES 16
#define TILE 2
#include "instruction_set.hpp"
