/* A Cortex-M4 from reset to main, without a C library. */

#include "board.h"

#include <stddef.h>
#include <stdint.h>

/* From board.ld. What is behind board_stack_in_use may be the stack of board_start. */
extern uint32_t board_data_from[], board_data[], board_data_end[], board_bss[], board_bss_end[];
extern uint32_t board_stack[], board_stack_in_use[], board_stack_end[], board_flash_end[];
enum { FLASH = 0x08000000 };
int main(void);

static const uint32_t UNUSED_STACK = 0xdcdcdcdc;

static int semihost(int operation, const void *argument) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void board_print(const char *text) { semihost(0x04, text); }

void board_exit(int code) {
  const uint32_t reason[2] = {0x20026, (uint32_t)code}; /* the application ended, with that code */
  semihost(0x20, reason);
  for (;;) {
  }
}

unsigned board_stack_bytes(void) {
  const uint32_t *at = board_stack;
  while (at < board_stack_end && *at == UNUSED_STACK) at++;
  return (unsigned)((board_stack_end - at) * 4);
}

unsigned board_flash_bytes(void) { return (unsigned)((uintptr_t)board_flash_end - FLASH); }

__attribute__((naked)) static void reset(void) { __asm__ volatile("ldr r0, =board_start\n bx r0"); }

__attribute__((noreturn, used)) void board_start(void) {
  volatile uint32_t *coprocessors = (volatile uint32_t *)0xe000ed88, *to;
  const uint32_t *from = board_data_from;
  *coprocessors |= 0xf << 20; /* floating point on */
  __asm__ volatile("dsb\n isb");
  for (to = board_data; to < board_data_end;) *to++ = *from++;
  for (to = board_bss; to < board_bss_end;) *to++ = 0;
  for (to = board_stack; to < board_stack_in_use;) *to++ = UNUSED_STACK;
  board_exit(main());
  for (;;) {
  }
}

static void fault(void) {
  board_print("Error: the processor stopped at a fault\n");
  board_exit(1);
}

typedef void (*vector)(void);
__attribute__((section(".vectors"), used)) static const vector vectors[] = {
    (vector)(uintptr_t)board_stack_end, reset, fault, fault, fault, fault, fault};

/* What a compiler may call at any time. */
void *memcpy(void *to, const void *from, size_t count) {
  uint8_t *t = to;
  const uint8_t *f = from;
  while (count--) *t++ = *f++;
  return to;
}

void *memset(void *to, int value, size_t count) {
  uint8_t *t = to;
  while (count--) *t++ = (uint8_t)value;
  return to;
}

int memcmp(const void *a, const void *b, size_t count) {
  const uint8_t *x = a, *y = b;
  for (; count; count--, x++, y++) {
    if (*x != *y) return *x - *y;
  }
  return 0;
}
