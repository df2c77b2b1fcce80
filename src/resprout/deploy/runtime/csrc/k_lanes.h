/* Many images at once, one per lane: a vector is one pixel of all of them.
 *
 * No load crosses a cache line and there are no edges to mask, since padding stands on all sides. A pass keeps a block of rows
 * x columns pixels of one output channel in registers; strides only change the distance between loads.
 */
#ifndef K_LANES_H
#define K_LANES_H

#include "k_layer.h"

typedef struct {
    const rs_conv *c;
    const float *in;
    float *out;
    const float *residual;
    int slice, from, to;
    size_t down, out_down, residual_down; /* floats to the next row of pixels that a pass computes */
} lanes_pass;

INLINE void lanes_block(const lanes_pass *a, const int R, const int C, const int step)
{
    const rs_conv *c = a->c;
    const entry *e = c->entries + c->first[(size_t)a->slice * c->s.out.c + a->from];
    const uint16_t *counts = c->counts + (size_t)a->slice * c->s.out.c;
    const int first = a->slice == 0, last = a->slice == c->slices - 1;
    for (int oc = a->from; oc < a->to; oc++) {
        float *out = a->out + oc * c->s.out.plane;
        vec sum[16];
        vec bias = splat(c->s.bias[oc]);
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int x = 0; x < C; x++)
                sum[r * C + x] = first ? bias : load(out + r * a->out_down + x * N);
        for (const entry *end = e + counts[oc]; e < end; e++) {
            const float *p = a->in + e->at;
            vec w = splat(e->weight);
            UNROLL for (int r = 0; r < R; r++)
                UNROLL for (int x = 0; x < C; x++)
                    sum[r * C + x] += load(p + r * a->down + x * step * N) * w;
        }
        if (last) {
            if (a->residual) {
                const float *res = a->residual + oc * c->s.residual_shape.plane;
                UNROLL for (int r = 0; r < R; r++)
                    UNROLL for (int x = 0; x < C; x++)
                        sum[r * C + x] += load(res + r * a->residual_down + x * N);
            }
            UNROLL for (int i = 0; i < R * C; i++)
                sum[i] = activate(sum[i], c->act);
        }
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int x = 0; x < C; x++)
                store(out + r * a->out_down + x * N, sum[r * C + x]);
    }
}

/* The blocks that exist: rows x columns. */
#define EACH_BLOCK(X) X(1, 1) X(1, 2) X(1, 4) X(1, 7) X(1, 8) X(1, 16) X(2, 1) X(2, 2) X(2, 4) X(2, 7) X(2, 8) X(4, 1) X(4, 2) X(4, 4)
#define BLOCK(R, C) \
    static void lanes_##R##_##C##_1(const lanes_pass *a) { lanes_block(a, R, C, 1); } \
    static void lanes_##R##_##C##_2(const lanes_pass *a) { lanes_block(a, R, C, 2); } \
    static void lanes_##R##_##C##_any(const lanes_pass *a) { lanes_block(a, R, C, a->c->s.stride_x); }
EACH_BLOCK(BLOCK)
#undef BLOCK
#define LISTED(R, C) {R, C, {lanes_##R##_##C##_1, lanes_##R##_##C##_2, lanes_##R##_##C##_any}},
static const struct {
    int rows, columns;
    void (*run[3])(const lanes_pass *); /* for strides of 1, 2, more */
} lanes_blocks[] = {EACH_BLOCK(LISTED)};
#undef LISTED
enum { LANES_BLOCKS = sizeof lanes_blocks / sizeof *lanes_blocks };

/* The largest block with at most so many rows and columns. */
static int lanes_pick(int rows, int columns)
{
    int best = 0;
    for (int i = 1; i < LANES_BLOCKS; i++)
        if (lanes_blocks[i].rows <= rows && lanes_blocks[i].columns <= columns
            && lanes_blocks[i].rows * lanes_blocks[i].columns >= lanes_blocks[best].rows * lanes_blocks[best].columns)
            best = i;
    return best;
}

static void lanes_run(const rs_conv *c, const float *in, float *out, const float *residual, int part, int parts)
{
    const rs_conv_spec *s = &c->s;
    lanes_pass a = {.c = c, .from = 0, .to = s->out.c};
    a.down = (size_t)s->stride_y * s->in.pitch * N;
    a.out_down = (size_t)s->out.pitch * N;
    a.residual_down = (size_t)s->residual_shape.pitch * N;
    int y0 = 0, y1 = s->out.h, bands = (s->out.h + c->plan.rows - 1) / c->plan.rows;
    if (bands % parts == 0 || bands >= 8 * parts) {
        share(bands, part, parts, &y0, &y1);
        y0 *= c->plan.rows;
        y1 = imin(y1 * c->plan.rows, s->out.h);
    } else {
        a.from = channel_at(c, part, parts);
        a.to = channel_at(c, part + 1, parts);
    }
    for (int y = y0, rows = 1; y < y1; y += rows)
        for (int x = 0, columns = 1; x < s->out.w; x += columns) {
            int left = s->out.w - x, b = lanes_pick(imin(c->plan.rows, y1 - y), imin(c->plan.tile, left));
            /* A block must span the same rows for the whole band. */
            if (x)
                for (b = LANES_BLOCKS - 1; b > 0; b--)
                    if (lanes_blocks[b].rows == rows && lanes_blocks[b].columns <= imin(c->plan.tile, left))
                        break;
            rows = lanes_blocks[b].rows;
            columns = lanes_blocks[b].columns;
            a.in = in + ((size_t)y * s->stride_y * s->in.pitch + (size_t)x * s->stride_x) * N;
            a.out = out + ((size_t)y * s->out.pitch + x) * N;
            if (residual)
                a.residual = residual + ((size_t)y * s->residual_shape.pitch + x) * N;
            for (a.slice = 0; a.slice < c->slices; a.slice++)
                lanes_blocks[b].run[imin(s->stride_x, 3) - 1](&a);
        }
}

#endif
