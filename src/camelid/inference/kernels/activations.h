// What goes into linear layers: N tokens of K values, as int8 in groups of 32 with a float scale each, as float, or both.
//
// Tokens stand in tiles of at most MAX_TILE, as many as a kernel multiplies at once. A tile of W tokens holds, one group
// after the other: values [K/32][W][32], scales [K/32][W], offsets [K/32][W], sums [K/32][W]; floats [K][W].
#pragma once

#include "memory.h"
#include "vector.h"

namespace camelid {

// A tile from some column on.
struct Tile {
    const int8_t* values;
    const float* scales;
    const int32_t* offsets;  // where the sums of int products start: see make_offset
    const float* sums;       // of a group's values, times their scale
    const float* floats;
};

class Activations {
public:
    int num_tokens = 0, num_columns = 0, num_tiles = 0;

    void resize(int tokens, int columns, bool has_bytes, bool has_floats) {
        num_tokens = tokens, num_columns = columns;
        num_tiles = (tokens + MAX_TILE - 1) / MAX_TILE;
        has_bytes_ = has_bytes, has_floats_ = has_floats;
        const size_t count = size_t(tokens) * columns;
        if (has_bytes) {
            values_.grow(count);
            scales_.grow(count / GROUP);
            offsets_.grow(count / GROUP);
            sums_.grow(count / GROUP);
        }
        if (has_floats) floats_.grow(count);
    }

    // Tiles differ by one token at most, and their bounds do not matter to the result.
    int tile_start(int tile) const { return int(int64_t(tile) * num_tokens / num_tiles); }
    int tile_width(int tile) const { return tile_start(tile + 1) - tile_start(tile); }

    Tile tile(int index, int first_column = 0) const {
        const size_t place = size_t(tile_start(index)) * num_columns + size_t(first_column) * tile_width(index);
        const size_t group = place / GROUP;
        return {values_.get() + place, scales_.get() + group, offsets_.get() + group, sums_.get() + group,
                floats_.get() + place};
    }

    // Puts in 32 values of one token; `column` is a multiple of 32, and what lies behind the last column is zero.
    void put(int token, int column, Float first, Float second) {
        const int index = int((int64_t(token + 1) * num_tiles - 1) / num_tokens);
        const int start = tile_start(index), width = tile_width(index), place = token - start;
        if (has_bytes_) put_bytes(size_t(start) * num_columns / GROUP + size_t(column / GROUP) * width + place, first, second);
        if (has_floats_) {
            float values[GROUP];
            store(values, first);
            store(values + LANES, second);
            float* to = floats_.get() + size_t(start) * num_columns + size_t(column) * width + place;
            const int count = num_columns - column < GROUP ? num_columns - column : GROUP;
            for (int i = 0; i < count; ++i) to[size_t(i) * width] = values[i];
        }
    }

    void put_row(int token, const float* row) {
        for (int column = 0; column < num_columns; column += GROUP) {
            put(token, column, load_part(row + column, num_columns - column),
                load_part(row + column + LANES, num_columns - column - LANES));
        }
    }

    // RMSNorm: the row over the root of its mean square, times a gain.
    void put_normalised_row(int token, const float* row, const float* gain, float epsilon) {
        Float squares = zero();
        for (int k = 0; k < num_columns; k += LANES) {
            const Float x = load_part(row + k, num_columns - k);
            squares = fma(x, x, squares);
        }
        const Float factor = broadcast(1.0f / __builtin_sqrtf(sum(squares) / float(num_columns) + epsilon));
        const auto normalised = [&](int k) {
            return mul(mul(load_part(row + k, num_columns - k), factor), load_part(gain + k, num_columns - k));
        };
        for (int k = 0; k < num_columns; k += GROUP) put(token, k, normalised(k), normalised(k + LANES));
    }

private:
    void put_bytes(size_t group, Float first, Float second) {
        const float magnitude = largest(max(abs(first), abs(second)));
        const float scale = magnitude / 127.0f;
        const Float inverse = broadcast(magnitude > 0 ? 127.0f / magnitude : 0.0f);
        int8_t* values = values_.get() + group * GROUP;
        store_bytes(values, to_int(mul(first, inverse)));
        store_bytes(values + LANES, to_int(mul(second, inverse)));
        int sums[2] = {0, 0};  // of the columns 0, 1 and of the columns 2, 3 of each four
        for (int i = 0; i < GROUP; i += 4) {
            sums[0] += values[i] + values[i + 1];
            sums[1] += values[i + 2] + values[i + 3];
        }
        scales_.get()[group] = scale;
        offsets_.get()[group] = make_offset(sums[0], sums[1]);
        sums_.get()[group] = scale * float(sums[0] + sums[1]);
    }

    bool has_bytes_ = false, has_floats_ = false;
    Array<int8_t> values_;
    Array<float> scales_, sums_, floats_;
    Array<int32_t> offsets_;
};

}  // namespace camelid
