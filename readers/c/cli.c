/* deepcompress-read MODEL.dc: what the file holds, as one JSON object, with the SHA-256 of each tensor's bytes.
   deepcompress-read MODEL.dc NAME: the elements of one tensor, one on a line. */

#include "deepcompress.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void sha256_block(uint32_t state[8], const uint8_t block[64]) {
  static const uint32_t k[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
      0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
      0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
      0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
      0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
      0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  uint32_t w[64], s[8], one, two;
  int i;
#define TURN(x, n) ((x) >> (n) | (x) << (32 - (n)))
  for (i = 0; i < 16; i++) {
    w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
  }
  for (; i < 64; i++) {
    w[i] = w[i - 16] + (TURN(w[i - 15], 7) ^ TURN(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
           (TURN(w[i - 2], 17) ^ TURN(w[i - 2], 19) ^ w[i - 2] >> 10);
  }
  memcpy(s, state, sizeof s);
  for (i = 0; i < 64; i++) {
    one = s[7] + (TURN(s[4], 6) ^ TURN(s[4], 11) ^ TURN(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
    two = (TURN(s[0], 2) ^ TURN(s[0], 13) ^ TURN(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
    memmove(s + 1, s, 7 * sizeof *s);
    s[4] += one;
    s[0] = one + two;
  }
#undef TURN
  for (i = 0; i < 8; i++) state[i] += s[i];
}

/* FIPS 180-4. */
static void sha256(const uint8_t *data, size_t count, char hex[65]) {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t tail[128] = {0};
  uint64_t bits = (uint64_t)count * 8;
  size_t rest = count % 64, blocks = rest < 56 ? 1 : 2, i;
  for (i = 0; i + 64 <= count; i += 64) sha256_block(state, data + i);
  if (rest) memcpy(tail, data + i, rest);
  tail[rest] = 0x80;
  for (i = 0; i < 8; i++) tail[blocks * 64 - 1 - i] = (uint8_t)(bits >> (8 * i));
  for (i = 0; i < blocks; i++) sha256_block(state, tail + 64 * i);
  for (i = 0; i < 8; i++) snprintf(hex + 8 * i, 9, "%08x", (unsigned)state[i]);
}

static void *give(size_t count) {
  void *memory = malloc(count ? count : 1);
  if (memory) return memory;
  fprintf(stderr, "Error: there are no %zu bytes of memory\n", count);
  exit(1);
}

static uint8_t *load(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  uint8_t *bytes = NULL;
  long end = -1;
  if (file && !fseek(file, 0, SEEK_END) && (end = ftell(file)) >= 0 && end < LONG_MAX && !fseek(file, 0, SEEK_SET)) {
    *size = (size_t)end;
    bytes = give(*size);
    if (fread(bytes, 1, *size, file) != *size) end = -1;
  }
  if (end < 0 || end == LONG_MAX) { /* which is what a folder says */
    fprintf(stderr, "Error: %s cannot be read: %s\n", path, end < 0 ? strerror(errno) : "it is no file");
    exit(1);
  }
  fclose(file);
  return bytes;
}

static void refuse(const char *path, dc_status status, const char *about, size_t about_bytes) {
  fprintf(stderr, "Error: %s: %s (section %d of the format)", path, dc_message(status), dc_section(status));
  if (about) fprintf(stderr, ", at \"%.*s\"", (int)about_bytes, about);
  fputc('\n', stderr);
  exit(1);
}

static void print_text(const char *key, const char *text, size_t count) {
  printf("\"%s\": \"", key);
  for (; count; count--, text++) {
    if (*text == '"' || *text == '\\') putchar('\\');
    putchar(*text);
  }
  fputs("\", ", stdout);
}

/* Decodes a tensor into memory that the caller frees. */
static uint8_t *decode(const char *path, const dc_file *file, size_t number, const dc_tensor *tensor) {
  size_t needed = 0, size = tensor->count * tensor->size;
  dc_status status = dc_memory(file, number, &needed);
  uint8_t *out;
  void *memory;
  if (status) refuse(path, status, tensor->name, tensor->name_bytes);
  memory = give(needed);
  out = give(size);
  status = dc_read(file, number, out, size, memory, needed);
  if (status) refuse(path, status, tensor->name, tensor->name_bytes);
  free(memory);
  return out;
}

static void print_tensors(const char *path, const dc_file *file) {
  size_t number, k;
  dc_tensor tensor;
  uint8_t *values;
  char hex[65];
  for (number = 0; number < file->count; number++) {
    dc_describe(file, number, &tensor);
    values = decode(path, file, number, &tensor);
    sha256(values, tensor.count * tensor.size, hex);
    free(values);
    fputs(number ? ", {" : "{", stdout);
    print_text("name", tensor.name, tensor.name_bytes);
    printf("\"dtype\": \"%s\", \"shape\": [", dc_dtype_name(tensor.dtype));
    for (k = 0; k < tensor.rank; k++) printf(k ? ", %zu" : "%zu", tensor.shape[k]);
    printf("], \"sha256\": \"%s\"}", hex);
  }
}

static void print_element(const uint8_t *at, const dc_tensor *tensor) {
  unsigned k;
  float value;
  if (tensor->dtype == 0) {
    memcpy(&value, at, 4); /* the machine is taken to be little-endian */
    printf("%.9g\n", (double)value);
    return;
  }
  for (k = tensor->size; k-- > 0;) printf("%02x", at[k]);
  putchar('\n');
}

static void print_elements(const char *path, const dc_file *file, const char *name) {
  size_t number = dc_find(file, name, strlen(name)), i;
  dc_tensor tensor;
  uint8_t *values;
  if (dc_describe(file, number, &tensor)) {
    fprintf(stderr, "Error: %s has no tensor \"%s\"\n", path, name);
    exit(1);
  }
  values = decode(path, file, number, &tensor);
  for (i = 0; i < tensor.count; i++) print_element(values + i * tensor.size, &tensor);
  free(values);
}

int main(int argc, char **argv) {
  size_t size = 0, needed = 0;
  uint8_t *bytes;
  void *memory;
  dc_file file;
  dc_status status;
  if (argc < 2 || argc > 3) {
    fputs("Usage: deepcompress-read MODEL.dc [TENSOR]\n", stderr);
    return 2;
  }
  bytes = load(argv[1], &size);
  status = dc_open_memory(bytes, size, &needed);
  memory = give(needed);
  file.about = NULL;
  status = dc_open(&file, bytes, size, 0, memory, needed);
  if (status) refuse(argv[1], status, file.about, file.about_bytes);
  if ((status = dc_check(&file))) refuse(argv[1], status, NULL, 0);
  if (argc == 3) {
    print_elements(argv[1], &file, argv[2]);
  } else {
    printf("{\"version\": %d, ", file.version);
    print_text("network", file.network, file.network_bytes);
    print_text("data", file.data, file.data_bytes);
    fputs("\"tensors\": [", stdout);
    print_tensors(argv[1], &file);
    puts("]}");
  }
  free(memory);
  free(bytes);
  return 0;
}
