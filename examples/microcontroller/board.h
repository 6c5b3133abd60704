/* What the board does for the program: text goes to whoever debugs it (Arm semihosting). */

#ifndef BOARD_H
#define BOARD_H

void board_print(const char *text);
void board_exit(int code);
unsigned board_stack_bytes(void); /* how much of the stack was used so far */
unsigned board_flash_bytes(void); /* code and constants, the network's file included */

#endif
