/* The plans that are worth a trial for a layer, the best guess first: it is taken where there is no time for trials. */
#ifndef K_PLANS_H
#define K_PLANS_H

#include "k_copies.h"
#include "k_dense.h"
#include "k_dot.h"
#include "k_gang.h"
#include "k_lanes.h"
#include "k_shifted.h"
#include "k_tiny.h"

enum {
    MOST_PLANS = 64,
    CACHED = 9216, /* floats: three quarters of a first-level cache of 48 KiB */
};

typedef struct {
    plan plans[MOST_PLANS];
    int count;
} plan_list;

static void try_plan(plan_list *l, plan p)
{
    if (l->count < MOST_PLANS)
        l->plans[l->count++] = p;
}

/* How many channels of so many floats stay in the cache. With groups each output channel reads few of them anyway: take all. */
static int cached_channels(const rs_conv_spec *s, size_t floats)
{
    size_t n = CACHED / (floats ? floats : 1);
    return s->groups > 1 || n > (size_t)s->in.c ? s->in.c : n ? (int)n : 1;
}

/* Slices of `channels`, of twice that, and no slices; first of all, slices that leave an output channel nonzeros enough in each, since
 * sums that wait in the output cost loads and stores.
 */
static void try_slices(plan_list *l, const rs_conv *c, plan p, int channels)
{
    int64_t all = c->s.in.c, enough = all * 24 * c->s.out.c / (c->nonzeros + 1);
    int tried[] = {(int)(enough > all ? all : enough > channels ? enough : channels), channels, imin((int)all, 2 * channels), (int)all};
    for (int i = 0; i < 4; i++) {
        int known = 0;
        for (int k = 0; k < i; k++)
            known |= tried[k] == tried[i];
        p.channels = tried[i];
        if (!known)
            try_plan(l, p);
    }
}

static void lanes_plans(plan_list *l, const rs_conv *c)
{
    const rs_conv_spec *s = &c->s;
    int columns = s->out.w >= 16 ? 16 : s->out.w >= 8 ? 8 : s->out.w >= 4 ? 4 : s->out.w, rows = imax(1, imin(4, 16 / columns));
    for (int r = rows; r >= imax(1, rows / 2); r -= imax(1, r / 2)) {
        plan p = {.method = LANES_ROWS, .tile = columns, .rows = r};
        int height = (r - 1) * s->stride_y + (s->kh - 1) * s->dilation_y + 1;
        try_slices(l, c, p, cached_channels(s, (size_t)height * s->in.pitch * N));
        p.channels = imin(s->in.c, 16);
        try_plan(l, p);
    }
}

static void gang_plans(plan_list *l, const rs_conv *c)
{
    const rs_conv_spec *s = &c->s;
    int form = gang_form(s->out.h * s->out.w), small = s->out.h * s->out.w <= 8;
    for (int i = 0; i < 2 && form >= 0; i++) {
        plan p = {.method = GANG, .tile = form, .by_row = i == small};
        if (p.by_row && s->kh > MOST_BANDS)
            continue;
        size_t plane = copies_of(s, p.by_row).plane, most = UINT16_MAX / plane;
        if (most == 0)
            continue;
        int channels = imin((int)most, cached_channels(s, plane));
        for (p.channels = channels; p.channels <= 2 * channels && p.channels <= (int)most; p.channels *= 2)
            try_plan(l, p);
        p.channels = imin(s->in.c, (int)most);
        try_plan(l, p);
    }
}

static void shifted_plans(plan_list *l, const rs_conv *c)
{
    const rs_conv_spec *s = &c->s;
    int row = shifted_row(s), vectors = (s->out.h * s->out.w + N - 1) / N;
    if (can_weave(s))
        try_slices(l, c, (plan){.method = WOVEN, .tile = vectors}, cached_channels(s, woven_of(s).plane));
    static const int tiles[] = {16, 8, 12, 20, 24};
    for (int i = 0; row && i < 5; i++) {
        int tile = imin(N == 16 ? tiles[i] : tiles[i] / 2, vectors) / row * row;
        if (tile < row || (i && tile == vectors))
            continue;
        plan p = {.method = SHIFTED, .tile = tile};
        try_slices(l, c, p, cached_channels(s, (size_t)tile * N + (size_t)(s->kh - 1) * s->dilation_y * s->in.pitch));
    }
}

