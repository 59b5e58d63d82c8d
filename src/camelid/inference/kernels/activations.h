// What goes into linear layers: N tokens of K values, as int8 in groups of 32 with a float scale each, as float, or
// both.
//
// Tokens stand in tiles of at most TILE_TOKENS. A tile of W tokens holds, one group after the other: values
// [K/32][W][32], words [K/32][W][32], and scales, sums and starts [K/32][W]; floats [K][W].
#pragma once

#include "matrix.h"
#include "tile_registers.h"

namespace camelid {

struct Tile {
    Group group;
    const float* scales;
    const float* sums;  // of a group's values, times their scale
    const float* floats;
    int width;

    // The tokens from `first` on; what lies between groups stays as wide.
    Tile from(int first) const {
        return {{group.values + first * GROUP, group.words + first * GROUP, group.nibble_starts + first,
                 group.byte_starts + first},
                scales + first,
                sums + first,
                floats + first,
                width};
    }
};

// Where a token stands: in the tile of `tile_width` tokens that begins with token `tile_start`.
struct Place {
    int tile_start, tile_width, index;
};

// What the matrices want that activations are multiplied with.
struct Wanted {
    bool bytes = false, words = false, floats = false;

    void add(Kind kind) {
        floats |= !is_quantised(kind);
        words |= kind == Kind::q8_0 && HAS_WORDS;
        bytes |= is_quantised(kind);
    }
};

class Activations {
public:
    int num_tokens = 0, num_columns = 0, num_tiles = 0;

    void resize(int tokens, int columns, Wanted wanted) {
        num_tokens = tokens, num_columns = columns;
        num_tiles = (tokens + TILE_TOKENS - 1) / TILE_TOKENS;
        wanted_ = wanted;
        // Tile instructions read a whole tile's worth of a group, however few tokens it has.
        const size_t spare = HAS_TILES ? TILE_TOKENS : 0;
        const size_t count = size_t(tokens) * columns, num_groups = count / GROUP + spare;
        if (wanted.bytes) {
            values_.grow(count + spare * GROUP);
            if (wanted.words) words_.grow(count);
            scales_.grow(num_groups), sums_.grow(num_groups);
            nibble_starts_.grow(num_groups), byte_starts_.grow(num_groups);
        }
        if (wanted.floats) floats_.grow(count);
    }

    // Tiles differ by one token at most, and their bounds do not matter to the result.
    int tile_start(int tile) const { return int(int64_t(tile) * num_tokens / num_tiles); }
    int tile_width(int tile) const { return tile_start(tile + 1) - tile_start(tile); }

    Tile tile(int index) const {
        const size_t place = size_t(tile_start(index)) * num_columns, group = place / GROUP;
        return {{values_.get() + place, words_.get() + place, nibble_starts_.get() + group, byte_starts_.get() + group},
                scales_.get() + group,
                sums_.get() + group,
                floats_.get() + place,
                tile_width(index)};
    }

    Place place(int token) const {
        const int tile = int((int64_t(token + 1) * num_tiles - 1) / num_tokens), start = tile_start(tile);
        return {start, tile_width(tile), token - start};
    }

    // Puts in 32 values of one token; `column` is a multiple of 32, and what lies behind the last column is zero.
    void put(const Place& at, int column, Float first, Float second) {
        if (wanted_.bytes) {
            const size_t tile = size_t(at.tile_start) * num_columns / GROUP;
            put_bytes(tile + size_t(column / GROUP) * at.tile_width + at.index, first, second);
        }
        if (wanted_.floats) {
            float values[GROUP];
            store(values, first);
            store(values + LANES, second);
            float* to = floats_.get() + size_t(at.tile_start) * num_columns + size_t(column) * at.tile_width + at.index;
            const int count = num_columns - column < GROUP ? num_columns - column : GROUP;
            for (int i = 0; i < count; ++i) to[size_t(i) * at.tile_width] = values[i];
        }
    }

    void put_row(int token, const float* row) {
        const Place at = place(token);
        for (int column = 0; column < num_columns; column += GROUP) {
            put(at, column, load_part(row + column, num_columns - column),
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
        const Place at = place(token);
        for (int k = 0; k < num_columns; k += GROUP) put(at, k, normalised(k), normalised(k + LANES));
    }

private:
    void put_bytes(size_t group, Float first, Float second) {
        const float magnitude = largest(max(abs(first), abs(second)));
        const float scale = magnitude / 127.0f;
        const Float inverse = broadcast(magnitude > 0 ? 127.0f / magnitude : 0.0f);
        int8_t* values = values_.get() + group * GROUP;
        const Int rounded[2] = {to_int(mul(first, inverse)), to_int(mul(second, inverse))};
        store_bytes(values, rounded[0]);
        store_bytes(values + LANES, rounded[1]);
        int32_t sums[2];  // of the columns 0, 1 and of the columns 2, 3 of each four
        sum_columns(rounded[0], rounded[1], sums);
        if (wanted_.words) {
            int16_t* words = words_.get() + group * GROUP;
            for (int i = 0; i < GROUP; i += 4) {
                words[i] = values[i], words[i + 1] = values[i + 2], words[i + 2] = values[i + 1],
                words[i + 3] = values[i + 3];
            }
        }
        scales_.get()[group] = scale;
        sums_.get()[group] = scale * float(sums[0] + sums[1]);
        nibble_starts_.get()[group] = make_nibble_start(sums[0], sums[1]);
        byte_starts_.get()[group] = -128 * (sums[0] + sums[1]);
    }

    Wanted wanted_;
    Array<int8_t> values_;
    Array<int16_t> words_;
    Array<float> scales_, sums_, floats_;
    Array<int32_t> nibble_starts_, byte_starts_;
};

}  // namespace camelid
