/* See net.h. Values that never live at the same time and have the same shape share a buffer. */
#define _GNU_SOURCE
#include "net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "team.h"

enum { WORTH_A_SECOND_THREAD = 300000 }; /* flops (or floats times 8) of an operation */
#define MOST_FLOATS 4294967296.0         /* of all values with their padding; more is refused before it is multiplied out */

typedef struct {
    rs_op op;
    rs_conv *conv;
    int parts, stages;
} step;

typedef struct {
    rs_shape shape;
    int buffer, last; /* last: the last step that reads it */
} value;

struct rs_net {
    const rs_kernels *kernels;
    rs_op_run *run;
    rs_team *team;
    int lanes, values, steps, buffers, threads;
    value *value;
    step *step;
    float **buffer, *scratch;
    rs_shape *buffer_shape;
    size_t bytes, scratch_bytes;
    const rs_net *of; /* a twin's original, which owns everything but the team, the buffers and the scratch */
};

static float *zeroed(size_t bytes)
{
    float *p = aligned_alloc(64, bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

static size_t buffer_bytes(const rs_shape *s) { return (sizeof(float) * rs_shape_floats(s) + 63) / 64 * 64; }

static const rs_kernels *find(const char *isa, rs_op_run **run)
{
#ifdef RS_HAS_AVX512
    if (!strcmp(isa, "avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl"))
        return *run = rs_op_run_avx512, &rs_kernels_avx512;
#endif
#ifdef RS_HAS_AVX2
    if (!strcmp(isa, "avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return *run = rs_op_run_avx2, &rs_kernels_avx2;
#endif
    return strcmp(isa, "portable") ? NULL : (*run = rs_op_run_portable, &rs_kernels_portable);
}

const char *rs_best_isa(void)
{
    static const char *const known[] = {"avx512", "avx2", "portable"};
    for (int i = 0; i < 2; i++)
        if (rs_lanes(known[i]))
            return known[i];
    return known[2];
}

int rs_lanes(const char *isa)
{
    rs_op_run *run;
    const rs_kernels *k = find(isa, &run);
    return k ? k->lanes : 0;
}

static const float *origin(const rs_net *net, int v)
{
    return v < 0 ? NULL : net->buffer[net->value[v].buffer] + rs_shape_origin(&net->value[v].shape);
}

static void run_step(rs_net *net, const step *s, int stage, int part)
{
    const rs_op *o = &s->op;
    float *out = (float *)origin(net, o->out);
    const float *x[2] = {origin(net, o->in[0]), origin(net, o->in[1])};
    if (s->conv) {
        net->kernels->run(s->conv, stage, x[0], out, x[1], net->scratch, part, s->parts);
        return;
    }
    const rs_shape *in[2] = {&net->value[o->in[0]].shape, o->in[1] < 0 ? NULL : &net->value[o->in[1]].shape};
    net->run(o, in, x, &net->value[o->out].shape, out, part, s->parts);
}

/* One image, or one group of them in lanes. Neighbouring steps of one part each need no meeting: part 0 does both. */
static void pass(void *what, int part)
{
    rs_net *net = what;
    for (int i = 0; i < net->steps; i++) {
        const step *s = &net->step[i];
        for (int stage = 0; stage < s->stages; stage++) {
            if (part < s->parts)
                run_step(net, s, stage, part);
            int next = stage + 1 < s->stages ? s->parts : i + 1 < net->steps ? net->step[i + 1].parts : 1;
            if (s->parts > 1 || next > 1)
                rs_team_meet(net->team);
        }
    }
}

/* The shape of one image as the caller has it. */
static rs_shape plain(const rs_shape *s)
{
    return (rs_shape){.c = s->c, .h = s->h, .w = s->w, .lanes = 1, .pitch = s->w, .plane = (size_t)s->h * s->w};
}

static void bring(rs_net *net, const float *x)
{
    const rs_shape *s = &net->value[0].shape, one = plain(s);
    float *to = (float *)origin(net, 0);
    size_t image = one.c * one.plane;
    if (net->lanes > 1)
        for (int l = 0; l < net->lanes; l++)
            net->kernels->insert(&one, x + (size_t)l * image, s, to, l);
    else if (s->plane == one.plane)
        memcpy(to, x, sizeof(float) * image);
    else
        for (int c = 0; c < s->c; c++)
            memcpy(to + c * s->plane, x + c * one.plane, sizeof(float) * one.plane);
}

static void fetch(rs_net *net, float *y)
{
    const rs_shape *s = &net->value[net->values - 1].shape, one = plain(s);
    const float *from = origin(net, net->values - 1);
    size_t image = one.c * one.plane;
    if (net->lanes > 1)
        for (int l = 0; l < net->lanes; l++)
            net->kernels->extract(s, from, l, &one, y + (size_t)l * image);
    else
        for (int c = 0; c < s->c; c++)
            memcpy(y + c * one.plane, from + c * s->plane, sizeof(float) * one.plane);
}

void rs_net_run(rs_net *net, const float *x, float *y, int64_t images)
{
    const rs_shape *in = &net->value[0].shape, *out = &net->value[net->values - 1].shape;
    size_t a = (size_t)in->c * in->h * in->w, b = (size_t)out->c * out->h * out->w;
    for (int64_t i = 0; i < images; i += net->lanes) {
        bring(net, x + (size_t)i * a);
        rs_team_run(net->team);
        fetch(net, y + (size_t)i * b);
    }
}

static rs_conv_spec spec_of(const rs_net *net, const rs_op *o)
{
    return (rs_conv_spec){
        .groups = o->groups, .kh = o->kernel[0], .kw = o->kernel[1],
        .stride_y = o->stride[0], .stride_x = o->stride[1], .dilation_y = o->dilation[0], .dilation_x = o->dilation[1],
        .padding_y = o->padding[0], .padding_x = o->padding[1], .row = o->row, .place = o->place, .value = o->value, .bias = o->bias,
        .slope = o->slope, .cap = o->cap, .residual = o->in[1] >= 0, .in = net->value[o->in[0]].shape, .out = net->value[o->out].shape,
        .residual_shape = o->in[1] >= 0 ? net->value[o->in[1]].shape : (rs_shape){0},
    };
}

/* Padding is what the convolutions that read a value need. */
static void shape_values(rs_net *net, const int32_t (*shapes)[3])
{
    for (int v = 0; v < net->values; v++)
        net->value[v] = (value){.shape = rs_shape_make(shapes[v][0], shapes[v][1], shapes[v][2], 0, net->lanes), .last = -1};
    for (int i = 0; i < net->steps; i++) {
        const rs_op *o = &net->step[i].op;
        for (int k = 0; k < 2; k++)
            if (o->in[k] >= 0)
                net->value[o->in[k]].last = i;
        if (o->kind != RS_CONV)
            continue;
        rs_conv_spec spec = spec_of(net, o);
        rs_shape *s = &net->value[o->in[0]].shape;
        int pad = rs_conv_pad(&spec);
        if (pad > s->pad)
            *s = rs_shape_make(s->c, s->h, s->w, pad, net->lanes);
    }
    net->value[0].last = net->value[0].last < 0 ? 0 : net->value[0].last;
    net->value[net->values - 1].last = net->steps;
}

static int same(const rs_shape *a, const rs_shape *b)
{
    return a->c == b->c && a->h == b->h && a->w == b->w && a->pad == b->pad && a->plane == b->plane;
}

static int fits(const rs_net *net)
{
    double floats = 0;
    for (int v = 0; v < net->values; v++)
        floats += (double)net->value[v].shape.c * (double)net->value[v].shape.plane;
    return floats <= MOST_FLOATS;
}

/* Gives every value a buffer: a free one of the same shape (so that its padding stays zero), or a new one. */
static int place_values(rs_net *net)
{
    int *free_from = calloc((size_t)net->values, sizeof *free_from); /* the first step that may write a buffer again */
    if (!free_from)
        return 0;
    for (int i = -1; i < net->steps; i++) {
        int v = i < 0 ? 0 : net->step[i].op.out, b = 0;
        if (i >= 0 && net->value[v].buffer >= 0)
            continue; /* a further part of a concatenation */
        const rs_shape *s = &net->value[v].shape;
        while (b < net->buffers && !(free_from[b] <= i && same(&net->buffer_shape[b], s)))
            b++;
        if (b == net->buffers) {
            net->buffer[b] = zeroed(buffer_bytes(s));
            if (!net->buffer[b]) {
                free(free_from);
                return 0;
            }
            net->buffer_shape[b] = *s;
            net->buffers++;
            net->bytes += buffer_bytes(s);
        }
        net->value[v].buffer = b;
        free_from[b] = (net->value[v].last > i ? net->value[v].last : i) + 1;
    }
    free(free_from);
    return 1;
}

static int pack_steps(rs_net *net, double seconds)
{
    size_t scratch = 0;
    for (int i = 0; i < net->steps; i++) {
        step *s = &net->step[i];
        const rs_shape *out = &net->value[s->op.out].shape;
        double work = 8.0 * out->c * out->h * out->w * out->lanes;
        s->stages = 1;
        if (s->op.kind == RS_CONV) {
            rs_conv_spec spec = spec_of(net, &s->op);
            s->conv = net->kernels->pack(&spec, &(rs_trial){.seconds = seconds, .threads = net->threads});
            if (!s->conv)
                return 0;
            s->stages = net->kernels->stages(s->conv);
            size_t floats = net->kernels->scratch(s->conv);
            scratch = floats > scratch ? floats : scratch;
            work = net->kernels->info(s->conv).flops;
        }
        s->parts = s->op.kind != RS_SOFTMAX && work >= WORTH_A_SECOND_THREAD ? net->threads : 1;
    }
    net->scratch_bytes = (sizeof(float) * (scratch + 64) + 63) / 64 * 64;
    net->bytes += net->scratch_bytes;
    net->scratch = zeroed(net->scratch_bytes);
    return net->scratch != NULL;
}

rs_net *rs_net_new(const char *isa, int many, int threads, double seconds, int values, const int32_t (*shapes)[3], int ops,
                   const rs_op *list, char *why, size_t room)
{
    rs_op_run *run;
    const rs_kernels *kernels = find(isa, &run);
    if (!kernels) {
        snprintf(why, room, "this processor, or this library, does not know %s", isa);
        return NULL;
    }
    rs_net *net = calloc(1, sizeof *net);
    if (net) {
        *net = (rs_net){.kernels = kernels, .run = run, .lanes = many ? kernels->lanes : 1, .values = values, .steps = ops, .threads = threads};
        net->value = calloc((size_t)values, sizeof *net->value);
        net->step = calloc((size_t)ops + 1, sizeof *net->step);
        net->buffer = calloc((size_t)values, sizeof *net->buffer);
        net->buffer_shape = calloc((size_t)values, sizeof *net->buffer_shape);
    }
    int ok = net && net->value && net->step && net->buffer && net->buffer_shape;
    const char *fault = "out of memory, or a layer that the kernels refuse";
    if (ok) {
        for (int i = 0; i < ops; i++)
            net->step[i].op = list[i];
        shape_values(net, shapes);
        ok = fits(net);
        fault = ok ? fault : "its values with their padding are too large";
    }
    if (ok) {
        for (int v = 0; v < values; v++)
            net->value[v].buffer = -1;
        ok = place_values(net) && pack_steps(net, seconds);
    }
    if (ok)
        ok = (net->team = rs_team_new(threads, pass, net)) != NULL;
    if (!ok) {
        snprintf(why, room, "%s", fault);
        rs_net_free(net);
        return NULL;
    }
    for (int i = 0; i < ops; i++) /* the caller's arrays may go now, but for those that RS_SCALE reads */
        if (net->step[i].op.kind == RS_CONV)
            net->step[i].op.row = NULL, net->step[i].op.place = NULL, net->step[i].op.value = NULL, net->step[i].op.bias = NULL;
    return net;
}

rs_net *rs_net_twin(const rs_net *net)
{
    rs_net *twin = net->threads == 1 ? malloc(sizeof *twin) : NULL;
    if (!twin)
        return NULL;
    *twin = *net;
    twin->of = net, twin->buffers = 0;
    twin->buffer = calloc((size_t)net->values, sizeof *twin->buffer);
    twin->scratch = zeroed(net->scratch_bytes);
    twin->team = rs_team_new(1, pass, twin);
    int ok = twin->buffer && twin->scratch && twin->team;
    for (; ok && twin->buffers < net->buffers; twin->buffers += ok)
        ok = (twin->buffer[twin->buffers] = zeroed(buffer_bytes(&net->buffer_shape[twin->buffers]))) != NULL;
    if (ok)
        return twin;
    rs_net_free(twin);
    return NULL;
}

void rs_net_free(rs_net *net)
{
    if (!net)
        return;
    rs_team_free(net->team);
    for (int b = 0; b < net->buffers; b++)
        free(net->buffer[b]);
    free(net->scratch), free(net->buffer);
    if (!net->of) {
        for (int i = 0; net->step && i < net->steps; i++)
            if (net->step[i].conv)
                net->kernels->free(net->step[i].conv);
        free(net->buffer_shape), free(net->value), free(net->step);
    }
    free(net);
}

size_t rs_net_bytes(const rs_net *net) { return net->bytes; }

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * t.tv_sec + 1e-3 * t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void rs_net_info(rs_net *net, int op, int runs, rs_conv_info *info)
{
    step *s = &net->step[op];
    *info = s->conv ? net->kernels->info(s->conv) : (rs_conv_info){.variant = ""};
    double *took = runs > 0 ? malloc(sizeof *took * (size_t)runs) : NULL;
    if (!took)
        return;
    int parts = s->parts;
    s->parts = 1;
    for (int r = 0; r < runs; r++) {
        double begin = now();
        for (int stage = 0; stage < s->stages; stage++)
            run_step(net, s, stage, 0);
        took[r] = now() - begin;
    }
    s->parts = parts;
    qsort(took, (size_t)runs, sizeof *took, ascending);
    info->microseconds = took[runs / 2];
    free(took);
}
