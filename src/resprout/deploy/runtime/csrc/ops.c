/* Everything but convolutions, row by row in plain loops; compiled once per instruction set, like kernels.c.
 *
 * A row is `w * lanes` floats in one piece, so the same loops serve one image and many.
 */
#include <math.h>
#include <string.h>

#include "ops.h"

#define JOIN(a, b) a##b
#define NAMED(a, b) JOIN(a, b)

/* The first of n channels that belong to a part. */
static int share(int n, int part, int parts) { return (int)((int64_t)n * part / parts); }

static const float *row_in(const rs_shape *s, const float *x, int c, int y) { return x + c * s->plane + (size_t)y * s->pitch * s->lanes; }
static float *row_out(const rs_shape *s, float *x, int c, int y) { return x + c * s->plane + (size_t)y * s->pitch * s->lanes; }

static void activate(float *x, int n, float slope, float cap)
{
    if (slope == 1 && cap == INFINITY)
        return;
    for (int i = 0; i < n; i++) {
        float above = x[i] > 0 ? x[i] : 0, below = x[i] < 0 ? x[i] : 0;
        x[i] = (above < cap ? above : cap) + below * slope;
    }
}

static void scale(const rs_op *op, const rs_shape *in, const float *x, const rs_shape *out, float *y, int part, int parts)
{
    int n = out->w * out->lanes;
    for (int c = share(out->c, part, parts); c < share(out->c, part + 1, parts); c++)
        for (int r = 0; r < out->h; r++) {
            const float *from = row_in(in, x, c, r);
            float *to = row_out(out, y, c, r), times = op->value ? op->value[c] : 1, plus = op->bias ? op->bias[c] : 0;
            for (int i = 0; i < n; i++)
                to[i] = from[i] * times + plus;
            activate(to, n, op->slope, op->cap);
        }
}

static void add(const rs_op *op, const rs_shape *const in[2], const float *const x[2], const rs_shape *out, float *y, int part, int parts)
{
    int n = out->w * out->lanes;
    for (int c = share(out->c, part, parts); c < share(out->c, part + 1, parts); c++)
        for (int r = 0; r < out->h; r++) {
            const float *a = row_in(in[0], x[0], c, r), *b = row_in(in[1], x[1], c, r);
            float *to = row_out(out, y, c, r);
            for (int i = 0; i < n; i++)
                to[i] = a[i] + b[i];
            activate(to, n, op->slope, op->cap);
        }
}

static void copy(const rs_op *op, const rs_shape *in, const float *x, const rs_shape *out, float *y, int part, int parts)
{
    for (int c = share(in->c, part, parts); c < share(in->c, part + 1, parts); c++)
        for (int r = 0; r < in->h; r++)
            memcpy(row_out(out, y, c + op->at, r), row_in(in, x, c, r), sizeof(float) * (size_t)(in->w * in->lanes));
}

static void shortcut(const rs_op *op, const rs_shape *in, const float *x, const rs_shape *out, float *y, int part, int parts)
{
    int lanes = out->lanes, step = op->stride[1] * lanes;
    for (int c = share(out->c, part, parts); c < share(out->c, part + 1, parts); c++)
        for (int r = 0; r < out->h; r++) {
            float *restrict to = row_out(out, y, c, r);
            if (c < op->at || c >= op->at + in->c) {
                memset(to, 0, sizeof(float) * (size_t)(out->w * lanes));
                continue;
            }
            const float *restrict from = row_in(in, x, c - op->at, r * op->stride[0]);
            if (step == 2)
                for (int i = 0; i < out->w; i++)
                    to[i] = from[2 * i];
            else
                for (int i = 0; i < out->w; i++)
                    for (int l = 0; l < lanes; l++)
                        to[i * lanes + l] = from[i * step + l];
        }
}

static void flatten(const rs_shape *in, const float *x, float *y, size_t plane, int part, int parts)
{
    for (int c = share(in->c, part, parts); c < share(in->c, part + 1, parts); c++)
        for (int r = 0; r < in->h; r++) {
            const float *from = row_in(in, x, c, r);
            float *to = y + ((size_t)c * in->h + r) * in->w * plane;
            for (int i = 0; i < in->w; i++)
                memcpy(to + i * plane, from + (size_t)i * in->lanes, sizeof(float) * (size_t)in->lanes);
        }
}

static float larger(float a, float b) { return a > b || a != a ? a : b; } /* NaN wins, as in PyTorch */

/* 2x2 windows side by side, one image, rows without gaps: the common case. Neighbours are paired along the whole plane, rows or not,
 * in vectors; then rows are paired.
 */
enum { PAIRED = 4096 }; /* floats of half a plane that fit */

static inline __attribute__((always_inline)) float both(float a, float b, int maximum) { return maximum ? larger(a, b) : a + b; }

static inline __attribute__((always_inline)) void pair_rows(const float *restrict half, float *restrict d, size_t pitch, int h, int w, int maximum)
{
    float times = maximum ? 1 : 0.25f;
    for (int r = 0; r < h; r++)
        for (int i = 0; i < w; i++)
            d[r * pitch + i] = times * both(half[2 * r * w + i], half[(2 * r + 1) * w + i], maximum);
}

