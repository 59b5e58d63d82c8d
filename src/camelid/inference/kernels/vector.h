// Sixteen lanes of float and of int32, on whatever the processor has. Every instruction set computes the same bits:
// each operation is rounded once, `fma` is fused, and `sum` adds lanes in one order.
//
// Besides the arithmetic, each set brings the dot products of a group of 32 columns: 16 rows of packed weights (see
// matrix.h) with N tokens of int8, exact in int32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "half.h"

#define CAMELID_INLINE inline __attribute__((always_inline))
#define CAMELID_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define CAMELID_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CAMELID_UNROLL _Pragma("GCC unroll 16")
#endif

namespace camelid {

constexpr int LANES = 16;
constexpr int GROUP = 32;

CAMELID_INLINE int32_t load_int32(const void* address) {
    int32_t value;
    std::memcpy(&value, address, 4);
    return value;
}

// Weights are asked for so far ahead of their use, further than a processor looks ahead by itself: with 2 KiB decoding
// goes from 70 to 90 % of the speed of merely reading them on AMD's Zen. Intel's servers want more of them on the way
// than the first-level cache can wait for.
#ifdef __AMX_TILE__
constexpr int PREFETCH_BYTES = 8192, PREFETCH_LOCALITY = 2;
#else
constexpr int PREFETCH_BYTES = 2048, PREFETCH_LOCALITY = 3;
#endif

template <int num_bytes>
CAMELID_INLINE void ask_for(const void* from) {
    CAMELID_UNROLL
    for (int i = 0; i < num_bytes; i += 64)
        __builtin_prefetch(static_cast<const char*>(from) + i, 0, PREFETCH_LOCALITY);
}

// A group of N tokens' activations.
struct Group {
    const int8_t* values;          // [N][32]
    const int16_t* words;          // [N][8][4], the columns of each four in the order 0, 2, 1, 3; where HAS_WORDS
    const int32_t* nibble_starts;  // [N], what turns sums of nibbles into sums of nibbles - 8: see make_nibble_start
    const int32_t* byte_starts;    // [N], what turns sums of bytes into sums of bytes - 128
};

}  // namespace camelid

#if defined(CAMELID_PORTABLE)
#include "vector_portable.h"
#elif defined(CAMELID_AVX512) || (defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__))
#include "vector_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "vector_avx2.h"
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "vector_neon.h"
#else
#include "vector_portable.h"
#endif

namespace camelid {

CAMELID_INLINE Float zero() { return broadcast(0.0f); }

// The first `count` of 16 lanes; the others are zero.
CAMELID_INLINE Float load_part(const float* from, int count) {
    if (count >= LANES) return load(from);
    float padded[LANES] = {};
    std::memcpy(padded, from, sizeof(float) * (count > 0 ? count : 0));
    return load(padded);
}

CAMELID_INLINE void store_part(float* to, Float x, int count) {
    if (count >= LANES) return store(to, x);
    float padded[LANES];
    store(padded, x);
    std::memcpy(to, padded, sizeof(float) * (count > 0 ? count : 0));
}

// e to the power of x to about 2 units in the last place; 0 below -87, and the value at 88 above it. exp(0) is 1.
CAMELID_INLINE Float exp(Float x) {
    const Float clamped = min(max(x, broadcast(-87.0f)), broadcast(88.0f));
    const Int power = to_int(mul(clamped, broadcast(1.44269504f)));
    const Float whole = to_float(power);
    Float rest = fma(whole, broadcast(-0.693359375f), clamped);
    rest = fma(whole, broadcast(2.12194440e-4f), rest);
    Float series = broadcast(1.9875691500e-4f);
    series = fma(series, rest, broadcast(1.3981999507e-3f));
    series = fma(series, rest, broadcast(8.3334519073e-3f));
    series = fma(series, rest, broadcast(4.1665795894e-2f));
    series = fma(series, rest, broadcast(1.6666665459e-1f));
    series = fma(series, rest, broadcast(5.0000001201e-1f));
    const Float result = add(fma(mul(series, rest), rest, rest), broadcast(1.0f));
    return zero_below(scale_by_power(result, power), x, broadcast(-87.0f));
}

// silu(gate) * up
CAMELID_INLINE Float swiglu(Float gate, Float up) {
    const Float denominator = add(broadcast(1.0f), exp(sub(zero(), gate)));
    return mul(div(gate, denominator), up);
}

}  // namespace camelid
