/* Applies updates (.dcp) of .dc files in C99: compile update.c in place of deepcompress.c, which it includes.

   It follows docs/update-format.md. The old file stays where it is, and is only read; the update lies in memory or in flash.
   The new file goes out in blocks, from its first byte to its last, to wherever the caller writes them: to a second slot of
   the flash, so that the old file is still there if power fails. It is good when dc_apply returns DC_OK, and not before. */

#ifndef DEEPCOMPRESS_UPDATE_H
#define DEEPCOMPRESS_UPDATE_H

#include "deepcompress.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What can be wrong besides the codes of deepcompress.h. The old file is as it was, whatever is wrong. */
enum {
  DC_OTHER_FILE = 16, /* the update was not made for this old file; nothing was written */
  DC_APPLIED,         /* the old file is the new one already; nothing was written */
  DC_CHECKPOINT,      /* it is an update of a checkpoint, which only the package applies; nothing was written */
  DC_WRITE            /* `write` has failed */
};

/* dc_section(status) of a rule in docs/update-format.md is the number of its section there and this; below it, it is a section
   of docs/format.md. */
enum { DC_OF_UPDATE = 128 };

/* Takes the next bytes of the new file; 0 says that it did. */
typedef int dc_write(void *context, const uint8_t *bytes, size_t count);

typedef struct {
  const void *old;
  size_t old_bytes;
  const void *update;
  size_t update_bytes;
  size_t limit;       /* of bytes that all tensors take when they are decoded; 0 is 1024 times both files, and at least 256 MiB */
  size_t block_bytes; /* of each block that is written but the last */
  dc_write *write;
  void *context;      /* is given to `write` */
  /* After DC_OK: */
  size_t new_bytes, memory_used;
} dc_update;

/* Writes the new file. `memory` is aligned for a uint64_t; README.md says how much is needed. With more of it, tensors of
   layout 5 take less time. */
dc_status dc_apply(dc_update *update, void *memory, size_t memory_bytes);

#if DC_TEXTS
const char *dc_update_message(dc_status status);
#endif

#ifdef __cplusplus
}
#endif

#endif
