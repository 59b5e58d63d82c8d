// Products of a panel of 16 rows with up to 16 tokens by AMX: a tile instruction multiplies a group of 32 columns of
// all of them at once, exact in int32; what follows is the arithmetic of tile.h in its order, so the bits are the same.
//
// Weights are spread to signed bytes, CHUNK_GROUPS groups at a time, and all tiles of tokens pass over them while they
// are in the first-level cache.
#pragma once

#include "activations.h"

namespace camelid {

namespace tiles {

constexpr int CHUNK_GROUPS = 32, CHUNK_GROUPS_OF_ONE_TILE = 8;

// Fewer tokens than this are quicker without.
constexpr int FEWEST_TOKENS = 9;

struct Chunk {
    alignas(64) int8_t weights[CHUNK_GROUPS][BYTES];  // [8][16][4] of each
    alignas(64) float scales[CHUNK_GROUPS][LANES], minima[CHUNK_GROUPS][LANES];

    template <Kind kind>
    void fill(const uint8_t* groups, int count) {
        constexpr int head = (kind == Kind::q4_1 ? 2 : 1) * SCALES;
        for (int group = 0; group < count; ++group, groups += group_bytes(kind)) {
            const auto* halves = reinterpret_cast<const uint16_t*>(groups);
            store(scales[group], load(halves));
            if constexpr (kind == Kind::q4_1) store(minima[group], load(halves + LANES));
            int8_t* to = weights[group];
            const uint8_t* packed = groups + head;
            if constexpr (kind == Kind::q8_0) {
                for (int i = 0; i < BYTES; ++i) to[i] = int8_t(packed[i] ^ 0x80);
            } else {
                constexpr int centre = kind == Kind::q4_0 ? 8 : 0;
                for (int i = 0; i < NIBBLES; ++i) {
                    to[i] = int8_t((packed[i] & 15) - centre);
                    to[NIBBLES + i] = int8_t((packed[i] >> 4) - centre);
                }
            }
        }
    }

    // sums [width][16] += the chunk's `count` groups from `first` on x a tile's tokens; N is `width` or more. Meanwhile
    // as many groups are asked for from `next` on.
    template <Kind kind, int N>
    void multiply(int first, int count, const Tile& tile, int width, float* sums, const uint8_t* next) const {
        Float totals[N];
        CAMELID_UNROLL
        for (int n = 0; n < N; ++n) totals[n] = n < width ? load(sums + n * LANES) : zero();
        for (int group = 0; group < count; ++group) {
            alignas(64) int32_t dots[LANES * LANES];
            const int place = (first + group) * width;
            multiply_group(tile.group.values + place * GROUP, weights[group], dots);
            ask_for<int(group_bytes(kind))>(next + group * group_bytes(kind));
            const Float scale = load(scales[group]);
            CAMELID_UNROLL
            for (int n = 0; n < N; ++n) {
                Int dot;
                std::memcpy(&dot, dots + n * LANES, sizeof dot);
                totals[n] = fma(to_float(dot), mul(scale, broadcast(tile.scales[place + n])), totals[n]);
            }
            if constexpr (kind == Kind::q4_1) {
                const Float minimum = load(minima[group]);
                CAMELID_UNROLL
                for (int n = 0; n < N; ++n) totals[n] = fma(minimum, broadcast(tile.sums[place + n]), totals[n]);
            }
        }
        CAMELID_UNROLL
        for (int n = 0; n < N; ++n) {
            if (n < width) store(sums + n * LANES, totals[n]);
        }
    }
};

template <Kind kind>
void multiply_panel(const uint8_t* panel, const Activations& x, int first_tile, int end_tile, float* sums) {
    const int num_groups = x.num_columns / GROUP, start = x.tile_start(first_tile);
    Chunk chunk;
    const bool is_one_tile = end_tile - first_tile == 1;
    const int length = is_one_tile ? CHUNK_GROUPS_OF_ONE_TILE : CHUNK_GROUPS;
    // With one tile the next chunk's turn comes sooner than memory answers.
    const size_t ahead = is_one_tile ? PREFETCH_BYTES : length * group_bytes(kind);
    for (int group = 0; group < num_groups; group += length) {
        const int count = std::min(length, num_groups - group);
        chunk.fill<kind>(panel + group * group_bytes(kind), count);
        for (int tile = first_tile; tile < end_tile; ++tile) {
            const int width = x.tile_width(tile);
            const auto multiply = width > 12  ? &Chunk::multiply<kind, 16>
                                  : width > 8 ? &Chunk::multiply<kind, 12>
                                              : &Chunk::multiply<kind, 8>;
            (chunk.*multiply)(group, count, x.tile(tile), width, sums + (x.tile_start(tile) - start) * LANES,
                              panel + group * group_bytes(kind) + ahead);
        }
    }
}

// sums [tokens][16] += a panel x the tokens of tiles [first, end).
inline void multiply_panel(const Matrix& matrix, int panel, const Activations& x, int first_tile, int end_tile,
                           float* sums) {
    const auto multiply = matrix.kind == Kind::q4_0   ? multiply_panel<Kind::q4_0>
                          : matrix.kind == Kind::q4_1 ? multiply_panel<Kind::q4_1>
                                                      : multiply_panel<Kind::q8_0>;
    multiply(matrix.panel(panel), x, first_tile, end_tile, sums);
}

}  // namespace tiles

}  // namespace camelid
