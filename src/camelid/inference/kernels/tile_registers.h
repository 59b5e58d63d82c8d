// Sixteen lanes by sixteen: the tile registers of AMX, where the processor has them, or plain C++ in their place, which
// only tests use.
#pragma once

#include "vector.h"

#if defined(__AMX_INT8__) && defined(__AMX_TILE__) && defined(__linux__) && \
    !defined(CAMELID_PORTABLE) && !defined(CAMELID_EMULATED_TILES)
#define CAMELID_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace camelid {

#if defined(CAMELID_AMX) || defined(CAMELID_EMULATED_TILES)
constexpr bool HAS_TILES = true;
#else
constexpr bool HAS_TILES = false;
#endif

// As many tokens stand together as are multiplied at once.
constexpr int TILE_TOKENS = HAS_TILES ? LANES : MAX_TILE;

namespace tiles {

#ifdef CAMELID_AMX

// Linux hands out the tiles' registers on request only.
inline bool ask_for_permission() {
    constexpr int REQUEST_FEATURE = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_FEATURE, TILE_DATA) == 0;
}

// Tile 0: dots, 16 rows of 16 int32. Tile 1: tokens, 16 rows of 32 bytes. Tile 2: weights, 8 rows of 64 bytes.
struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 32, 64};
    uint8_t num_rows[16] = {16, 16, 8};
};

// Not the compiler's own functions: those of GCC 12 do not say that the whole configuration, or a tile, is read.
inline void configure() {
    static constexpr Configuration configuration;
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration) : "memory");
}
inline void release() { __asm__ volatile("tilerelease"); }

// dots [16 tokens][16 rows] of a group's tokens [16][32] and weights [8][16][4]
CAMELID_INLINE void multiply_group(const int8_t* tokens, const int8_t* weights, int32_t* dots) {
    __asm__ volatile(
        "tilezero %%tmm0\n\t"
        "tileloadd (%0,%3,1), %%tmm1\n\t"
        "tileloadd (%1,%4,1), %%tmm2\n\t"
        "tdpbssd %%tmm2, %%tmm1, %%tmm0\n\t"
        "tilestored %%tmm0, (%2,%4,1)"
        :
        : "r"(tokens), "r"(weights), "r"(dots), "r"(ptrdiff_t(GROUP)), "r"(ptrdiff_t(4 * LANES))
        : "memory");
}

#else

inline bool ask_for_permission() { return HAS_TILES; }
inline void configure() {}
inline void release() {}
inline void multiply_group(const int8_t* tokens, const int8_t* weights, int32_t* dots) {
    for (int i = 0; i < LANES * LANES; ++i) {
        const int8_t *token = tokens + i / LANES * GROUP, *row = weights + i % LANES * 4;
        dots[i] = 0;
        for (int k = 0; k < GROUP; ++k) dots[i] += token[k] * row[k / 4 * 64 + k % 4];
    }
}

#endif

// Whether this process may use them.
inline bool are_usable() {
    static const bool answer = ask_for_permission();
    return answer;
}

// While it lives, its thread's tiles are as `multiply_group` wants them.
class Session {
public:
    Session() {
        if (are_usable()) configure();
    }
    ~Session() {
        if (are_usable()) release();
    }
    Session(const Session&) = delete;
};

}  // namespace tiles

}  // namespace camelid
