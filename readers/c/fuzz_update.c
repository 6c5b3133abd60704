/* libFuzzer's target for updates, as `make fuzzer` builds it; the input is the length of the old file (2 bytes), that file, and an
   update. What names the old file is made right first, so that what is behind it is reached. */

#include "update.c"

#include <stdlib.h>

enum { FUZZ_LIMIT = 1 << 20, FUZZ_MEMORY = 1 << 20 };

typedef struct {
  size_t blocks, last;
} fuzz_blocks;

/* All blocks but the last are as large as was asked for. */
static int take_block(void *context, const uint8_t *bytes, size_t count) {
  fuzz_blocks *blocks = context;
  if (!bytes || !count || count > 100 || (blocks->blocks && blocks->last != 100)) abort();
  blocks->blocks++;
  blocks->last = count;
  return 0;
}

/* Applies an update with much memory, and with less. */
static dc_status fuzz_apply(const uint8_t *old, size_t old_bytes, uint8_t *bytes, size_t count, size_t memory_bytes) {
  dc_update update;
  fuzz_blocks blocks = {0, 0};
  void *memory = malloc(memory_bytes);
  sha256 hash;
  uint8_t digest[SHA256_BYTES];
  dc_status status;
  if (count >= HEAD) {
    sha256_begin(&hash);
    sha256_add(&hash, old, old_bytes);
    sha256_end(&hash, digest);
    memcpy(bytes + 4, digest, KEPT_NAME);
  }
  memset(&update, 0, sizeof update);
  update.old = old;
  update.old_bytes = old_bytes;
  update.update = bytes;
  update.update_bytes = count;
  update.limit = FUZZ_LIMIT;
  update.block_bytes = 100;
  update.write = take_block;
  update.context = &blocks;
  status = dc_apply(&update, memory, memory_bytes);
  if (!status && update.memory_used > memory_bytes) abort();
  free(memory);
  return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t old_bytes = size < 2 ? 0 : (size_t)data[0] | (size_t)data[1] << 8, count;
  uint8_t *old, *bytes;
  if (size < 2 || old_bytes > size - 2) return 0;
  count = size - 2 - old_bytes;
  old = malloc(old_bytes + 1);
  bytes = malloc(count + 1);
  memcpy(old, data + 2, old_bytes);
  memcpy(bytes, data + 2 + old_bytes, count);
  fuzz_apply(old, old_bytes, bytes, count, FUZZ_MEMORY);
  fuzz_apply(old, old_bytes, bytes, count, 20000);
  free(bytes);
  free(old);
  return 0;
}
