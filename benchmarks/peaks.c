/* What one core can do at most: fused multiply-adds, and reading. _roofline.py compiles this for the machine at hand and runs it.
 *
 * Prints lines "name value": GFLOP/s of multiply-adds whose operands are all in registers, or one of them in L1 (aligned, or one
 * float off, so that most reads cross a cache line), L2, L3; and GB/s of reading from L1, L2, L3 and memory. Best of several tries.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define CHAINS 12 /* independent sums: enough to hide the latency, few enough for 16 registers */

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef float loose __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static volatile float sink; /* so that nothing is optimised away */

static void spend(const vec *sums)
{
    vec all = sums[0];
    for (int i = 1; i < CHAINS; i++)
        all += sums[i];
    for (int i = 0; i < WIDTH; i++)
        sink += all[i];
}

/* Seconds of `rounds` passes of CHAINS multiply-adds in registers. */
static double in_registers(long rounds)
{
    vec sums[CHAINS] = {{0}}, a = {0}, b = {0};
    a += sink, b += sink; /* values the compiler does not know */
    for (int i = 0; i < CHAINS; i++)
        sums[i] += sink; /* or it would see that all chains are the same one */
    double began = now();
    for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sums[i] = sums[i] * a + b;
    }
    double took = now() - began;
    spend(sums);
    return took;
}

/* Seconds of `rounds` passes over `vectors` vectors from `data`, each multiplied and added. */
static double from_memory(const float *data, long vectors, long rounds)
{
    vec sums[CHAINS] = {{0}}, a = {0};
    a += sink;
    double began = now();
    for (long r = 0; r < rounds; r++)
        for (long j = 0; j + CHAINS <= vectors; j += CHAINS) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++)
                sums[i] += a * *(const loose *)(data + (j + i) * WIDTH);
        }
    double took = now() - began;
    spend(sums);
    return took;
}

/* The same, only added. */
static double reading(const float *data, long vectors, long rounds)
{
    vec sums[CHAINS] = {{0}};
    double began = now();
    for (long r = 0; r < rounds; r++)
        for (long j = 0; j + CHAINS <= vectors; j += CHAINS) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++)
                sums[i] += (vec) * (const loose *)(data + (j + i) * WIDTH);
        }
    double took = now() - began;
    spend(sums);
    return took;
}

int main(int argc, char **argv)
{
    const char *names[] = {"L1", "L2", "L3", "memory"};
    if (argc != 5) {
        fprintf(stderr, "usage: peaks BYTES_IN_L1 BYTES_IN_L2 BYTES_IN_L3 BYTES_IN_MEMORY\n");
        return 2;
    }
    double best = 1e9;
    for (int t = 0; t < 25; t++) {
        double took = in_registers(1000000);
        best = took < best ? took : best;
    }
    printf("fma_registers %.1f\n", 2e-9 * CHAINS * WIDTH * 1000000 / best);
    for (int k = 0; k < 4; k++) {
        long bytes = atol(argv[k + 1]), vectors = bytes / (4 * WIDTH) / CHAINS * CHAINS;
        long rounds = 1 + (long)(1e8 / bytes); /* a few ms, so that some tries are not interrupted */
        float *data = aligned_alloc(4096, (bytes / 4096 + 2) * 4096);
        if (!data || vectors < CHAINS)
            return 1;
        for (long i = 0; i < bytes / 4 + 16; i++)
            data[i] = 0.5f;
        double fma = 1e9, off = 1e9, read = 1e9;
        for (int t = 0; t < 25; t++) {
            double a = from_memory(data, vectors, rounds), b = from_memory(data + 1, vectors, rounds);
            double c = reading(data, vectors, rounds);
            fma = a < fma ? a : fma;
            off = b < off ? b : off;
            read = c < read ? c : read;
        }
        double flops = 2e-9 * WIDTH * vectors * rounds;
        printf("fma_%s %.1f\nfma_%s_crossing %.1f\nread_%s %.1f\n", names[k], flops / fma, names[k], flops / off, names[k],
               4e-9 * WIDTH * vectors * rounds / read);
        free(data);
    }
    return 0;
}
