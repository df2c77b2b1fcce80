/* A number per channel, in half precision. */
#ifndef VECTOR_H
#define VECTOR_H
#include "half.h"

struct vector {
    const uint16_t *halves; /* null: all are zero */
};

static float element(const struct vector *v, int32_t i)
{
    return v->halves ? half(v->halves[i]) : 0.0f;
}
#endif
