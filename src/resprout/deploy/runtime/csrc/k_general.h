/* The slow way that can do everything: each nonzero is added to the pixels it reaches, row by row, with bounds checked.
 *
 * Needs no padding and reads no guards. For kernels that reach further than the guards, or a value whose padding is too small.
 */
#ifndef K_GENERAL_H
#define K_GENERAL_H

#include "k_layer.h"

/* The output positions [*from, *to) of `n` whose operand at * stride + offset lies within [0, limit). */
static void inside(int n, int stride, int offset, int limit, int *from, int *to)
{
    *from = imax(0, -floor_div(offset, stride));
    *to = imin(n, floor_div(limit - 1 - offset, stride) + 1);
}

static void general_run(const rs_conv *c, const float *in, float *out, const float *residual, int part, int parts)
{
    const rs_conv_spec *s = &c->s;
    int lanes = s->out.lanes;
    size_t across = (size_t)s->out.w * lanes;
    for (int oc = channel_at(c, part, parts); oc < channel_at(c, part + 1, parts); oc++) {
        float *o = out + oc * s->out.plane;
        const float *r = residual ? residual + oc * s->residual_shape.plane : NULL;
        float bias = s->bias ? s->bias[oc] : 0;
        for (int y = 0; y < s->out.h; y++)
            for (size_t x = 0; x < across; x++)
                o[(size_t)y * s->out.pitch * lanes + x] = bias + (r ? r[(size_t)y * s->residual_shape.pitch * lanes + x] : 0);
        for (int64_t j = s->row[oc]; j < s->row[oc + 1]; j++) {
            tap t = tap_of(s, oc, s->place[j]);
            int dy = t.ky * s->dilation_y - s->padding_y, dx = t.kx * s->dilation_x - s->padding_x;
            int y0, y1, x0, x1;
            inside(s->out.h, s->stride_y, dy, s->in.h, &y0, &y1);
            inside(s->out.w, s->stride_x, dx, s->in.w, &x0, &x1);
            const float *plane = in + t.channel * s->in.plane;
            for (int y = y0; y < y1; y++)
                for (int x = x0; x < x1; x++)
                    for (int l = 0; l < lanes; l++)
                        o[((size_t)y * s->out.pitch + x) * lanes + l] +=
                            s->value[j] * plane[((size_t)(y * s->stride_y + dy) * s->in.pitch + x * s->stride_x + dx) * lanes + l];
        }
        for (int y = 0; y < s->out.h; y++)
            for (size_t x = 0; x < across; x++) {
                float *v = o + (size_t)y * s->out.pitch * lanes + x;
                *v = *v > 0 ? fminf(*v, s->cap) : s->slope * *v;
            }
    }
}

#endif
