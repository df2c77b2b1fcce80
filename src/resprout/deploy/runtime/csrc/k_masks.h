/* Which lanes of the output's vectors have an operand inside the row, for each of several shifts sideways. */
#ifndef K_MASKS_H
#define K_MASKS_H

#include "k_layer.h"

static int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

/* Masks for `rows` shifts: lane l of vector v is set where column v * N + l of the rows, one after the other, moved by the
 * shift (and times the stride), lies in the operand's row. With `by_row` each row begins with a new vector.
 */
static int make_masks(rs_conv *c, int rows, int by_row)
{
    const rs_conv_spec *s = &c->s;
    int w = s->out.w;
    c->period = by_row ? (w + N - 1) / N : w / gcd(w, N);
    c->masks = zeros(sizeof(ivec) * ((size_t)rows * (c->period + MOST) + 1));
    c->no_lane = rows * (c->period + MOST);
    if (!c->masks)
        return 0;
    for (int g = 0; g < rows; g++)
        for (int v = 0; v < c->period + MOST; v++)
            for (int l = 0; l < N; l++) {
                int64_t x = (int64_t)v * N + l;
                x = (by_row ? x : x % w) * s->stride_x + c->shift[g];
                c->masks[(size_t)g * (c->period + MOST) + v][l] = x >= 0 && x < s->in.w ? -1 : 0;
            }
    return 1;
}

#endif
