// The tile with AMX: tdpbusd multiplies 16 rows by 16 columns, 64 deep, in one instruction.
//
// Tile registers 0-3 hold sums, the others rows and columns: 32 rows by 32 columns twice over, because that loads least, and 16
// rows by 64 columns where no more than 16 are left. With INTVIT_EMULATE_AMX the instructions are plain C++ of the same
// names, for tests on machines without them.
#pragma once
#include <immintrin.h>

#define INTVIT_PATH "amx"
enum { TILE_ROWS = 32, DEPTH = 64 };  // rows are read, and sums of the groups written, 16 at a time
using Row = uint8_t;
using Column = int8_t;

// As the instructions load them: [depth / 64][64 / 16][64 / 4][16][4].
inline int64_t place_in_panel(int64_t k, int64_t c, int64_t) {
    return k / 64 * 4096 + c / 16 * 1024 + k % 64 / 4 * 64 + c % 16 * 4 + k % 4;
}

#ifdef INTVIT_EMULATE_AMX

struct EmulatedTile {
    uint8_t row[16][64];
};
inline thread_local EmulatedTile emulated_tiles[8];

template <int T> inline void emulated_zero() { memset(&emulated_tiles[T], 0, sizeof(EmulatedTile)); }
template <int T> inline void emulated_load(const void* from, int64_t stride) {
    for (int r = 0; r < 16; r++) memcpy(emulated_tiles[T].row[r], static_cast<const uint8_t*>(from) + r * stride, 64);
}
template <int T> inline void emulated_store(void* to, int64_t stride) {
    for (int r = 0; r < 16; r++) memcpy(static_cast<uint8_t*>(to) + r * stride, emulated_tiles[T].row[r], 64);
}
// C[m][n] += sum over k, i of A[m][4 k + i] (unsigned) * B[k][4 n + i] (signed)
template <int C, int A, int B> inline void emulated_dot() {
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            uint32_t sum;
            memcpy(&sum, emulated_tiles[C].row[m] + 4 * n, 4);
            for (int k = 0; k < 16; k++)
                for (int i = 0; i < 4; i++)
                    sum += uint32_t(emulated_tiles[A].row[m][4 * k + i] * int8_t(emulated_tiles[B].row[k][4 * n + i]));
            memcpy(emulated_tiles[C].row[m] + 4 * n, &sum, 4);
        }
}
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#define _tile_zero(T) emulated_zero<T>()
#define _tile_loadd(T, from, stride) emulated_load<T>(from, stride)
#define _tile_stored(T, to, stride) emulated_store<T>(to, stride)
#define _tile_dpbusd(C, A, B) emulated_dot<C, A, B>()

struct ThreadState {};
inline bool amx_permitted() { return true; }

#else

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

template <int T> inline void emulated_zero() { _tile_zero(T); }
template <int T> inline void emulated_load(const void* from, int64_t stride) { _tile_loadd(T, from, stride); }
template <int T> inline void emulated_store(void* to, int64_t stride) { _tile_stored(T, to, stride); }
// A thread that works on tiles: all eight are 16 rows of 64 bytes, and are given back at the end.
class ThreadState {
public:
    ThreadState() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        for (int i = 0; i < 8; i++) {
            config.row_bytes[i] = 64;
            config.rows[i] = 16;
        }
        asm volatile("" : : "r"(&config) : "memory");  // gcc's intrinsic does not say that it reads all 64 bytes
        _tile_loadconfig(&config);
    }
    ~ThreadState() { _tile_release(); }
    ThreadState(const ThreadState&) = delete;
    ThreadState& operator=(const ThreadState&) = delete;
};

// Does the processor have AMX-INT8, and does Linux let this process use it?
inline bool amx_permitted() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(edx >> 24 & 1) || !(edx >> 25 & 1)) return false;
    const long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

#endif

// Calls work(4) between `steps` steps along the depth, evenly, for TILE_ROWS rows in all: the processor multiplies while it
// works, but looks only some hundred instructions ahead. Four rows are what the epilogue takes at once.
template <class Work> class Beside {
public:
    Beside(int64_t steps, Work& work) : steps(steps), work(work) {}
    void step() {
        for (due += TILE_ROWS; due >= 4 * steps; due -= 4 * steps) work(4);
    }

private:
    const int64_t steps;
    Work& work;
    int64_t due = 0;  // rows * steps
};

inline void zero_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

