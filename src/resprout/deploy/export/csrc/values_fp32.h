/* Values in single precision. */
#ifndef VALUES_H
#define VALUES_H
#include <stdint.h>

struct values {
    const float *floats;
};

struct values_read {
    uint32_t count;
};

static float next_value(const struct values *v, struct values_read *read)
{
    return v->floats[read->count++];
}

static float next_unit(const struct values *v, struct values_read *read)
{
    (void)v, (void)read;
    return 1.0f;
}
#endif
