/* Copies of the input in which every tap of the kernel is a plain, unmasked read.
 *
 * For each channel and kernel column there is one copy, moved sideways so that column x of the copy is what output column x
 * reads, zeros where the kernel hangs over the edge. Its rows are out.w long; with a vertical stride, rows of the same phase
 * (y mod stride) stand together in a band; or each kernel row has a band to itself, which begins on a cache line. So any stride, dilation and padding becomes a sum of arrays at fixed distances, all of them
 * row-aligned. A 1x1 kernel without stride or padding reads the input itself.
 */
#ifndef K_COPIES_H
#define K_COPIES_H

#include "k_masks.h"

/* The distance between copies: whole cache lines where that costs little. */
static size_t roomy(size_t floats)
{
    size_t aligned = (floats + 15) & ~(size_t)15;
    return aligned - floats <= floats / 8 ? aligned : floats;
}

static int fits_copies(const rs_conv_spec *s) { return s->stride_y <= MOST_BANDS; }

static operand copies_of(const rs_conv_spec *s, int by_row)
{
    operand o = {.by_row = by_row, .bands = by_row ? s->kh : s->stride_y};
    for (int b = 0; b < o.bands; b++) {
        int first = INT32_MAX, last = INT32_MIN;
        for (int ky = 0; ky < s->kh; ky++) {
            int dy = ky * s->dilation_y - s->padding_y;
            if (by_row ? ky == b : dy - floor_div(dy, s->stride_y) * s->stride_y == b) {
                first = imin(first, dy);
                last = imax(last, dy);
            }
        }
        o.start[b] = first;
        o.rows[b] = last < first ? 0 : s->out.h + (last - first) / s->stride_y;
        o.band[b] = o.column;
        o.column += roomy((size_t)o.rows[b] * s->out.w);
    }
    o.plane = o.column * s->kw;
    return o;
}

static size_t copies_at(const operand *o, const rs_conv_spec *s, tap t)
{
    int dy = t.ky * s->dilation_y - s->padding_y, b = o->by_row ? t.ky : dy - floor_div(dy, s->stride_y) * s->stride_y;
    return t.channel * o->plane + t.kx * o->column + o->band[b] + (size_t)((dy - o->start[b]) / s->stride_y) * s->out.w;
}

/* Copies are made of pieces: at most a vector of one copy, the same for each channel. */
struct piece {
    int32_t from, to; /* floats from the channel's first pixel, and from its copies */
    int32_t mask;
    int32_t count;    /* lanes */
};

/* Rows as long as the operand's and no strides: a whole band is one array, moved and masked. */
static int copies_whole(const rs_conv_spec *s)
{
    return s->stride_x == 1 && s->stride_y == 1 && s->out.w == s->in.pitch && s->in.pad >= rs_conv_pad(s);
}

/* Whether vectors that begin at a pixel that is needed end within the guards. */
static int copies_near(const rs_conv_spec *s)
{
    int right = (s->out.w + N) * s->stride_x + s->kw * s->dilation_x - s->in.w;
    return s->stride_x <= 2 && s->padding_x <= REACH && right <= REACH + 2 * N;
}

/* Fill c->pieces and c->masks. 0: out of memory. */
static int plan_copies(rs_conv *c)
{
    const rs_conv_spec *s = &c->s;
    const operand *o = &c->source;
    int whole = copies_whole(s), w = s->out.w, most = 0;
    c->shift = calloc((size_t)s->kw, sizeof *c->shift);
    if (!c->shift)
        return 0;
    for (int kx = 0; kx < s->kw; kx++)
        c->shift[kx] = kx * s->dilation_x - s->padding_x;
    if (!make_masks(c, s->kw, !whole))
        return 0;
    for (int b = 0; b < o->bands; b++)
        most += s->kw * o->rows[b] * ((w + N - 1) / N);
    c->pieces = zeros(sizeof *c->pieces * (size_t)most);
    c->piece_count = 0;
    for (int kx = 0; c->pieces && kx < s->kw; kx++)
        for (int b = 0; b < o->bands; b++)
            for (int row = 0; row < o->rows[b]; row += whole ? o->rows[b] : 1) {
                int y = row * s->stride_y + o->start[b], length = whole ? o->rows[b] * w : w;
                int empty = !whole && (y < 0 || y >= s->in.h);
                for (int p = 0; p < length; p += N) {
                    piece *q = &c->pieces[c->piece_count++];
                    q->from = empty ? 0 : y * s->in.pitch + c->shift[kx] + p * s->stride_x;
                    q->to = (int32_t)(kx * o->column + o->band[b]) + row * w + p;
                    q->mask = empty ? c->no_lane : kx * (c->period + MOST) + p / N % c->period;
                    q->count = imin(N, length - p);
                }
            }
    return c->pieces != NULL;
}

