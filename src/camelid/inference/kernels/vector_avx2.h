// Sixteen lanes as two AVX2 registers, with FMA and F16C, and AVX-VNNI where the processor has it.
#pragma once

#include <immintrin.h>

namespace camelid {

struct Float {
    __m256 low, high;
};
struct Int {
    __m256i low, high;
};

// Keeps a value in its register: compilers would rather load it several times, or multiply everything first and add
// afterwards, for which there are too few registers.
CAMELID_INLINE void pin(__m256i& x) { __asm__("" : "+x"(x)); }
CAMELID_INLINE void pin(Float& x) { __asm__("" : "+x"(x.low), "+x"(x.high)); }

CAMELID_INLINE Float load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
CAMELID_INLINE void store(float* to, Float x) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps(to + 8, x.high);
}
CAMELID_INLINE Float load(const uint16_t* halves) {
    const auto* from = reinterpret_cast<const __m128i*>(halves);
    return {_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from + 1))};
}
CAMELID_INLINE void store(uint16_t* halves, Float x) {
    auto* to = reinterpret_cast<__m128i*>(halves);
    _mm_storeu_si128(to, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(to + 1, _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
}
CAMELID_INLINE Float load_bfloat16(const uint16_t* from) {
    const auto widen = [](const uint16_t* eight) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(eight));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    };
    return {widen(from), widen(from + 8)};
}
CAMELID_INLINE Float broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

