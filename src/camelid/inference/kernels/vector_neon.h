// Sixteen lanes as four NEON registers, with the dot products of ARMv8.2.
#pragma once

#include <arm_neon.h>

namespace camelid {

constexpr const char* INSTRUCTION_SET = "neon with dotprod";
constexpr int MAX_TILE = 4;
constexpr bool HAS_WORDS = false;
constexpr int QUARTERS = 4;

struct Float {
    float32x4_t quarter[QUARTERS];
};
struct Int {
    int32x4_t quarter[QUARTERS];
};

// Keeps a value in its registers, where a compiler would rather load it several times.
CAMELID_INLINE void pin(Float& x) {
    __asm__("" : "+w"(x.quarter[0]), "+w"(x.quarter[1]), "+w"(x.quarter[2]), "+w"(x.quarter[3]));
}

template <class Vector, class Function>
CAMELID_INLINE Vector each(Function function) {
    Vector result;
    CAMELID_UNROLL
    for (int i = 0; i < QUARTERS; ++i) result.quarter[i] = function(i);
    return result;
}

CAMELID_INLINE Float load(const float* from) {
    return each<Float>([=](int i) { return vld1q_f32(from + 4 * i); });
}
CAMELID_INLINE void store(float* to, Float x) {
    CAMELID_UNROLL
    for (int i = 0; i < QUARTERS; ++i) vst1q_f32(to + 4 * i, x.quarter[i]);
}
CAMELID_INLINE Float load(const uint16_t* halves) {
    return each<Float>([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + 4 * i))); });
}
CAMELID_INLINE void store(uint16_t* halves, Float x) {
    CAMELID_UNROLL
    for (int i = 0; i < QUARTERS; ++i) vst1_u16(halves + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.quarter[i])));
}
CAMELID_INLINE Float load_bfloat16(const uint16_t* from) {
    return each<Float>([=](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from + 4 * i), 16)); });
}
CAMELID_INLINE Float broadcast(float x) {
    return each<Float>([=](int) { return vdupq_n_f32(x); });
}

