/* Layers on flat vectors of one image: dot products, of the nonzeros or of whole rows of weights. */
#ifndef K_DOT_H
#define K_DOT_H

#include "k_layer.h"

static int is_flat(const rs_conv_spec *s)
{
    return s->in.lanes == 1 && s->in.plane == 1 && s->in.h * s->in.w * s->out.h * s->out.w * s->kh * s->kw == 1 && s->padding_y + s->padding_x == 0;
}

/* Whole rows, padded to vectors. */
static int pack_dense_dot(rs_conv *c)
{
    const rs_conv_spec *s = &c->s;
    size_t width = ((size_t)s->in.c + N - 1) / N * N;
    c->packed = 4 * width * s->out.c;
    float *rows = c->steps = zeros(c->packed);
    for (int oc = 0; rows && oc < s->out.c; oc++)
        for (int64_t j = s->row[oc]; j < s->row[oc + 1]; j++)
            rows[oc * width + tap_of(s, oc, s->place[j]).channel] = s->value[j];
    return rows != NULL;
}

static float finish(const rs_conv *c, float v, int oc, const float *residual)
{
    v += c->s.bias[oc];
    if (residual)
        v += residual[oc * c->s.residual_shape.plane];
    return v > 0 ? fminf(v, c->s.cap) : c->s.slope * v;
}

static void dense_dot_run(const rs_conv *c, const float *in, float *out, const float *residual, int part, int parts)
{
    const rs_conv_spec *s = &c->s;
    size_t whole = (size_t)s->in.c / N, width = ((size_t)s->in.c + N - 1) / N * N;
    int from, to, rest = s->in.c % N;
    share(s->out.c, part, parts, &from, &to);
    for (int oc = from; oc < to; oc++) {
        const float *w = (const float *)c->steps + oc * width;
        vec sum[4] = {{0}};
        size_t i = 0;
        for (; i + 4 <= whole; i += 4)
            UNROLL for (int k = 0; k < 4; k++)
                sum[k] += load(w + (i + k) * N) * load(in + (i + k) * N);
        for (; i < whole; i++)
            sum[0] += load(w + i * N) * load(in + i * N);
        if (rest)
            sum[1] += load(w + i * N) * load_some(in + i * N, rest);
        vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        float total = 0;
        for (int l = 0; l < N; l++)
            total += all[l];
        out[oc * s->out.plane] = finish(c, total, oc, residual);
    }
}

static void sparse_dot_run(const rs_conv *c, const float *in, float *out, const float *residual, int part, int parts)
{
    const rs_conv_spec *s = &c->s;
    int from = channel_at(c, part, parts), to = channel_at(c, part + 1, parts);
    for (int oc = from; oc < to; oc++) {
        const entry *e = c->entries + c->first[oc], *end = c->entries + c->first[oc + 1];
        float a = 0, b = 0, d = 0, f = 0;
        for (; e + 4 <= end; e += 4) {
            a += e[0].weight * in[e[0].at];
            b += e[1].weight * in[e[1].at];
            d += e[2].weight * in[e[2].at];
            f += e[3].weight * in[e[3].at];
        }
        for (; e < end; e++)
            a += e->weight * in[e->at];
        out[oc * s->out.plane] = finish(c, (a + b) + (d + f), oc, residual);
    }
}

#endif
