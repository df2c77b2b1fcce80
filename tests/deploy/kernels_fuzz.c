/* Every plan of random layers, in every instruction set there is, against plain loops in double precision.
 *
 * Kernels of 1 to 7, strides, dilations, groups, odd widths, residuals, activations, empty rows, too little padding, 1 to 3 parts run
 * backwards, images in lanes. Padding must stay as it was. Usage: kernels_fuzz FIRST HOW_MANY
 */
#include "kernels.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static uint64_t st = 1;
static uint32_t rnd(void)
{
    st = st * 6364136223846793005ull + 1442695040888963407ull;
    return st >> 33;
}
static int ri(int a, int b) { return a + rnd() % (b - a + 1); }
static float rf(void) { return (rnd() % 2001) / 1000.f - 1; }
typedef struct {
    rs_shape s;
    float *buf, *o;
} val;
static val mk(rs_shape s, int fill)
{
    val v = {.s = s};
    size_t n = rs_shape_floats(&s);
    v.buf = aligned_alloc(64, (n * 4 + 63) / 64 * 64);
    memset(v.buf, 0, n * 4);
    v.o = v.buf + rs_shape_origin(&s);
    for (int i = 0; i < 64; i++) {
        v.buf[i] = fill ? rf() : 0;
        v.buf[n - 1 - i] = rf();
    }
    if (fill)
        for (int c = 0; c < s.c; c++)
            for (int y = 0; y < s.h; y++)
                for (int x = 0; x < s.w * s.lanes; x++)
                    v.o[c * s.plane + (size_t)y * s.pitch * s.lanes + x] = rf();
    return v;
}
static float at(val *v, int c, int y, int x, int l)
{
    return v->o[c * v->s.plane + ((size_t)y * v->s.pitch + x) * v->s.lanes + l];
}
static char *snapshot(val *v)
{
    size_t n = rs_shape_floats(&v->s) * 4;
    char *p = malloc(n);
    memcpy(p, v->buf, n);
    return p;
}
static int one(const rs_kernels *k, int iter, int big)
{
    rs_conv_spec s = {0};
    s.kh = ri(1, 7);
    s.kw = ri(0, 3) ? s.kh : ri(1, 7);
    if (ri(0, 2) == 0) {
        s.kh = s.kw = 3;
    }
    s.groups = 1;
    int icg = ri(1, big ? 40 : 9), ocg = ri(1, big ? 40 : 9);
    int g = ri(0, 3) == 0 ? ri(1, 8) : 1;
    if (g > 1 && ri(0, 1)) {
        icg = ocg = 1;
    }
    s.groups = g;
    s.stride_y = ri(0, 1) ? 1 : ri(1, 3);
    s.stride_x = ri(0, 3) ? s.stride_y : ri(1, 3);
    s.dilation_y = ri(0, 3) ? 1 : ri(1, 3);
    s.dilation_x = ri(0, 3) ? s.dilation_y : ri(1, 3);
    s.padding_y = ri(0, 4) ? (s.kh - 1) * s.dilation_y / 2 : ri(0, s.kh);
    s.padding_x = ri(0, 4) ? (s.kw - 1) * s.dilation_x / 2 : ri(0, s.kw);
    static const int ws[] = {1, 2, 4, 7, 8, 14, 16, 28, 32, 64};
    int w = ri(0, 2) ? ws[ri(0, 9)] : ri(1, 40), h = ri(0, 2) ? w : ri(1, 40);
    if (ri(0, 9) == 0) {
        w = h = 1;
        s.kh = s.kw = 1;
        s.stride_y = s.stride_x = 1;
        s.padding_y = s.padding_x = 0;
        s.dilation_x = s.dilation_y = 1;
        icg = ri(1, 200);
        ocg = ri(1, 100);
    }
    int oh = (h + 2 * s.padding_y - s.dilation_y * (s.kh - 1) - 1) / s.stride_y + 1,
        ow = (w + 2 * s.padding_x - s.dilation_x * (s.kw - 1) - 1) / s.stride_x + 1;
    if (h + 2 * s.padding_y - s.dilation_y * (s.kh - 1) - 1 < 0 || w + 2 * s.padding_x - s.dilation_x * (s.kw - 1) - 1 < 0)
        return 0;
    int lanes = ri(0, 1) ? 1 : k->lanes;
    s.in = rs_shape_make(icg * g, h, w, 0, lanes);
    s.out = rs_shape_make(ocg * g, oh, ow, 0, lanes);
    int pad = rs_conv_pad(&s);
    if (ri(0, 9) == 0 && pad > 0)
        pad = ri(0, pad);
    else
        pad += ri(0, 3) ? 0 : ri(0, 2);
    s.in = rs_shape_make(icg * g, h, w, pad, lanes);
    s.out = rs_shape_make(ocg * g, oh, ow, ri(0, 2), lanes);
    s.residual = ri(0, 2) == 0;
    s.residual_shape = rs_shape_make(ocg * g, oh, ow, ri(0, 2), lanes);
    int a = ri(0, 4);
    s.slope = a == 0 ? 1 : a == 1 ? 0 : a == 2 ? 0 : a == 3 ? 0.1f : 1;
    s.cap = a == 2 ? 0.5f : a == 4 ? 0.7f : INFINITY;
    int row = icg * s.kh * s.kw, oc = ocg * g;
    float dens = (float[]){0, 0.02, 0.1, 0.5, 1}[ri(0, 4)];
    int64_t *rows = calloc(oc + 1, 8);
    int32_t *place = malloc(4ull * oc * row + 4);
    float *value = malloc(4ull * oc * row + 4);
    float *bias = malloc(4 * oc);
    int64_t n = 0;
    for (int o = 0; o < oc; o++) {
        bias[o] = rf();
        int none = ri(0, 9) == 0;
        for (int p = 0; p < row; p++)
            if (!none && (rnd() % 10000) / 10000.f < dens) {
                place[n] = p;
                value[n++] = rf();
            }
        rows[o + 1] = n;
    }
    place = realloc(place, 4 * n + !n);
    value = realloc(value, 4 * n + !n);
    s.row = rows;
    s.place = place;
    s.value = value;
    s.bias = ri(0, 3) ? bias : NULL;
    val in = mk(s.in, 1), out = mk(s.out, 0), res = mk(s.residual_shape, 1);
    size_t tot = (size_t)oc * oh * ow * lanes;
    double *ref = malloc(8 * tot), *mag = malloc(8 * tot);
    for (int o = 0, i = 0; o < oc; o++)
        for (int y = 0; y < oh; y++)
            for (int x = 0; x < ow; x++)
                for (int l = 0; l < lanes; l++, i++) {
                    double v = s.bias ? bias[o] : 0, m = 1 + fabs(v);
                    for (int64_t j = rows[o]; j < rows[o + 1]; j++) {
                        int p = place[j], c = o / ocg * icg + p / (s.kh * s.kw), ky = p / s.kw % s.kh, kx = p % s.kw;
                        int yy = y * s.stride_y + ky * s.dilation_y - s.padding_y,
                            xx = x * s.stride_x + kx * s.dilation_x - s.padding_x;
                        if (yy < 0 || yy >= h || xx < 0 || xx >= w)
                            continue;
                        double q = (double)value[j] * at(&in, c, yy, xx, l);
                        v += q;
                        m += fabs(q);
                    }
                    if (s.residual)
                        v += at(&res, o, y, x, l);
                    ref[i] = v > 0 ? fmin(v, s.cap) : s.slope * v;
                    mag[i] = m;
                }
    int bad = 0, plans = 0;
    for (int only = 0; only < 100; only++) {
        rs_trial t = {.only = only, .threads = 3, .seconds = only == 0 && ri(0, 3) == 0 ? 1e-4 : 0};
        rs_conv *c = k->pack(&s, &t);
        if (!c) {
            if (only == 0) {
                printf("pack failed\n");
                return 1;
            }
            break;
        }
        plans++;
        if (only == 0 && ri(0, 5)) {
            k->free(c);
            continue;
        }
        int parts = ri(1, 3);
        float *scratch = aligned_alloc(64, (k->scratch(c) * 4 + 127) / 64 * 64);
        memset(scratch, 0x7f, k->scratch(c) * 4);
        char *s0 = snapshot(&out);
        for (int o = 0; o < oc; o++)
            for (int y = 0; y < oh; y++)
                for (int x = 0; x < ow * lanes; x++)
                    out.o[o * s.out.plane + (size_t)y * s.out.pitch * lanes + x] = NAN;
        for (int st = 0; st < k->stages(c); st++)
            for (int p = parts - 1; p >= 0; p--)
                k->run(c, st, in.o, out.o, s.residual ? res.o : NULL, scratch, p, parts);
        double worst = 0;
        for (int o = 0, i = 0; o < oc; o++)
            for (int y = 0; y < oh; y++)
                for (int x = 0; x < ow; x++)
                    for (int l = 0; l < lanes; l++, i++) {
                        double e = fabs(at(&out, o, y, x, l) - ref[i]) / mag[i];
                        if (!(e <= worst))
                            worst = e;
                    }
        /* padding untouched */
        for (int o = 0; o < oc; o++)
            for (int y = 0; y < oh; y++)
                for (int x = 0; x < ow * lanes; x++) {
                    size_t q = out.o - out.buf + o * s.out.plane + (size_t)y * s.out.pitch * lanes + x;
                    ((float *)s0)[q] = out.buf[q];
                }
        int touched = memcmp(s0, out.buf, rs_shape_floats(&s.out) * 4);
        free(s0);
        rs_conv_info inf = k->info(c);
        if (!(worst < 2e-6) || touched) {
            bad = 1;
            printf("BAD iter %d %s plan %d %s: err %g touched %d | %dx%d k s%d,%d d%d,%d p%d,%d g%d in %d %dx%d pad %d out %d "
                   "%dx%d lanes %d parts %d res %d\n",
                   iter, k->name, only, inf.variant, worst, touched != 0, s.kh, s.kw, s.stride_y, s.stride_x, s.dilation_y,
                   s.dilation_x, s.padding_y, s.padding_x, g, icg * g, h, w, pad, ocg * g, oh, ow, lanes, parts, s.residual);
        }
        free(scratch);
        k->free(c);
        if (bad)
            break;
    }
    free(rows);
    free(place);
    free(value);
    free(bias);
    free(in.buf);
    free(out.buf);
    free(res.buf);
    free(ref);
    free(mag);
    return bad ? -1 : plans;
}
int main(int argc, char **argv)
{
    const rs_kernels *ks[3] = {&rs_kernels_portable};
    int nk = 1;
#ifdef RS_HAS_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        ks[nk++] = &rs_kernels_avx2;
#endif
#ifdef RS_HAS_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        ks[nk++] = &rs_kernels_avx512;
#endif
    int from = argc > 1 ? atoi(argv[1]) : 0, n = argc > 2 ? atoi(argv[2]) : 200;
    int fails = 0;
    long plans = 0;
    for (int i = from; i < from + n && fails < 10; i++)
        for (int q = 0; q < nk; q++) {
            st = i * 7919 + 17;
            for (int z = 0; z < 5; z++)
                rnd();
            int r = one(ks[q], i, i % 7 == 0);
            if (r < 0)
                fails++;
            else
                plans += r;
        }
    printf("%d fails, %ld plans run\n", fails, plans);
    return fails != 0;
}
