/* What a Cortex-M does before main: memory as C expects it, and the floating-point unit switched on where there is one. */
#include "board.h"
#include <stdint.h>

extern uint32_t board_data[], board_data_end[], board_bss[], board_bss_end[]; /* from board.ld */
extern uint32_t board_stack_free_end[];
extern const uint32_t board_data_source[];

int main(void);

/* The stack is filled with a pattern; what is something else at the end was used. The function reset stands above. */
static const uint32_t pattern = 0x5ca1ab1eu;

uint32_t board_stack_used(void)
{
    const uint32_t *word = board_stack;
    while (word < board_stack_end && *word == pattern)
        word++;
    return (uint32_t)(board_stack_end - word) * 4;
}

static void reset(void)
{
#ifdef __ARM_FP
    *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20; /* CPACR: full access to coprocessors 10 and 11 */
    __asm__ volatile("dsb\n isb");
#endif
    for (uint32_t *word = board_stack; word < board_stack_free_end; word++)
        *word = pattern;
    const uint32_t *from = board_data_source;
    for (uint32_t *to = board_data; to < board_data_end; to++)
        *to = *from++;
    for (uint32_t *to = board_bss; to < board_bss_end; to++)
        *to = 0;
    board_exit(main());
}

static void fault(void)
{
    board_exit(1);
}

/* The vector table: where the stack begins, then the handlers. */
__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors = {board_stack_end, {reset, fault, fault, fault, fault, fault}};
