// The C interface of the kernels. Objects are made and destroyed by their functions; a function that can fail returns a
// null pointer or a number other than zero when memory runs out.

#include "measure.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace camelid;

namespace {

template <class Make>
auto make_or_null(Make make) -> decltype(make()) {
    try {
        return make();
    } catch (...) {
        return nullptr;
    }
}

std::unique_ptr<Matrix>& matrix_of(Model& model, int layer, int role) {
    if (layer < 0) return role == 0 ? model.embedding : model.head;
    Layer& at = model.layers[layer];
    std::unique_ptr<Matrix>* matrices[] = {&at.query, &at.key, &at.value, &at.output, &at.gate, &at.up, &at.down};
    return *matrices[role];
}

}  // namespace

EXPORT const char* camelid_instruction_set() { 
    static const std::string name = std::string(INSTRUCTION_SET) + (tiles::are_usable() ? " and amx" : "");
    return name.c_str();
}

EXPORT Pool* camelid_pool_create(int num_threads) {
    return make_or_null([=] { return new Pool(num_threads); });
}
EXPORT void camelid_pool_destroy(Pool* pool) { delete pool; }

EXPORT Arena* camelid_arena_create() {
    return make_or_null([] { return new Arena; });
}
EXPORT void camelid_arena_destroy(Arena* arena) { delete arena; }

// A matrix whose weights lie in an arena, which must outlive it.
EXPORT Matrix* camelid_matrix_create(int kind, int num_rows, int num_columns, Arena* arena) {
    return make_or_null([=] { return new Matrix(Kind(kind), num_rows, num_columns, *arena); });
}
EXPORT void camelid_matrix_destroy(Matrix* matrix) { delete matrix; }
EXPORT size_t camelid_matrix_bytes(const Matrix* matrix) { return matrix->num_bytes(); }
EXPORT void camelid_matrix_pack(Matrix* matrix, Pool* pool, int source, const uint8_t* rows, int first_row,
                                int num_rows) {
    pack_rows(*matrix, Source(source), rows, first_row, num_rows, *pool);
}
EXPORT void camelid_matrix_decode_row(const Matrix* matrix, int row, float* values) {
    decode_row(*matrix, row, values);
}

// results [tokens][rows] of values [tokens][columns]
EXPORT int camelid_matrix_multiply(const Matrix* matrix, Pool* pool, const float* values, int num_tokens,
                                   float* results) {
    try {
        Activations x;
        Wanted wanted;
        wanted.add(matrix->kind);
        x.resize(num_tokens, matrix->num_columns, wanted);
        run(*pool, [&](int) {
            const tiles::Session session;
            pool->for_each_short(num_tokens, [&](int n) { x.put_row(n, values + size_t(n) * matrix->num_columns); });
            const Output outputs[] = {{matrix, results, matrix->num_rows}};
            multiply<Store::replace>(*pool, x, outputs);
        });
        return 0;
    } catch (...) {
        return 1;
    }
}

EXPORT Model* camelid_model_create(const Shape* shape, const float* frequencies, Pool* pool) {
    return make_or_null([=] { return new Model(*shape, frequencies, *pool); });
}
EXPORT void camelid_model_destroy(Model* model) { delete model; }

// A matrix of the model, which owns it. Layer -1 holds the embedding (role 0) and the head (1); others hold query, key,
// value, output, gate, up and down in this order.
EXPORT Matrix* camelid_model_make_matrix(Model* model, int layer, int role, int kind, int num_rows, int num_columns) {
    return make_or_null([=] {
        std::unique_ptr<Matrix>& place = matrix_of(*model, layer, role);
        place = std::make_unique<Matrix>(Kind(kind), num_rows, num_columns, model->arena);
        return place.get();
    });
}

// Copies a norm's gains [D]. Layer -1 holds the last norm; others hold those before attention (role 0) and feed-forward
// (1).
EXPORT void camelid_model_set_gain(Model* model, int layer, int role, const float* gain) {
    std::vector<float>& at = layer < 0   ? model->final_gain
                             : role == 0 ? model->layers[layer].attention_gain
                                         : model->layers[layer].ffn_gain;
    at.assign(gain, gain + model->shape.dim);
}

// What is wrong with a step that would read or write beyond memory, or null.
EXPORT const char* camelid_model_find_fault(const Model* model, const Step* step) {
    return find_fault(model->shape, *step);
}

EXPORT int camelid_model_run(Model* model, const Step* step, float* logits) {
    try {
        model->run_step(*step, logits);
        return 0;
    } catch (...) {
        return 1;
    }
}

EXPORT size_t camelid_model_read(Model* model) { return read_weights(*model); }
// Multiplications with additions per second.
EXPORT double camelid_measure_products(Pool* pool, int kind, int num_rounds) {
    return measure_products(*pool, Kind(kind), num_rounds);
}
