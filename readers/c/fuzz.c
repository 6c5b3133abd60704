/* libFuzzer's target: everything that can be done with a file, as `make fuzzer` builds it. Checksums are made right first, so
   that what is behind them is reached. */

#include "deepcompress.h"

#include <stdlib.h>
#include <string.h>

static const size_t LIMIT = 1 << 20;

static void put32(uint8_t *at, uint32_t value) {
  int k;
  for (k = 0; k < 4; k++) at[k] = (uint8_t)(value >> (8 * k));
}

/* The file as it is, but with a right checksum at its end, and a right one of the header if that is where it seems to be. */
static void repair(uint8_t *bytes, size_t size) {
  size_t at = 4, length = 0, shift;
  if (size < 16) return;
  if (bytes[3] == 1 || bytes[4] & 2) {
    if (bytes[3] != 1) at++;
    for (shift = 0; at < size && shift < 28; shift += 7) {
      length |= (size_t)(bytes[at] & 127) << shift;
      if (!(bytes[at++] & 128)) break;
    }
    if (bytes[3] != 1 && bytes[4] & 1) at += bytes[at] & 128 ? 2 : 1;
    if (at + length + 8 <= size) put32(bytes + at + length, dc_crc32(bytes, at + length));
  }
  put32(bytes + size - 4, dc_crc32(bytes, size - 4));
}

enum { MOST = 16 };

/* Makes the checksums of the first sections right, where they are found in the header; the file must be opened anew then. */
static void repair_sections(const dc_file *file, uint8_t *bytes) {
  uint8_t *found[MOST], *at;
  uint32_t right[MOST];
  size_t i, count = 0;
  dc_tensor tensor;
  for (i = 0; i < file->count && count < MOST && file->checksums; i++) {
    dc_describe(file, i, &tensor);
    for (at = bytes; at + 4 <= tensor.section && tensor.section_bytes; at++) {
      if (tensor.checksum != (at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24)) continue;
      found[count] = at;
      right[count++] = dc_crc32(tensor.section, tensor.section_bytes);
      break;
    }
  }
  for (i = 0; i < count; i++) put32(found[i], right[i]);
}

/* Reads a tensor at once and element by element: both are right with the same elements, or wrong. */
static void read_both(const dc_file *file, size_t number, const dc_tensor *tensor, void *memory, size_t needed) {
  const size_t size = tensor->count * tensor->size;
  uint8_t *out = malloc(size + 1), *again = calloc(size + 1, 1);
  dc_status status = dc_read(file, number, out, size, memory, needed);
  dc_cursor cursor;
  if (dc_code(status) == DC_MEMORY) abort();
  dc_begin(&cursor, file, number, memory, needed);
  while (dc_next(&cursor)) {
    if (cursor.position >= tensor->count || (cursor.codebook && cursor.index >= cursor.tensor.entries)) abort();
    memcpy(again + cursor.position * tensor->size, cursor.value, tensor->size);
  }
  if (!status != !cursor.status || (!status && memcmp(out, again, size))) abort();
  free(again);
  free(out);
}

static void read_all(const dc_file *file) {
  size_t i, needed;
  dc_tensor tensor;
  uint8_t *memory;
  for (i = 0; i < file->count; i++) {
    if (dc_describe(file, i, &tensor) || dc_find(file, tensor.name, tensor.name_bytes) != i) abort();
    if (dc_memory(file, i, &needed) || needed > 64 * LIMIT) continue;
    memory = malloc(needed);
    read_both(file, i, &tensor, memory, needed);
    free(memory);
  }
}

static void look(uint8_t *bytes, size_t size, int again) {
  uint8_t *memory;
  size_t needed = 0;
  dc_file file;
  dc_status status;
  repair(bytes, size);
  if (dc_open_memory(bytes, size, &needed) || needed > 64 * LIMIT) return;
  memory = malloc(needed);
  status = dc_open(&file, bytes, size, LIMIT, memory, needed);
  if (dc_code(status) == DC_MEMORY) abort();
  if (!status) {
    read_all(&file);
    if (again) repair_sections(&file, bytes);
  }
  free(memory);
  if (!status && again) look(bytes, size, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t *bytes = malloc(size + 1);
  memcpy(bytes, data, size);
  look(bytes, size, 1);
  free(bytes);
  return 0;
}
