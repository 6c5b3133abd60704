/* Looks at a picture of a digit with a network of 2 kB, and says what it sees and how much memory that took. */

#include "board.h"
#include "lenet5.h"
#include "model.h"
#include "picture.h"

static uint64_t memory[LENET5_MEMORY / 8], header[2048 / 8];
static float image[SIDE * SIDE];

static void print_number(int number) {
  char text[12], *at = text + sizeof text;
  unsigned rest = number < 0 ? 0u - (unsigned)number : (unsigned)number;
  *--at = 0;
  do *--at = (char)('0' + rest % 10);
  while (rest /= 10);
  if (number < 0) *--at = '-';
  board_print(at);
}

static void print_line(const char *what, int number, const char *unit) {
  board_print(what);
  print_number(number);
  board_print(unit);
}

static int refuse(dc_status status) {
  print_line("Error: the reader says ", dc_code(status), "");
  print_line(", by section ", dc_section(status), " of the format\n");
  return 1;
}

int main(void) {
  const float mean = 0.130575f, deviation = 0.308005f; /* of the pixels that it was trained on */
  float logits[DIGITS];
  dc_file file;
  dc_status status;
  int k, best = 0;
  for (k = 0; k < SIDE * SIDE; k++) {
    char pixel = picture[k / SIDE][k % SIDE];
    image[k] = ((pixel == '#' ? 1.0f : pixel == '+' ? 0.67f : pixel == '.' ? 0.33f : 0.0f) - mean) / deviation;
  }
  status = dc_open(&file, model_file, MODEL_FILE_BYTES, 0, header, sizeof header);
  if (!status) status = lenet5(&file, image, logits, memory);
  if (status) return refuse(status);
  for (k = 0; k < DIGITS; k++) {
    print_line("", k, ": ");
    print_line("", (int)(logits[k] * 1000 + (logits[k] < 0 ? -0.5f : 0.5f)), " / 1000\n");
    if (logits[k] > logits[best]) best = k;
  }
  print_line("This is a ", best, ".\n");
  print_line("Flash: ", (int)board_flash_bytes(), " bytes, ");
  print_line("of them ", MODEL_FILE_BYTES, " of the network's file\n");
  print_line("Memory: ", (int)(sizeof memory + sizeof header + sizeof image + board_stack_bytes()), " bytes, ");
  print_line("of them ", (int)board_stack_bytes(), " of stack\n");
  board_print("As published: TFLite Micro has 16 kB of flash for its core; TinyMaix less than 3 kB of code,\n");
  board_print("and 1,464 bytes of memory for a network of 2.4 kB\n");
  return 0;
}