CAMELID_INLINE Float add(Float a, Float b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
CAMELID_INLINE Float sub(Float a, Float b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
CAMELID_INLINE Float mul(Float a, Float b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
CAMELID_INLINE Float div(Float a, Float b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
CAMELID_INLINE Float max(Float a, Float b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
CAMELID_INLINE Float min(Float a, Float b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
CAMELID_INLINE Float fma(Float a, Float b, Float c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
CAMELID_INLINE Float abs(Float x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
// x where `key` is at least `limit`, else 0.
CAMELID_INLINE Float zero_below(Float x, Float key, Float limit) {
    return {_mm256_and_ps(x.low, _mm256_cmp_ps(key.low, limit.low, _CMP_GE_OQ)),
            _mm256_and_ps(x.high, _mm256_cmp_ps(key.high, limit.high, _CMP_GE_OQ))};
}
CAMELID_INLINE float sum(Float x) {
    const __m256 eight = _mm256_add_ps(x.low, x.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
CAMELID_INLINE float largest(Float x) {
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

CAMELID_INLINE Int to_int(Float x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }
CAMELID_INLINE Float to_float(Int x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }
CAMELID_INLINE Float scale_by_power(Float x, Int power) {
    const auto scale = [](__m256 value, __m256i exponent) {
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), _mm256_slli_epi32(exponent, 23)));
    };
    return {scale(x.low, power.low), scale(x.high, power.high)};
}
CAMELID_INLINE void store_bytes(int8_t* to, Int x) {
    const auto narrow = [](__m256i eight) {
        return _mm_packs_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    };
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(narrow(x.low), narrow(x.high)));
}

// Sums of 32 columns: of the columns 0 and 1, and of the columns 2 and 3, of each four.
CAMELID_INLINE void sum_columns(Int first, Int second, int32_t (&sums)[2]) {
    const __m256i low = _mm256_add_epi32(first.low, second.low), high = _mm256_add_epi32(first.high, second.high);
    const __m256i eight = _mm256_add_epi32(low, high);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_hadd_epi32(four, four);
    sums[0] = _mm_cvtsi128_si32(two), sums[1] = _mm_extract_epi32(two, 1);
}

// ---- dot products of a group -------------------------------------------------------------------------------------

constexpr int MAX_TILE = 6;

struct Bytes {
    __m256i low, high;
};

CAMELID_INLINE Bytes load_bytes(const void* from) {
    const auto* registers = static_cast<const __m256i*>(from);
    return {_mm256_loadu_si256(registers), _mm256_loadu_si256(registers + 1)};
}
CAMELID_INLINE Bytes low_nibbles(Bytes x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.low, mask), _mm256_and_si256(x.high, mask)};
}
CAMELID_INLINE Bytes high_nibbles(Bytes x) {
    return low_nibbles({_mm256_srli_epi16(x.low, 4), _mm256_srli_epi16(x.high, 4)});
}

// sums[n] starts at starts[n], or at 0, and grows by weights_at(step) x four bytes of token n, for every step.
template <int N, int steps, class Multiply, class WeightsAt>
CAMELID_INLINE void add_products(Multiply multiply_add, WeightsAt weights_at, const void* tokens, const int32_t* starts,
                                 Int (&sums)[N]) {
    const auto* bytes = static_cast<const uint8_t*>(tokens);
    CAMELID_UNROLL
    for (int n = 0; n < N; ++n) {
        const __m256i start = starts ? _mm256_set1_epi32(starts[n]) : _mm256_setzero_si256();
        sums[n] = {start, start};
    }
    CAMELID_UNROLL
    for (int step = 0; step < steps; ++step) {
        const Bytes weights = weights_at(step);
        CAMELID_UNROLL
        for (int n = 0; n < N; ++n) {
            const __m256i values = _mm256_set1_epi32(load_int32(bytes + (n * steps + step) * 4));
            sums[n].low = multiply_add(sums[n].low, weights.low, values);
            sums[n].high = multiply_add(sums[n].high, weights.high, values);
            pin(sums[n].low);
            pin(sums[n].high);
        }
    }
}

CAMELID_INLINE Bytes nibbles_at(const uint8_t* packed, int step) {
    const Bytes pairs = load_bytes(packed + step % 4 * 64);
    return step < 4 ? low_nibbles(pairs) : high_nibbles(pairs);
}

#ifdef __AVXVNNI__
constexpr const char* INSTRUCTION_SET = "avx2 with vnni";
constexpr bool HAS_WORDS = false;

CAMELID_INLINE int32_t make_nibble_start(int first, int second) { return -8 * (first + second); }

CAMELID_INLINE __m256i multiply_add_bytes(__m256i sums, __m256i weights, __m256i values) {
    return _mm256_dpbusd_avx_epi32(sums, weights, values);
}

template <int N, bool is_centred>
CAMELID_INLINE void dot_nibbles(const uint8_t* packed, const Group& x, Int (&dots)[N]) {
    const auto weights_at = [=](int step) { return nibbles_at(packed, step); };
    add_products<N, 8>(multiply_add_bytes, weights_at, x.values, is_centred ? x.nibble_starts : nullptr, dots);
}

template <int N>
CAMELID_INLINE void dot_bytes(const uint8_t* packed, const Group& x, Int (&dots)[N]) {
    const auto weights_at = [=](int step) { return load_bytes(packed + step * 64); };
    add_products<N, 8>(multiply_add_bytes, weights_at, x.values, x.byte_starts, dots);
}
#else
constexpr const char* INSTRUCTION_SET = "avx2";
constexpr bool HAS_WORDS = true;

// A nibble times an int8, summed up sixteen times, fits in int16 (30480): maddubs cannot saturate, and a lane's two
// halves are added up over the whole group before they are widened. So the sums of a lane start as two halves too.
CAMELID_INLINE int32_t make_nibble_start(int first, int second) {
    return int32_t(uint32_t(-8 * first) & 0xffff) | int32_t(uint32_t(-8 * second) << 16);
}

CAMELID_INLINE __m256i multiply_add_nibbles(__m256i sums, __m256i weights, __m256i values) {
    return _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, values));
}
CAMELID_INLINE __m256i multiply_add_words(__m256i sums, __m256i weights, __m256i values) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(weights, values));
}

template <int N, bool is_centred>
CAMELID_INLINE void dot_nibbles(const uint8_t* packed, const Group& x, Int (&dots)[N]) {
    const auto weights_at = [=](int step) { return nibbles_at(packed, step); };
    add_products<N, 8>(multiply_add_nibbles, weights_at, x.values, is_centred ? x.nibble_starts : nullptr, dots);
    const __m256i ones = _mm256_set1_epi16(1);
    CAMELID_UNROLL
    for (int n = 0; n < N; ++n) dots[n] = {_mm256_madd_epi16(dots[n].low, ones), _mm256_madd_epi16(dots[n].high, ones)};
}

// Bytes would saturate: they are multiplied as int16, of each four first the columns 0 and 2 and then 1 and 3.
template <int N>
CAMELID_INLINE void dot_bytes(const uint8_t* packed, const Group& x, Int (&dots)[N]) {
    const __m256i mask = _mm256_set1_epi16(255);
    const auto weights_at = [=](int step) {
        const Bytes four = load_bytes(packed + step / 2 * 64);
        return step % 2 ? Bytes{_mm256_srli_epi16(four.low, 8), _mm256_srli_epi16(four.high, 8)}
                        : Bytes{_mm256_and_si256(four.low, mask), _mm256_and_si256(four.high, mask)};
    };
    add_products<N, 16>(multiply_add_words, weights_at, x.words, x.byte_starts, dots);
}
#endif

}  // namespace camelid
