// Builds a model from a file, runs its steps and writes their logits: replay INPUT OUTPUT THREADS
//
// A file is a shape, E/2 frequencies, the number of tensors, tensors (layer, role, kind or -1 for a gain, rows,
// columns, bytes), the number of steps, and steps (their sizes, then their arrays); integers are int32.

#include <cstdio>
#include <vector>

#include "camelid.cpp"

namespace {

FILE* input;

template <class T>
std::vector<T> read(size_t count) {
    std::vector<T> values(count);
    if (fread(values.data(), sizeof(T), count, input) != count) std::abort();
    return values;
}

int read_int() { return read<int32_t>(1)[0]; }

}  // namespace

int main(int, char** arguments) {
    input = fopen(arguments[1], "rb");
    FILE* output = fopen(arguments[2], "wb");
    Pool pool(std::atoi(arguments[3]));
    const Shape shape = read<Shape>(1)[0];
    Model model(shape, read<float>(shape.head_dim / 2).data(), pool);
    for (int count = read_int(); count > 0; --count) {
        const int layer = read_int(), role = read_int(), kind = read_int(), rows = read_int(), columns = read_int();
        const auto bytes = read<uint8_t>(read_int());
        if (kind < 0) {
            camelid_model_set_gain(&model, layer, role, reinterpret_cast<const float*>(bytes.data()));
        } else {
            Matrix* matrix = camelid_model_make_matrix(&model, layer, role, kind, rows, columns);
            camelid_matrix_pack(matrix, &pool, kind, bytes.data(), 0, rows);
        }
    }
    for (int count = read_int(); count > 0; --count) {
        const int tokens = read_int(), sequences = read_int(), pages = read_int(), outputs = read_int();
        const auto token = read<int32_t>(tokens), added = read<int32_t>(sequences), cached = read<int32_t>(sequences);
        const auto table = read<int32_t>(size_t(sequences) * pages), wanted = read<int32_t>(outputs);
        std::vector<float> logits(size_t(outputs) * shape.vocab_size);
        const Step step = {tokens,       sequences,     pages,        outputs,      token.data(),
                           added.data(), cached.data(), table.data(), wanted.data()};
        if (camelid_model_find_fault(&model, &step) || camelid_model_run(&model, &step, logits.data())) return 1;
        fwrite(logits.data(), sizeof(float), logits.size(), output);
    }
    return fclose(output);
}