// 16 rows by up to 4 groups of 16 columns.
template <class Work>
inline void multiply_16_rows(const uint8_t* a, int64_t depth, const int8_t* panel, int groups, int32_t* sums, Beside<Work>& beside) {
    const int64_t row = 4 * COLUMNS;  // bytes of a row of sums
    zero_sums();
    for (int64_t k = 0; k < depth; k += DEPTH, panel += DEPTH * COLUMNS) {
        _tile_loadd(4, a + k, depth);
        _tile_loadd(5, panel, 64);
        _tile_dpbusd(0, 4, 5);
        if (groups > 1) {
            _tile_loadd(6, panel + 1024, 64);
            _tile_dpbusd(1, 4, 6);
        }
        if (groups > 2) {
            _tile_loadd(5, panel + 2048, 64);
            _tile_dpbusd(2, 4, 5);
        }
        if (groups > 3) {
            _tile_loadd(6, panel + 3072, 64);
            _tile_dpbusd(3, 4, 6);
        }
        beside.step();
    }
    _tile_stored(0, sums, row);
    if (groups > 1) _tile_stored(1, sums + 16, row);
    if (groups > 2) _tile_stored(2, sums + 32, row);
    if (groups > 3) _tile_stored(3, sums + 48, row);
}

// 32 rows by one or two groups of 16 columns.
template <class Work>
inline void multiply_32_rows(const uint8_t* a, int64_t depth, const int8_t* panel, bool two, int32_t* sums, Beside<Work>& beside) {
    const int64_t row = 4 * COLUMNS;
    zero_sums();
    for (int64_t k = 0; k < depth; k += DEPTH, panel += DEPTH * COLUMNS) {
        _tile_loadd(4, a + k, depth);
        _tile_loadd(6, panel, 64);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(5, a + k + 16 * depth, depth);
        _tile_dpbusd(1, 5, 6);
        if (two) {
            _tile_loadd(7, panel + 1024, 64);
            _tile_dpbusd(2, 4, 7);
            _tile_dpbusd(3, 5, 7);
        }
        beside.step();
    }
    _tile_stored(0, sums, row);
    _tile_stored(1, sums + 16 * COLUMNS, row);
    if (two) {
        _tile_stored(2, sums + 16, row);
        _tile_stored(3, sums + 16 * COLUMNS + 16, row);
    }
}

// The same as `tile`, and beside it work(TILE_ROWS) in parts.
template <class Work>
inline void tile_beside(const uint8_t* a, int64_t depth, int rows, const int8_t* panel, int groups, int32_t* sums, Work&& work) {
    asm volatile("" : : : "memory");  // gcc's intrinsics of loads do not say that they read memory
    const bool halves = rows > 16 && groups > 2;
    Beside<Work> beside((halves ? 2 : 1) * (depth / DEPTH), work);
    if (rows <= 16) return multiply_16_rows(a, depth, panel, groups, sums, beside);
    multiply_32_rows(a, depth, panel, groups > 1, sums, beside);
    if (halves) multiply_32_rows(a, depth, panel + 2048, groups > 3, sums + 32, beside);
}

inline void tile(const uint8_t* a, int64_t depth, int rows, const int8_t* panel, int groups, int32_t* sums) {
    tile_beside(a, depth, rows, panel, groups, sums, [](int) {});
}

// Bytes that a later tile reads, into the second-level cache: the loads of that tile come too late to hide a slower memory.
inline void prefetch_beside(const int8_t* bytes, int64_t count) {
    for (int64_t i = 0; i < count; i += 64) __builtin_prefetch(bytes + i, 0, 2);
}

// Tiles of bytes of all values, against the definition. Threads may ask at the same time.
inline bool tile_is_exact() {
    const ThreadState state;
    alignas(64) uint8_t a[TILE_ROWS * 2 * DEPTH];
    alignas(64) int8_t panel[2 * DEPTH * COLUMNS];
    alignas(64) int32_t sums[TILE_ROWS * COLUMNS];
    for (int i = 0; i < TILE_ROWS * 2 * DEPTH; i++) a[i] = uint8_t(i * 37 + i / 64 * 11);
    for (int i = 0; i < 2 * DEPTH * COLUMNS; i++) panel[i] = int8_t(i * 91 + i / 128 * 7);
    for (int rows = 16; rows <= TILE_ROWS; rows += 16) {
        memset(sums, 0, sizeof sums);
        tile(a, 2 * DEPTH, rows, panel, COLUMNS / 16, sums);
        for (int i = 0; i < rows * COLUMNS; i++) {
            int32_t sum = 0;
            for (int k = 0; k < 2 * DEPTH; k++) sum += a[i / COLUMNS * 2 * DEPTH + k] * panel[place_in_panel(k, i % COLUMNS, 2 * DEPTH)];
            if (sum != sums[i]) return false;
        }
    }
    return true;
}

inline bool path_supported() {
    for (bool has : {__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512bw"), __builtin_cpu_supports("avx512dq"),
                     __builtin_cpu_supports("avx512vl"), __builtin_cpu_supports("avx512vnni"), __builtin_cpu_supports("avx512vbmi")})
        if (!has) return false;
    return amx_permitted() && tile_is_exact();
}
