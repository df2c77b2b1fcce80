/* Convolution, a channel at a time: each nonzero weight adds a plane of the input, times its value and shifted. */
#ifndef CHANNEL_H
#define CHANNEL_H
#include "activate.h"
#include "clip.h"
#include "sparse.h"
#include "vector.h"

struct conv {
    struct sparse weight; /* (out, in / groups, kernel height, kernel width) */
    struct vector bias;
    int32_t in, in_height, in_width;
    int32_t out, out_height, out_width;
    int32_t kernel_height, kernel_width;
    int32_t stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
    int32_t groups;
    float slope, cap;
};

/* Adds `value` times the input seen through the kernel's element (ky, kx) to the output. */
static void add_shifted(const struct conv *c, float *out, const float *in, int32_t ky, int32_t kx, float value)
{
    const struct span rows = clip(ky * c->dilation_y - c->padding_y, c->stride_y, c->in_height, c->out_height);
    const struct span columns = clip(kx * c->dilation_x - c->padding_x, c->stride_x, c->in_width, c->out_width);
    const int32_t step = c->stride_x;
    for (int32_t y = 0; y < rows.count; y++) {
        const float *from = in + (rows.from + y * c->stride_y) * c->in_width + columns.from;
        float *to = out + (rows.first + y) * c->out_width + columns.first;
        if (step == 1)
            for (int32_t x = 0; x < columns.count; x++)
                to[x] += value * from[x];
        else
            for (int32_t x = 0; x < columns.count; x++)
                to[x] += value * from[x * step];
    }
}

/* Makes one channel of the result in `out`, which holds what the sums begin from. */
static void add_channel(const struct conv *c, struct reader *weights, int32_t channel, float *out, const float *in)
{
    const int32_t kernel = c->kernel_height * c->kernel_width;
    const int32_t in_plane = c->in_height * c->in_width;
    const int32_t in_group = c->in / c->groups;
    const int32_t out_group = c->out / c->groups;
    const uint32_t row = (uint32_t)(in_group * kernel);
    const float step = weights->at < row ? unit(weights) : 0.0f;
    in += channel / out_group * in_group * in_plane;
    for (; weights->at < row; next(weights)) {
        const int32_t plane = (int32_t)weights->at / kernel;
        const int32_t k = (int32_t)weights->at % kernel;
        add_shifted(c, out, in + plane * in_plane, k / c->kernel_width, k % c->kernel_width, weights->value * step);
    }
    weights->at -= row;
    activate(out, c->out_height * c->out_width, c->slope, c->cap);
}
#endif
