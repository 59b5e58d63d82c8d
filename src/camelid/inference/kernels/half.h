// Half precision and bfloat16 in plain C++, rounding to nearest even: where no instruction does it, and one at a time.
#pragma once

#include <cstdint>
#include <cstring>

namespace camelid {

inline float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float float_of_half(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude >= 0x400) return float_of_bits(sign | ((magnitude << 13) + (112u << 23)));
    const float value = float(magnitude) * 0x1p-24f;
    return float_of_bits(sign | bits_of_float(value));
}

inline uint16_t half_of_float(float value) {
    const uint32_t bits = bits_of_float(value), magnitude = bits & 0x7fffffff;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;  // rounds to 65536 or more
    if (magnitude < 0x38800000) {  // below the least normal number: the sum's last bit is worth 2^-24
        const float shifted = float_of_bits(magnitude) + 0.5f;
        return sign | uint16_t(bits_of_float(shifted) - 0x3f000000);
    }
    const uint32_t rebiased = magnitude - (112u << 23);
    return sign | uint16_t((rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13);
}

inline float float_of_bfloat16(uint16_t value) { return float_of_bits(uint32_t(value) << 16); }

}  // namespace camelid
