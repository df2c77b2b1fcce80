/* One image, many weights: blocks of output channels that share each load of the operand.
 *
 * The dense fallback. A pass keeps G output channels x T vectors of pixels in registers; each step loads T vectors of one tap and
 * multiplies them by G weights. Taps at which a whole block has no weight are left out, so it is not quite dense. The operand is
 * copied (k_copies.h) or, for 1x1 kernels, the input itself. Pays where most weights are alive.
 */
#ifndef K_DENSE_H
#define K_DENSE_H

#include "k_copies.h"
#include "k_flat.h"

/* Bytes of a step: where the operand lies, then the weights. */
INLINE size_t dense_step(int G) { return sizeof(int32_t) + (size_t)G * sizeof(float); }

INLINE void dense_pass(const pass *a, const int T, const int G)
{
    const rs_conv *c = a->c;
    const int channels = c->s.out.c, blocks = (channels + G - 1) / G;
    const float *in = a->in + a->vector * N;
    for (int b = a->from; b < a->to; b++) {
        const uint32_t *first = c->first + (size_t)a->slice * blocks + b;
        const char *p = (const char *)c->steps + first[0] * dense_step(G), *end = (const char *)c->steps + first[1] * dense_step(G);
        vec sum[24];
        UNROLL for (int g = 0; g < G; g++)
            UNROLL for (int t = 0; t < T; t++)
                sum[g * T + t] = (vec){0};
        for (; p < end; p += dense_step(G)) {
            const float *x = in + *(const int32_t *)p, *weight = (const float *)(p + sizeof(int32_t));
            vec operand[6];
            UNROLL for (int t = 0; t < T; t++)
                operand[t] = load(x + t * N);
            UNROLL for (int g = 0; g < G; g++) {
                const vec w = splat(weight[g]);
                UNROLL for (int t = 0; t < T; t++)
                    sum[g * T + t] += operand[t] * w;
            }
        }
        UNROLL for (int g = 0; g < G; g++)
            if (b * G + g < channels) {
                const int oc = b * G + g;
                float *out = a->out + oc * c->s.out.plane + a->vector * N;
                const vec bias = splat(c->s.bias[oc]);
                UNROLL for (int t = 0; t < T; t++)
                    sum[g * T + t] += a->slice ? load(out + t * N) : bias;
                flat_finish(a, oc, out, &sum[g * T], T);
            }
    }
}

/* The forms that exist: at most so many vectors of pixels x output channels. */
#define FORM(T, G) static void dense_##T##_##G(const pass *a) { dense_pass(a, T, G); }
#if N == 16
FORM(1, 24) FORM(1, 12) FORM(2, 12) FORM(1, 8) FORM(2, 8) FORM(3, 8) FORM(1, 6) FORM(2, 6) FORM(3, 6) FORM(4, 6)
#else
FORM(1, 12) FORM(1, 6) FORM(2, 6) FORM(1, 4) FORM(2, 4) FORM(3, 4)
#endif
#undef FORM
static const struct {
    int vectors, channels;
    void (*run[4])(const pass *); /* for 1, 2, ... vectors */
} dense_forms[] = {
#if N == 16
    {1, 24, {dense_1_24}}, {2, 12, {dense_1_12, dense_2_12}}, {3, 8, {dense_1_8, dense_2_8, dense_3_8}},
    {4, 6, {dense_1_6, dense_2_6, dense_3_6, dense_4_6}},
#else
    {1, 12, {dense_1_12}}, {2, 6, {dense_1_6, dense_2_6}}, {3, 4, {dense_1_4, dense_2_4, dense_3_4}},
#endif
};
enum { DENSE_FORMS = sizeof dense_forms / sizeof *dense_forms };

/* Fill slices, first and steps. 0: out of memory. */
static int pack_dense(rs_conv *c)
{
    const rs_conv_spec *s = &c->s;
    const int G = dense_forms[c->plan.tile].channels, blocks = (s->out.c + G - 1) / G, area = s->kh * s->kw, taps = s->in.c * area;
    c->slices = (s->in.c + c->plan.channels - 1) / c->plan.channels;
    const size_t step = dense_step(G);
    int32_t *steps = zeros(sizeof *steps * (size_t)taps); /* per tap: 1 + its step in this block, or 0 */
    c->first = zeros(sizeof *c->first * ((size_t)c->slices * blocks + 1));
    int ok = steps && c->first && (!c->source.floats || plan_copies(c));
    for (int fill = 0; ok && fill < 2; fill++) { /* count, then fill */
        for (int b = 0; b < blocks; b++) {
            memset(steps, 0, sizeof *steps * (size_t)taps);
            for (int oc = b * G; oc < imin(b * G + G, s->out.c); oc++)
                for (int64_t j = s->row[oc]; j < s->row[oc + 1]; j++) {
                    tap t = tap_of(s, oc, s->place[j]);
                    steps[t.channel * area + t.ky * s->kw + t.kx] = 1;
                }
            for (int k = 0, slice = -1, n = 0; k < taps; k++) {
                if (k / area / c->plan.channels != slice)
                    slice = k / area / c->plan.channels, n = 0;
                if (!steps[k])
                    continue;
                size_t list = (size_t)slice * blocks + b;
                if (!fill) {
                    c->first[list + 1]++;
                    continue;
                }
                steps[k] = (int32_t)(c->first[list] + n++) + 1;
                int32_t at = plain_address(c, (tap){k / area, k % area / s->kw, k % s->kw});
                memcpy((char *)c->steps + (size_t)(steps[k] - 1) * step, &at, sizeof at);
            }
            for (int oc = b * G; fill && oc < imin(b * G + G, s->out.c); oc++)
                for (int64_t j = s->row[oc]; j < s->row[oc + 1]; j++) {
                    tap t = tap_of(s, oc, s->place[j]);
                    char *p = (char *)c->steps + (size_t)(steps[t.channel * area + t.ky * s->kw + t.kx] - 1) * step;
                    memcpy(p + sizeof(int32_t) + 4 * (size_t)(oc - b * G), &s->value[j], 4);
                }
        }
        if (!fill) {
            for (int i = 0; i < c->slices * blocks; i++)
                c->first[i + 1] += c->first[i];
            c->packed = step * c->first[c->slices * blocks];
            c->steps = zeros(c->packed + 64);
            ok = c->steps != NULL;
        }
    }
    free(steps);
    return ok;
}

static void dense_run(const rs_conv *c, const float *in, float *out, const float *residual, int part, int parts)
{
    const int form = c->plan.tile, n = dense_forms[form].vectors, G = dense_forms[form].channels;
    int pixels = c->s.out.h * c->s.out.w, vectors = (pixels + N - 1) / N, tiles = (vectors + n - 1) / n, t0 = 0, t1 = tiles;
    pass a = {.c = c, .in = in, .out = out, .residual = residual, .to = (c->s.out.c + G - 1) / G};
    if (tiles % parts == 0 || tiles >= 8 * parts)
        share(tiles, part, parts, &t0, &t1);
    else
        share((c->s.out.c + G - 1) / G, part, parts, &a.from, &a.to);
    for (int i = t0; i < t1; i++) {
        a.vector = i * n;
        int wide = imin(n, vectors - a.vector);
        a.some = N - imax(0, (a.vector + wide) * N - pixels);
        for (a.slice = 0; a.slice < c->slices; a.slice++)
            dense_forms[form].run[wide - 1](&a);
    }
}

#endif
