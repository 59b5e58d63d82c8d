// The AVX-512 and VNNI instructions of vector_avx512.h on a machine without them: SIMD Everywhere computes them, and
// what its release in Debian 12 lacks is put together here from AVX2.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstdint>
#include <cstring>

namespace avx512_in_c {

template <class To, class From>
inline To cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <class Whole, class Half>
struct Halves {
    Half half[2];
    operator Whole() const { return cast<Whole>(*this); }
};

using Floats = Halves<__m512, __m256>;
using Ints = Halves<__m512i, __m256i>;

inline __m512 cvtph_ps(__m256i halves) {
    return Floats{
        {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))}};
}
inline __m256i cvtps_ph(__m512 x) {
    const auto halves = cast<Floats>(x);
    return _mm256_set_m128i(_mm256_cvtps_ph(halves.half[1], _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(halves.half[0], _MM_FROUND_TO_NEAREST_INT));
}
inline __m512 cvtepi32_ps(__m512i x) {
    const auto halves = cast<Ints>(x);
    return Floats{{_mm256_cvtepi32_ps(halves.half[0]), _mm256_cvtepi32_ps(halves.half[1])}};
}
inline __m512i cvtps_epi32(__m512 x) {
    const auto halves = cast<Floats>(x);
    return Ints{{_mm256_cvtps_epi32(halves.half[0]), _mm256_cvtps_epi32(halves.half[1])}};
}
inline __m512i cvtepu16_epi32(__m256i x) {
    return Ints{
        {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1))}};
}

}  // namespace avx512_in_c

#define _mm512_cvtph_ps(x) avx512_in_c::cvtph_ps(x)
#define _mm512_cvtps_ph(x, rounding) avx512_in_c::cvtps_ph(x)
#define _mm512_cvtepi32_ps(x) avx512_in_c::cvtepi32_ps(x)
#define _mm512_cvtps_epi32(x) avx512_in_c::cvtps_epi32(x)
#define _mm512_cvtepu16_epi32(x) avx512_in_c::cvtepu16_epi32(x)