CAMELID_INLINE Float add(Float a, Float b) {
    return each<Float>([&](int i) { return vaddq_f32(a.quarter[i], b.quarter[i]); });
}
CAMELID_INLINE Float sub(Float a, Float b) {
    return each<Float>([&](int i) { return vsubq_f32(a.quarter[i], b.quarter[i]); });
}
CAMELID_INLINE Float mul(Float a, Float b) {
    return each<Float>([&](int i) { return vmulq_f32(a.quarter[i], b.quarter[i]); });
}
CAMELID_INLINE Float div(Float a, Float b) {
    return each<Float>([&](int i) { return vdivq_f32(a.quarter[i], b.quarter[i]); });
}
CAMELID_INLINE Float max(Float a, Float b) {
    return each<Float>([&](int i) { return vmaxq_f32(a.quarter[i], b.quarter[i]); });
}
CAMELID_INLINE Float min(Float a, Float b) {
    return each<Float>([&](int i) { return vminq_f32(a.quarter[i], b.quarter[i]); });
}
CAMELID_INLINE Float fma(Float a, Float b, Float c) {
    return each<Float>([&](int i) { return vfmaq_f32(c.quarter[i], a.quarter[i], b.quarter[i]); });
}
CAMELID_INLINE Float abs(Float x) {
    return each<Float>([&](int i) { return vabsq_f32(x.quarter[i]); });
}
// x where `key` is at least `limit`, else 0.
CAMELID_INLINE Float zero_below(Float x, Float key, Float limit) {
    return each<Float>([&](int i) {
        const uint32x4_t is_kept = vcgeq_f32(key.quarter[i], limit.quarter[i]);
        return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x.quarter[i]), is_kept));
    });
}
CAMELID_INLINE float sum(Float x) {
    const float32x4_t even = vaddq_f32(x.quarter[0], x.quarter[2]), odd = vaddq_f32(x.quarter[1], x.quarter[3]);
    const float32x4_t four = vaddq_f32(even, odd);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
CAMELID_INLINE float largest(Float x) {
    const float32x4_t even = vmaxq_f32(x.quarter[0], x.quarter[2]), odd = vmaxq_f32(x.quarter[1], x.quarter[3]);
    return vmaxvq_f32(vmaxq_f32(even, odd));
}

CAMELID_INLINE Int to_int(Float x) {
    return each<Int>([&](int i) { return vcvtnq_s32_f32(x.quarter[i]); });
}
CAMELID_INLINE Float to_float(Int x) {
    return each<Float>([&](int i) { return vcvtq_f32_s32(x.quarter[i]); });
}
CAMELID_INLINE Float scale_by_power(Float x, Int power) {
    return each<Float>([&](int i) {
        const int32x4_t bits = vreinterpretq_s32_f32(x.quarter[i]);
        return vreinterpretq_f32_s32(vaddq_s32(bits, vshlq_n_s32(power.quarter[i], 23)));
    });
}
CAMELID_INLINE void store_bytes(int8_t* to, Int x) {
    const int16x8_t low = vcombine_s16(vqmovn_s32(x.quarter[0]), vqmovn_s32(x.quarter[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(x.quarter[2]), vqmovn_s32(x.quarter[3]));
    vst1q_s8(to, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}

// Sums of 32 columns: of the columns 0 and 1, and of the columns 2 and 3, of each four.
CAMELID_INLINE void sum_columns(Int first, Int second, int32_t (&sums)[2]) {
    int32x4_t four = vdupq_n_s32(0);
    for (int i = 0; i < QUARTERS; ++i) four = vaddq_s32(four, vaddq_s32(first.quarter[i], second.quarter[i]));
    const int32x4_t two = vpaddq_s32(four, four);
    sums[0] = vgetq_lane_s32(two, 0), sums[1] = vgetq_lane_s32(two, 1);
}

// ---- dot products of a group -------------------------------------------------------------------------------------

CAMELID_INLINE int32_t make_nibble_start(int first, int second) { return -8 * (first + second); }

struct Bytes {
    int8x16_t quarter[QUARTERS];
};

// sums[n] starts at starts[n], or at 0, and grows by weights_at(step) x four bytes of token n, for every step.
template <int N, class WeightsAt>
CAMELID_INLINE void add_products(WeightsAt weights_at, const int8_t* tokens, const int32_t* starts, Int (&sums)[N]) {
    CAMELID_UNROLL
    for (int n = 0; n < N; ++n) sums[n] = each<Int>([=](int) { return vdupq_n_s32(starts ? starts[n] : 0); });
    CAMELID_UNROLL
    for (int step = 0; step < GROUP / 4; ++step) {
        const Bytes weights = weights_at(step);
        CAMELID_UNROLL
        for (int n = 0; n < N; ++n) {
            const int8x16_t values = vreinterpretq_s8_s32(vdupq_n_s32(load_int32(tokens + n * GROUP + step * 4)));
            CAMELID_UNROLL
            for (int i = 0; i < QUARTERS; ++i) {
                sums[n].quarter[i] = vdotq_s32(sums[n].quarter[i], weights.quarter[i], values);
            }
        }
    }
}

template <int N, bool is_centred>
CAMELID_INLINE void dot_nibbles(const uint8_t* packed, const Group& x, Int (&dots)[N]) {
    const auto weights_at = [=](int step) {
        return each<Bytes>([=](int i) {
            const uint8x16_t pairs = vld1q_u8(packed + step % 4 * 64 + i * 16);
            return vreinterpretq_s8_u8(step < 4 ? vandq_u8(pairs, vdupq_n_u8(15)) : vshrq_n_u8(pairs, 4));
        });
    };
    add_products<N>(weights_at, x.values, is_centred ? x.nibble_starts : nullptr, dots);
}

// The dot product wants signed bytes, so weights lose what packing added to them.
template <int N>
CAMELID_INLINE void dot_bytes(const uint8_t* packed, const Group& x, Int (&dots)[N]) {
    const auto weights_at = [=](int step) {
        return each<Bytes>([=](int i) {
            return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(packed + step * 64 + i * 16), vdupq_n_u8(128)));
        });
    };
    add_products<N>(weights_at, x.values, nullptr, dots);
}

}  // namespace camelid
