// Attention over a cache of half-precision keys and values in pages.
//
// Shapes: E head size, S positions of a page, B positions of a block (a divisor of S, 16 wherever S allows), V head size
// rounded up to 16. A page of one layer and head holds keys [S/B][E][B] and values [S][V].
//
// Positions are cut into chunks of 128, always at multiples of 128. Each chunk gives its largest score, sum and weighted
// values; these are merged in the order of the chunks. So the result is the same bits however new tokens are cut into
// steps and chunks are shared out among threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tile.h"

namespace camelid {

constexpr int CHUNK = 128, MAX_HEAD_DIM = 256;
constexpr int ITEM_ROWS = 4 * MAX_TILE;
constexpr float LARGEST_HALF = 65504.0f, INFINITE = std::numeric_limits<float>::infinity();

constexpr int round_up(int count, int multiple) { return (count + multiple - 1) / multiple * multiple; }

class Cache {
public:
    Cache(int num_layers, int num_pages, int page_size, int num_heads, int head_dim)
        : page_size(page_size), head_dim(head_dim), value_stride(round_up(head_dim, LANES)), num_pages_(num_pages),
          num_heads_(num_heads) {
        while (page_size % block) block /= 2;
        const size_t count = size_t(num_layers) * num_pages * num_heads * page_size;
        keys_ = Memory(count * head_dim * 2);
        values_ = Memory(count * value_stride * 2);
    }

    uint16_t* keys(int layer, int page, int head) const {
        return reinterpret_cast<uint16_t*>(keys_.get()) + place(layer, page, head) * head_dim;
    }
    uint16_t* values(int layer, int page, int head) const {
        return reinterpret_cast<uint16_t*>(values_.get()) + place(layer, page, head) * value_stride;
    }

    // Key and value [E] of one position; what exceeds half precision becomes its largest number.
    void write(int layer, int page, int offset, int head, const float* key, const float* value) const {
        uint16_t halves[MAX_HEAD_DIM];
        uint16_t* to = keys(layer, page, head) + offset / block * (head_dim * block) + offset % block;
        for (int e = 0; e < head_dim; e += LANES) store(halves + e, clamp(load_part(key + e, head_dim - e)));
        for (int e = 0; e < head_dim; ++e) to[e * block] = halves[e];
        to = values(layer, page, head) + offset * value_stride;
        for (int e = 0; e < head_dim; e += LANES) store(to + e, clamp(load_part(value + e, head_dim - e)));
    }

    // Keys [E][16] of 16 positions from `position` on, a multiple of 16; in place, or gathered from several blocks.
    const uint16_t* key_block(int layer, int head, const int32_t* pages, int position, int end, uint16_t* gathered) const {
        const int page = position / page_size;
        if (block == LANES) return keys(layer, pages[page], head) + position % page_size * head_dim;
        for (int lane = 0; lane < LANES; lane += block) {
            const int at = position + lane;
            const bool is_filled = at < end;
            const uint16_t* from = is_filled ? keys(layer, pages[at / page_size], head) + at % page_size * head_dim : nullptr;
            for (int e = 0; e < head_dim; ++e) {
                for (int i = 0; i < block; ++i) gathered[e * LANES + lane + i] = is_filled ? from[e * block + i] : 0;
            }
        }
        return gathered;
    }

    const int page_size, head_dim, value_stride;
    int block = LANES;

private:
    static Float clamp(Float x) { return min(max(x, broadcast(-LARGEST_HALF)), broadcast(LARGEST_HALF)); }
    size_t place(int layer, int page, int head) const {
        return ((size_t(layer) * num_pages_ + page) * num_heads_ + head) * page_size;
    }

    const int num_pages_, num_heads_;
    Memory keys_, values_;
};

// Turns channel pairs (e, e + E/2) by the angles whose cosines and sines are given, and scales.
inline void rotate(const float* from, const float* cosines, const float* sines, int head_dim, float scale, float* to) {
    const int half = head_dim / 2;
    for (int e = 0; e < half; e += LANES) {
        const int count = half - e;
        const Float first = load_part(from + e, count), second = load_part(from + half + e, count);
        const Float cosine = load_part(cosines + e, count), sine = load_part(sines + e, count);
        const Float turned_first = sub(mul(first, cosine), mul(second, sine));
        const Float turned_second = add(mul(second, cosine), mul(first, sine));
        store_part(to + e, mul(turned_first, broadcast(scale)), count);
        store_part(to + half + e, mul(turned_second, broadcast(scale)), count);
    }
}

// What the positions of a chunk, or of several, make of one query: weights are relative to the largest score.
struct Attended {
    float largest, sum;
    alignas(64) float values[MAX_HEAD_DIM];

