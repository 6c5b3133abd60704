/* deepcompress-bench MODEL.dc: how long each tensor takes to decode; the best of several tries, and the sum of all. */

#include "deepcompress.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double once(const dc_file *file, size_t number, uint8_t *out, size_t size, void *memory, size_t needed) {
  clock_t start = clock();
  if (dc_read(file, number, out, size, memory, needed)) exit(1);
  return (double)(clock() - start) / CLOCKS_PER_SEC;
}

int main(int argc, char **argv) {
  FILE *in = argc == 2 ? fopen(argv[1], "rb") : NULL;
  size_t size, needed, number, elements = 0, work;
  uint8_t *bytes, *out;
  void *memory, *scratch;
  double best, seconds, all = 0;
  dc_file file;
  dc_tensor tensor;
  int tries;
  if (!in) return 2;
  fseek(in, 0, SEEK_END);
  size = (size_t)ftell(in);
  rewind(in);
  bytes = malloc(size);
  if (fread(bytes, 1, size, in) != size || dc_open_memory(bytes, size, &needed)) return 1;
  memory = malloc(needed);
  if (dc_open(&file, bytes, size, SIZE_MAX, memory, needed)) return 1;
  for (number = 0; number < file.count; number++) {
    dc_describe(&file, number, &tensor);
    dc_memory(&file, number, &work);
    scratch = malloc(work);
    out = malloc(tensor.count * tensor.size + 1);
    for (best = 1e9, tries = 0; tries < 7; tries++) {
      seconds = once(&file, number, out, tensor.count * tensor.size, scratch, work);
      if (seconds < best) best = seconds;
    }
    printf("%.*s: %zu elements, %zu bytes, %.2f ms, %.2f M elements/s, %zu bytes of memory\n", (int)tensor.name_bytes,
           tensor.name, tensor.count, tensor.section_bytes, best * 1e3, (double)tensor.count / best / 1e6, work);
    all += best;
    elements += tensor.count;
    free(out);
    free(scratch);
  }
  printf("all: %zu elements in %.1f ms, %.2f M elements/s\n", elements, all * 1e3, (double)elements / all / 1e6);
  return 0;
}
