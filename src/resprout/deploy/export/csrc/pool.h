/* Pooling. */
#ifndef POOL_H
#define POOL_H
#include "window.h"

static void pool(const struct pool *p, float *out, const float *in)
{
    for (int32_t channel = 0; channel < p->channels; channel++) {
        pool_plane(p, out, in);
        in += p->in_height * p->in_width;
        out += p->out_height * p->out_width;
    }
}
#endif
