/* Runs the network on the inputs of net_test.h and compares the outputs with those of PyTorch. */
#include "net.h"
#include "net_test.h"
#include <stdio.h>

int main(void)
{
    static float output[NET_OUTPUT_SIZE];
    float worst = 0.0f;
    for (int i = 0; i < NET_TESTS; i++) {
        const float *const expected = net_test_outputs[i];
        if (net_run(net_test_inputs[i], output) != 0) {
            printf("net_run refused input %d\n", i);
            return 1;
        }
        for (int j = 0; j < NET_OUTPUT_SIZE; j++) {
            const float size = expected[j] < 0.0f ? -expected[j] : expected[j];
            const float error = (output[j] < expected[j] ? expected[j] - output[j] : output[j] - expected[j]) / (1.0f + size);
            if (!(error <= 1e-4f)) {
                printf("output %d of input %d is %g, not %g\n", j, i, (double)output[j], (double)expected[j]);
                return 1;
            }
            worst = error > worst ? error : worst;
        }
    }
    if (net_run(0, output) != -1 || net_run(output, output) != -2) {
        printf("net_run accepts buffers that it must refuse\n");
        return 1;
    }
    printf("%d inputs, all outputs as in PyTorch, largest error %.1e\n", NET_TESTS, (double)worst);
    return 0;
}
