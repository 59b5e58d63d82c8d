// A LLaMA model and its forward pass: one call computes a whole step, all threads walking through the layers together.
//
// Shapes: N new tokens of all sequences, D model width, H query heads, K key/value heads, G query heads to each of
// them, E head size, F feed-forward width, V vocabulary.
#pragma once

#include <cmath>
#include <memory>

#include "linear.h"
#include "plan.h"

namespace camelid {

struct Shape {
    int dim, num_layers, num_heads, num_kv_heads, head_dim, ffn_hidden_dim, vocab_size, page_size, num_pages;
    float norm_epsilon;

    int group_size() const { return num_heads / num_kv_heads; }
    int query_dim() const { return num_heads * head_dim; }
    int kv_dim() const { return num_kv_heads * head_dim; }
};

struct Layer {
    std::unique_ptr<Matrix> query, key, value, output, gate, up, down;
    std::vector<float> attention_gain, ffn_gain;
};

class Model {
public:
    Model(const Shape& shape, const float* frequencies, Pool& pool)
        : shape(shape),
          layers(shape.num_layers),
          pool(pool),
          frequencies_(frequencies, frequencies + shape.head_dim / 2),
          cache_(shape.num_layers, shape.num_pages, shape.page_size, shape.num_kv_heads, shape.head_dim),
          alone_(pool.num_threads()) {}

    // Logits [outputs][V] of the tokens that follow the wanted places.
    void run_step(const Step& step, float* logits) {
        plan_.make(step, shape.num_kv_heads, shape.group_size(), pool.num_threads());
        reserve(step);
        run(pool, [&](int thread) { compute(step, thread, logits); });
    }

    const Shape shape;
    Arena arena;
    std::vector<Layer> layers;
    std::unique_ptr<Matrix> embedding, head;  // no head: the embedding is it
    std::vector<float> final_gain;
    Pool& pool;

private:
    // Inputs of linear layers. One token's are made by every thread for itself, which is quicker than waiting for
    // another thread to make them; those of several tokens are shared.
    struct Inputs {
        Activations normalised, attended, last;
    };

    const Matrix& head_matrix() const { return head ? *head : *embedding; }
    bool is_alone(const Step& step) const { return step.num_tokens == 1; }
    // Whether attention itself writes the new positions: it can where each sequence has but one.
    bool is_writing_late(const Step& step) const {
        return step.num_tokens == step.num_sequences && shape.group_size() <= ITEM_ROWS;
    }

    void reserve(const Step& step);
    void compute(const Step& step, int thread, float* logits);
    void begin(int token, const Step& step);
    void write_position(int layer, int token, int kv_head, const Step& step);
    void attend(int layer, const Item& item, const Step& step);
    void merge(const Item& whole, const Step& step);

    template <class Put>
    void prepare(int num_tokens, Put put) {
        if (num_tokens == 1) return put(0);
        pool.for_each_short(num_tokens, put);
    }

    float* attended_row(const Item& item, int row) {
        const int token = plan_.first_token[item.sequence] + row / shape.group_size();
        const int head = item.kv_head * shape.group_size() + row % shape.group_size();
        return attended_.get() + size_t(token) * shape.query_dim() + head * shape.head_dim;
    }

