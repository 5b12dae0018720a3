// The paths, told apart by the instruction sets that the compiler may use (setup.py has its flags): for each the file of its
// vectors, of its inner product, and of the packing for that. A new instruction set is such a file and a line here.
#pragma once

#if defined(__AMX_INT8__)
#define INTVIT_LANES "lanes_avx512.h"
#define INTVIT_TILE "tile_amx.h"
#define INTVIT_PACK "pack_avx512.h"
#elif defined(__AVX512VNNI__)
#define INTVIT_LANES "lanes_avx512.h"
#define INTVIT_TILE "tile_avx512.h"
#define INTVIT_PACK "pack_avx512.h"
#elif defined(__AVXVNNI__)
#define INTVIT_LANES "lanes_avx2.h"
#define INTVIT_TILE "tile_avxvnni.h"
#define INTVIT_PACK "pack_groups.h"
#elif defined(__AVX2__)
#define INTVIT_LANES "lanes_avx2.h"
#define INTVIT_TILE "tile_avx2.h"
#define INTVIT_PACK "pack_groups.h"
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#define INTVIT_LANES "lanes_neon.h"
#define INTVIT_TILE "tile_neon_i8mm.h"
#define INTVIT_PACK "pack_groups.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#define INTVIT_LANES "lanes_neon.h"
#define INTVIT_TILE "tile_neon.h"
#define INTVIT_PACK "pack_groups.h"
#else
#define INTVIT_LANES "lanes_scalar.h"
#define INTVIT_TILE "tile_scalar.h"
#define INTVIT_PACK "pack_groups.h"
#endif