static void flat_plans(plan_list *l, const rs_conv *c, int same)
{
    const rs_conv_spec *s = &c->s;
    int vectors = (s->out.h * s->out.w + N - 1) / N;
    for (int tile = imin(vectors, N == 16 ? 16 : 8), i = 0; i < 2 && tile >= 1; i++, tile /= 2) {
        int channels = cached_channels(s, (size_t)tile * N + (size_t)(s->kh - 1) * s->dilation_y * s->out.w);
        if (same)
            try_slices(l, c, (plan){.method = FLAT, .tile = tile, .direct = 1}, channels);
        if (!same || s->kw > 1)
            try_slices(l, c, (plan){.method = COPIES, .tile = tile}, channels);
    }
}

static void dense_plans(plan_list *l, const rs_conv *c, int same)
{
    const rs_conv_spec *s = &c->s;
    int vectors = (s->out.h * s->out.w + N - 1) / N;
    for (int i = DENSE_FORMS; i > 0; i--) {
        int form = (i + 1) % DENSE_FORMS, n = dense_forms[form].vectors; /* the last but one first: it is often the best */
        if (n > vectors && form)
            continue;
        plan p = {.method = DENSE, .tile = form, .channels = s->in.c, .direct = same && s->kw == 1};
        try_plan(l, p);
        p.channels = cached_channels(s, (size_t)s->kw * (n * N + (size_t)(s->kh - 1) * s->out.w));
        if (p.channels < s->in.c)
            try_plan(l, p);
    }
}

static plan_list plans_for(const rs_conv *c)
{
    const rs_conv_spec *s = &c->s;
    plan_list l = {.count = 0};
    int64_t area = (int64_t)s->kh * s->kw, places = area * s->in.c / s->groups * s->out.c, longest = 0;
    for (int oc = 0; oc < s->out.c; oc++)
        longest = s->row[oc + 1] - s->row[oc] > longest ? s->row[oc + 1] - s->row[oc] : longest;
    int right = (s->out.w - 1) * s->stride_x + (s->kw - 1) * s->dilation_x - s->padding_x - (s->in.w - 1);
    int padded = s->in.pad >= rs_conv_pad(s) && s->padding_x <= REACH && right <= REACH;
    /* Places are 32-bit, counts 16-bit. */
    int64_t reach = (int64_t)s->in.c * (int64_t)s->in.plane, copied = area * s->in.c * (int64_t)(s->out.h + s->kh) * (s->out.w + N);
    int usual = longest <= UINT16_MAX && reach < INT32_MAX / 4 && copied < INT32_MAX / 4;
    int same = padded && s->stride_y == 1 && s->stride_x == 1 && s->out.w == s->in.pitch;
    if (is_flat(s)) {
        plan sparse = {.method = SPARSE_DOT, .channels = s->in.c}, dense = {.method = DENSE_DOT, .channels = s->in.c};
        int first_dense = !usual || c->nonzeros * 5 > places;
        try_plan(&l, first_dense ? dense : sparse);
        if (usual)
            try_plan(&l, first_dense ? sparse : dense);
        return l;
    }
    if (usual && s->in.lanes > 1 && padded)
        lanes_plans(&l, c);
    if (usual && s->in.lanes == 1) {
        int copies = fits_copies(s), many = s->groups == 1 && c->nonzeros * 10 > places * 8;
        if (copies && many)
            dense_plans(&l, c, same);
#ifdef __AVX512F__
        int few = c->nonzeros < (int64_t)s->out.c * 64;
        if (is_tiny(s) && few)
            try_plan(&l, (plan){.method = TINY, .tile = 1, .channels = s->in.c});
#endif
        if (copies && (s->out.h * s->out.w <= N || !same))
            gang_plans(&l, c);
        if (same)
            shifted_plans(&l, c);
        if (copies)
            flat_plans(&l, c, same);
        if (copies && !many && s->groups == 1 && c->nonzeros * 4 > places)
            dense_plans(&l, c, same);
#ifdef __AVX512F__
        if (is_tiny(s) && !few)
            try_plan(&l, (plan){.method = TINY, .tile = 1, .channels = s->in.c});
#endif
    }
    if (l.count == 0)
        try_plan(&l, (plan){.method = GENERAL, .channels = s->in.c});
    return l;
}

#endif