    const std::vector<float> frequencies_;  // [E/2]
    Cache cache_;
    Plan plan_;
    Inputs shared_;
    std::vector<Inputs> alone_;  // [threads]
    Activations hidden_;
    Array<float> stream_, queries_, keys_, values_, attended_;  // [N][D], [N][H E], [N][K E], [N][K E], [N][H E]
    Array<float> cosines_, sines_;                              // [N][E/2]
    Array<Attended> partials_;
};

inline const char* find_fault(const Shape& shape, const Step& step) {
    int64_t num_tokens = 0;
    for (int s = 0; s < step.num_sequences; ++s) {
        if (step.num_new[s] < 1) return "a sequence without a new token";
        if (step.num_cached[s] < 0) return "a negative number of cached positions";
        num_tokens += step.num_new[s];
        const int64_t positions = int64_t(step.num_cached[s]) + step.num_new[s];
        const int64_t num_used = (positions + shape.page_size - 1) / shape.page_size;
        if (num_used > step.num_pages) return "a page table that is shorter than its sequence";
        const int32_t* pages = step.page_tables + size_t(s) * step.num_pages;
        for (int i = 0; i < num_used; ++i) {
            if (pages[i] < 0 || pages[i] >= shape.num_pages) return "a page that the cache does not have";
        }
    }
    if (num_tokens == 0) return "no new token";
    if (num_tokens != step.num_tokens) return "more or fewer tokens than its sequences have";
    for (int n = 0; n < step.num_tokens; ++n) {
        if (step.tokens[n] < 0 || step.tokens[n] >= shape.vocab_size)
            return "a token that the vocabulary does not have";
    }
    for (int n = 0; n < step.num_outputs; ++n) {
        if (step.outputs[n] < 0 || step.outputs[n] >= step.num_tokens) return "an output that is none of its tokens";
    }
    return nullptr;
}

inline void Model::reserve(const Step& step) {
    const size_t num_tokens = step.num_tokens;
    stream_.grow(num_tokens * shape.dim);
    queries_.grow(num_tokens * shape.query_dim());
    keys_.grow(num_tokens * shape.kv_dim());
    values_.grow(num_tokens * shape.kv_dim());
    attended_.grow(num_tokens * shape.query_dim());
    cosines_.grow(num_tokens * shape.head_dim / 2);
    sines_.grow(num_tokens * shape.head_dim / 2);
    partials_.grow(plan_.num_partials);

    Wanted normalised, attended, hidden, last;
    for (const Layer& layer : layers) {
        for (const auto* matrix : {&layer.query, &layer.key, &layer.value, &layer.gate, &layer.up})
            normalised.add((*matrix)->kind);
        attended.add(layer.output->kind);
        hidden.add(layer.down->kind);
    }
    last.add(head_matrix().kind);
    for (size_t i = 0; i < (is_alone(step) ? alone_.size() : 1); ++i) {
        Inputs& inputs = is_alone(step) ? alone_[i] : shared_;
        inputs.normalised.resize(step.num_tokens, shape.dim, normalised);
        inputs.attended.resize(step.num_tokens, shape.query_dim(), attended);
    }
    hidden_.resize(step.num_tokens, shape.ffn_hidden_dim, hidden);
    if (step.num_outputs == 1) {
        for (Inputs& inputs : alone_) inputs.last.resize(1, shape.dim, last);
    } else if (step.num_outputs > 1) {
        shared_.last.resize(step.num_outputs, shape.dim, last);
    }
}

inline void Model::compute(const Step& step, int thread, float* logits) {
    const int num_tokens = step.num_tokens, dim = shape.dim;
    const tiles::Session session;
    Inputs& inputs = is_alone(step) ? alone_[thread] : shared_;
    const auto normalise = [&](Activations& x, int token, int place, const std::vector<float>& gain) {
        x.put_normalised_row(place, stream_.get() + size_t(token) * dim, gain.data(), shape.norm_epsilon);
    };
    pool.for_each_short(num_tokens, [&](int n) { begin(n, step); });
    for (int index = 0; index < shape.num_layers; ++index) {
        const Layer& layer = layers[index];
        prepare(num_tokens, [&](int n) { normalise(inputs.normalised, n, n, layer.attention_gain); });
        const Output projections[] = {{layer.query.get(), queries_.get(), shape.query_dim()},
                                      {layer.key.get(), keys_.get(), shape.kv_dim()},
                                      {layer.value.get(), values_.get(), shape.kv_dim()}};
        multiply<Store::replace>(pool, inputs.normalised, projections);
        if (!is_writing_late(step)) {
            pool.for_each_short(num_tokens, [&](int n) {
                for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) write_position(index, n, kv_head, step);
            });
        }
        pool.for_each(int(plan_.items.size()), [&](int i) { attend(index, plan_.items[i], step); });
        if (!plan_.merges.empty()) {
            pool.for_each(int(plan_.merges.size()), [&](int i) { merge(plan_.merges[i], step); });
        }
        prepare(num_tokens,
                [&](int n) { inputs.attended.put_row(n, attended_.get() + size_t(n) * shape.query_dim()); });
        const Output after_attention[] = {{layer.output.get(), stream_.get(), dim}};
        multiply<Store::add>(pool, inputs.attended, after_attention);
        prepare(num_tokens, [&](int n) { normalise(inputs.normalised, n, n, layer.ffn_gain); });
        multiply_swiglu(pool, inputs.normalised, *layer.gate, *layer.up, hidden_);
        const Output after_ffn[] = {{layer.down.get(), stream_.get(), dim}};
        multiply<Store::add>(pool, hidden_, after_ffn);
    }
    if (step.num_outputs == 0) return;
    Activations& last = (step.num_outputs == 1 ? alone_[thread] : shared_).last;
    prepare(step.num_outputs, [&](int n) { normalise(last, step.outputs[n], n, final_gain); });
    const Output head_output[] = {{&head_matrix(), logits, shape.vocab_size}};
    multiply<Store::replace>(pool, last, head_output);
}

