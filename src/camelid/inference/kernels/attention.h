// Attention over a cache of half-precision keys and values in pages.
//
// Shapes: E head size, S positions of a page, B positions of a block (a divisor of S, 16 wherever S allows), V head
// size rounded up to 16. A page of one layer and head holds keys [S/B][E][B] and values [S][V]. A page's layers lie side
// by side, so that the system has to find memory only for pages that are written to.
//
// Positions are cut into chunks of 128, always at multiples of 128. Each chunk gives its largest score, sum and
// weighted values; these are merged in the order of the chunks. So the result is the same bits however new tokens are
// cut into steps and chunks are shared out among threads.
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
        : page_size(page_size),
          head_dim(head_dim),
          value_stride(round_up(head_dim, LANES)),
          num_layers_(num_layers),
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

    const uint16_t* values_at(int layer, int head, const int32_t* pages, int position) const {
        return values(layer, pages[position / page_size], head) + position % page_size * value_stride;
    }
    // Where the keys of a position's block begin, or something near it where blocks are small.
    const uint16_t* keys_near(int layer, int head, const int32_t* pages, int position) const {
        return keys(layer, pages[position / page_size], head) + position % page_size / block * block * head_dim;
    }

    // Keys [E][16] of 16 positions from `position` on, a multiple of 16; in place, or gathered from several blocks.
    const uint16_t* key_block(int layer, int head, const int32_t* pages, int position, int end,
                              uint16_t* gathered) const {
        const int page = position / page_size;
        if (block == LANES) return keys(layer, pages[page], head) + position % page_size * head_dim;
        for (int lane = 0; lane < LANES; lane += block) {
            const int at = position + lane;
            const bool is_filled = at < end;
            const uint16_t* from =
                is_filled ? keys(layer, pages[at / page_size], head) + at % page_size * head_dim : nullptr;
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
        return ((size_t(page) * num_layers_ + layer) * num_heads_ + head) * page_size;
    }

    const int num_layers_, num_heads_;
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

// The cached positions of one sequence in one layer and key/value head.
struct Past {
    const Cache& cache;
    int layer, head;
    const int32_t* pages;
    int end;  // positions from here on do not exist
};

// The chunk that begins at `start`, for N queries [N][MAX_HEAD_DIM], of which query n sees positions before `ends[n]`
// only. While keys are multiplied, as many values are asked for and as many keys further on, line by line: attention to
// a long past is bound by memory.
template <int N>
void attend_to_chunk(const Past& past, int start, const float* queries, const int* ends, Attended* results) {
    alignas(64) float scores[N * CHUNK];
    uint16_t gathered[MAX_HEAD_DIM * LANES];
    const auto& [cache, layer, head, pages, end] = past;
    const int count = std::min(CHUNK, ends[N - 1] - start), padded = round_up(count, LANES);
    const int stride = cache.value_stride;
    std::fill_n(scores, N * CHUNK, 0.0f);
    constexpr int KEYS_AHEAD = 64;
    for (int i = 0; i < padded; i += LANES) {
        const int position = start + i, half = cache.head_dim / 2;
        const uint16_t* keys = cache.key_block(layer, head, pages, position, end, gathered);
        const uint16_t* values = cache.values_at(layer, head, pages, position);
        const uint16_t* next = cache.keys_near(layer, head, pages, std::min(position + KEYS_AHEAD, end - 1));
        multiply_floats<Float16, N, 64>(keys, LANES, half, queries, 1, MAX_HEAD_DIM, scores + i, CHUNK, values);
        multiply_floats<Float16, N, 64>(keys + half * LANES, LANES, cache.head_dim - half, queries + half, 1,
                                        MAX_HEAD_DIM, scores + i, CHUNK, next);
    }
    for (int n = 0; n < N; ++n) {
        weigh(scores + n * CHUNK, std::min(ends[n] - start, count), padded, results[n]);
        std::fill_n(results[n].values, stride, 0.0f);
    }
    for (int e = 0; e < stride; e += LANES) {
        for (int i = 0, length; i < count; i += length) {
            length = std::min(count - i, cache.page_size - (start + i) % cache.page_size);
            const uint16_t* values = cache.values_at(layer, head, pages, start + i) + e;
            multiply_floats<Float16, N, 0>(values, stride, length, scores + i, 1, CHUNK, results->values + e,
                                           sizeof(Attended) / sizeof(float), nullptr);
        }
    }
}

using AttendToChunk = void (*)(const Past& past, int start, const float* queries, const int* ends, Attended* results);

template <int... widths>
AttendToChunk choose_attention(int width, std::integer_sequence<int, widths...>) {
    static constexpr AttendToChunk kernels[] = {attend_to_chunk<widths + 1>...};
    return kernels[width - 1];
}

}  // namespace camelid
