/* Fully connected layer. */
#ifndef LINEAR_H
#define LINEAR_H
#include "activate.h"
#include "sparse.h"
#include "vector.h"

struct linear {
    struct sparse weight; /* (out, in) */
    struct vector bias;
    int32_t in, out;
    float slope, cap;
};

static void linear(const struct linear *l, float *out, const float *in)
{
    const uint32_t row = (uint32_t)l->in;
    struct reader weights = start(&l->weight);
    for (int32_t i = 0; i < l->out; i++) {
        const float step = weights.at < row ? unit(&weights) : 0.0f;
        float sum = 0.0f;
        for (; weights.at < row; next(&weights))
            sum += weights.value * in[weights.at];
        weights.at -= row;
        out[i] = element(&l->bias, i) + sum * step;
    }
    activate(out, l->out, l->slope, l->cap);
}
#endif