// The embedding of a new token, and its angles.
inline void Model::begin(int token, const Step& step) {
    decode_row(*embedding, step.tokens[token], stream_.get() + size_t(token) * shape.dim);
    const size_t half = shape.head_dim / 2;
    for (size_t i = 0; i < half; ++i) {
        const double angle = float(plan_.position_of[token]) * frequencies_[i];
        cosines_.get()[token * half + i] = float(std::cos(angle));
        sines_.get()[token * half + i] = float(std::sin(angle));
    }
}

inline void Model::write_position(int layer, int token, int kv_head, const Step& step) {
    const int position = plan_.position_of[token], head_dim = shape.head_dim;
    const int32_t* pages = step.page_tables + size_t(plan_.sequence_of[token]) * step.num_pages;
    const size_t place = size_t(token) * shape.kv_dim() + kv_head * head_dim, angle = size_t(token) * head_dim / 2;
    float key[MAX_HEAD_DIM];
    rotate(keys_.get() + place, cosines_.get() + angle, sines_.get() + angle, head_dim, 1.0f, key);
    cache_.write(layer, pages[position / cache_.page_size], position % cache_.page_size, kv_head, key,
                 values_.get() + place);
}

inline void Model::attend(int layer, const Item& item, const Step& step) {
    static constexpr auto widths = std::make_integer_sequence<int, MAX_TILE>();
    const int head_dim = shape.head_dim, group_size = shape.group_size(), start = plan_.first_token[item.sequence];
    const int32_t* pages = step.page_tables + size_t(item.sequence) * step.num_pages;
    const float scale = 1.0f / std::sqrt(float(head_dim));
    alignas(64) float queries[ITEM_ROWS * MAX_HEAD_DIM];
    int ends[ITEM_ROWS];  // positions that a row sees
    for (int row = 0; row < item.num_rows; ++row) {
        const int token = start + (item.first_row + row) / group_size;
        const int head = item.kv_head * group_size + (item.first_row + row) % group_size;
        const size_t angle = size_t(token) * head_dim / 2;
        ends[row] = plan_.position_of[token] + 1;
        rotate(queries_.get() + size_t(token) * shape.query_dim() + head * head_dim, cosines_.get() + angle,
               sines_.get() + angle, head_dim, scale, queries + row * MAX_HEAD_DIM);
    }
    const Past past = {cache_, layer, item.kv_head, pages, ends[item.num_rows - 1]};
    if (is_writing_late(step) && item.end_chunk * CHUNK >= past.end) write_position(layer, start, item.kv_head, step);
    const int num_tiles = (item.num_rows + MAX_TILE - 1) / MAX_TILE;
    Attended totals[ITEM_ROWS], results[MAX_TILE];
    for (int chunk = item.first_chunk; chunk < item.end_chunk; ++chunk) {
        for (int tile = 0; tile < num_tiles; ++tile) {
            const int first = tile * item.num_rows / num_tiles, width = (tile + 1) * item.num_rows / num_tiles - first;
            choose_attention(width, widths)(past, chunk * CHUNK, queries + first * MAX_HEAD_DIM, ends + first, results);
            for (int n = 0; n < width; ++n) {
                Attended& total =
                    item.partial < 0
                        ? totals[first + n]
                        : partials_.get()[item.partial + (chunk - item.first_chunk) * item.num_rows + first + n];
                if (item.partial >= 0 || chunk == 0) {
                    total.copy(results[n], cache_.value_stride);
                } else {
                    total.merge(results[n], cache_.value_stride);
                }
            }
        }
    }
    if (item.partial >= 0) return;
    for (int row = 0; row < item.num_rows; ++row) totals[row].write(attended_row(item, item.first_row + row), head_dim);
}

// Puts together what items with spans of the same rows have left behind.
inline void Model::merge(const Item& whole, const Step&) {
    for (int row = 0; row < whole.num_rows; ++row) {
        const Attended* partial = partials_.get() + whole.partial + row;
        Attended total;
        total.copy(*partial, cache_.value_stride);
        for (int chunk = 1; chunk < whole.end_chunk; ++chunk) {
            total.merge(partial[chunk * whole.num_rows], cache_.value_stride);
        }
        total.write(attended_row(whole, whole.first_row + row), shape.head_dim);
    }
}

}  // namespace camelid