    void merge(const Attended& next, int value_stride) {
        if (next.largest == -INFINITE) return;
        const float joint = std::max(largest, next.largest);
        const Float mine = exp(broadcast(largest - joint)), its = exp(broadcast(next.largest - joint));
        for (int e = 0; e < value_stride; e += LANES) {
            store(values + e, fma(load(next.values + e), its, mul(load(values + e), mine)));
        }
        float factors[2][LANES];
        store(factors[0], mine);
        store(factors[1], its);
        sum = sum * factors[0][0] + next.sum * factors[1][0];
        largest = joint;
    }

    void copy(const Attended& other, int value_stride) {
        largest = other.largest, sum = other.sum;
        std::copy_n(other.values, value_stride, values);
    }

    void write(float* to, int head_dim) const {
        const Float inverse = broadcast(1.0f / sum);
        for (int e = 0; e < head_dim; e += LANES) store_part(to + e, mul(load(values + e), inverse), head_dim - e);
    }
};

// Scores become weights exp(score - largest), 0 from `visible` on; returns the largest score and the weights' sum.
inline void weigh(float* scores, int visible, int count, Attended& result) {
    for (int i = std::max(visible, 0); i < count; ++i) scores[i] = -INFINITE;
    Float most = broadcast(-INFINITE), total = zero();
    for (int i = 0; i < count; i += LANES) most = max(most, load(scores + i));
    result.largest = visible > 0 ? largest(most) : -INFINITE;
    const Float shift = broadcast(visible > 0 ? result.largest : 0.0f);
    for (int i = 0; i < count; i += LANES) {
        const Float weight = exp(sub(load(scores + i), shift));
        store(scores + i, weight);
        total = add(total, weight);
    }
    result.sum = sum(total);
}

// The chunk that begins at `start`, for N queries [N][MAX_HEAD_DIM] of the same head; positions from `end` on do not
// exist, and query n sees those before `ends[n]` only.
template <int N>
void attend_to_chunk(const Cache& cache, int layer, int head, const int32_t* pages, int start, int end,
                     const float* queries, const int* ends, Attended* results) {
    alignas(64) float scores[N * CHUNK];
    uint16_t gathered[MAX_HEAD_DIM * LANES];
    const int head_dim = cache.head_dim, count = std::min(CHUNK, end - start), padded = round_up(count, LANES);
    std::fill_n(scores, N * CHUNK, 0.0f);
    for (int i = 0; i < padded; i += LANES) {
        const uint16_t* keys = cache.key_block(layer, head, pages, start + i, end, gathered);
        multiply_floats<Float16, N>(keys, LANES, head_dim, queries, 1, MAX_HEAD_DIM, scores + i, CHUNK);
    }
    for (int n = 0; n < N; ++n) weigh(scores + n * CHUNK, std::min(ends[n] - start, count), padded, results[n]);
    constexpr ptrdiff_t result_stride = sizeof(Attended) / sizeof(float);
    for (int n = 0; n < N; ++n) std::fill_n(results[n].values, cache.value_stride, 0.0f);
    for (int i = 0, length; i < count; i += length) {
        const int offset = (start + i) % cache.page_size;
        length = std::min(count - i, cache.page_size - offset);
        const uint16_t* values = cache.values(layer, pages[(start + i) / cache.page_size], head) + offset * cache.value_stride;
        for (int e = 0; e < cache.value_stride; e += LANES) {
            multiply_floats<Float16, N>(values + e, cache.value_stride, length, scores + i, 1, CHUNK, results->values + e,
                                        result_stride);
        }
    }
}

using AttendToChunk = void (*)(const Cache&, int layer, int head, const int32_t* pages, int start, int end,
                               const float* queries, const int* ends, Attended* results);

template <int... widths>
AttendToChunk choose_attention(int width, std::integer_sequence<int, widths...>) {
    static constexpr AttendToChunk kernels[] = {attend_to_chunk<widths + 1>...};
    return kernels[width - 1];
}

}  // namespace camelid
