/* The same number everywhere. */
#ifndef FILL_H
#define FILL_H
#include <stdint.h>

static void fill(float *out, int32_t count, float value)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = value;
}
#endif
