/* A reader of .dc files in C99: one header, one source, no dependency, no allocation. README.md shows how it is used.

   It follows docs/format.md, and "section" means a section of that page. The file stays where it is (flash, or a file
   that was read or mapped); everything else lies in memory that the caller gives. */

#ifndef DEEPCOMPRESS_H
#define DEEPCOMPRESS_H

#include <stddef.h>
#include <stdint.h>

/* 1 builds a reader of version 1 alone, which is what Huffman-coded files are: sections 1 to 8. */
#ifndef DC_HUFFMAN_ONLY
#define DC_HUFFMAN_ONLY 0
#endif

/* 0 leaves out layout 5, the adaptive coder (section 11), or layout 8, rANS (sections 17 to 19). Such tensors are
   DC_UNSUPPORTED. */
#ifndef DC_ADAPTIVE
#define DC_ADAPTIVE !DC_HUFFMAN_ONLY
#endif
#ifndef DC_RANS
#define DC_RANS !DC_HUFFMAN_ONLY
#endif

/* 1 saves memory: code words are found length by length, the adaptive model uses 12 kB of tables instead of 143, and tokens of
   rANS are found by halving. */
#ifndef DC_SMALL
#define DC_SMALL 0
#endif

/* 1 has the texts of errors and dtypes. */
#ifndef DC_TEXTS
#define DC_TEXTS !DC_SMALL
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What went wrong, and the section that says so: dc_code(status), dc_section(status) and dc_message(status). 0 is success. */
typedef int dc_status;

enum {
  DC_OK,
  DC_INVALID,     /* the file breaks a rule of the section */
  DC_DAMAGED,     /* a checksum is wrong */
  DC_UNSUPPORTED, /* the file needs what this reader, or this build of it, does not have */
  DC_TOO_LARGE,   /* the tensors are larger than the limit, or than this machine can address */
  DC_MEMORY,      /* the memory that was given is too small, or not aligned for a uint64_t */
  DC_USAGE        /* the call is wrong: there is no such tensor, or its bytes do not fit */
};

typedef struct {
  uint8_t dtype;    /* a number: dc_dtype_name */
  uint8_t size;     /* bytes of an element */
  uint8_t layout;   /* 3: an alias; 7: a copy; the others say how it is coded */
  uint8_t flags;
  uint8_t offset_bits, offset_coder, weight_coder; /* layout 2 */
  uint8_t form;     /* 0 to 5: of its own codebook or scales; 7: there are none; 8: those of `owner`; 9: it repeats `owner` */
  size_t count;     /* of its elements */
  size_t rank;
  const uint8_t *section;
  size_t section_bytes;
  uint32_t checksum; /* of the section, if the file has checksums */
  /* Layouts 2, 5 and 8, in which the codebook is sorted except for layout 2 */
  size_t entries;   /* of the codebook; 0 for multiples */
  size_t owner;     /* see `form` */
  size_t weights;   /* elements that are not zero */
  size_t table_bytes, weight_bytes, offset_bytes, fillers, side;
  int32_t lowest, highest;
  const char *name; /* UTF-8, printable, and without a zero at its end */
  size_t name_bytes;
  size_t shape[8];
} dc_tensor;

typedef struct {
  const uint8_t *bytes;
  size_t size;
  uint8_t version, checksums, plain_names;
  const char *network, *data; /* like dc_tensor.name */
  size_t network_bytes, data_bytes;
  size_t count;         /* of the tensors */
  size_t decoded_bytes; /* of all tensors that are no alias */
  size_t memory_used;
  const char *about;    /* after an error: the tensor or extension that it is about, of about_bytes; or NULL */
  size_t about_bytes;
  struct dc_entry *entries;
  uint32_t *order;
  const uint8_t *header_end;
} dc_file;

/* A canonical code: limit[k] is the first word behind those of up to k bits, when words are filled up to 15 bits; base[k] leads
   from a word of k bits to its symbol among those sorted. */
typedef struct {
  const uint16_t *sorted;
  uint16_t limit[16], base[16];
} dc_words;

/* A stream of symbols (section 5) while it is decoded. */
typedef struct {
  const uint8_t *bytes;
  struct dc_lane *lanes;
  uint32_t *lookup;
  size_t mask, turn;
  uint32_t alphabet, constant;
  uint8_t coder, width;
  dc_words code;
} dc_symbols;

/* A tensor while it is decoded. Read `position`, `index` and `value` after each dc_next, and `tensor` and `codebook` at any
   time; the rest is its own. */
typedef struct {
  size_t position;          /* of the element in the flattened tensor, in row-major order */
  size_t index;             /* of its value in the codebook, from 0, if codebook is not NULL */
  const uint8_t *value;     /* its bytes, little-endian */
  dc_status status;         /* DC_OK as long as nothing is wrong */
  const uint8_t *codebook;  /* tensor.entries shared values of tensor.size bytes each, or NULL */
  size_t memory_used;

  const dc_file *file;
  uint8_t *memory;
  size_t memory_bytes, next, left, skipped;
  uint8_t element[16];
  dc_symbols *streams;      /* one for each plane, or that of the offsets and that of the weights */
  struct dc_model *model;
  struct dc_rans *rans;

  dc_tensor tensor;         /* with what it is an alias or a copy of put in its place */

  const uint8_t *at, *end;  /* layout 6: the planes that follow (8: the end of the streams), */
  dc_symbols kinds;         /* the kind of each row, */
  size_t kinds_mark, planes_mark, row, column, rows[16];
  unsigned kind;            /* and the kind that is being read */
} dc_cursor;

/* How many bytes of memory dc_open needs. */
dc_status dc_open_memory(const void *bytes, size_t size, size_t *needed);

/* Reads and checks the header. All tensors together may take `limit` bytes when they are decoded; 0 is 1024 times the file,
   and at least 256 MiB. `bytes` and `memory` (aligned for a uint64_t) must stay as they are while the file is used. */
dc_status dc_open(dc_file *file, const void *bytes, size_t size, size_t limit, void *memory, size_t memory_bytes);

/* Checks the checksum of the whole file. Each tensor's own is checked when it is read. */
dc_status dc_check(const dc_file *file);

/* The tensor of that number, from 0; and the number of the tensor with that name, or dc_file.count if there is none. */
dc_status dc_describe(const dc_file *file, size_t number, dc_tensor *tensor);
size_t dc_find(const dc_file *file, const char *name, size_t name_bytes);

/* How many bytes of memory dc_begin and dc_read need for a tensor. */
dc_status dc_memory(const dc_file *file, size_t number, size_t *needed);

/* Decodes a tensor at once into count * size bytes, little-endian, in row-major order. */
dc_status dc_read(const dc_file *file, size_t number, void *out, size_t out_bytes, void *memory, size_t memory_bytes);

/* Decodes a tensor element by element: 1 as long as there is another one, which is then in the cursor. Elements of layouts 2, 5
   and 8 that are zero are left out. They come in rising position, except in layout 5 with flag 1 (column by column) and in
   layouts 6 and 8. At 0 the tensor is at its end if cursor->status is DC_OK; otherwise the elements so far are not to be
   trusted. */
dc_status dc_begin(dc_cursor *cursor, const dc_file *file, size_t number, void *memory, size_t memory_bytes);
int dc_next(dc_cursor *cursor);

int dc_code(dc_status status);
int dc_section(dc_status status);
#if DC_TEXTS
const char *dc_message(dc_status status);
const char *dc_dtype_name(unsigned dtype); /* as in section 3; NULL if there is none */
#endif
uint32_t dc_crc32(const uint8_t *bytes, size_t count);

#ifdef __cplusplus
}
#endif

#endif
