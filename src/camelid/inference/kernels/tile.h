// The innermost products: a panel of 16 rows with up to MAX_TILE tokens of a tile.
//
// Every sum runs over the columns in one order, group by group or column by column, whatever the width of the tile: a
// token's result is the same bits in any company.
#pragma once

#include "activations.h"
#include "matrix.h"

namespace camelid {

struct Float16 {
    using Stored = uint16_t;
    static CAMELID_INLINE Float load(const Stored* from) { return camelid::load(from); }
};
struct BFloat16 {
    using Stored = uint16_t;
    static CAMELID_INLINE Float load(const Stored* from) { return load_bfloat16(from); }
};
struct Float32 {
    using Stored = float;
    static CAMELID_INLINE Float load(const Stored* from) { return camelid::load(from); }
};

// sums[n] += weights [count][16] x token n, whose values stand `token_stride` apart and `step` after one another. With
// each row of weights, memory is asked for from `ahead` on in steps of `ahead_bytes`, unless these are 0.
template <class Type, int N, int ahead_bytes>
CAMELID_INLINE void multiply_floats(const typename Type::Stored* weights, ptrdiff_t weight_stride, int count,
                                    const float* tokens, ptrdiff_t step, ptrdiff_t token_stride, float* sums,
                                    ptrdiff_t sums_stride, const void* ahead) {
    Float totals[N];
    CAMELID_UNROLL
    for (int n = 0; n < N; ++n) totals[n] = load(sums + n * sums_stride);
    for (int k = 0; k < count; ++k, weights += weight_stride, tokens += step) {
        if constexpr (ahead_bytes > 0) __builtin_prefetch(static_cast<const char*>(ahead) + k * ahead_bytes);
        Float weight = Type::load(weights);
        pin(weight);
        CAMELID_UNROLL
        for (int n = 0; n < N; ++n) totals[n] = fma(weight, broadcast(tokens[n * token_stride]), totals[n]);
    }
    CAMELID_UNROLL
    for (int n = 0; n < N; ++n) store(sums + n * sums_stride, totals[n]);
}

// sums [N][16] += a panel's rows x a tile's tokens over `num_columns` columns.
template <class Type, int N>
void multiply_float_tile(const uint8_t* panel, int num_columns, const Tile& tile, float* sums) {
    const auto* weights = reinterpret_cast<const typename Type::Stored*>(panel);
    constexpr int row_bytes = LANES * sizeof(*weights);
    multiply_floats<Type, N, row_bytes>(weights, LANES, num_columns, tile.floats, tile.width, 1, sums, LANES,
                                        panel + PREFETCH_BYTES);
}

template <Kind kind, int N>
void multiply_quantised_tile(const uint8_t* groups, int num_columns, const Tile& tile, float* sums) {
    constexpr bool has_minima = kind == Kind::q4_1;
    const Group& all = tile.group;
    for (int group = 0; group < num_columns / GROUP; ++group, groups += group_bytes(kind)) {
        const auto* halves = reinterpret_cast<const uint16_t*>(groups);
        const int place = group * tile.width;
        ask_for<int(group_bytes(kind))>(groups + PREFETCH_BYTES);
        const Group x = {all.values + place * GROUP, all.words + place * GROUP, all.nibble_starts + place,
                         all.byte_starts + place};
        Int dots[N];
        if constexpr (kind == Kind::q8_0) {
            dot_bytes<N>(groups + SCALES, x, dots);
        } else {
            dot_nibbles<N, !has_minima>(groups + (has_minima ? 2 : 1) * SCALES, x, dots);
        }
        const Float scales = load(halves);
        CAMELID_UNROLL
        for (int n = 0; n < N; ++n) {
            const Float scale = mul(scales, broadcast(tile.scales[place + n]));
            Float total = fma(to_float(dots[n]), scale, load(sums + n * LANES));
            if constexpr (has_minima) total = fma(load(halves + LANES), broadcast(tile.sums[place + n]), total);
            store(sums + n * LANES, total);
        }
    }
}

using MultiplyTile = void (*)(const uint8_t* panel, int num_columns, const Tile& tile, float* sums);

template <Kind kind, int N>
void multiply_tile(const uint8_t* panel, int num_columns, const Tile& tile, float* sums) {
    if constexpr (is_quantised(kind)) {
        multiply_quantised_tile<kind, N>(panel, num_columns, tile, sums);
    } else {
        using Type =
            std::conditional_t<kind == Kind::f32, Float32, std::conditional_t<kind == Kind::f16, Float16, BFloat16>>;
        multiply_float_tile<Type, N>(panel, num_columns, tile, sums);
    }
}

using Widths = std::make_integer_sequence<int, MAX_TILE>;

template <Kind kind, int... widths>
MultiplyTile choose_width(int width, std::integer_sequence<int, widths...>) {
    static constexpr MultiplyTile kernels[] = {multiply_tile<kind, widths + 1>...};
    return kernels[width - 1];
}

inline MultiplyTile choose_tile_kernel(Kind kind, int width) {
    switch (kind) {
        case Kind::q4_0: return choose_width<Kind::q4_0>(width, Widths());
        case Kind::q4_1: return choose_width<Kind::q4_1>(width, Widths());
        case Kind::q8_0: return choose_width<Kind::q8_0>(width, Widths());
        case Kind::f32: return choose_width<Kind::f32>(width, Widths());
        case Kind::f16: return choose_width<Kind::f16>(width, Widths());
        default: return choose_width<Kind::bf16>(width, Widths());
    }
}

}  // namespace camelid
