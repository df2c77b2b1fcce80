/* Convolution. */
#ifndef CONV_H
#define CONV_H
#include "channel.h"
#include "fill.h"

static void conv(const struct conv *c, float *out, const float *in)
{
    const int32_t plane = c->out_height * c->out_width;
    struct reader weights = start(&c->weight);
    for (int32_t channel = 0; channel < c->out; channel++, out += plane) {
        fill(out, plane, element(&c->bias, channel));
        add_channel(c, &weights, channel, out, in);
    }
}
#endif
