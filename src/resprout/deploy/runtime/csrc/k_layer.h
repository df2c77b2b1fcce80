/* A packed layer, and the parts that all ways of computing it share. */
#ifndef K_LAYER_H
#define K_LAYER_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "k_vec.h"
#include "kernels.h"

enum {
    MOST = 24,  /* vectors in a pass */
    REACH = 30, /* how many floats beyond a value's pixels and padding a kernel may read; the guards are 64 */
};

/* One nonzero: multiply what lies `at` floats from the origin (of the first output pixel's operand) by `weight`. */
typedef struct {
    int32_t at;
    float weight;
} entry;

/* How a layer can be computed. Each is described at the top of its file. */
typedef enum {
    GENERAL,               /* k_general.h */
    FLAT, COPIES,          /* k_flat.h, k_copies.h */
    SHIFTED, WOVEN,        /* k_shifted.h */
    GANG,                  /* k_gang.h */
    TINY,                  /* k_tiny.h */
    DENSE,                 /* k_dense.h */
    DENSE_DOT, SPARSE_DOT, /* k_dot.h */
    LANES_ROWS,            /* k_lanes.h */
} method;

/* One way of computing a layer, as trials compare them. */
typedef struct {
    method method;
    int tile;       /* vectors of output pixels per pass; LANES_ROWS: columns; GANG: its form */
    int rows;       /* LANES_ROWS: rows per pass */
    int channels;   /* input channels per pass */
    int by_row;     /* COPIES and GANG: see operand */
    int direct;     /* FLAT, DENSE: the kernel is one column wide and reads the input itself */
} plan;

/* The operand of a run: the input itself, or copies of it. COPIES makes them in a stage of its own; GANG, WOVEN and TINY make them
 * as they go, slice by slice, so that they stay in the first-level cache: each part then has its own.
 */
enum { MOST_BANDS = 16 };
typedef struct {
    size_t floats;  /* in scratch, per part unless there is a stage for it; 0: the input itself */
    size_t plane;   /* floats from one input channel to the next */
    size_t column;  /* floats from one kernel column's copy to the next */
    int by_row;     /* each kernel row has a band of its own; else each vertical phase */
    int bands;      /* rows that are stride_y apart in the input stand together */
    int start[MOST_BANDS], rows[MOST_BANDS]; /* the input row of the first one; how many */
    size_t band[MOST_BANDS];                 /* where the band begins within the copy */
} operand;

typedef struct piece piece; /* see k_copies.h */

struct rs_conv {
    rs_conv_spec s;     /* its arrays are our own copies */
    int64_t nonzeros;
    act act;
    plan plan;
    operand source;
    int slices;         /* of the input channels */
    int groups;         /* of kernel columns: FLAT, SHIFTED and WOVEN sum them apart; otherwise 1 */
    int *shift;         /* per group: how far the kernel column reaches to the right */
    ivec *masks;        /* per group period + MOST vectors, see k_masks.h; TINY: permutations, per tap */
    int period, no_lane; /* masks repeat after so many vectors; the index of a mask without lanes */
    piece *pieces;      /* what copies of a channel are made of */
    int piece_count;
    entry *entries;     /* by slice, output channel, group */
    uint32_t *first;    /* slices * out.c + 1 */
    uint16_t *counts;   /* by slice, output channel, group */
    int32_t *order;     /* GANG, TINY: output channels, by falling count */
    int teams;          /* GANG: groups of output channels that a thread may take */
    void *steps;        /* GANG, TINY, DENSE: weights and places in the order of use; DENSE_DOT: whole rows of weights */
    size_t packed;      /* bytes */
    double seconds;     /* of one run, measured */
    char name[48];
};

INLINE int imin(int a, int b) { return a < b ? a : b; }
INLINE int imax(int a, int b) { return a > b ? a : b; }
INLINE int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

/* Where nonzero `place` of output channel `oc` reads. */
typedef struct { int channel, ky, kx; } tap;

static tap tap_of(const rs_conv_spec *s, int oc, int place)
{
    int per_in = s->in.c / s->groups, per_out = s->out.c / s->groups, area = s->kh * s->kw;
    return (tap){oc / per_out * per_in + place / area, place % area / s->kw, place % s->kw};
}

/* 64-byte aligned zeros, a multiple of 64 bytes long; release with free(). */
static void *zeros(size_t bytes)
{
    bytes = (bytes + 127) & ~(size_t)63;
    void *p = aligned_alloc(64, bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

/* The share [*from, *to) of `n` things that part of parts takes. */
static void share(int n, int part, int parts, int *from, int *to)
{
    *from = (int)((int64_t)n * part / parts);
    *to = (int)((int64_t)n * (part + 1) / parts);
}

/* An output channel (or one slice of it) and how many nonzeros it has; for sorting, the longest first. */
typedef struct { int64_t count; int32_t channel; } counted;

static int by_count(const void *a, const void *b)
{
    const counted *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count) - (x->count > y->count) : (x->channel > y->channel) - (x->channel < y->channel);
}

/* The first output channel of a part, when parts have about equally many nonzeros. */
static int channel_at(const rs_conv *c, int part, int parts)
{
    enum { SAME = 4 }; /* a channel costs about as much as so many nonzeros besides those it has */
    const int64_t *row = c->s.row;
    int oc = 0, n = c->s.out.c;
    if (part == parts)
        return n;
    int64_t wanted = (row[n] + SAME * (int64_t)n) * part / parts;
    while (oc < n && row[oc] + SAME * (int64_t)oc < wanted)
        oc++;
    return oc;
}

#endif
