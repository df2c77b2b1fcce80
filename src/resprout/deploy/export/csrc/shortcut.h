/* Every stride-th pixel, with channels of zeros before and after: the shortcut without weights of a ResNet. */
#ifndef SHORTCUT_H
#define SHORTCUT_H
#include <stdint.h>

struct shortcut {
    int32_t channels, height, width; /* of the input */
    int32_t stride_y, stride_x;
    int32_t before, after; /* numbers of zeros */
};

static void shortcut(const struct shortcut *s, float *out, const float *in)
{
    for (int32_t i = 0; i < s->before; i++)
        *out++ = 0.0f;
    for (int32_t channel = 0; channel < s->channels; channel++, in += s->height * s->width)
        for (int32_t y = 0; y < s->height; y += s->stride_y)
            for (int32_t x = 0; x < s->width; x += s->stride_x)
                *out++ = in[y * s->width + x];
    for (int32_t i = 0; i < s->after; i++)
        *out++ = 0.0f;
}
#endif
