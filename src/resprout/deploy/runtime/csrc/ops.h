/* Operations as the runtime sees them, and those that are not convolutions. */
#ifndef RS_OPS_H
#define RS_OPS_H

#include "kernels.h"

enum { RS_CONV, RS_SCALE, RS_POOL, RS_ADD, RS_ACTIVATION, RS_COPY, RS_SHORTCUT, RS_FLATTEN, RS_SOFTMAX };

/* One operation; `in` and `out` are indices of values, -1 is none. The Python side fills this in field by field. */
typedef struct {
    int32_t kind, out, in[2];
    int32_t kernel[2], stride[2], padding[2], dilation[2], groups; /* rows, columns */
    int32_t maximum, counts_padding;                               /* RS_POOL */
    int32_t at;                                                    /* RS_COPY, RS_SHORTCUT: the first channel in the result */
    float slope, cap;
    const int64_t *row; /* RS_CONV: as in rs_conv_spec; in[1] is the residual */
    const int32_t *place;
    const float *value;
    const float *bias; /* RS_CONV, RS_SCALE */
} rs_op;

/* Runs a share of an operation other than RS_CONV; shapes and origins of its operands and its result. */
typedef void rs_op_run(const rs_op *op, const rs_shape *const in[2], const float *const x[2], const rs_shape *out, float *y, int part, int parts);

extern rs_op_run rs_op_run_avx512, rs_op_run_avx2, rs_op_run_portable;

#endif
