/* A network that is ready to run: what Python calls. */
#ifndef RS_NET_H
#define RS_NET_H

#include "ops.h"

#define RS_PUBLIC __attribute__((visibility("default")))

typedef struct rs_net rs_net;

/* The best instruction set that this processor has and this library was compiled for: "avx512", "avx2" or "portable". */
RS_PUBLIC const char *rs_best_isa(void);

/* Images that a network of many computes at once on this instruction set; 0 if the library does not know it, or the processor lacks it. */
RS_PUBLIC int rs_lanes(const char *isa);

/* shapes: channels, height, width of each value; value 0 is the input and the last one the output.
 * many: images in lanes. seconds: to spend on trials, per convolution.
 * NULL on failure, with the reason in `why` (at most `room` bytes).
 */
RS_PUBLIC rs_net *rs_net_new(const char *isa, int many, int threads, double seconds, int values, const int32_t (*shapes)[3], int ops,
                   const rs_op *list, char *why, size_t room);
RS_PUBLIC void rs_net_free(rs_net *net);

/* The same network of one thread with buffers of its own, to be run beside it; freed before it. NULL: out of memory. */
RS_PUBLIC rs_net *rs_net_twin(const rs_net *net);

/* x: images after each other, channels, rows, columns; y: likewise. With lanes, `images` is a multiple of them. Not for two threads at once. */
RS_PUBLIC void rs_net_run(rs_net *net, const float *x, float *y, int64_t images);

RS_PUBLIC size_t rs_net_bytes(const rs_net *net); /* of values and scratch */

/* What became of an operation; `microseconds` is measured now, on this network's values, as the median of `runs`. */
RS_PUBLIC void rs_net_info(rs_net *net, int op, int runs, rs_conv_info *info);

#endif
