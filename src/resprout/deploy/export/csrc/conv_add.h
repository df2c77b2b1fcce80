/* Convolution, added to another value, which it may overwrite. */
#ifndef CONV_ADD_H
#define CONV_ADD_H
#include "channel.h"

static void conv_add(const struct conv *c, float *out, const float *in, const float *other)
{
    const int32_t plane = c->out_height * c->out_width;
    struct reader weights = start(&c->weight);
    for (int32_t channel = 0; channel < c->out; channel++, out += plane, other += plane) {
        const float bias = element(&c->bias, channel);
        for (int32_t i = 0; i < plane; i++)
            out[i] = other[i] + bias;
        add_channel(c, &weights, channel, out, in);
    }
}
#endif
