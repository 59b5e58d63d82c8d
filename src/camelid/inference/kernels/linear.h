// Linear layers: activations [N, K] times packed weights [R, K], with what follows them done while the sums are warm.
#pragma once

#include <algorithm>

#include "tile.h"
#include "tile_products.h"

namespace camelid {

// So many tiles share what is read of a panel before the next panel's turn comes; their activations stay in the
// second-level cache.
constexpr int BLOCK_TOKENS = 16 * MAX_TILE, BLOCK_TILES = BLOCK_TOKENS / TILE_TOKENS;

// Sums of products of a panel's 16 rows and the tokens of a block of tiles, [tokens][16].
struct Sums {
    alignas(64) float values[BLOCK_TOKENS * LANES];

    void compute(const Matrix& matrix, int panel, const Activations& x, int first_tile, int last_tile) {
        const int start = x.tile_start(first_tile);
        std::fill_n(values, (x.tile_start(last_tile) - start) * LANES, 0.0f);
        if constexpr (HAS_TILES) {
            if (is_quantised(matrix.kind) && x.num_tokens >= tiles::FEWEST_TOKENS && tiles::are_usable())
                return tiles::multiply_panel(matrix, panel, x, first_tile, last_tile, values);
        }
        for (int tile = first_tile; tile < last_tile; ++tile) {
            const int width = x.tile_width(tile), num_parts = (width + MAX_TILE - 1) / MAX_TILE;
            for (int part = 0; part < num_parts; ++part) {
                const int first = part * width / num_parts, count = (part + 1) * width / num_parts - first;
                const MultiplyTile multiply = choose_tile_kernel(matrix.kind, count);
                multiply(matrix.panel(panel), matrix.num_columns, x.tile(tile).from(first),
                         values + (x.tile_start(tile) + first - start) * LANES);
            }
        }
    }

    Float at(int place) const { return load(values + place * LANES); }
};

// Calls `body(tile, tile end, panel)` so that a block of tiles meets panels [first, end) one after the other.
template <class Body>
void for_each_block(const Activations& x, int first, int end, Body body) {
    for (int tile = 0; tile < x.num_tiles; tile += BLOCK_TILES) {
        for (int panel = first; panel < end; ++panel) body(tile, std::min(tile + BLOCK_TILES, x.num_tiles), panel);
    }
}

// How many panels a thread takes at once: enough that a block of tiles is there for several, few enough that all threads
// end together.
inline int choose_chunk(const Pool& pool, int num_panels, size_t panel_bytes) {
    constexpr size_t RUN_BYTES = 64 << 10;
    const int fair = num_panels / (8 * pool.num_threads()), long_enough = int(RUN_BYTES / panel_bytes);
    return std::max(1, std::min(fair, long_enough));
}

// Where a linear layer's result goes: values [N][stride].
struct Output {
    const Matrix* matrix;
    float* values;
    ptrdiff_t stride;
};

enum class Store { replace, add };

// Several layers of the same input in one go.
template <Store how, size_t count>
void multiply(Pool& pool, const Activations& x, const Output (&outputs)[count]) {
    int num_panels = 0, num_items = 0, chunks[count];
    for (const Output& output : outputs) num_panels += output.matrix->num_panels;
    for (size_t i = 0; i < count; ++i) {
        chunks[i] = choose_chunk(pool, num_panels, outputs[i].matrix->panel_bytes);
        num_items += (outputs[i].matrix->num_panels + chunks[i] - 1) / chunks[i];
    }
    pool.for_each(num_items, [&](int item) {
        size_t i = 0;
        for (int items; item >= (items = (outputs[i].matrix->num_panels + chunks[i] - 1) / chunks[i]); ++i)
            item -= items;
        const Output& output = outputs[i];
        const Matrix& matrix = *output.matrix;
        const int first = item * chunks[i], end = std::min(first + chunks[i], matrix.num_panels);
        Sums sums;
        for_each_block(x, first, end, [&](int tile, int tile_end, int panel) {
            sums.compute(matrix, panel, x, tile, tile_end);
            const int row = panel * LANES, num_rows = std::min(LANES, matrix.num_rows - row);
            const int start = x.tile_start(tile), tokens = x.tile_start(tile_end) - start;
            for (int n = 0; n < tokens; ++n) {
                float* to = output.values + (start + n) * output.stride + row;
                if constexpr (how == Store::add) {
                    store_part(to, add(load_part(to, num_rows), sums.at(n)), num_rows);
                } else {
                    store_part(to, sums.at(n), num_rows);
                }
            }
        });
    });
}

// silu(gate x) * (up x) as the input of the next layer.
inline void multiply_swiglu(Pool& pool, const Activations& x, const Matrix& gate, const Matrix& up,
                            Activations& hidden) {
    const int num_pairs = (gate.num_panels + 1) / 2;
    const int chunk = choose_chunk(pool, num_pairs, 2 * (gate.panel_bytes + up.panel_bytes));
    pool.for_each((num_pairs + chunk - 1) / chunk, [&](int item) {
        Sums gates[2], ups[2];
        for_each_block(x, item * chunk, std::min((item + 1) * chunk, num_pairs), [&](int tile, int tile_end, int pair) {
            const int num_halves = std::min(2, gate.num_panels - 2 * pair);
            for (int half = 0; half < num_halves; ++half) {
                gates[half].compute(gate, 2 * pair + half, x, tile, tile_end);
                ups[half].compute(up, 2 * pair + half, x, tile, tile_end);
            }
            for (int start = x.tile_start(tile), n = 0; tile < tile_end; ++tile) {
                Place at = {x.tile_start(tile), x.tile_width(tile), 0};
                for (; at.index < at.tile_width; ++at.index, ++n) {
                    const Float first = swiglu(gates[0].at(n), ups[0].at(n));
                    const Float second = num_halves == 2 ? swiglu(gates[1].at(n), ups[1].at(n)) : zero();
                    hidden.put(at, pair * GROUP, first, second);
                }
            }
        });
    });
}

}  // namespace camelid
