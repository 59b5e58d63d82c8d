// Weights of one linear layer, packed for the kernels.
//
// Shapes: R rows (outputs), K columns (inputs). Sixteen rows are a panel, the last one filled up with zeros; panels lie
// one after the other, and so do their groups of 32 columns:
//
//   q4_0   scales f16 [16], nibbles [4][16][4]; byte j of [s][row] holds columns 4 s + j (low) and 16 + 4 s + j (high)
//   q4_1   scales f16 [16], minima f16 [16], nibbles as above
//   q8_0   scales f16 [16], bytes [8][16][4], weights + 128
//   f32, f16, bf16   values [K][16], no groups
#pragma once

#include <algorithm>

#include "memory.h"
#include "pool.h"
#include "vector.h"

namespace camelid {

enum class Kind : int { q4_0, q4_1, q8_0, f32, f16, bf16 };

// How a tensor's bytes are laid out in its file; the numbers are those of the C interface.
enum class Source : int { q4_0, q4_1, q8_0, f32, f16, bf16, q5_0 };

constexpr bool is_quantised(Kind kind) { return kind <= Kind::q8_0; }

constexpr int NIBBLES = LANES * GROUP / 2, BYTES = LANES * GROUP, SCALES = LANES * 2;

constexpr size_t group_bytes(Kind kind) {
    return kind == Kind::q4_0 ? SCALES + NIBBLES : kind == Kind::q4_1 ? 2 * SCALES + NIBBLES : SCALES + BYTES;
}

constexpr size_t block_bytes(Source source) {
    switch (source) {
        case Source::q4_0: return 18;
        case Source::q4_1: return 20;
        case Source::q8_0: return 34;
        case Source::q5_0: return 22;
        case Source::f32: return 4;
        default: return 2;
    }
}

struct Matrix {
    Kind kind;
    int num_rows, num_columns, num_panels;
    size_t panel_bytes;
    uint8_t* panels;

    Matrix(Kind kind, int num_rows, int num_columns, Arena& arena)
        : kind(kind), num_rows(num_rows), num_columns(num_columns), num_panels((num_rows + LANES - 1) / LANES) {
        panel_bytes = is_quantised(kind) ? num_groups() * group_bytes(kind)
                                         : size_t(num_columns) * LANES * (kind == Kind::f32 ? 4 : 2);
        panels = arena.allocate(num_bytes());
    }

