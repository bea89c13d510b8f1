#define SET baseline
#define BYTES 16
#define TILE 2
#include "set.hpp"
