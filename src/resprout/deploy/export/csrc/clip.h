/* Windows that slide over a plane with padding. */
#ifndef CLIP_H
#define CLIP_H
#include <stdint.h>

/* `count` outputs from `first` on read a real input, not padding; `first` reads the input `from`. */
struct span {
    int32_t first, count, from;
};

/* Output o of `out` reads input o * stride + shift, which is real from 0 up to `in`. */
static struct span clip(int32_t shift, int32_t stride, int32_t in, int32_t out)
{
    const int32_t first = shift < 0 ? (stride - 1 - shift) / stride : 0;
    int32_t end = shift < in ? (in - shift + stride - 1) / stride : 0;
    if (end > out)
        end = out;
    struct span s = {first, end - first, first * stride + shift};
    if (s.count <= 0)
        s.first = s.count = s.from = 0;
    return s;
}
#endif
