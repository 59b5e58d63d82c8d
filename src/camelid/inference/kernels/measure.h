// What the machine can do at best: reading a model's weights, and multiplying what lies in the first-level cache.
#pragma once

#include <chrono>

#include "model.h"

namespace camelid {

// Reads all weights that a forward pass reads, by the same threads in the same order; returns their number of bytes.
inline size_t read_weights(Model& model) {
    constexpr size_t RUN_BYTES = 64 << 10;
    std::vector<const Matrix*> matrices;
    for (const Layer& layer : model.layers) {
        for (const auto* matrix :
             {&layer.query, &layer.key, &layer.value, &layer.output, &layer.gate, &layer.up, &layer.down}) {
            matrices.push_back(matrix->get());
        }
    }
    matrices.push_back(model.head ? model.head.get() : model.embedding.get());
    size_t num_bytes = 0;
    for (const Matrix* matrix : matrices) num_bytes += matrix->num_bytes();
    std::atomic<int> total{0};
    run(model.pool, [&](int) {
        for (const Matrix* matrix : matrices) {
            const size_t size = matrix->num_bytes();
            model.pool.for_each(int((size + RUN_BYTES - 1) / RUN_BYTES), [&](int item) {
                const auto* from = reinterpret_cast<const float*>(matrix->panels + item * RUN_BYTES);
                const size_t count = std::min(RUN_BYTES, size - item * RUN_BYTES) / sizeof(float);
                Float most[4] = {zero(), zero(), zero(), zero()};
                for (size_t i = 0; i + 4 * LANES <= count; i += 4 * LANES) {
                    for (int j = 0; j < 4; ++j) most[j] = max(most[j], load(from + i + j * LANES));
                }
                const float found = largest(max(max(most[0], most[1]), max(most[2], most[3])));
                total.fetch_add(found > 0, std::memory_order_relaxed);
            });
        }
    });
    // What was read must be wanted, or the compiler leaves out the reading.
    return total.load() > 0 ? num_bytes : 0;
}

// Multiplications with their additions per second of all threads, in products of a panel of 512 columns and a full
// tile.
inline double measure_products(Pool& pool, Kind kind, int num_rounds) {
    constexpr int NUM_COLUMNS = 512;
    std::vector<float> row(NUM_COLUMNS, 1.0f);
    Wanted wanted;
    wanted.add(kind);
    std::vector<Activations> inputs(pool.num_threads());
    std::vector<std::unique_ptr<Matrix>> matrices;
    Arena arena;
    for (Activations& x : inputs) {
        x.resize(TILE_TOKENS, NUM_COLUMNS, wanted);
        for (int n = 0; n < TILE_TOKENS; ++n) x.put_row(n, row.data());
        matrices.push_back(std::make_unique<Matrix>(kind, LANES, NUM_COLUMNS, arena));
    }
    const auto started = std::chrono::steady_clock::now();
    run(pool, [&](int thread) {
        const tiles::Session session;
        Sums sums;
        for (int i = 0; i < num_rounds; ++i) sums.compute(*matrices[thread], 0, inputs[thread], 0, 1);
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return double(LANES) * NUM_COLUMNS * TILE_TOKENS * num_rounds * pool.num_threads() / seconds;
}

}  // namespace camelid