    int num_groups() const { return num_columns / GROUP; }
    size_t num_bytes() const { return panel_bytes * num_panels; }
    uint8_t* panel(int index) const { return panels + panel_bytes * index; }
};

namespace packing {

// A block of 32 weights that share a scale, as bytes to which 128 was added.
inline uint16_t bytes_of_block(Source source, const uint8_t* block, uint8_t* bytes) {
    uint16_t scale;
    std::memcpy(&scale, block, 2);
    if (source == Source::q8_0) {
        for (int i = 0; i < GROUP; ++i) bytes[i] = block[2 + i] ^ 0x80;
    } else if (source == Source::q5_0) {
        uint32_t fifth_bits;
        std::memcpy(&fifth_bits, block + 2, 4);
        for (int i = 0; i < GROUP; ++i) {
            const int nibble = i < 16 ? block[6 + i] & 15 : block[6 + i - 16] >> 4;
            bytes[i] = uint8_t(128 + (nibble | int(fifth_bits >> i & 1) << 4) - 16);
        }
    } else {
        float values[GROUP], magnitude = 0;
        std::memcpy(values, block, sizeof values);
        for (float value : values) magnitude = std::max(magnitude, value < 0 ? -value : value);
        scale = half_of_float(std::min(magnitude / 127, 65504.0f));
        const float step = float_of_half(scale), inverse = step > 0 ? 1 / step : 0;
        for (int i = 0; i < GROUP; ++i) {
            const float steps = std::clamp(values[i] * inverse, -127.0f, 127.0f);
            bytes[i] = uint8_t(128 + int(steps + (steps < 0 ? -0.5f : 0.5f)));
        }
    }
    return scale;
}

inline void pack_group(Kind kind, Source source, const uint8_t* block, int row, uint8_t* group) {
    if (kind == Kind::q8_0) {
        uint8_t bytes[GROUP];
        const uint16_t scale = bytes_of_block(source, block, bytes);
        std::memcpy(group + 2 * row, &scale, 2);
        for (int step = 0; step < 8; ++step)
            std::memcpy(group + SCALES + (step * LANES + row) * 4, bytes + step * 4, 4);
        return;
    }
    std::memcpy(group + 2 * row, block, 2);
    if (kind == Kind::q4_1) std::memcpy(group + SCALES + 2 * row, block + 2, 2);
    const int head = kind == Kind::q4_1 ? 2 : 1;  // numbers of half precision in front of the nibbles
    const uint8_t* nibbles = block + 2 * head;
    for (int step = 0; step < 4; ++step)
        std::memcpy(group + SCALES * head + (step * LANES + row) * 4, nibbles + step * 4, 4);
}

inline void pack_panel(const Matrix& matrix, Source source, const uint8_t* rows, int count, uint8_t* panel) {
    if (!is_quantised(matrix.kind)) {
        const size_t size = block_bytes(source);
        for (int row = 0; row < count; ++row) {
            const uint8_t* from = rows + size * matrix.num_columns * row;
            for (int k = 0; k < matrix.num_columns; ++k)
                std::memcpy(panel + (size_t(k) * LANES + row) * size, from + k * size, size);
        }
        return;
    }
    const size_t block = source == Source::f32 ? GROUP * sizeof(float) : block_bytes(source);
    for (int group = 0; group < matrix.num_groups(); ++group) {
        for (int row = 0; row < count; ++row) {
            const uint8_t* from = rows + (size_t(row) * matrix.num_groups() + group) * block;
            pack_group(matrix.kind, source, from, row, panel + group * group_bytes(matrix.kind));
        }
    }
}

}  // namespace packing

// Packs the rows from `first_row` on, a multiple of 16, from `num_rows` rows as they lie in a file.
inline void pack_rows(Matrix& matrix, Source source, const uint8_t* rows, int first_row, int num_rows, Pool& pool) {
    const size_t row_bytes = is_quantised(matrix.kind) && source != Source::f32
                                 ? matrix.num_groups() * block_bytes(source)
                                 : matrix.num_columns * block_bytes(source);
    run(pool, [&](int) {
        pool.for_each((num_rows + LANES - 1) / LANES, [&](int index) {
            const int row = index * LANES;
            packing::pack_panel(matrix, source, rows + row_bytes * row, std::min(LANES, num_rows - row),
                                matrix.panel(first_row / LANES + index));
        });
    });
}

// One row's weights, as the file's format defines their values.
inline void decode_row(const Matrix& matrix, int row, float* values) {
    const uint8_t* panel = matrix.panel(row / LANES);
    const int lane = row % LANES;
    const auto half_at = [&](const uint8_t* halves) {
        uint16_t half;
        std::memcpy(&half, halves + 2 * lane, 2);
        return half;
    };
    if (!is_quantised(matrix.kind)) {
        for (int k = 0; k < matrix.num_columns; ++k) {
            const size_t place = size_t(k) * LANES;
            values[k] = matrix.kind == Kind::f32   ? reinterpret_cast<const float*>(panel)[place + lane]
                        : matrix.kind == Kind::f16 ? float_of_half(half_at(panel + 2 * place))
                                                   : float_of_bfloat16(half_at(panel + 2 * place));
        }
        return;
    }
    for (int group = 0; group < matrix.num_groups(); ++group, values += GROUP, panel += group_bytes(matrix.kind)) {
        const float scale = float_of_half(half_at(panel));
        if (matrix.kind == Kind::q8_0) {
            const uint8_t* bytes = panel + SCALES + lane * 4;
            for (int i = 0; i < GROUP; ++i) values[i] = scale * float(bytes[i / 4 * 64 + i % 4] - 128);
            continue;
        }
        const bool has_minimum = matrix.kind == Kind::q4_1;
        const float minimum = has_minimum ? float_of_half(half_at(panel + SCALES)) : -8 * scale;
        const uint8_t* nibbles = panel + (has_minimum ? 2 : 1) * SCALES + lane * 4;
        for (int i = 0; i < GROUP / 2; ++i) {
            const uint8_t pair = nibbles[i / 4 * 64 + i % 4];
            values[i] = scale * float(pair & 15) + minimum;
            values[i + 16] = scale * float(pair >> 4) + minimum;
        }
    }
}

}  // namespace camelid
