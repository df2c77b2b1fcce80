/* The maximum or the mean of each window of one channel. */
#ifndef WINDOW_H
#define WINDOW_H
#include "clip.h"

struct pool {
    int32_t channels, in_height, in_width, out_height, out_width;
    int32_t kernel_height, kernel_width, stride_y, stride_x, padding_y, padding_x;
    int32_t maximum, counts_padding;
};

/* One window, whose first row and column may lie in the padding, but not all of it. */
static float window(const struct pool *p, const float *in, int32_t top, int32_t left)
{
    const struct span rows = clip(top, 1, p->in_height, p->kernel_height);
    const struct span columns = clip(left, 1, p->in_width, p->kernel_width);
    const int32_t divisor = p->counts_padding ? p->kernel_height * p->kernel_width : rows.count * columns.count;
    in += rows.from * p->in_width + columns.from;
    float sum = 0.0f, largest = *in;
    for (int32_t y = 0; y < rows.count; y++)
        for (int32_t x = 0; x < columns.count; x++) {
            const float value = in[y * p->in_width + x];
            sum += value;
            if (value > largest)
                largest = value;
        }
    return p->maximum ? largest : sum / (float)divisor;
}

static void pool_plane(const struct pool *p, float *out, const float *in)
{
    for (int32_t y = 0; y < p->out_height; y++)
        for (int32_t x = 0; x < p->out_width; x++)
            *out++ = window(p, in, y * p->stride_y - p->padding_y, x * p->stride_x - p->padding_x);
}
#endif
