/* Convolution and linear layers with sparse weights: what the runtime asks of the kernels, and how values lie in memory.
 *
 * A value (one image's activations) is `c` planes of `h` rows. Pixel (channel, y, x) of lane l lies at
 *
 *     origin[channel * plane + (y * pitch + x) * lanes + l]         origin = buffer + rs_shape_origin(&shape)
 *
 * - lanes == 1: one image. Rows follow each other without a gap (pitch == w), so a 3x3 convolution is a sum of shifted
 *   one-dimensional arrays. Above and below the rows of each plane lie `pad` rows of zeros; neighbouring planes may share them.
 * - lanes > 1: so many images at once (kernels->lanes of them), innermost. Here rows have `pad` pixels of zeros at their right
 *   end too (pitch == w + pad), which also serve as the next row's left neighbours.
 * - A flat vector is h == w == 1 and pad == 0; with lanes == 1 it is a plain array (plane == 1).
 *
 * Whoever owns a buffer makes it rs_shape_floats() floats long, 64-byte aligned, and zeroes it once. Padding must hold zeros
 * whenever a convolution reads the value; kernels write pixels only, never padding. `pad` must be at least what every
 * convolution that reads the value needs: rs_conv_pad(). A larger pad is allowed. rs_shape_floats counts guards at both ends, which
 * kernels may read (any finite content) but never write.
 */
#ifndef RS_KERNELS_H
#define RS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int c, h, w;  /* channels, rows, columns */
    int pad;      /* rows of zeros above and below; with lanes also columns of zeros at the right */
    int lanes;    /* images side by side, 1 or kernels->lanes */
    int pitch;    /* pixels from one row to the next */
    size_t plane; /* floats from one channel to the next */
} rs_shape;

rs_shape rs_shape_make(int c, int h, int w, int pad, int lanes);
size_t rs_shape_floats(const rs_shape *shape); /* length of a buffer, guards included */
size_t rs_shape_origin(const rs_shape *shape); /* index of pixel (0, 0, 0) in it */

/* One layer as the file gives it. A linear layer is a 1x1 convolution on flat vectors (or on flat vectors with lanes).
 *
 * y = activation(bias + conv(x) + residual), activation(v) = v > 0 ? min(v, cap) : slope * v.
 */
typedef struct {
    int groups, kh, kw;
    int stride_y, stride_x, dilation_y, dilation_x, padding_y, padding_x;
    const int64_t *row;   /* out.c + 1: where each output channel's nonzeros begin */
    const int32_t *place; /* position in the row, (input channel within the group * kh + ky) * kw + kx, ascending */
    const float *value;
    const float *bias;    /* out.c, or NULL */
    float slope, cap;     /* 1 and INFINITY: identity; 0 and INFINITY: ReLU */
    int residual;         /* nonzero: run() adds a third value of the output's shape before the activation */
    rs_shape in, out;     /* both with the same lanes */
    rs_shape residual_shape; /* where `residual`; may differ from `out` in pad and plane */
} rs_conv_spec;

int rs_conv_pad(const rs_conv_spec *spec); /* what in.pad must be at least (reads kernel, dilation, padding, sizes only) */

typedef struct rs_conv rs_conv; /* a layer packed for one machine; immutable, may be run from several threads */

typedef struct {
    const char *variant;   /* how: method, output channels x vectors x lanes of a pass (lanes: rows x columns), channels per slice */
    int64_t nonzeros;
    double flops;          /* 2 per nonzero and pixel (and lane): the useful work of one run */
    double microseconds;   /* of one run on one thread, measured during pack; 0 without a trial */
    double bytes;          /* the packed weights */
} rs_conv_info;

typedef struct {
    double seconds;  /* time to spend on trials for this layer; 0: choose by rule, the same everywhere */
    int threads;     /* the largest `parts` that run() will see */
    int only;        /* for tests: take the only-th plan (from 1) without a trial; pack returns NULL where there are fewer */
} rs_trial;

/* The same functions for each instruction set; the runtime picks one table by what the processor can do. */
typedef struct {
    const char *name; /* "avx512", "avx2", "portable" */
    int lanes;        /* images per value in batches, and floats per vector */

    /* NULL: out of memory, or a spec that makes no sense (pads too small, lanes that differ ...). Copies what it needs of the spec. */
    rs_conv *(*pack)(const rs_conv_spec *spec, const rs_trial *trial);
    void (*free)(rs_conv *conv);
    rs_conv_info (*info)(const rs_conv *conv);

    /* A run may have several stages (a stage reads what all parts of the one before have written: put a barrier between).
     * scratch: floats that all parts of one run share, 64-byte aligned, uninitialised. Values are buffers' origins.
     * parts may be at most what the trial's `threads` said. */
    int (*stages)(const rs_conv *conv);
    size_t (*scratch)(const rs_conv *conv);
    void (*run)(const rs_conv *conv, int stage, const float *in, float *out, const float *residual, float *scratch, int part, int parts);

    /* Image `lane` of a value with lanes <-> a value of one image. */
    void (*insert)(const rs_shape *one, const float *in, const rs_shape *many, float *out, int lane);
    void (*extract)(const rs_shape *many, const float *in, int lane, const rs_shape *one, float *out);
} rs_kernels;

extern const rs_kernels rs_kernels_avx512, rs_kernels_avx2, rs_kernels_portable;

#endif
