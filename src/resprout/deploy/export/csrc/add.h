/* The sum of two values. Works in place. */
#ifndef ADD_H
#define ADD_H
#include "activate.h"

static void add(float *out, const float *a, const float *b, int32_t count, float slope, float cap)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = a[i] + b[i];
    activate(out, count, slope, cap);
}
#endif
