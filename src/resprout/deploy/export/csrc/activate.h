/* Activations. */
#ifndef ACTIVATE_H
#define ACTIVATE_H
#include <stdint.h>

/* Holds what is above zero at `cap`, and multiplies what is below by `slope`: ReLU has slope 0. */
static void activate(float *x, int32_t count, float slope, float cap)
{
    for (int32_t i = 0; i < count; i++) {
        if (x[i] < 0.0f)
            x[i] *= slope;
        else if (x[i] > cap)
            x[i] = cap;
    }
}
#endif
