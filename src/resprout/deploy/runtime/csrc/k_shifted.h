/* One image, 3x3 and other kernels three columns wide: every load aligned.
 *
 * As in k_flat.h, but a load that crosses a cache line costs two, so the nonzeros of each kernel column are summed where their
 * operand lies, and it is the sum that moves: L, C and R being the sums of the left, centre and right column,
 *
 *     out[x] = L[x - 1] + C[x] + R[x + 1].
 *
 * The sum starts as L, moves right by one lane, takes C, moves right again, takes R, and moves back. What would come from another
 * row is suppressed: L by a mask at x == 0 after its move, R by weights of zero there. (R lacks nothing at x == W - 1 but a value
 * from beyond the row; the last lane of all, which would fall off at the second move, is kept aside.) So only one set of sums is
 * needed, and all of the registers can hold output. Needs whole rows per pass, and rows of whole vectors or vectors of whole rows.
 *
 * Where two rows make a vector, every other row would still be read across cache lines. Such maps are woven first: vector t holds
 * rows t and t + half the height, so that any kernel row is a whole number of vectors away, and moving is rotating.
 */
#ifndef K_SHIFTED_H
#define K_SHIFTED_H

#include "k_flat.h"

enum { FEW = 4 };

INLINE void add_one(vec *sum, const entry *e, const float *in, const int T, const int row, const ivec *mask)
{
    const float *p = in + e->at;
    const vec w = splat(e->weight), masked = mask ? only(w, *mask) : w;
    UNROLL for (int t = 0; t < T; t++)
        sum[t] += load(p + t * N) * (t % row ? w : masked);
}

/* Add nonzeros to T vectors; in every `row`-th the weight is masked. Few vectors are few independent sums: take two sets then. */
INLINE const entry *add_column(vec *sum, const entry *e, unsigned count, const float *in, const int T, const int row, const ivec *mask)
{
    const entry *end = e + count;
    if (T <= FEW) {
        vec second[FEW] = {{0}};
        for (; e + 1 < end; e += 2) {
            add_one(sum, e, in, T, row, mask);
            add_one(second, e + 1, in, T, row, mask);
        }
        UNROLL for (int t = 0; t < T; t++)
            sum[t] += second[t];
    }
    for (; e < end; e++)
        add_one(sum, e, in, T, row, mask);
    return end;
}

/* As flat_finish, for T vectors that are woven of 2 T rows. Between slices they stay so. */
INLINE void woven_finish(const pass *a, int oc, float *out, vec *sum, const int T)
{
    const rs_conv *c = a->c;
    if (a->slice < c->slices - 1) {
        UNROLL for (int t = 0; t < T; t++)
            store(out + t * N, sum[t]);
        return;
    }
    const float *r = a->residual ? a->residual + oc * c->s.residual_shape.plane : NULL;
    UNROLL for (int t = 0; t < T; t++) {
        vec v = sum[t];
        if (r)
            v += BOTH(*(const half_unaligned *)(r + t * N / 2), *(const half_unaligned *)(r + (t + T) * N / 2));
        v = activate(v, c->act);
        *(half_unaligned *)(out + t * N / 2) = LOW_HALF(v);
        *(half_unaligned *)(out + (t + T) * N / 2) = HIGH_HALF(v);
    }
}

/* row: vectors in a row of pixels, 1 where a vector holds one row or more; woven: see above. */
INLINE void shifted_pass(const pass *a, const int T, const int row, const int woven)
{
    const rs_conv *c = a->c;
    const int pixels = a->vector * N;
    const float *in = a->in + pixels;
    const uint16_t *counts = c->counts + ((size_t)a->slice * c->s.out.c + a->from) * 3;
    const entry *e = c->entries + c->first[(size_t)a->slice * c->s.out.c + a->from];
    const ivec mask = c->masks[0];
    for (int oc = a->from; oc < a->to; oc++, counts += 3) {
        float *out = a->out + oc * c->s.out.plane + pixels;
        const vec bias = splat(c->s.bias[oc]);
        vec sum[MOST];
        UNROLL for (int t = 0; t < T; t++)
            sum[t] = (vec){0};
        e = add_column(sum, e, counts[0], in, T, 1, NULL);
        UNROLL for (int t = T - 1; t >= 0; t--) {
            sum[t] = WINDOW(sum[t && !woven ? t - 1 : t], sum[t], N - 1);
            if (t % row == 0)
                sum[t] = only(sum[t], mask);
        }
        e = add_column(sum, e, counts[1], in, T, 1, NULL);
        const vec kept = WINDOW(sum[T - 1], sum[T - 1], N - 1);
        UNROLL for (int t = T - 1; t >= 0; t--)
            sum[t] = WINDOW(sum[t && !woven ? t - 1 : t], sum[t], N - 1);
        e = add_column(sum, e, counts[2], in, T, row, &mask);
        UNROLL for (int t = 0; t < T; t++)
            sum[t] = WINDOW(sum[t], woven ? sum[t] : t < T - 1 ? sum[t + 1] : kept, 1) + (a->slice ? load(out + t * N) : bias);
        if (woven)
            woven_finish(a, oc, out, sum, T);
        else
            flat_finish(a, oc, out, sum, T);
    }
}

