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

static void read_all(dc_file *file, uint8_t *bytes) {
  size_t i, needed, size;
  dc_tensor tensor;
  dc_cursor cursor;
  uint8_t *memory, *out, *check;
  for (i = 0; i < file->count; i++) {
    if (dc_describe(file, i, &tensor) || dc_find(file, tensor.name, tensor.name_bytes) != i) abort();
    if (file->checksums && tensor.section_bytes && tensor.checksum != dc_crc32(tensor.section, tensor.section_bytes)) {
      /* Where its checksum stands is known to nobody but the reader: it ends its fields, in a header that is not deflated. */
      for (check = bytes; check + 4 <= tensor.section; check++) {
        if (tensor.checksum == (check[0] | check[1] << 8 | check[2] << 16 | (uint32_t)check[3] << 24)) {
          put32(check, dc_crc32(tensor.section, tensor.section_bytes));
          break;
        }
      }
    }
    if (dc_memory(file, i, &needed) || needed > 64 * LIMIT) continue;
    size = tensor.count * tensor.size;
    memory = malloc(needed);
    out = malloc(size + 1);
    if (dc_code(dc_read(file, i, out, size, memory, needed)) == DC_MEMORY) abort();
    dc_begin(&cursor, file, i, memory, needed);
    while (dc_next(&cursor)) {
      if (cursor.position >= tensor.count || (cursor.codebook && cursor.index >= cursor.tensor.entries)) abort();
    }
    free(memory);
    free(out);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t *bytes = malloc(size + 1), *memory;
  size_t needed = 0;
  dc_file file;
  dc_status status;
  memcpy(bytes, data, size);
  repair(bytes, size);
  if (!dc_open_memory(bytes, size, &needed) && needed < 64 * LIMIT) {
    memory = malloc(needed);
    status = dc_open(&file, bytes, size, LIMIT, memory, needed);
    if (dc_code(status) == DC_MEMORY) abort();
    if (!status) read_all(&file, bytes);
    free(memory);
  }
  free(bytes);
  return 0;
}
