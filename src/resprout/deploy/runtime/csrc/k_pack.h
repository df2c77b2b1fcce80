/* Turning a layer's nonzeros into the stream that a plan walks through. */
#ifndef K_PACK_H
#define K_PACK_H

#include "k_copies.h"
#include "k_flat.h"
#include "k_gang.h"
#include "k_shifted.h"

/* Set up what keeps apart the columns of the kernel, or copies them: groups, shift, masks, pieces. FLAT: the column that needs no mask
 * comes first, and group_of tells which group a column is in. 0: out of memory.
 */
static int plan_groups(rs_conv *c, int *group_of)
{
    const rs_conv_spec *s = &c->s;
    c->groups = 1;
    if (c->plan.method == COPIES)
        return plan_copies(c);
    if (c->plan.method == LANES_ROWS || c->plan.method == SPARSE_DOT)
        return 1;
    c->shift = calloc((size_t)s->kw + 1, sizeof *c->shift);
    if (!c->shift)
        return 0;
    if (c->plan.method == FLAT) {
        for (int kx = 0; kx < s->kw; kx++) {
            int dx = kx * s->dilation_x - s->padding_x;
            group_of[kx] = dx ? c->groups : 0;
            if (dx)
                c->shift[c->groups++] = dx;
        }
        return make_masks(c, c->groups, 0);
    }
    c->groups = 3; /* SHIFTED and WOVEN */
    c->shift[0] = -1;
    return make_masks(c, 1, 0);
}

/* Where a nonzero reads, and in which group it is, under the plan. */
static int32_t address(const rs_conv *c, tap t, const int *group_of, int *group)
{
    const rs_conv_spec *s = &c->s;
    *group = 0;
    if (c->plan.method == WOVEN) {
        *group = t.kx;
        return (int32_t)(t.channel % c->plan.channels * c->source.plane + (size_t)t.ky * s->dilation_y * N);
    }
    int32_t at = plain_address(c, t);
    if (c->plan.method == FLAT)
        *group = group_of[t.kx];
    if (c->plan.method == SHIFTED)
        *group = t.kx, at -= t.kx * s->dilation_x - s->padding_x;
    return at;
}

/* Fill slices, groups, masks, entries, first, counts for the plan. 0: out of memory. */
static int pack_stream(rs_conv *c)
{
    const rs_conv_spec *s = &c->s;
    int channels = c->plan.channels, n = s->out.c, group;
    int *group_of = calloc((size_t)s->kw, sizeof *group_of);
    if (!group_of || !plan_groups(c, group_of)) {
        free(group_of);
        return 0;
    }
    c->slices = (s->in.c + channels - 1) / channels;
    size_t runs = (size_t)c->slices * n, lists = runs * c->groups;
    uint32_t *next = calloc(lists + 1, sizeof *next); /* where each list's next entry goes */
    c->first = zeros(sizeof *c->first * (runs + 1));
    c->counts = zeros(sizeof *c->counts * lists);
    c->entries = zeros(sizeof *c->entries * ((size_t)c->nonzeros + 16));
    int ok = next && c->first && c->counts && c->entries;
    for (int oc = 0; ok && oc < n; oc++)
        for (int64_t j = s->row[oc]; j < s->row[oc + 1]; j++) {
            tap t = tap_of(s, oc, s->place[j]);
            address(c, t, group_of, &group);
            c->counts[((size_t)(t.channel / channels) * n + oc) * c->groups + group]++;
        }
    for (size_t i = 0; ok && i < lists; i++) {
        next[i + 1] = next[i] + c->counts[i];
        c->first[i / c->groups + 1] = next[i + 1];
    }
    for (int oc = 0; ok && oc < n; oc++)
        for (int64_t j = s->row[oc]; j < s->row[oc + 1]; j++) {
            tap t = tap_of(s, oc, s->place[j]);
            int32_t at = address(c, t, group_of, &group);
            c->entries[next[((size_t)(t.channel / channels) * n + oc) * c->groups + group]++] = (entry){at, s->value[j]};
        }
    c->packed = sizeof *c->entries * (size_t)c->nonzeros + runs * (4 + 2 * (size_t)c->groups);
    free(next);
    free(group_of);
    return ok;
}

/* Fill slices, order, first and steps for a GANG plan. 0: out of memory. */
static int pack_gangs(rs_conv *c)
{
    const rs_conv_spec *s = &c->s;
    int G = gangs[c->plan.tile].gang, n = (s->out.c + G - 1) / G, channels = c->plan.channels;
    c->slices = (s->in.c + channels - 1) / channels;
    size_t lists = (size_t)c->slices * n * G, step = gang_step(G);
    counted *sorted = zeros(sizeof *sorted * lists);
    int32_t *list_of = zeros(sizeof *list_of * lists); /* slice, output channel -> position in order */
    c->order = zeros(sizeof *c->order * lists);
    c->first = zeros(sizeof *c->first * (lists / G + 1));
    int ok = plan_copies(c) && sorted && list_of && c->order && c->first;
    if (ok) {
        for (size_t i = 0; i < lists; i++)
            sorted[i] = (counted){i % (n * G) < (size_t)s->out.c ? 0 : -1, (int32_t)(i % (n * G))};
        for (int oc = 0; oc < s->out.c; oc++)
            for (int64_t j = s->row[oc]; j < s->row[oc + 1]; j++)
                sorted[(size_t)(tap_of(s, oc, s->place[j]).channel / channels) * n * G + oc].count++;
        for (int slice = 0; slice < c->slices; slice++)
            for (int team = 0; team < c->teams; team++) {
                int from = team_at(c, team), to = team_at(c, team + 1);
                qsort(sorted + ((size_t)slice * n + from) * G, (size_t)(to - from) * G, sizeof *sorted, by_count);
            }
        for (size_t i = 0; i < lists; i++) {
            int oc = sorted[i].channel;
            c->order[i] = oc < s->out.c ? oc : 0;
            list_of[i / (n * G) * (n * G) + oc] = (int32_t)(i % (n * G));
            if (i % G == 0)
                c->first[i / G + 1] = c->first[i / G] + (uint32_t)(sorted[i].count > 0 ? sorted[i].count : 0);
        }
        c->packed = step * c->first[lists / G];
        c->steps = zeros(c->packed + 64);
    }
    ok = ok && c->steps;
    uint32_t *filled = zeros(sizeof *filled * (ok ? lists : 0));
    ok = ok && filled;
    for (int oc = 0; ok && oc < s->out.c; oc++)
        for (int64_t j = s->row[oc]; j < s->row[oc + 1]; j++) {
            tap t = tap_of(s, oc, s->place[j]);
            int slice = t.channel / channels;
            size_t list = (size_t)slice * n * G + list_of[(size_t)slice * n * G + oc];
            char *p = (char *)c->steps + (c->first[list / G] + filled[list]++) * step;
            uint16_t at = (uint16_t)(copies_at(&c->source, s, t) - (size_t)slice * channels * c->source.plane);
            memcpy(p + 4 * (list % G), &s->value[j], 4);
            memcpy(p + 4 * G + 2 * (list % G), &at, 2);
        }
    free(sorted), free(list_of), free(filled);
    return ok;
}

static void drop_stream(rs_conv *c)
{
    free(c->pieces), free(c->shift), free(c->masks), free(c->entries), free(c->first), free(c->counts), free(c->order), free(c->steps);
    c->pieces = NULL, c->shift = NULL, c->masks = NULL, c->entries = NULL, c->first = NULL, c->counts = NULL, c->order = NULL, c->steps = NULL;
}

#endif
