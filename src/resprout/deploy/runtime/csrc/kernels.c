/* The table of kernels for one instruction set, and the choice of a plan for each layer.
 *
 * Compiled once per set with -DRS_ISA=avx512 -DRS_LANES=16 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma,
 * -DRS_ISA=avx2 -DRS_LANES=8 -mavx2 -mfma, and -DRS_ISA=portable -DRS_LANES=4 (SSE or NEON, whatever the compiler's default is);
 * -O3 -std=gnu11 in all three.
 */
#include <time.h>

#include "k_general.h"
#include "k_pack.h"
#include "k_plans.h"

#define JOIN(a, b) a##b
#define NAMED(a, b) JOIN(a, b)
#define TEXT(x) #x
#define QUOTED(x) TEXT(x)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Whether a stage of its own copies the whole operand. */
static int copies_first(const rs_conv *c) { return c->plan.method == COPIES || (c->plan.method == DENSE && !c->plan.direct); }

static int conv_stages(const rs_conv *c) { return 1 + copies_first(c); }
static size_t conv_scratch(const rs_conv *c) { return c->source.floats * (copies_first(c) ? 1 : c->teams); }

static void conv_run(const rs_conv *c, int stage, const float *in, float *out, const float *residual, float *scratch, int part, int parts)
{
    float *own = scratch + part * c->source.floats;
    if (copies_first(c) && stage == 0) {
        int from, to;
        share(c->s.in.c, part, parts, &from, &to);
        copies_make(c, in, scratch + from * c->source.plane, from, to);
        return;
    }
    switch (c->plan.method) {
    case SHIFTED: shifted_run(c, in, out, residual, part, parts); break;
    case WOVEN: woven_run(c, in, out, residual, own, part, parts); break;
    case FLAT: flat_run(c, in, out, residual, part, parts); break;
    case COPIES: flat_run(c, scratch, out, residual, part, parts); break;
    case DENSE: dense_run(c, c->plan.direct ? in : scratch, out, residual, part, parts); break;
    case GANG: gang_run(c, in, out, residual, own, part, parts); break;
#ifdef __AVX512F__
    case TINY: tiny_run(c, in, out, residual, own, part, parts); break;
#endif
    case LANES_ROWS: lanes_run(c, in, out, residual, part, parts); break;
    case DENSE_DOT: dense_dot_run(c, in, out, residual, part, parts); break;
    case SPARSE_DOT: sparse_dot_run(c, in, out, residual, part, parts); break;
    default: general_run(c, in, out, residual, part, parts);
    }
}

static void conv_free(rs_conv *c)
{
    if (!c)
        return;
    drop_stream(c);
    free((void *)c->s.row), free((void *)c->s.place), free((void *)c->s.value), free((void *)c->s.bias);
    free(c);
}

/* What the plan is called: its method, the block of output a pass computes, and the input channels per slice. */
static void name_plan(rs_conv *c, plan p)
{
    static const char *const names[] = {
        [GENERAL] = "general", [FLAT] = "flat", [SHIFTED] = "shifted", [WOVEN] = "woven", [COPIES] = "copies", [GANG] = "gang",
        [LANES_ROWS] = "lanes", [TINY] = "tiny", [DENSE] = "dense", [DENSE_DOT] = "dense dot", [SPARSE_DOT] = "sparse dot",
    };
    char block[16] = "";
    if (p.method == LANES_ROWS)
        snprintf(block, sizeof block, " %dx%d", p.rows, p.tile);
    else if (p.method == GANG)
        snprintf(block, sizeof block, " %dx%dx%d", gangs[p.tile].gang, gangs[p.tile].vectors, gangs[p.tile].lanes);
    else if (p.method == DENSE)
        snprintf(block, sizeof block, " %dx%dx%d", dense_forms[p.tile].channels, dense_forms[p.tile].vectors, N);
    else if (p.tile)
        snprintf(block, sizeof block, " 1x%dx%d", p.tile, N);
    snprintf(c->name, sizeof c->name, "%s%s", names[p.method], block);
    if (p.channels < c->s.in.c)
        snprintf(c->name + strlen(c->name), sizeof c->name - strlen(c->name), " by %d", p.channels);
}

/* Pack for a plan. 0: out of memory. */
static int apply(rs_conv *c, plan p)
{
    drop_stream(c);
    c->plan = p;
    c->source = (operand){0};
    name_plan(c, p);
    switch (p.method) {
    case GENERAL: return 1;
    case DENSE_DOT: return pack_dense_dot(c);
#ifdef __AVX512F__
    case TINY: c->source.floats = (size_t)c->s.in.c * N; return pack_tiny(c);
#endif
    case WOVEN:
        c->source = woven_of(&c->s);
        c->source.floats = copies_floats(&c->source, p.channels);
        return pack_stream(c);
    case GANG:
        c->source = copies_of(&c->s, p.by_row);
        c->source.floats = copies_floats(&c->source, p.channels);
        return pack_gangs(c);
    case COPIES:
    case DENSE:
        if (!p.direct) {
            c->source = copies_of(&c->s, p.by_row);
            c->source.floats = copies_floats(&c->source, c->s.in.c);
        }
        return p.method == DENSE ? pack_dense(c) : pack_stream(c);
    default: return pack_stream(c);
    }
}

/* Seconds of one run; the best of a few, at most about `seconds` in all. */
static double measure(const rs_conv *c, double seconds, const float *in, float *out, const float *residual, float *scratch)
{
    double best = 1e9, begin = now(), t = begin;
    for (int i = 0; i < 3 || (i < 100 && t - begin < seconds); i++) {
        for (int stage = 0; stage < conv_stages(c); stage++)
            conv_run(c, stage, in, out, residual, scratch, 0, 1);
        double end = now();
        best = end - t < best ? end - t : best;
        t = end;
    }
    return best;
}

