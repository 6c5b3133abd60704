/* deepcompress-apply OLD.dc UPDATE.dcp NEW.dc [MEMORY]: writes the new file block by block, as firmware would into a second slot.
   NEW.dc gets its name when its SHA-256 is right, and must not be there yet. MEMORY is how many bytes may be used; without it, as many as are needed. */

#include "update.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 4096, FIRST_MEMORY = 1 << 16, LAST_MEMORY = 1 << 30 };

static int complain(const char *path, const char *what) {
  fprintf(stderr, "Error: %s: %s\n", path, what);
  return 1;
}

/* The bytes of a file, or NULL when it is said why there are none. */
static uint8_t *load_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  uint8_t *bytes = NULL;
  long end = -1;
  if (file && !fseek(file, 0, SEEK_END) && (end = ftell(file)) >= 0 && end < LONG_MAX && !fseek(file, 0, SEEK_SET)) {
    *size = (size_t)end;
    bytes = malloc(*size + 1);
    if (bytes && fread(bytes, 1, *size, file) != *size) free(bytes), bytes = NULL;
  }
  if (!bytes) complain(path, end == LONG_MAX ? "it is no file" : strerror(errno));
  if (file) fclose(file);
  return bytes;
}

/* Whether something has this name already, which would be lost: the old file, perhaps, or one that may not be read. */
static int is_there(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) return errno != ENOENT && complain(path, strerror(errno));
  fclose(file);
  return complain(path, "it is there already; remove it, or give another name");
}

static int write_to_file(void *file, const uint8_t *bytes, size_t count) { return fwrite(bytes, 1, count, file) != count; }

/* Applies the update into a file, with memory that grows until there is enough unless it is given. */
static dc_status apply_into(FILE *file, dc_update *update, size_t memory_bytes) {
  size_t bytes = memory_bytes ? memory_bytes : FIRST_MEMORY;
  dc_status status;
  void *memory;
  for (;; bytes *= 2) {
    memory = malloc(bytes);
    status = memory ? dc_apply(update, memory, bytes) : DC_MEMORY << 8;
    free(memory);
    if (dc_code(status) != DC_MEMORY || memory_bytes || !memory || bytes >= LAST_MEMORY) return status;
    rewind(file); /* what was written is written anew */
  }
}

/* Prints what happened, and says if the new file is good. */
static int report(const char *path, const dc_update *update, dc_status status) {
  int section = dc_section(status);
  if (!status) {
    fprintf(stderr, "%lu bytes, with %lu bytes of memory\n", (unsigned long)update->new_bytes, (unsigned long)update->memory_used);
    return 1;
  }
  fprintf(stderr, "Error: %s: %s", path, dc_update_message(status));
  if (section) fprintf(stderr, " (section %d of the %s)", section % DC_OF_UPDATE, section < DC_OF_UPDATE ? "format" : "update format");
  fputc('\n', stderr);
  return 0;
}

/* Writes beside the new file's place, and gives it its name when it is good. */
static int write_new(const char *update_path, const char *path, dc_update *update, size_t memory_bytes) {
  char *beside = malloc(strlen(path) + 6);
  FILE *file = NULL;
  int good = 0;
  if (beside) {
    sprintf(beside, "%s.part", path);
    file = fopen(beside, "wb");
  }
  if (!file) {
    complain(path, strerror(errno));
  } else {
    update->context = file;
    good = report(update_path, update, apply_into(file, update, memory_bytes));
    if (fclose(file)) good = !complain(path, strerror(errno));
    if (good && rename(beside, path)) good = !complain(path, strerror(errno));
    if (!good) remove(beside);
  }
  free(beside);
  return good;
}

int main(int argc, char **argv) {
  dc_update update;
  unsigned long memory = 0;
  char none = 0, *end = &none;
  uint8_t *old = NULL, *bytes = NULL;
  int good = 0;
  if (argc == 5 && isdigit((unsigned char)*argv[4])) memory = strtoul(argv[4], &end, 10);
  if (argc < 4 || argc > 5 || (argc == 5 && !memory) || *end) {
    fputs("Usage: deepcompress-apply OLD.dc UPDATE.dcp NEW.dc [MEMORY]\n", stderr);
    return 2;
  }
  memset(&update, 0, sizeof update);
  update.block_bytes = BLOCK_BYTES;
  update.write = write_to_file;
  if (is_there(argv[3])) return 1;
  old = load_file(argv[1], &update.old_bytes);
  if (old) bytes = load_file(argv[2], &update.update_bytes);
  update.old = old;
  update.update = bytes;
  if (bytes) good = write_new(argv[2], argv[3], &update, memory);
  free(bytes);
  free(old);
  return !good;
}