#define EACH_SHIFTED(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(10) X(12) X(14) X(16) X(18) X(20) X(22) X(24)
#define PASS(T) \
    static void shifted_1_##T(const pass *a) { shifted_pass(a, T, 1, 0); } \
    static void shifted_2_##T(const pass *a) { shifted_pass(a, T, 2, 0); } \
    static void shifted_4_##T(const pass *a) { shifted_pass(a, T, 4, 0); }
EACH_SHIFTED(PASS)
#define ROW(T) [T - 1] = {shifted_1_##T, shifted_2_##T, shifted_4_##T},
static void (*const shifted_passes[MOST][3])(const pass *) = {EACH_SHIFTED(ROW)};
#undef PASS
#undef ROW

/* Vectors in a row of pixels if this layer can be computed so, otherwise 0. */
static int shifted_row(const rs_conv_spec *s)
{
    int row = s->out.w % N == 0 ? s->out.w / N : N % s->out.w == 0 ? 1 : 0;
    return s->kw == 3 && s->padding_x == s->dilation_x && s->dilation_x == 1 && s->out.w == s->in.w && row != 3 && row <= 4 ? row : 0;
}

static void shifted_run(const rs_conv *c, const float *in, float *out, const float *residual, int part, int parts)
{
    int row = shifted_row(&c->s), tile = c->plan.tile, t0, t1;
    int pixels = c->s.out.h * c->s.out.w, vectors = (pixels + N - 1) / N;
    pass a = {.c = c, .in = in, .out = out, .residual = residual};
    flat_split(c, &a, (vectors + tile - 1) / tile, part, parts, &t0, &t1);
    for (a.vector = t0 * tile; a.vector < imin(vectors, t1 * tile); ) {
        int n = imin(tile, imin(vectors, t1 * tile) - a.vector);
        while (!shifted_passes[n - 1][row / 2] || n % row)
            n--;
        a.some = N - imax(0, (a.vector + n) * N - pixels);
        for (a.slice = 0; a.slice < c->slices; a.slice++)
            shifted_passes[n - 1][row / 2](&a);
        a.vector += n;
    }
}

/* Woven maps: N / 2 columns, and at most 2 MOST_WOVEN rows. */
enum { MOST_WOVEN = 8 };
#define WOVEN(T) static void woven_##T(const pass *a) { shifted_pass(a, T, 1, 1); }
WOVEN(1) WOVEN(2) WOVEN(3) WOVEN(4) WOVEN(5) WOVEN(6) WOVEN(7) WOVEN(8)
#undef WOVEN
static void (*const woven_passes[MOST_WOVEN])(const pass *) = {woven_1, woven_2, woven_3, woven_4, woven_5, woven_6, woven_7, woven_8};

static int can_weave(const rs_conv_spec *s)
{
    return shifted_row(s) && s->stride_x == 1 && s->stride_y == 1 && s->out.w == N / 2 && s->out.h == s->in.h && s->out.h % 2 == 0
        && s->out.h / 2 <= MOST_WOVEN;
}

static operand woven_of(const rs_conv_spec *s) { return (operand){.plane = (size_t)(s->out.h / 2 + (s->kh - 1) * s->dilation_y) * N}; }

/* Weave channels [c0, c1). */
static void weave(const rs_conv *c, const float *in, float *to, int c0, int c1)
{
    const rs_conv_spec *s = &c->s;
    int vectors = (int)(c->source.plane / N), below = s->out.h / 2 * s->in.pitch;
    for (int channel = c0; channel < c1; channel++) {
        const float *from = in + channel * s->in.plane - s->padding_y * s->in.pitch;
        for (int v = 0; v < vectors; v++, from += s->in.pitch, to += N)
            *(vec *)to = BOTH(*(const half_unaligned *)from, *(const half_unaligned *)(from + below));
    }
}

static void woven_run(const rs_conv *c, const float *in, float *out, const float *residual, float *scratch, int part, int parts)
{
    pass a = {.c = c, .in = scratch, .out = out, .residual = residual, .some = N};
    a.from = channel_at(c, part, parts);
    a.to = channel_at(c, part + 1, parts);
    for (; a.slice < c->slices; a.slice++) {
        int channel = a.slice * c->plan.channels;
        weave(c, in, scratch, channel, imin(channel + c->plan.channels, c->s.in.c));
        woven_passes[c->s.out.h / 2 - 1](&a);
    }
}

#endif
