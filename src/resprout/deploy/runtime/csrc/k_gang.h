/* One image, small maps: output channels walk side by side.
 *
 * A small map is a few vectors, so a channel's sums are short chains of dependent additions, and the time goes into waiting for
 * them, into leaving loops, and into loads of addresses and weights. Here a gang of G output channels with about equally many
 * nonzeros goes through its lists together, the shorter ones filled up with weights of zero: G independent sums, one loop, and
 * addresses and weights that are fetched several at a time. The operand is copied (k_copies.h), so that there are no edges;
 * slices of the input channels keep it in the first-level cache.
 */
#ifndef K_GANG_H
#define K_GANG_H

#include "k_copies.h"

typedef struct {
    const rs_conv *c;
    const float *in; /* the slice's operand */
    float *out;
    const float *residual;
    int slice, from, to; /* gangs */
    int some;            /* lanes of the last vector that are output */
} gang_pass;

/* Bytes of one step of a gang: weights, then places in floats from the slice's operand. */
INLINE size_t gang_step(int G) { return (size_t)G * (sizeof(float) + sizeof(uint16_t)); }

#if N == 16
#define V 16
#include "k_gang_pass.h"
#undef V
#endif
#if N >= 8
#define V 8
#include "k_gang_pass.h"
#undef V
#endif
#define V 4
#include "k_gang_pass.h"
#undef V

/* The forms that exist: length of a vector, vectors of the map, channels in a gang. */
#if N == 16
#define EACH_GANG(X) X(4, 1, 8) X(8, 1, 8) X(16, 1, 8) X(16, 2, 8) X(16, 3, 4) X(16, 4, 4)
#elif N == 8
#define EACH_GANG(X) X(4, 1, 8) X(8, 1, 8) X(8, 2, 4)
#else
#define EACH_GANG(X) X(4, 1, 8) X(4, 2, 4)
#endif
#define GANG(V, T, G) static void gang_##V##_##T(const gang_pass *a) { gang_pass_##V(a, T, G); }
EACH_GANG(GANG)
#undef GANG
#define LISTED(V, T, G) {V, T, G, gang_##V##_##T},
static const struct {
    int lanes, vectors, gang;
    void (*run)(const gang_pass *);
} gangs[] = {EACH_GANG(LISTED)};
#undef LISTED
enum { GANGS = sizeof gangs / sizeof *gangs };

/* The form for a map of so many pixels, or -1. */
static int gang_form(int pixels)
{
    for (int i = 0; i < GANGS; i++)
        if (gangs[i].lanes * gangs[i].vectors >= pixels)
            return i;
    return -1;
}

/* The first gang of a team: the output channels that one thread takes in every slice. */
static int team_at(const rs_conv *c, int team)
{
    int size = gangs[c->plan.tile].gang, from, to;
    share((c->s.out.c + size - 1) / size, team, c->teams, &from, &to);
    return from;
}

static void gang_run(const rs_conv *c, const float *in, float *out, const float *residual, float *scratch, int part, int parts)
{
    const rs_conv_spec *s = &c->s;
    int form = c->plan.tile, first, end;
    gang_pass a = {.c = c, .in = scratch, .out = out, .residual = residual};
    a.some = s->out.h * s->out.w - (gangs[form].vectors - 1) * gangs[form].lanes;
    share(c->teams, part, parts, &first, &end);
    a.from = team_at(c, first);
    a.to = team_at(c, end);
    for (; a.slice < c->slices; a.slice++) {
        int channel = a.slice * c->plan.channels;
        copies_make(c, in, scratch, channel, imin(channel + c->plan.channels, s->in.c));
        gangs[form].run(&a);
    }
}

#endif
