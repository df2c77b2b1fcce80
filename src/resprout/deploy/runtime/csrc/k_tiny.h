/* One image, maps of at most one vector (4x4 and less): every tap of the kernel is a permutation of the plane's lanes.
 *
 * Planes are laid out anew, one per vector, so that a nonzero needs two aligned loads: its channel's plane, and the permutation of
 * its kernel position (lanes that hang over the edge take zero). Maps so small make short sums, and what costs is waiting for
 * them and leaving their loops; so EIGHT output channels with about equally many nonzeros walk side by side, the shorter ones
 * filled up with weights of zero. AVX-512 only: others have no such permutation.
 */
#ifndef K_TINY_H
#define K_TINY_H

#include "k_layer.h"

#ifdef __AVX512F__

enum { EIGHT = 8 };

/* The next nonzero of each channel in a gang: one cache line. */
typedef struct {
    float weight[EIGHT];
    uint16_t ref[EIGHT][2]; /* plane and permutation, in eight bytes */
} tiny_step;

static int is_tiny(const rs_conv_spec *s)
{
    return s->in.lanes == 1 && s->in.h * s->in.w <= N && s->out.h * s->out.w <= N && s->out.h * s->out.w > 1
        && s->in.c <= UINT16_MAX / 8 && s->kh * s->kw <= UINT16_MAX / 8;
}

/* Lane p: N + the pixel that output p reads at this kernel position, or 0 outside. Returns whether there is any. */
static int tiny_permutation(const rs_conv_spec *s, int ky, int kx, ivec *to)
{
    int any = 0;
    *to = (ivec){0};
    for (int y = 0; y < s->out.h; y++)
        for (int x = 0; x < s->out.w; x++) {
            int iy = y * s->stride_y + ky * s->dilation_y - s->padding_y, ix = x * s->stride_x + kx * s->dilation_x - s->padding_x;
            if (iy < 0 || iy >= s->in.h || ix < 0 || ix >= s->in.w)
                continue;
            (*to)[y * s->out.w + x] = N + iy * s->in.w + ix;
            any = 1;
        }
    return any;
}

static int pack_tiny(rs_conv *c)
{
    const rs_conv_spec *s = &c->s;
    int taps = s->kh * s->kw, gangs = (s->out.c + EIGHT - 1) / EIGHT;
    c->masks = zeros(sizeof(ivec) * (size_t)taps);
    c->order = zeros(sizeof *c->order * (size_t)gangs * EIGHT);
    c->first = zeros(sizeof *c->first * ((size_t)gangs + 1));
    if (!c->masks || !c->order || !c->first)
        return 0;
    for (int t = 0; t < taps; t++)
        tiny_permutation(s, t / s->kw, t % s->kw, &c->masks[t]);
    counted *sorted = zeros(sizeof *sorted * (size_t)s->out.c);
    if (!sorted)
        return 0;
    for (int oc = 0; oc < s->out.c; oc++)
        sorted[oc] = (counted){s->row[oc + 1] - s->row[oc], oc};
    qsort(sorted, (size_t)s->out.c, sizeof *sorted, by_count);
    for (int i = 0; i < gangs * EIGHT; i++)
        c->order[i] = i < s->out.c ? sorted[i].channel : -1;
    free(sorted);
    for (int g = 0; g < gangs; g++) {
        int longest = c->order[(size_t)g * EIGHT];
        c->first[g + 1] = c->first[g] + (uint32_t)(s->row[longest + 1] - s->row[longest]);
    }
    tiny_step *steps = zeros(sizeof *steps * ((size_t)c->first[gangs] + 1));
    c->steps = steps;
    if (!steps)
        return 0;
    for (int i = 0; i < s->out.c; i++) {
        int oc = c->order[i];
        tiny_step *step = steps + c->first[i / EIGHT];
        for (int64_t j = s->row[oc]; j < s->row[oc + 1]; j++, step++) {
            tap t = tap_of(s, oc, s->place[j]);
            step->weight[i % EIGHT] = s->value[j];
            step->ref[i % EIGHT][0] = (uint16_t)(t.channel * 8);
            step->ref[i % EIGHT][1] = (uint16_t)((t.ky * s->kw + t.kx) * 8);
        }
    }
    c->packed = sizeof *steps * c->first[gangs];
    return 1;
}

static void tiny_run(const rs_conv *c, const float *in, float *out, const float *residual, float *planes, int part, int parts)
{
    const rs_conv_spec *s = &c->s;
    const int pixels = s->out.h * s->out.w;
    for (int channel = 0; channel < s->in.c; channel++)
        store(planes + (size_t)channel * N, load(in + channel * s->in.plane));
    int from, to;
    share((s->out.c + EIGHT - 1) / EIGHT, part, parts, &from, &to);
    for (int g = from; g < to; g++) {
        const tiny_step *step = (const tiny_step *)c->steps + c->first[g], *end = (const tiny_step *)c->steps + c->first[g + 1];
        vec sum[EIGHT] = {{0}};
        for (; step < end; step++) {
            const vec weights = _mm512_castps256_ps512(_mm256_loadu_ps(step->weight));
            uint64_t refs[EIGHT / 2]; /* one load for two nonzeros: loads are what is short here */
            memcpy(refs, step->ref, sizeof refs);
            UNROLL for (int i = 0; i < EIGHT; i++) {
                uint64_t ref = refs[i / 2] >> 32 * (i % 2);
                const char *plane = (const char *)planes + (ref & 0xffff) * 8, *permutation = (const char *)c->masks + (ref >> 16 & 0xffff) * 8;
                vec x = _mm512_permutex2var_ps((vec){0}, *(const __m512i *)permutation, *(const vec *)plane);
                sum[i] += x * _mm512_permutexvar_ps(_mm512_set1_epi32(i), weights);
            }
        }
        for (int i = 0; i < EIGHT; i++) {
            int oc = c->order[g * EIGHT + i];
            if (oc < 0)
                break;
            vec v = sum[i] + splat(s->bias[oc]);
            if (residual)
                v += load_some(residual + oc * s->residual_shape.plane, pixels);
            store_some(out + oc * s->out.plane, activate(v, c->act), pixels);
        }
    }
}

#endif
#endif
