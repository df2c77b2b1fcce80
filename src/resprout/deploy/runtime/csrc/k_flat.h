/* One image: a sparse convolution as a sum of shifted one-dimensional arrays.
 *
 * Rows of the operand and of the output are equally long and have no gaps, so nonzero (channel, ky, kx) adds
 * weight * operand[at + p] to output p, for all p at once. A pass keeps `tile` vectors of one output channel in registers and
 * walks through the channel's nonzeros; passes run over all output channels for one tile and one slice of the input channels,
 * so that the part of the input they read stays in the first-level cache. Between slices the sums wait in the output.
 *
 * What p reads beyond the end of its row belongs to the next row and must not count. Two ways:
 * - PLAIN: the operand is copied such that this cannot occur (k_copies.h), or the kernel is one column wide.
 * - MASKED: nonzeros are grouped by kernel column; each group is summed apart and masked once.
 * A third, for kernels three columns wide, is in k_shifted.h.
 */
#ifndef K_FLAT_H
#define K_FLAT_H

#include "k_layer.h"

typedef enum { PLAIN, MASKED } edges;

/* What a pass works on. */
typedef struct {
    const rs_conv *c;
    const float *in;
    float *out;
    const float *residual;
    int slice, from, to; /* output channels */
    int vector;          /* the first */
    int some;            /* lanes of the last vector that are output */
} pass;

INLINE const entry *add_group(vec *sum, const entry *e, unsigned count, const float *in, const int T)
{
    for (const entry *end = e + count; e < end; e++) {
        const float *p = in + e->at;
        vec w = splat(e->weight);
        UNROLL for (int t = 0; t < T; t++)
            sum[t] += load(p + t * N) * w;
    }
    return e;
}

/* Bring the sums to the output, after the last slice with residual and activation. */
INLINE void flat_finish(const pass *a, int oc, float *out, vec *sum, const int T)
{
    const rs_conv *c = a->c;
    const int some = a->some;
    if (a->slice == c->slices - 1) {
        if (a->residual) {
            const float *r = a->residual + oc * c->s.residual_shape.plane + a->vector * N;
            UNROLL for (int t = 0; t < T - 1; t++)
                sum[t] += load(r + t * N);
            sum[T - 1] += load_some(r + (T - 1) * N, some);
        }
        UNROLL for (int t = 0; t < T; t++)
            sum[t] = activate(sum[t], c->act);
    }
    UNROLL for (int t = 0; t < T - 1; t++)
        store(out + t * N, sum[t]);
    if (some == N)
        store(out + (T - 1) * N, sum[T - 1]);
    else
        store_some(out + (T - 1) * N, sum[T - 1], some);
}

INLINE void flat_pass(const pass *a, const int T, const edges mode)
{
    const rs_conv *c = a->c;
    const int groups = c->groups, pixels = a->vector * N;
    const float *in = a->in + pixels;
    const uint16_t *counts = c->counts + ((size_t)a->slice * c->s.out.c + a->from) * groups;
    const entry *e = c->entries + c->first[(size_t)a->slice * c->s.out.c + a->from];
    const ivec *masks = mode == PLAIN ? NULL : c->masks + a->vector % c->period;
    const int mask_row = c->period + MOST;
    const int first = a->slice == 0;
    for (int oc = a->from; oc < a->to; oc++, counts += groups) {
        float *out = a->out + oc * c->s.out.plane + pixels;
        vec sum[MOST];
        if (first) {
            vec bias = splat(c->s.bias[oc]);
            UNROLL for (int t = 0; t < T; t++)
                sum[t] = bias;
        } else {
            UNROLL for (int t = 0; t < T; t++)
                sum[t] = load(out + t * N);
        }
        e = add_group(sum, e, counts[0], in, T); /* the column that needs no mask */
        if (mode != PLAIN)
            for (int g = 1; g < groups; g++) {
                if (!counts[g])
                    continue;
                vec apart[MOST];
                const ivec *mask = masks + (size_t)g * mask_row;
                UNROLL for (int t = 0; t < T; t++)
                    apart[t] = (vec){0};
                e = add_group(apart, e, counts[g], in, T);
                UNROLL for (int t = 0; t < T; t++)
                    sum[t] += only(apart[t], mask[t]);
            }
        flat_finish(a, oc, out, sum, T);
    }
}

#define EACH_TILE(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24)
#define PASS(T) \
    static void flat_plain_##T(const pass *a) { flat_pass(a, T, PLAIN); } \
    static void flat_masked_##T(const pass *a) { flat_pass(a, T, MASKED); }
EACH_TILE(PASS)
#define ROW(T) {flat_plain_##T, flat_masked_##T},
static void (*const flat_passes[MOST][2])(const pass *) = {EACH_TILE(ROW)};
#undef PASS
#undef ROW

/* What a part computes: a share of the tiles where they divide well, otherwise of the output channels. */
static void flat_split(const rs_conv *c, pass *a, int tiles, int part, int parts, int *t0, int *t1)
{
    *t0 = 0, *t1 = tiles;
    a->from = 0, a->to = c->s.out.c;
    if (tiles % parts == 0 || tiles >= 8 * parts) {
        share(tiles, part, parts, t0, t1);
    } else {
        a->from = channel_at(c, part, parts);
        a->to = channel_at(c, part + 1, parts);
    }
}

static void flat_run(const rs_conv *c, const float *in, float *out, const float *residual, int part, int parts)
{
    edges mode = c->plan.method == FLAT ? MASKED : PLAIN;
    int pixels = c->s.out.h * c->s.out.w, vectors = (pixels + N - 1) / N, tiles = (vectors + c->plan.tile - 1) / c->plan.tile;
    int tile = (vectors + tiles - 1) / tiles, t0, t1; /* tiles of equal size */
    pass a = {.c = c, .in = in, .out = out, .residual = residual};
    flat_split(c, &a, tiles, part, parts, &t0, &t1);
    for (int i = t0; i < t1; i++) {
        a.vector = i * tile;
        int n = imin(tile, vectors - a.vector);
        if (n <= 0)
            break;
        a.some = N - imax(0, (a.vector + n) * N - pixels);
        for (a.slice = 0; a.slice < c->slices; a.slice++)
            flat_passes[n - 1][mode](&a);
    }
}

#endif
