/* Values as Rice-coded integers, times a scale per row. */
#ifndef VALUES_H
#define VALUES_H
#include "rice.h"

struct values {
    struct rice integers; /* folded: magnitudes nearest to the centre are smallest, the sign is bit 0 */
    struct rice scales;   /* for each row with nonzeros */
    int32_t centre, base; /* a scale is 2 to the power -(base + its number) / 4 */
};

struct values_read {
    struct bits integers, scales;
};

static float next_value(const struct values *v, struct values_read *read)
{
    const uint32_t folded = number(&v->integers, &read->integers);
    const int32_t distance = (int32_t)(folded >> 2);
    const int32_t magnitude = v->centre + (folded & 2 ? -distance - 1 : distance);
    return (float)(folded & 1 ? -magnitude : magnitude);
}

static float next_unit(const struct values *v, struct values_read *read)
{
    static const float roots[4] = {1.0f, 0.840896428f, 0.707106769f, 0.594603539f}; /* 2 to the power -i / 4 */
    const int32_t exponent = v->base + (int32_t)number(&v->scales, &read->scales) + 4 * 127; /* above 0 */
    union {
        uint32_t bits;
        float value;
    } power;
    power.bits = (uint32_t)(2 * 127 - exponent / 4) << 23; /* 2 to the power 127 - exponent / 4 */
    return roots[exponent % 4] * power.value;
}
#endif
