/* The inner loop of k_gang.h, included once for each length V of vectors. */

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define SUM CAT(gang_sum_, V)
#define BITS CAT(gang_bits_, V)
#define ANYWHERE CAT(gang_anywhere_, V)
#define PICK(four, i) __builtin_shufflevector(weights[four], weights[four], i, i, i, i)
#define LOADED(p) ((SUM) * (const ANYWHERE *)(p))

typedef float SUM __attribute__((vector_size(4 * V)));
typedef int32_t BITS __attribute__((vector_size(4 * V)));
typedef float ANYWHERE __attribute__((vector_size(4 * V), aligned(4), may_alias));

INLINE SUM CAT(gang_activate_, V)(SUM v, act a)
{
    if (a.kind == IDENTITY)
        return v;
    SUM cap = a.cap - (SUM){0}, slope = a.kind == LEAKY ? v * a.slope : (SUM){0};
    BITS above = v > 0, high = v > cap;
    SUM capped = (SUM)(((BITS)cap & high) | ((BITS)v & ~high));
    return (SUM)(((BITS)capped & above) | ((BITS)slope & ~above));
}

/* Bring n lanes of a sum to pixels p ... of an output channel. */
INLINE void CAT(gang_finish_, V)(const gang_pass *a, int channel, int p, SUM v, int n, int last)
{
    const rs_conv *c = a->c;
    float *out = a->out + channel * c->s.out.plane + p;
    if (last) {
        if (a->residual) {
            const float *from = a->residual + channel * c->s.residual_shape.plane + p;
            SUM r = {0};
            if (n == V)
                r = LOADED(from);
            else
                memcpy(&r, from, 4 * (size_t)n);
            v += r;
        }
        v = CAT(gang_activate_, V)(v, c->act);
    }
    if (n == V)
        *(ANYWHERE *)out = v;
    else
        memcpy(out, &v, 4 * (size_t)n);
}

INLINE void CAT(gang_pass_, V)(const gang_pass *a, const int T, const int G)
{
    const rs_conv *c = a->c;
    const rs_conv_spec *s = &c->s;
    const int first = a->slice == 0, last = a->slice == c->slices - 1, gangs = (s->out.c + G - 1) / G;
    const size_t step = gang_step(G);
    const int32_t *order = c->order + ((size_t)a->slice * gangs + a->from) * G;
    const uint32_t *at = c->first + (size_t)a->slice * gangs + a->from;
    for (int g = a->from; g < a->to; g++, order += G, at++) {
        SUM sum[16];
        UNROLL for (int i = 0; i < G; i++)
            UNROLL for (int t = 0; t < T; t++)
                sum[i * T + t] = first ? s->bias[order[i]] - (SUM){0} : LOADED(a->out + order[i] * s->out.plane + t * V);
        const char *p = (const char *)c->steps + at[0] * step, *end = (const char *)c->steps + at[1] * step;
        for (; p < end; p += step) {
            const float *weight = (const float *)p;
            uint64_t places[G / 4]; /* one load for four: loads are what is short here */
            memcpy(places, p + 4 * G, 2 * G);
#if V == 16
            const vec weights = G == 8 ? _mm512_castps256_ps512(_mm256_loadu_ps(weight)) : _mm512_castps128_ps512(_mm_loadu_ps(weight));
#elif V == 4
            SUM weights[2] = {LOADED(weight), LOADED(weight + (G == 8 ? 4 : 0))};
            KEEP_IN_REGISTER(weights[0]);
            KEEP_IN_REGISTER(weights[1]);
#endif
            UNROLL for (int i = 0; i < G; i++) {
                const float *x = a->in + (uint16_t)(places[i / 4] >> 16 * (i % 4));
#if V == 16
                SUM w = _mm512_permutexvar_ps(_mm512_set1_epi32(i), weights);
#elif V == 4
                /* Lanes of a register, not of memory: see above. */
                SUM w = i % 4 == 0 ? PICK(i / 4, 0) : i % 4 == 1 ? PICK(i / 4, 1) : i % 4 == 2 ? PICK(i / 4, 2) : PICK(i / 4, 3);
#else
                SUM w = weight[i] - (SUM){0};
#endif
                UNROLL for (int t = 0; t < T; t++)
                    sum[i * T + t] += LOADED(x + t * V) * w;
            }
        }
        const int members = imin(G, s->out.c - g * G);
        UNROLL for (int i = 0; i < G; i++)
            UNROLL for (int t = 0; t < T; t++)
                if (i < members)
                    CAT(gang_finish_, V)(a, order[i], t * V, sum[i * T + t], t < T - 1 ? V : a->some, last);
    }
}
#undef LOADED
#undef PICK
#undef SUM
#undef BITS
#undef ANYWHERE
#undef CAT
#undef CAT_
