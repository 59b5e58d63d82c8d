// The 256-bit dot product of AVX-VNNI on a machine without it, so that vector_avx2.h takes its path for such
// processors.
#pragma once

#include <immintrin.h>

#define __AVXVNNI__ 1

inline __m256i dot_of_bytes(__m256i sums, __m256i unsigned_bytes, __m256i signed_bytes) {
    // Saturating int16 is no good, so even and odd bytes are multiplied as int16 each.
    const __m256i mask = _mm256_set1_epi16(255);
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(unsigned_bytes, mask),
                                           _mm256_srai_epi16(_mm256_slli_epi16(signed_bytes, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(unsigned_bytes, 8), _mm256_srai_epi16(signed_bytes, 8));
    return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}

#define _mm256_dpbusd_avx_epi32(sums, a, b) dot_of_bytes(sums, a, b)
