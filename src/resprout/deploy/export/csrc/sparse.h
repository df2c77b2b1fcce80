/* A tensor of weights: where its nonzeros are and what they are worth, read in order. */
#ifndef SPARSE_H
#define SPARSE_H
#include "rice.h"
#include "values.h"

struct sparse {
    uint32_t alive;       /* nonzeros in all */
    struct rice gaps;     /* zeros before each of them, in flat row-major order */
    struct values values;
};

/* The nonzero that comes next. When there is none any more, `at` is far beyond every tensor. */
struct reader {
    const struct sparse *tensor;
    uint32_t left;
    uint32_t at; /* its place, counted from the row that is being read: whoever begins a row subtracts the last one */
    float value; /* times the row's unit */
    struct bits gaps;
    struct values_read read;
};

static void next(struct reader *r)
{
    if (r->left == 0) {
        r->at = UINT32_MAX;
        return;
    }
    r->left--;
    r->at += 1 + number(&r->tensor->gaps, &r->gaps);
    r->value = next_value(&r->tensor->values, &r->read);
}

static struct reader start(const struct sparse *tensor)
{
    struct reader r = {.tensor = tensor, .left = tensor->alive, .at = UINT32_MAX}; /* one before 0 */
    next(&r);
    return r;
}

/* What the values of a row are multiples of; to be asked once for each row that has nonzeros. */
static float unit(struct reader *r)
{
    return next_unit(&r->tensor->values, &r->read);
}
#endif
