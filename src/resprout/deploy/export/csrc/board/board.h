/* The little that a bare board can do: end, and with a debugger or an emulator read and write files of the host. */
#ifndef BOARD_H
#define BOARD_H
#include <stdint.h>

extern uint32_t board_stack[], board_stack_end[]; /* from board.ld */

void board_exit(int status);

/* The most bytes of the stack that were in use since the start. */
uint32_t board_stack_used(void);

/* A file of the host, to be read or written (mode "rb" or "wb"); negative where there is none. */
int32_t board_open(const char *name, const char *mode);

/* Both return whether all `bytes` were read or written. */
int board_read(int32_t file, void *to, uint32_t bytes);
int board_write(int32_t file, const void *from, uint32_t bytes);
#endif
