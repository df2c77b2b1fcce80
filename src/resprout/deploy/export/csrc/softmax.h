/* Softmax, with an exponential of our own so that no mathematical library is needed. Works in place. */
#ifndef SOFTMAX_H
#define SOFTMAX_H
#include <stdint.h>

/* e to the power x, for x from minus infinity to 0: 2^k by the exponent's bits, the rest by a polynomial. */
static float exponential(float x)
{
    union {
        uint32_t bits;
        float value;
    } power;
    if (!(x > -87.0f)) /* the result would not be a normal number */
        return 0.0f;
    const int32_t k = (int32_t)(x * 1.44269504f - 0.5f);              /* x / ln 2, rounded */
    const float r = (x - (float)k * 0.693359375f) + (float)k * 2.12194440e-4f; /* x - k ln 2, |r| < 0.35 */
    const float series = 1.0f + r * (1.0f + r * (1 / 2.0f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r / 720.0f)))));
    power.bits = (uint32_t)(k + 127) << 23;
    return series * power.value;
}

static void softmax(float *out, const float *in, int32_t count)
{
    float largest = in[0], sum = 0.0f;
    for (int32_t i = 1; i < count; i++)
        if (in[i] > largest)
            largest = in[i];
    for (int32_t i = 0; i < count; i++)
        sum += out[i] = exponential(in[i] - largest);
    for (int32_t i = 0; i < count; i++)
        out[i] /= sum;
}
#endif
