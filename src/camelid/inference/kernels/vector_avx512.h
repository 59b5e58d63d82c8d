// Sixteen lanes as one AVX-512 register, with VNNI.
#pragma once

#include <immintrin.h>

namespace camelid {

constexpr const char* INSTRUCTION_SET = "avx512 with vnni";
constexpr int MAX_TILE = 8;
constexpr bool HAS_WORDS = false;

struct Float {
    __m512 x;
};
struct Int {
    __m512i x;
};

// Keeps a value in its register, where a compiler would rather load it several times.
CAMELID_INLINE void pin([[maybe_unused]] Float& x) {
#ifdef __AVX512F__  // not where these instructions are emulated
    __asm__("" : "+v"(x.x));
#endif
}

CAMELID_INLINE Float load(const float* from) { return {_mm512_loadu_ps(from)}; }
CAMELID_INLINE void store(float* to, Float x) { _mm512_storeu_ps(to, x.x); }
CAMELID_INLINE Float load(const uint16_t* halves) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)))};
}
CAMELID_INLINE void store(uint16_t* halves, Float x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves), _mm512_cvtps_ph(x.x, _MM_FROUND_TO_NEAREST_INT));
}
CAMELID_INLINE Float load_bfloat16(const uint16_t* from) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
CAMELID_INLINE Float broadcast(float x) { return {_mm512_set1_ps(x)}; }

CAMELID_INLINE Float add(Float a, Float b) { return {_mm512_add_ps(a.x, b.x)}; }
CAMELID_INLINE Float sub(Float a, Float b) { return {_mm512_sub_ps(a.x, b.x)}; }
CAMELID_INLINE Float mul(Float a, Float b) { return {_mm512_mul_ps(a.x, b.x)}; }
CAMELID_INLINE Float div(Float a, Float b) { return {_mm512_div_ps(a.x, b.x)}; }
CAMELID_INLINE Float max(Float a, Float b) { return {_mm512_max_ps(a.x, b.x)}; }
CAMELID_INLINE Float min(Float a, Float b) { return {_mm512_min_ps(a.x, b.x)}; }
CAMELID_INLINE Float fma(Float a, Float b, Float c) { return {_mm512_fmadd_ps(a.x, b.x, c.x)}; }
CAMELID_INLINE Float abs(Float x) { return {_mm512_abs_ps(x.x)}; }
// x where `key` is at least `limit`, else 0.
CAMELID_INLINE Float zero_below(Float x, Float key, Float limit) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(key.x, limit.x, _CMP_GE_OQ), x.x)};
}
CAMELID_INLINE __m256 high_half(__m512 x) {
    return _mm256_castsi256_ps(_mm512_extracti64x4_epi64(_mm512_castps_si512(x), 1));
}
CAMELID_INLINE float sum(Float x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.x), high_half(x.x));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
CAMELID_INLINE float largest(Float x) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.x), high_half(x.x));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

CAMELID_INLINE Int to_int(Float x) { return {_mm512_cvtps_epi32(x.x)}; }
CAMELID_INLINE Float to_float(Int x) { return {_mm512_cvtepi32_ps(x.x)}; }
CAMELID_INLINE Float scale_by_power(Float x, Int power) {
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x.x), _mm512_slli_epi32(power.x, 23)))};
}
CAMELID_INLINE void store_bytes(int8_t* to, Int x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(x.x));
}

// Sums of 32 columns: of the columns 0 and 1, and of the columns 2 and 3, of each four.
CAMELID_INLINE void sum_columns(Int first, Int second, int32_t (&sums)[2]) {
    const __m512i all = _mm512_add_epi32(first.x, second.x);
    const __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_hadd_epi32(four, four);
    sums[0] = _mm_cvtsi128_si32(two), sums[1] = _mm_extract_epi32(two, 1);
}

// ---- dot products of a group -------------------------------------------------------------------------------------

CAMELID_INLINE int32_t make_nibble_start(int first, int second) { return -8 * (first + second); }

// sums[n] starts at starts[n], or at 0, and grows by weights_at(step) x four bytes of token n, for every step.
template <int N, class WeightsAt>
CAMELID_INLINE void add_products(WeightsAt weights_at, const int8_t* tokens, const int32_t* starts, Int (&sums)[N]) {
    CAMELID_UNROLL
    for (int n = 0; n < N; ++n) sums[n].x = starts ? _mm512_set1_epi32(starts[n]) : _mm512_setzero_si512();
    CAMELID_UNROLL
    for (int step = 0; step < GROUP / 4; ++step) {
        const __m512i weights = weights_at(step);
        CAMELID_UNROLL
        for (int n = 0; n < N; ++n) {
            const __m512i values = _mm512_set1_epi32(load_int32(tokens + n * GROUP + step * 4));
            sums[n].x = _mm512_dpbusd_epi32(sums[n].x, weights, values);
        }
    }
}

template <int N, bool is_centred>
CAMELID_INLINE void dot_nibbles(const uint8_t* packed, const Group& x, Int (&dots)[N]) {
    const __m512i mask = _mm512_set1_epi8(15);
    const auto weights_at = [=](int step) {
        const __m512i pairs = _mm512_loadu_si512(packed + step % 4 * 64);
        return _mm512_and_si512(step < 4 ? pairs : _mm512_srli_epi16(pairs, 4), mask);
    };
    add_products<N>(weights_at, x.values, is_centred ? x.nibble_starts : nullptr, dots);
}

template <int N>
CAMELID_INLINE void dot_bytes(const uint8_t* packed, const Group& x, Int (&dots)[N]) {
    const auto weights_at = [=](int step) { return _mm512_loadu_si512(packed + step * 64); };
    add_products<N>(weights_at, x.values, x.byte_starts, dots);
}

}  // namespace camelid