static int choose(rs_conv *c, const rs_trial *trial)
{
    const plan_list list = plans_for(c);
    const plan *plans = list.plans;
    int n = list.count, best = 0;
    if (trial->only > 0)
        return trial->only <= n && apply(c, plans[trial->only - 1]);
    if (trial->seconds <= 0 || n == 1)
        return apply(c, plans[0]);
    const rs_conv_spec *s = &c->s;
    float *in = zeros(4 * rs_shape_floats(&s->in)), *out = zeros(4 * rs_shape_floats(&s->out));
    float *residual = s->residual ? zeros(4 * rs_shape_floats(&s->residual_shape)) : NULL;
    int ok = in && out && (residual || !s->residual);
    double fastest = 1e9, begin = now();
    for (int i = 0; ok && i < n && (i == 0 || now() - begin < 2 * trial->seconds); i++) { /* packing takes time, too */
        ok = apply(c, plans[i]);
        float *scratch = zeros(4 * conv_scratch(c));
        ok = ok && scratch;
        if (ok) {
            double t = measure(c, trial->seconds / n, in + rs_shape_origin(&s->in), out + rs_shape_origin(&s->out),
                               residual ? residual + rs_shape_origin(&s->residual_shape) : NULL, scratch);
            if (t < fastest)
                fastest = t, best = i;
        }
        free(scratch);
    }
    free(in), free(out), free(residual);
    c->seconds = fastest;
    return ok && apply(c, plans[best]);
}

static void *copy(const void *from, size_t bytes)
{
    void *p = malloc(bytes + 1);
    return p ? memcpy(p, from, bytes) : NULL;
}

static int sensible(const rs_conv_spec *s)
{
    int64_t row = (int64_t)(s->groups > 0 ? s->in.c / s->groups : 0) * s->kh * s->kw;
    if (s->groups < 1 || s->in.c % s->groups || s->out.c % s->groups || s->in.lanes != s->out.lanes || row <= 0 || row > INT32_MAX
        || (s->in.lanes != 1 && s->in.lanes != N) || s->stride_y < 1 || s->stride_x < 1 || s->dilation_y < 1 || s->dilation_x < 1
        || s->row[0] != 0)
        return 0;
    for (int oc = 0; oc < s->out.c; oc++) {
        if (s->row[oc + 1] < s->row[oc])
            return 0;
        for (int64_t j = s->row[oc]; j < s->row[oc + 1]; j++)
            if (s->place[j] < 0 || s->place[j] >= row)
                return 0;
    }
    return 1;
}

static rs_conv *conv_pack(const rs_conv_spec *spec, const rs_trial *trial)
{
    rs_conv *c = sensible(spec) ? calloc(1, sizeof *c) : NULL;
    if (!c)
        return NULL;
    size_t n = (size_t)spec->out.c;
    c->nonzeros = spec->row[n];
    c->s = *spec;
    c->s.row = copy(spec->row, sizeof *spec->row * (n + 1));
    c->s.place = copy(spec->place, sizeof *spec->place * (size_t)c->nonzeros);
    c->s.value = copy(spec->value, sizeof *spec->value * (size_t)c->nonzeros);
    float *bias = calloc(n, sizeof *bias);
    if (bias && spec->bias)
        memcpy(bias, spec->bias, sizeof *bias * n);
    c->s.bias = bias;
    c->act = act_of(spec->slope, spec->cap);
    c->teams = imax(1, trial->threads);
    if (!c->s.row || !c->s.place || !c->s.value || !bias || !choose(c, trial)) {
        conv_free(c);
        return NULL;
    }
    if (c->plan.method != GENERAL) { /* all is in the stream now */
        free((void *)c->s.place), free((void *)c->s.value);
        c->s.place = NULL, c->s.value = NULL;
    }
    return c;
}

static rs_conv_info conv_info(const rs_conv *c)
{
    const rs_shape *o = &c->s.out;
    return (rs_conv_info){.variant = c->name, .nonzeros = c->nonzeros, .flops = 2.0 * c->nonzeros * o->h * o->w * o->lanes,
                          .microseconds = 1e6 * c->seconds, .bytes = (double)c->packed};
}

static void insert_lane(const rs_shape *one, const float *in, const rs_shape *many, float *out, int lane)
{
    for (int c = 0; c < one->c; c++)
        for (int y = 0; y < one->h; y++) {
            const float *from = in + c * one->plane + (size_t)y * one->pitch;
            float *to = out + c * many->plane + (size_t)y * many->pitch * N + lane;
            for (int x = 0; x < one->w; x++)
                to[(size_t)x * N] = from[x];
        }
}

static void extract_lane(const rs_shape *many, const float *in, int lane, const rs_shape *one, float *out)
{
    for (int c = 0; c < one->c; c++)
        for (int y = 0; y < one->h; y++) {
            const float *from = in + c * many->plane + (size_t)y * many->pitch * N + lane;
            float *to = out + c * one->plane + (size_t)y * one->pitch;
            for (int x = 0; x < one->w; x++)
                to[x] = from[(size_t)x * N];
        }
}

const rs_kernels NAMED(rs_kernels_, RS_ISA) = {
    .name = QUOTED(RS_ISA), .lanes = N, .pack = conv_pack, .free = conv_free, .info = conv_info, .stages = conv_stages,
    .scratch = conv_scratch, .run = conv_run, .insert = insert_lane, .extract = extract_lane,
};
