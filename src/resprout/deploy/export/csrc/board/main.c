/* Runs the network on every input in the host's file input.bin, and writes the outputs to output.bin and how many bytes
 * of the stack were used to stack.bin: floats and a uint32, little-endian. A product has its sensor here instead. */
#include "board.h"
#include "net.h"

static float input[NET_INPUT_SIZE], output[NET_OUTPUT_SIZE];

int main(void)
{
    const int32_t from = board_open("input.bin", "rb"), to = board_open("output.bin", "wb");
    if (from < 0 || to < 0)
        return 1;
    while (board_read(from, input, sizeof input))
        if (net_run(input, output) != 0 || !board_write(to, output, sizeof output))
            return 1;
    const uint32_t used = board_stack_used();
    return !board_write(board_open("stack.bin", "wb"), &used, sizeof used);
}
