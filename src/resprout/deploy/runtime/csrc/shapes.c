/* Where values lie in memory; see kernels.h. Compiled once, for no instruction set in particular. */
#include "kernels.h"

enum { GUARD = 64 }; /* floats */

rs_shape rs_shape_make(int c, int h, int w, int pad, int lanes)
{
    rs_shape s = {.c = c, .h = h, .w = w, .pad = pad, .lanes = lanes, .pitch = lanes > 1 ? w + pad : w};
    s.plane = (size_t)(h + pad) * s.pitch * lanes;
    /* Planes that begin on a cache line are faster to read, where that costs little memory. */
    size_t aligned = (s.plane + 15) & ~(size_t)15;
    if (aligned - s.plane <= s.plane / 8)
        s.plane = aligned;
    return s;
}

size_t rs_shape_origin(const rs_shape *s)
{
    size_t before = ((size_t)s->pad * s->pitch + (s->lanes > 1 ? s->pad : 0)) * s->lanes;
    return GUARD + ((before + 15) & ~(size_t)15);
}

size_t rs_shape_floats(const rs_shape *s)
{
    size_t after = ((size_t)s->pad * s->pitch + (s->lanes > 1 ? s->pad : 0)) * s->lanes;
    return rs_shape_origin(s) + (size_t)s->c * s->plane + after + GUARD;
}

int rs_conv_pad(const rs_conv_spec *s)
{
    int above = s->padding_y;
    int below = (s->out.h - 1) * s->stride_y + (s->kh - 1) * s->dilation_y - s->padding_y - (s->in.h - 1);
    int left = s->padding_x;
    int right = (s->out.w - 1) * s->stride_x + (s->kw - 1) * s->dilation_x - s->padding_x - (s->in.w - 1);
    int pad = above > below ? above : below;
    if (s->in.lanes > 1) {
        pad = pad > left ? pad : left;
        pad = pad > right ? pad : right;
    }
    return pad > 0 ? pad : 0;
}
