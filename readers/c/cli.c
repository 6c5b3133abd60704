/* deepcompress-read MODEL.dc: what the file holds, as one JSON object, with the SHA-256 of each tensor's bytes.
   deepcompress-read MODEL.dc NAME: the elements of one tensor, one on a line. */

#include "deepcompress.h"
#include "sha256.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void hash_bytes(const uint8_t *data, size_t count, char hex[2 * SHA256_BYTES + 1]) {
  uint8_t digest[SHA256_BYTES];
  sha256 hash;
  int i;
  sha256_begin(&hash);
  sha256_add(&hash, data, count);
  sha256_end(&hash, digest);
  for (i = 0; i < SHA256_BYTES; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
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
  char hex[2 * SHA256_BYTES + 1];
  for (number = 0; number < file->count; number++) {
    dc_describe(file, number, &tensor);
    values = decode(path, file, number, &tensor);
    hash_bytes(values, tensor.count * tensor.size, hex);
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
