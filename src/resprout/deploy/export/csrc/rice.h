/* Whole numbers in Golomb-Rice code, read one after the other; docs/file-format.md of resprout has the details. */
#ifndef RICE_H
#define RICE_H
#include <stdint.h>

/* A number is (quotient << k) + its k low bits. Bytes fill from the lowest bit up. */
struct rice {
    const uint8_t *unary; /* for each number as many zeros as its quotient, then a one; null where all are zero */
    const uint8_t *low;   /* k bits for each number */
    int32_t k;
};

/* How far both streams have been read, in bits. */
struct bits {
    uint32_t unary, low;
};

static uint32_t number(const struct rice *code, struct bits *at)
{
    const uint32_t k = (uint32_t)code->k;
    uint32_t quotient = 0, low = 0;
    if (code->unary) {
        while (!(code->unary[at->unary / 8] >> at->unary % 8 & 1)) {
            quotient++;
            at->unary++;
        }
        at->unary++;
    }
    for (uint32_t have = 0; have < k; have += 8 - (at->low + have) % 8)
        low |= (uint32_t)(code->low[(at->low + have) / 8] >> (at->low + have) % 8) << have;
    at->low += k;
    return quotient << k | (low & ((1u << k) - 1));
}
#endif
