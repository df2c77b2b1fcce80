/* Half precision (IEEE 754 binary16), finite numbers. */
#ifndef HALF_H
#define HALF_H
#include <stdint.h>

static float half(uint16_t bits)
{
    const uint32_t magnitude = bits & 0x7fffu;
    union {
        uint32_t bits;
        float value;
    } made;
    made.bits = (magnitude << 13) + ((127u - 15u) << 23);
    if (magnitude < 0x400u) /* subnormal: a multiple of 2^-24 */
        made.value = (float)magnitude * 5.9604644775390625e-8f;
    return bits & 0x8000u ? -made.value : made.value;
}
#endif