static inline __attribute__((always_inline)) void pool_pairs(const rs_shape *in, const float *x, const rs_shape *out, float *y, int from, int to, int maximum)
{
    float half[PAIRED];
    for (int c = from; c < to; c++) {
        const float *restrict p = row_in(in, x, c, 0);
        float *d = row_out(out, y, c, 0);
        for (int i = 0; i < 2 * out->h * out->w; i++)
            half[i] = both(p[2 * i], p[2 * i + 1], maximum);
        switch (out->w) { /* widths that compilers then turn into single vectors */
        case 1: pair_rows(half, d, 1, out->h, 1, maximum); break;
        case 2: pair_rows(half, d, 2, out->h, 2, maximum); break;
        case 4: pair_rows(half, d, 4, out->h, 4, maximum); break;
        case 8: pair_rows(half, d, 8, out->h, 8, maximum); break;
        default: pair_rows(half, d, (size_t)out->pitch, out->h, out->w, maximum);
        }
    }
}

/* The mean of whole planes. */
static void pool_all(const rs_shape *in, const float *x, const rs_shape *out, float *y, int from, int to)
{
    for (int c = from; c < to; c++) {
        const float *p = row_in(in, x, c, 0);
        int n = in->h * in->w;
        float sum[16] = {0}, all = 0;
        int i = 0;
        for (; i + 16 <= n; i += 16)
            for (int k = 0; k < 16; k++)
                sum[k] += p[i + k];
        for (; i < n; i++)
            all += p[i];
        for (int k = 0; k < 16; k++)
            all += sum[k];
        *row_out(out, y, c, 0) = all / (float)n;
    }
}

static void pool(const rs_op *op, const rs_shape *in, const float *x, const rs_shape *out, float *y, int part, int parts)
{
    int from = share(out->c, part, parts), to = share(out->c, part + 1, parts), lanes = out->lanes;
    const int32_t *k = op->kernel, *s = op->stride, *p = op->padding;
    int plain = p[0] == 0 && p[1] == 0;
    int pairs = plain && k[0] == 2 && k[1] == 2 && s[0] == 2 && s[1] == 2 && in->w == 2 * out->w && in->pitch == in->w;
    if (lanes == 1 && pairs && out->pitch == out->w && 2 * out->h * out->w <= PAIRED) {
        if (op->maximum)
            pool_pairs(in, x, out, y, from, to, 1);
        else
            pool_pairs(in, x, out, y, from, to, 0);
        return;
    }
    if (lanes == 1 && plain && !op->maximum && k[0] == in->h && k[1] == in->w && in->pitch == in->w) {
        pool_all(in, x, out, y, from, to);
        return;
    }
    for (int c = from; c < to; c++)
        for (int r = 0; r < out->h; r++)
            for (int q = 0; q < out->w; q++) {
                int top = r * s[0] - p[0], left = q * s[1] - p[1];
                int y0 = top < 0 ? 0 : top, y1 = top + k[0] > in->h ? in->h : top + k[0];
                int x0 = left < 0 ? 0 : left, x1 = left + k[1] > in->w ? in->w : left + k[1];
                int area = op->counts_padding ? k[0] * k[1] : (y1 - y0) * (x1 - x0);
                float *d = row_out(out, y, c, r) + (size_t)q * lanes;
                for (int l = 0; l < lanes; l++)
                    d[l] = op->maximum ? -INFINITY : 0;
                for (int i = y0; i < y1; i++)
                    for (int j = x0; j < x1; j++) {
                        const float *f = row_in(in, x, c, i) + (size_t)j * lanes;
                        if (op->maximum)
                            for (int l = 0; l < lanes; l++)
                                d[l] = larger(f[l], d[l]);
                        else
                            for (int l = 0; l < lanes; l++)
                                d[l] += f[l];
                    }
                if (!op->maximum)
                    for (int l = 0; l < lanes; l++)
                        d[l] /= (float)area;
            }
}

static void softmax(const rs_shape *in, const float *x, const rs_shape *out, float *y)
{
    for (int l = 0; l < in->lanes; l++) {
        float most = -INFINITY, sum = 0;
        for (int c = 0; c < in->c; c++)
            most = larger(x[c * in->plane + l], most);
        for (int c = 0; c < in->c; c++)
            sum += y[c * out->plane + l] = expf(x[c * in->plane + l] - most);
        for (int c = 0; c < in->c; c++)
            y[c * out->plane + l] /= sum;
    }
}

void NAMED(rs_op_run_, RS_ISA)(const rs_op *op, const rs_shape *const in[2], const float *const x[2], const rs_shape *out, float *y, int part, int parts)
{
    switch (op->kind) {
    case RS_SCALE:
    case RS_ACTIVATION: scale(op, in[0], x[0], out, y, part, parts); break;
    case RS_POOL: pool(op, in[0], x[0], out, y, part, parts); break;
    case RS_ADD: add(op, in, x, out, y, part, parts); break;
    case RS_COPY: copy(op, in[0], x[0], out, y, part, parts); break;
    case RS_SHORTCUT: shortcut(op, in[0], x[0], out, y, part, parts); break;
    case RS_FLATTEN: flatten(in[0], x[0], y, out->plane, part, parts); break;
    case RS_SOFTMAX:
        if (part == 0)
            softmax(in[0], x[0], out, y);
        break;
    }
}
