/* Convolution and pooling of its result, of which only one channel exists at a time, in `plane`. */
#ifndef CONV_POOL_H
#define CONV_POOL_H
#include "channel.h"
#include "fill.h"
#include "window.h"

static void conv_pool(const struct conv *c, const struct pool *p, float *out, const float *in, float *plane)
{
    const int32_t count = c->out_height * c->out_width;
    struct reader weights = start(&c->weight);
    for (int32_t channel = 0; channel < c->out; channel++, out += p->out_height * p->out_width) {
        fill(plane, count, element(&c->bias, channel));
        add_channel(c, &weights, channel, plane, in);
        pool_plane(p, out, plane);
    }
}
#endif
