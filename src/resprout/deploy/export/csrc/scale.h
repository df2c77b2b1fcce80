/* A factor and a summand per channel: a batch norm that no convolution could take in. Works in place. */
#ifndef SCALE_H
#define SCALE_H
#include "activate.h"
#include "vector.h"

struct scale {
    struct vector weight, bias;
    int32_t channels, plane;
    float slope, cap;
};

static void scale(const struct scale *s, float *out, const float *in)
{
    for (int32_t channel = 0; channel < s->channels; channel++) {
        const float weight = element(&s->weight, channel);
        const float bias = element(&s->bias, channel);
        for (int32_t i = 0; i < s->plane; i++)
            *out++ = *in++ * weight + bias;
    }
    activate(out - s->channels * s->plane, s->channels * s->plane, s->slope, s->cap);
}
#endif