/* Channels [c0, c1) piece by piece. A write may run over into the next piece, which comes later, but not beyond the last channel.
 */
INLINE void copy_pieces(const rs_conv *c, const float *in, float *to, int c0, int c1, const int step)
{
    const float *last = to + (c1 - c0) * (ptrdiff_t)c->source.plane - N; /* where a whole vector fits in (c1 > c0) */
    for (int channel = c0; channel < c1; channel++, to += c->source.plane) {
        const float *plane = in + channel * c->s.in.plane;
        for (const piece *q = c->pieces, *end = q + c->piece_count; q < end; q++) {
            const float *p = plane + q->from;
            vec v = only(step == 1 ? load(p) : EVENS(load(p), load(p + N)), c->masks[q->mask]);
            float *at = to + q->to;
            if (at > last)
                store_some(at, v, q->count);
            else if (q->count > N / 2)
                store(at, v);
            else
                *(half_unaligned *)at = LOW_HALF(v); /* narrow stores rarely cross cache lines */
        }
    }
}

/* The same for any step and reach, reading pixels only. */
static void copy_anyhow(const rs_conv *c, const float *in, float *to, int c0, int c1)
{
    const rs_conv_spec *s = &c->s;
    const operand *o = &c->source;
    for (int channel = c0; channel < c1; channel++, to += o->plane)
        for (int kx = 0; kx < s->kw; kx++)
            for (int b = 0; b < o->bands; b++)
                for (int row = 0; row < o->rows[b]; row++)
                    for (int x = 0; x < s->out.w; x++) {
                        int64_t ix = (int64_t)x * s->stride_x + c->shift[kx];
                        int y = row * s->stride_y + o->start[b], inside = y >= 0 && y < s->in.h && ix >= 0 && ix < s->in.w;
                        to[kx * o->column + o->band[b] + (size_t)row * s->out.w + x] =
                            inside ? in[channel * s->in.plane + (size_t)y * s->in.pitch + ix] : 0;
                    }
}

/* The copies of channels [c0, c1), from `to` on. */
static void copies_make(const rs_conv *c, const float *in, float *to, int c0, int c1)
{
    if (!copies_near(&c->s))
        copy_anyhow(c, in, to, c0, c1);
    else if (c->s.stride_x == 1)
        copy_pieces(c, in, to, c0, c1, 1);
    else
        copy_pieces(c, in, to, c0, c1, 2);
}

/* Where a tap reads that needs no masks: in the copies, or in the input itself. */
static int32_t plain_address(const rs_conv *c, tap t)
{
    const rs_conv_spec *s = &c->s;
    if (c->source.floats)
        return (int32_t)copies_at(&c->source, s, t);
    int dy = t.ky * s->dilation_y - s->padding_y, dx = t.kx * s->dilation_x - s->padding_x;
    return (int32_t)(t.channel * (int64_t)s->in.plane + ((int64_t)dy * s->in.pitch + dx) * s->in.lanes);
}

/* Floats for the copies of so many channels; the last vector that is read may reach past the end. */
static size_t copies_floats(const operand *o, int channels) { return ((size_t)channels * o->plane + 64 + 15) & ~(size_t)15; }

#endif
