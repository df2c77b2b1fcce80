/* One vector of RS_LANES floats, in GCC's vector extensions: gcc and clang turn it into AVX-512, AVX2, SSE or NEON. */
#ifndef K_VEC_H
#define K_VEC_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define N RS_LANES
/* Keeps the compiler from fetching single lanes of v from memory again. */
#if defined __AVX512F__
#define KEEP_IN_REGISTER(v) __asm__("" : "+v"(v))
#elif defined __x86_64__
#define KEEP_IN_REGISTER(v) __asm__("" : "+x"(v))
#elif defined __aarch64__
#define KEEP_IN_REGISTER(v) __asm__("" : "+w"(v))
#else
#define KEEP_IN_REGISTER(v) (void)(v)
#endif

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

typedef float vec __attribute__((vector_size(4 * N)));
typedef float vec_unaligned __attribute__((vector_size(4 * N), aligned(4), may_alias));
typedef float half_unaligned __attribute__((vector_size(2 * N), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * N)));

INLINE vec load(const float *p) { return *(const vec_unaligned *)p; }
INLINE void store(float *p, vec v) { *(vec_unaligned *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec only(vec v, ivec mask) { return (vec)((ivec)v & mask); }

/* The first n lanes only. */
#ifdef __AVX512F__
INLINE void store_some(float *p, vec v, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v); }
INLINE vec load_some(const float *p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
#else
INLINE void store_some(float *p, vec v, int n) { memcpy(p, &v, 4 * (size_t)n); }
INLINE vec load_some(const float *p, int n)
{
    vec v = {0};
    memcpy(&v, p, 4 * (size_t)n);
    return v;
}
#endif

INLINE vec pick(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }
#ifdef __AVX512F__
INLINE vec vmax(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec vmin(vec a, vec b) { return _mm512_min_ps(a, b); }
#else
INLINE vec vmax(vec a, vec b) { return pick(a > b, a, b); }
INLINE vec vmin(vec a, vec b) { return pick(a < b, a, b); }
#endif

typedef struct {
    enum { IDENTITY, RELU, CLIPPED, LEAKY } kind;
    float slope, cap;
} act;

INLINE act act_of(float slope, float cap)
{
    act a = {.slope = slope, .cap = cap};
    int unbounded = cap == __builtin_inff();
    a.kind = slope == 1 && unbounded ? IDENTITY : slope == 0 ? (unbounded ? RELU : CLIPPED) : LEAKY;
    return a;
}

/* v > 0 ? min(v, cap) : slope * v */
INLINE vec activate(vec v, act a)
{
    vec zero = {0};
    switch (a.kind) {
    case IDENTITY: return v;
    case RELU: return vmax(v, zero);
    case CLIPPED: return vmin(vmax(v, zero), splat(a.cap));
    default: return vmin(vmax(v, zero), splat(a.cap)) + vmin(v, zero) * a.slope;
    }
}

/* Lanes d .. d + N - 1 of the 2 N lanes low:high, for d = 1, 2, 3, N - 3, N - 2, N - 1. */
#if N == 16
#define LANES(d) d, d + 1, d + 2, d + 3, d + 4, d + 5, d + 6, d + 7, d + 8, d + 9, d + 10, d + 11, d + 12, d + 13, d + 14, d + 15
#elif N == 8
#define LANES(d) d, d + 1, d + 2, d + 3, d + 4, d + 5, d + 6, d + 7
#else
#define LANES(d) d, d + 1, d + 2, d + 3
#endif
/* Every other lane of low:high; the halves of v; two halves together. */
#if N == 16
#define LOW_HALF(v) __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7)
#define HIGH_HALF(v) __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)
#define BOTH(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define EVENS(low, high) __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#elif N == 8
#define LOW_HALF(v) __builtin_shufflevector(v, v, 0, 1, 2, 3)
#define HIGH_HALF(v) __builtin_shufflevector(v, v, 4, 5, 6, 7)
#define BOTH(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7)
#define EVENS(low, high) __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14)
#else
#define LOW_HALF(v) __builtin_shufflevector(v, v, 0, 1)
#define HIGH_HALF(v) __builtin_shufflevector(v, v, 2, 3)
#define BOTH(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3)
#define EVENS(low, high) __builtin_shufflevector(low, high, 0, 2, 4, 6)
#endif
#define WINDOW(low, high, d) __builtin_shufflevector(low, high, LANES(d))

#endif
