/* A number per channel, in single precision. */
#ifndef VECTOR_H
#define VECTOR_H
#include <stdint.h>

struct vector {
    const float *floats; /* null: all are zero */
};

static float element(const struct vector *v, int32_t i)
{
    return v->floats ? v->floats[i] : 0.0f;
}
#endif
