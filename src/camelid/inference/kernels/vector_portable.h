// Sixteen lanes as arrays, in plain C++ for any processor. `fma` is fused where the processor can, so that results are
// the same bits as other instruction sets'; elsewhere it rounds twice.
#pragma once

#include <cmath>

namespace camelid {

constexpr const char* INSTRUCTION_SET = "portable";
constexpr int MAX_TILE = 4;
constexpr bool HAS_WORDS = false;

struct Float {
    float lane[LANES];
};
struct Int {
    int32_t lane[LANES];
};

CAMELID_INLINE void pin(Float&) {}

template <class Vector, class Function>
CAMELID_INLINE Vector each(Function function) {
    Vector result;
    for (int i = 0; i < LANES; ++i) result.lane[i] = function(i);
    return result;
}

CAMELID_INLINE Float load(const float* from) {
    return each<Float>([=](int i) { return from[i]; });
}
CAMELID_INLINE void store(float* to, Float x) { std::memcpy(to, x.lane, sizeof x.lane); }
CAMELID_INLINE Float load(const uint16_t* halves) {
    return each<Float>([=](int i) { return float_of_half(halves[i]); });
}
CAMELID_INLINE void store(uint16_t* halves, Float x) {
    for (int i = 0; i < LANES; ++i) halves[i] = half_of_float(x.lane[i]);
}
CAMELID_INLINE Float load_bfloat16(const uint16_t* from) {
    return each<Float>([=](int i) { return float_of_bfloat16(from[i]); });
}
CAMELID_INLINE Float broadcast(float x) {
    return each<Float>([=](int) { return x; });
}

CAMELID_INLINE Float add(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] + b.lane[i]; });
}
CAMELID_INLINE Float sub(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] - b.lane[i]; });
}
CAMELID_INLINE Float mul(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] * b.lane[i]; });
}
CAMELID_INLINE Float div(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] / b.lane[i]; });
}
CAMELID_INLINE Float max(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
CAMELID_INLINE Float min(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
CAMELID_INLINE Float fma(Float a, Float b, Float c) {
#if defined(__FP_FAST_FMAF) || defined(__FMA__)
    return each<Float>([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
#else
    return add(mul(a, b), c);
#endif
}
CAMELID_INLINE Float abs(Float x) {
    return each<Float>([&](int i) { return std::fabs(x.lane[i]); });
}
// x where `key` is at least `limit`, else 0.
CAMELID_INLINE Float zero_below(Float x, Float key, Float limit) {
    return each<Float>([&](int i) { return key.lane[i] >= limit.lane[i] ? x.lane[i] : 0.0f; });
}
CAMELID_INLINE float sum(Float x) {
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) x.lane[i] += x.lane[i + half];
    }
    return x.lane[0];
}
CAMELID_INLINE float largest(Float x) {
    float most = x.lane[0];
    for (int i = 1; i < LANES; ++i) most = x.lane[i] > most ? x.lane[i] : most;
    return most;
}

CAMELID_INLINE Int to_int(Float x) {
    return each<Int>([&](int i) { return int32_t(std::nearbyint(x.lane[i])); });
}
CAMELID_INLINE Float to_float(Int x) {
    return each<Float>([&](int i) { return float(x.lane[i]); });
}
CAMELID_INLINE Float scale_by_power(Float x, Int power) {
    return each<Float>(
        [&](int i) { return float_of_bits(bits_of_float(x.lane[i]) + (uint32_t(power.lane[i]) << 23)); });
}
CAMELID_INLINE void store_bytes(int8_t* to, Int x) {
    for (int i = 0; i < LANES; ++i) to[i] = int8_t(x.lane[i] > 127 ? 127 : x.lane[i] < -128 ? -128 : x.lane[i]);
}

// Sums of 32 columns: of the columns 0 and 1, and of the columns 2 and 3, of each four.
CAMELID_INLINE void sum_columns(Int first, Int second, int32_t (&sums)[2]) {
    sums[0] = sums[1] = 0;
    for (int i = 0; i < LANES; ++i) sums[i % 4 / 2] += first.lane[i] + second.lane[i];
}

// ---- dot products of a group -------------------------------------------------------------------------------------

CAMELID_INLINE int32_t make_nibble_start(int first, int second) { return -8 * (first + second); }

// sums[n] starts at starts[n], or at 0; `weight_at(step, i)` is the byte i of the 16 rows times 4 columns of a step.
template <int N, class WeightAt>
CAMELID_INLINE void add_products(WeightAt weight_at, const int8_t* tokens, const int32_t* starts, Int (&sums)[N]) {
    for (int n = 0; n < N; ++n) sums[n] = each<Int>([=](int) { return starts ? starts[n] : 0; });
    for (int step = 0; step < GROUP / 4; ++step) {
        for (int n = 0; n < N; ++n) {
            const int8_t* four = tokens + n * GROUP + step * 4;
            for (int row = 0; row < LANES; ++row) {
                for (int j = 0; j < 4; ++j) sums[n].lane[row] += int(weight_at(step, row * 4 + j)) * four[j];
            }
        }
    }
}

template <int N, bool is_centred>
CAMELID_INLINE void dot_nibbles(const uint8_t* packed, const Group& x, Int (&dots)[N]) {
    const auto weight_at = [=](int step, int i) {
        const uint8_t pair = packed[step % 4 * 64 + i];
        return step < 4 ? pair & 15 : pair >> 4;
    };
    add_products<N>(weight_at, x.values, is_centred ? x.nibble_starts : nullptr, dots);
}

template <int N>
CAMELID_INLINE void dot_bytes(const uint8_t* packed, const Group& x, Int (&dots)[N]) {
    add_products<N>([=](int step, int i) { return packed[step * 64 + i]; }, x.values, x.byte_starts, dots);
}

}  // namespace camelid
