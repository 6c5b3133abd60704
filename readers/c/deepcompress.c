/* A reader of .dc files. The parts stand in the order of docs/format.md, whose sections the comments name.

   Of two things all bounds follow. The last 4 bytes of a file are its checksum, so that 4 bytes may be read wherever a section
   has a bit, or ends. And nothing is stored anywhere but in what `take` gives, which the caller has measured before. */

#include "deepcompress.h"

/* A freestanding compiler has no <string.h>, but may always call these. */
extern void *memcpy(void *, const void *, size_t);
extern void *memset(void *, int, size_t);
extern int memcmp(const void *, const void *, size_t);

/* What is called often, and larger than a call. */
#if DC_SMALL && defined(__GNUC__)
#define CALLED static __attribute__((noinline))
#else
#define CALLED static inline
#endif

/* What is smaller than a call, or is called with constants that tell much of it away. */
#ifdef __GNUC__
#define INLINED static inline __attribute__((always_inline))
#else
#define INLINED static inline
#endif

#define STATUS(code, section) ((code) << 8 | (section))
#define MOST_TENSORS ((size_t)1 << 18)
#define MOST_ENTRIES 4096u
#define LARGEST_FLOAT 3.40282347e38f
#define SIGN_BIT(size) ((uint64_t)1 << (8 * (size)-1))

enum { RAW, PLANES, CODED, ALIAS, CONSTANT, ADAPTIVE, ROWS, COPY, INTEGERS };
enum { NO_SYMBOLS, SAME, FIXED, HUFFMAN, LITERAL }; /* section 5 */
enum { FLOAT32 = 0, BOOL = 9, FIRST_FLOAT8 = 10, LAST_FLOAT8 = 13, DTYPES = DC_HUFFMAN_ONLY ? 10 : 22 };
enum { BY_COLUMN = 1, SQUARE = 2 };
enum { MULTIPLES = 5, NONE = 7, SHARED, REPEATED }; /* dc_tensor.form */

/* Whether there is a model that learns: updates have one of their own. update.c defines DC_UPDATES, and includes this file. */
#ifndef DC_UPDATES
#define DC_UPDATES 0
#endif
#define DC_MODEL (DC_ADAPTIVE || DC_UPDATES)

#if DC_SMALL
enum { LOOKUP_BITS = 0 };
#else
enum { LOOKUP_BITS = 10 };
#endif

/* What a reader of version 1 alone need not ask. */
#if DC_HUFFMAN_ONLY
#define VERSION(file) ((void)(file), 1)
#define HAS_CHECKSUMS(file) ((void)(file), 1)
#else
#define VERSION(file) ((file)->version)
#define HAS_CHECKSUMS(file) ((file)->checksums)
#endif

static const uint8_t sizes[] = {4, 2, 2, 8, 1, 1, 2, 4, 8, 1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 4, 8, 16};

struct dc_entry {
  const char *name;
  const uint8_t *fields, *section;
  uint32_t name_bytes;
};

struct dc_lane {
  size_t at, end; /* in bits, from the start of the stream */
};

/* ---- Bytes, and what is wrong with them: the first fault stays, and ends what is read. ---- */

typedef struct {
  const uint8_t *at, *end;
  dc_status status;
  int section;
} input;

static void fail(input *in, int code) {
  if (!in->status) in->status = STATUS(code, in->section);
  in->at = in->end;
}

static void invalid(input *in) { fail(in, DC_INVALID); }

static size_t left(const input *in) { return (size_t)(in->end - in->at); }

static const uint8_t *bytes(input *in, size_t count) {
  const uint8_t *start = in->at;
  if (count > left(in)) {
    invalid(in);
    return NULL;
  }
  in->at += count;
  return start;
}

static unsigned byte(input *in) {
  if (in->at < in->end) return *in->at++;
  invalid(in);
  return 0;
}

/* A varint of at most 9 bytes in its shortest form. */
static size_t varint(input *in) {
  uint64_t value = 0;
  unsigned shift, group;
  for (shift = 0; shift < 63; shift += 7) {
    group = byte(in);
    value |= (uint64_t)(group & 127) << shift;
    if (group & 128) continue;
    if (!group && shift) break;
    if (value <= SIZE_MAX) return (size_t)value;
    fail(in, DC_TOO_LARGE);
    return 0;
  }
  invalid(in);
  return 0;
}

static size_t at_most(input *in, size_t most) {
  size_t value = varint(in);
  if (value <= most) return value;
  invalid(in);
  return 0;
}

/* How many bytes a part of the file has: not more than that, so that sums of a few do not overflow. */
INLINED size_t length_in(const dc_file *file, input *in) { return at_most(in, file->size); }

INLINED uint32_t le32(const uint8_t *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint32_t be32(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | (uint32_t)at[3];
}

/* The bits of a stream from bit `at` on, at the top; 25 of them are good. */
static uint32_t peek(const uint8_t *stream, size_t at) { return be32(stream + (at >> 3)) << (at & 7); }

/* Whether a bit stream that was read up to bit `at` ends in the byte before `end`, and is padded with zeros. */
static int ends(const uint8_t *stream, size_t at, size_t end) {
  return at <= end && end - at < 8 && (end == at || peek(stream, at) >> (32 - (end - at)) == 0);
}

static const uint32_t nibbles[16] = {0,          0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                     0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                     0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};

static uint32_t crc_of_byte(uint32_t crc) {
  crc = crc >> 4 ^ nibbles[crc & 15];
  return crc >> 4 ^ nibbles[crc & 15];
}

#if !DC_SMALL
/* Eight bytes a step, by tables for which many bytes pay. */
static uint32_t crc_of_many(uint32_t crc, const uint8_t *data, size_t steps) {
  uint32_t tables[8][256], high;
  unsigned i, k;
  for (i = 0; i < 256; i++) tables[0][i] = crc_of_byte(i);
  for (k = 1; k < 8; k++) {
    for (i = 0; i < 256; i++) tables[k][i] = tables[k - 1][i] >> 8 ^ tables[0][tables[k - 1][i] & 255];
  }
  for (; steps; steps--, data += 8) {
    crc ^= le32(data);
    high = le32(data + 4);
    crc = tables[7][crc & 255] ^ tables[6][crc >> 8 & 255] ^ tables[5][crc >> 16 & 255] ^ tables[4][crc >> 24] ^
          tables[3][high & 255] ^ tables[2][high >> 8 & 255] ^ tables[1][high >> 16 & 255] ^ tables[0][high >> 24];
  }
  return crc;
}
#endif

uint32_t dc_crc32(const uint8_t *data, size_t count) {
  uint32_t crc = 0xffffffff;
#if !DC_SMALL
  if (count > 8192) {
    crc = crc_of_many(crc, data, count / 8);
    data += count & ~(size_t)7;
    count &= 7;
  }
#endif
  while (count--) crc = crc_of_byte(crc ^ *data++);
  return ~crc;
}

typedef int comparison(const void *context, uint32_t a, uint32_t b);

/* Sorts numbers by what they name, and returns one that is equal to another, or `count`. Two that are equal end beside each
   other, and no sort can know the order of two neighbours without comparing them. Heapsort: no memory. */
static uint32_t sort(uint32_t *order, uint32_t count, comparison *compare, const void *context) {
  uint32_t start = count / 2, end = count, root, child, moved, twin = count;
  int sign;
  for (root = 0; root < count; root++) order[root] = root;
  while (end > 1) {
    if (start > 0) {
      moved = order[--start];
    } else {
      moved = order[--end];
      order[end] = order[0];
    }
    root = start;
    while ((child = 2 * root + 1) < end) {
      if (child + 1 < end) {
        sign = compare(context, order[child + 1], order[child]);
        if (!sign) twin = order[child];
        child += sign > 0;
      }
      sign = compare(context, moved, order[child]);
      if (!sign) twin = moved;
      if (sign >= 0) break;
      order[root] = order[child];
      root = child;
    }
    order[root] = moved;
  }
  return twin;
}

/* ---- Section 2: the header ---- */

/* Where forbidden characters begin and end: by how much further each of these is, as varints. The last range has no end. */
static const uint8_t forbidden[] = {
    0, 32, 95, 34, 12, 1, 210, 10, 6, 22, 1, 192, 1, 1, 49, 1, 128, 3, 2, 80, 1, 157, 27, 1, 141, 3, 1, 241, 15, 16,
    24, 8, 47, 17, 144, 31, 1, 255, 207, 2, 128, 66, 208, 9, 32, 143, 2, 1, 240, 1, 12, 2, 2, 189, 33, 1, 15, 1, 226,
    70, 16, 224, 144, 2, 4, 207, 41, 8, 133, 221, 48, 128, 2, 240, 1};

static int printable(uint32_t character) {
  input in = {NULL, NULL, DC_OK, 2};
  unsigned is_forbidden = 0;
  if (character - 0x20 < 0x7f - 0x20) return 1; /* most are */
  in.at = forbidden;
  in.end = forbidden + sizeof forbidden;
  for (; in.at < in.end; is_forbidden ^= 1) {
    uint32_t gap = (uint32_t)varint(&in);
    if (character < gap) break;
    character -= gap;
  }
  return !is_forbidden;
}

/* Strict UTF-8 of printable characters. What is above 10FFFF, or a surrogate, is not printable. */
static int is_text(const uint8_t *at, size_t count) {
  static const uint8_t bits_of_shorter[] = {0, 0, 7, 11, 16};
  const uint8_t *end = at + count;
  uint32_t character;
  unsigned ones, k;
  while (at < end) {
    character = *at++;
    for (ones = 0; character & 0x80u >> ones;) ones++;
    if (ones == 1 || ones > 4 || ones > (size_t)(end - at) + 1) return 0;
    character &= 0x7f >> ones;
    for (k = 1; k < ones; k++, at++) {
      if (*at >> 6 != 2) return 0;
      character = character << 6 | (*at & 0x3f);
    }
    if ((ones && !(character >> bits_of_shorter[ones])) || !printable(character)) return 0;
  }
  return 1;
}

static const char *text(input *in, size_t *count) {
  const uint8_t *start;
  *count = at_most(in, 255);
  start = bytes(in, *count);
  if (start && !is_text(start, *count)) invalid(in);
  return (const char *)start;
}

static void extensions(dc_file *file, input *in) {
  size_t count = at_most(in, 255), name_bytes;
  const char *name;
  unsigned flag;
  while (count-- && !in->status) {
    flag = byte(in);
    name = text(in, &name_bytes);
    bytes(in, varint(in));
    if (in->status || !flag) continue;
    file->about = name;
    file->about_bytes = name_bytes;
    fail(in, flag == 1 ? DC_UNSUPPORTED : DC_INVALID);
  }
}

/* ---- Sections 3, 4, 9, 10 and 13: what the header says of a tensor ---- */

static int takes_weights(const dc_tensor *tensor) {
  return tensor->dtype < 4 || (!DC_HUFFMAN_ONLY && tensor->dtype >= FIRST_FLOAT8 && tensor->dtype <= LAST_FLOAT8);
}

static void kind(const dc_file *file, input *in, dc_tensor *tensor) {
  unsigned first = byte(in), dtypes = BOOL + 1, layouts = ALIAS;
  int unknown = DC_INVALID;
  tensor->dtype = first & 15;
  if (VERSION(file) == 1) {
    tensor->layout = (uint8_t)(first >> 4);
    tensor->rank = at_most(in, 8);
#if !DC_HUFFMAN_ONLY
  } else {
    in->section = 9;
    layouts = ADAPTIVE;
    tensor->rank = first >> 4;
    if (VERSION(file) == 3) {
      in->section = 13;
      layouts = INTEGERS;
      dtypes = DTYPES;
      unknown = DC_UNSUPPORTED;
      if (tensor->dtype == 15 && (tensor->dtype = (uint8_t)byte(in)) < 15) invalid(in);
    }
    first = byte(in);
    tensor->layout = first & 15;
    tensor->flags = (uint8_t)(first >> 4);
#endif
  }
  if (tensor->layout > layouts || tensor->dtype >= dtypes) fail(in, unknown);
#if !DC_HUFFMAN_ONLY
  if (tensor->rank > 8 || tensor->flags > (tensor->layout == ADAPTIVE ? BY_COLUMN + SQUARE : 0)) invalid(in);
#endif
}

static void dimensions(input *in, dc_tensor *tensor) {
  const size_t most = SIZE_MAX > 0xffffffff ? (size_t)((uint64_t)1 << 40) : SIZE_MAX / 16;
  size_t product = 1, length, k;
  tensor->count = 1;
  for (k = 0; k < tensor->rank && !in->status; k++) {
    length = varint(in);
    if (length && length > most / product) fail(in, SIZE_MAX > 0xffffffff ? DC_INVALID : DC_TOO_LARGE);
    if (in->status) return;
    tensor->shape[k] = length;
    if (length) product *= length;
    if (!length) tensor->count = 0;
  }
  tensor->count *= product;
}

#if !DC_HUFFMAN_ONLY
/* How many numbers a grid has from the lowest to the highest, and how many of them are not 0. */
static size_t grid_span(const dc_tensor *tensor, size_t *not_zero) {
  size_t span = (size_t)(tensor->highest - tensor->lowest) + 1;
  *not_zero = span - (tensor->lowest <= 0 && tensor->highest >= 0);
  return span;
}

static int32_t signed_bound(input *in) {
  int32_t folded = (int32_t)at_most(in, 65536);
  return folded & 1 ? -(folded >> 1) - 1 : folded >> 1;
}
#endif

#if !DC_HUFFMAN_ONLY
/* Section 17: the scales' bytes. */
static size_t multiples_fields(const dc_file *file, input *in, const dc_tensor *tensor) {
  in->section = 17;
  if (tensor->entries || tensor->rank < 2 || tensor->lowest < -32767 || tensor->highest > 32767) invalid(in);
  if (tensor->highest < tensor->lowest) invalid(in);
  return length_in(file, in);
}
#endif

/* The codebook's bytes in this tensor's section; its owner, number + 1, is checked by `refer`. */
static size_t codebook_fields(const dc_file *file, input *in, dc_tensor *tensor) {
  size_t owner;
#if !DC_HUFFMAN_ONLY
  size_t span, not_zero;
#endif
  tensor->entries = at_most(in, MOST_ENTRIES);
  owner = varint(in);
  tensor->form = SHARED;
  if (VERSION(file) > 1 && owner < SHARED) {
    if (owner > MULTIPLES || (owner == MULTIPLES && tensor->layout != INTEGERS)) invalid(in);
    tensor->form = (uint8_t)owner;
  } else if (VERSION(file) > 1) {
    tensor->owner = owner - SHARED;
  } else if (owner) {
    tensor->owner = owner - 1;
  } else {
    tensor->form = 0;
  }
  if (tensor->form == SHARED) return 0;
  if (tensor->form == 0) return tensor->entries * tensor->size;
#if DC_HUFFMAN_ONLY
  return 0;
#else
  if (tensor->dtype != FLOAT32) invalid(in);
  if (tensor->form == 1) return tensor->entries * 2;
  tensor->lowest = signed_bound(in);
  tensor->highest = signed_bound(in);
  if (tensor->form == MULTIPLES) return multiples_fields(file, in, tensor);
  if (tensor->lowest < -32768 || tensor->highest < tensor->lowest || !tensor->entries) invalid(in);
  if (in->status) return 0;
  span = grid_span(tensor, &not_zero);
  if (not_zero < tensor->entries) invalid(in);
  return (tensor->form == 2 ? 4 : 2) + (not_zero == tensor->entries ? 0 : (span + 7) / 8);
#endif
}

static void coded_fields(const dc_file *file, input *in, dc_tensor *tensor) {
  unsigned coders;
  tensor->offset_bits = (uint8_t)byte(in);
  coders = byte(in);
  tensor->offset_coder = (uint8_t)(coders >> 4);
  tensor->weight_coder = coders & 15;
  tensor->table_bytes = length_in(file, in);
  tensor->weight_bytes = length_in(file, in);
  if (tensor->offset_bits > 12 || tensor->offset_coder > (tensor->offset_bits ? HUFFMAN : NO_SYMBOLS) ||
      tensor->weight_coder > (tensor->offset_bits && !tensor->entries ? LITERAL : HUFFMAN)) {
    invalid(in);
  }
  if (in->status || !tensor->offset_bits) return;
  tensor->fillers = at_most(in, (tensor->count - tensor->weights) / ((1u << tensor->offset_bits) - 1));
  if (tensor->fillers && !tensor->weights) invalid(in);
  tensor->offset_bytes = length_in(file, in);
}

#if !DC_HUFFMAN_ONLY
static void adaptive_fields(const dc_file *file, input *in, dc_tensor *tensor) {
  size_t columns = tensor->rank && tensor->shape[0] ? tensor->count / tensor->shape[0] : 0;
  if (tensor->flags && tensor->rank < 2) invalid(in);
  if (tensor->weights && !tensor->entries) invalid(in);
  if (tensor->flags & SQUARE) {
    tensor->side = at_most(in, (size_t)1 << 20);
    if (tensor->side < 2 || !columns || tensor->side > columns / tensor->side || columns % (tensor->side * tensor->side)) {
      invalid(in);
    }
  }
  tensor->weight_bytes = length_in(file, in);
}
#endif

#if !DC_HUFFMAN_ONLY
static void integer_fields(const dc_file *file, input *in, dc_tensor *tensor) {
  if (!tensor->count || (tensor->weights && tensor->form != MULTIPLES && !tensor->entries)) invalid(in);
  tensor->table_bytes = length_in(file, in);
  tensor->weight_bytes = length_in(file, in);
}
#endif

/* The sections that have the fields of each layout, from version 2 on; layout 2 has always the same. */
static const uint8_t field_sections[] = {9, 9, 4, 3, 9, 9, 13, 13, 17};

/* Reads the fields of a tensor, from kind to checksum. What they say of other tensors is not checked here. */
static void tensor_fields(const dc_file *file, input *in, dc_tensor *tensor) {
  in->section = 3;
  kind(file, in, tensor);
  if (in->status) return;
  in->section = 3;
  tensor->size = sizes[tensor->dtype];
  tensor->form = NONE;
  dimensions(in, tensor);
  if (VERSION(file) > 1) in->section = field_sections[tensor->layout];
  switch (tensor->layout) {
    case RAW: tensor->section_bytes = tensor->count * tensor->size; break;
    case PLANES: tensor->section_bytes = length_in(file, in); break;
#if !DC_HUFFMAN_ONLY
    case COPY:
#endif
    case ALIAS:
      tensor->owner = varint(in);
      tensor->form = REPEATED;
      break;
#if !DC_HUFFMAN_ONLY
    case CONSTANT:
      if (tensor->count < 2) invalid(in);
      tensor->section_bytes = tensor->size;
      break;
    case ROWS:
      if (tensor->rank < 2 || !tensor->count) invalid(in);
      tensor->section_bytes = length_in(file, in);
      break;
#endif
    default:
      if (!takes_weights(tensor)) invalid(in);
      in->section = VERSION(file) > 1 ? 10 : 4;
      tensor->section_bytes = codebook_fields(file, in, tensor);
      in->section = DC_HUFFMAN_ONLY ? 4 : field_sections[tensor->layout];
      tensor->weights = at_most(in, tensor->count);
#if !DC_HUFFMAN_ONLY
      if (tensor->layout == ADAPTIVE) adaptive_fields(file, in, tensor);
      else if (tensor->layout == INTEGERS) integer_fields(file, in, tensor);
      else
#endif
        coded_fields(file, in, tensor);
      tensor->section_bytes += tensor->table_bytes + tensor->weight_bytes + tensor->offset_bytes;
  }
  in->section = !DC_HUFFMAN_ONLY && tensor->layout == INTEGERS ? 17 : 3;
  if (tensor->section_bytes > tensor->count * tensor->size) invalid(in);
  if (HAS_CHECKSUMS(file) && tensor->form != REPEATED) {
    const uint8_t *stored = bytes(in, 4);
    if (stored) tensor->checksum = le32(stored);
  }
}

/* The tensor of a number that is known to be valid: its fields were checked. */
static void fill(const dc_file *file, size_t number, dc_tensor *tensor) {
  const struct dc_entry *entry = &file->entries[number];
  input in = {NULL, NULL, DC_OK, 0};
  in.at = entry->fields;
  in.end = file->header_end;
  memset(tensor, 0, sizeof *tensor);
  tensor_fields(file, &in, tensor);
  if (tensor->form < SHARED) tensor->owner = number;
  tensor->name = entry->name;
  tensor->name_bytes = entry->name_bytes;
  tensor->section = entry->section;
}

static int same_shape(const dc_tensor *a, const dc_tensor *b) {
  return a->dtype == b->dtype && a->rank == b->rank && !memcmp(a->shape, b->shape, sizeof a->shape);
}

/* Checks what tensor `number` says of an earlier one: whose values it has, or whose codebook. */
static void refer(const dc_file *file, size_t number, const dc_tensor *tensor, input *in) {
  int fits;
  dc_tensor earlier;
  if (tensor->form < SHARED) return;
  in->section = tensor->form == REPEATED ? tensor->layout == COPY ? 13 : 3 : VERSION(file) > 1 ? 10 : 4;
  if (tensor->owner >= number) {
    invalid(in);
    return;
  }
  fill(file, tensor->owner, &earlier);
  if (tensor->form == REPEATED) {
    fits = same_shape(tensor, &earlier) && earlier.layout != ALIAS && (tensor->layout == ALIAS || earlier.layout != COPY);
  } else {
    fits = earlier.form < MULTIPLES && earlier.dtype == tensor->dtype && earlier.entries == tensor->entries;
  }
  if (!fits) invalid(in);
}

/* ---- Names ---- */

CALLED int compare_names(const struct dc_entry *a, const char *name, size_t name_bytes) {
  size_t shorter = a->name_bytes < name_bytes ? a->name_bytes : name_bytes;
  int order = memcmp(a->name, name, shorter);
  return order ? order : (a->name_bytes > name_bytes) - (a->name_bytes < name_bytes);
}

static int compare_entries(const void *context, uint32_t a, uint32_t b) {
  const struct dc_entry *entries = context;
  return compare_names(&entries[a], entries[b].name, entries[b].name_bytes);
}

/* Memory for names and tables, handed out from the front. Without memory it is only counted. */
typedef struct {
  uint8_t *memory;
  size_t size, used, most;
  int counting;
} arena;

static void *take(arena *from, size_t count, input *in) {
  size_t start = (from->used + 7) & ~(size_t)7;
  if (!count) count = 1; /* so that NULL means that there is none */
  if (count > SIZE_MAX / 2 - start) {
    fail(in, DC_TOO_LARGE);
    return NULL;
  }
  from->used = start + count;
  if (from->most < from->used) from->most = from->used;
  if (from->counting) return NULL;
  if (from->used <= from->size) return from->memory + start;
  fail(in, DC_MEMORY);
  return NULL;
}

struct name {
  const char *text;
  size_t bytes;
};

/* A name that is told by what it shares with the one before. */
static void name_with_prefix(input *in, arena *from, struct name *name) {
  size_t shared = at_most(in, name->bytes), rest = at_most(in, 512);
  const uint8_t *start = bytes(in, rest);
  char *out;
  if (in->status) return;
  out = take(from, shared + rest, in);
  if (out) {
    if (shared < name->bytes && rest && name->text[shared] == (char)start[0]) invalid(in);
    memcpy(out, name->text, shared);
    memcpy(out + shared, start, rest);
  }
  name->text = out;
  name->bytes = shared + rest;
}

#if !DC_HUFFMAN_ONLY
static void name_to_line_end(input *in, struct name *name) {
  const uint8_t *start = in->at;
  while (in->at < in->end && *in->at != '\n') in->at++;
  name->text = (const char *)start;
  name->bytes = (size_t)(in->at - start);
  byte(in);
}
#endif

/* Name number i, behind the one before. */
static void read_name(dc_file *file, input *in, arena *from, size_t i, struct name *name) {
#if !DC_HUFFMAN_ONLY
  if (file->plain_names) name_to_line_end(in, name);
  else
#endif
    name_with_prefix(in, from, name);
  if (name->bytes < 1 || name->bytes > 512) invalid(in);
  if (!file->entries || in->status) return;
  if (!is_text((const uint8_t *)name->text, name->bytes)) invalid(in);
  file->entries[i].name = name->text;
  file->entries[i].name_bytes = (uint32_t)name->bytes;
}

/* ---- The header as a whole ---- */

/* Reads network, data, extensions, names and tensors. When it only counts, it says in `from` how much memory they need. */
static void walk(dc_file *file, input *in, arena *from, const uint8_t *section, size_t room, size_t limit) {
  struct name name = {"", 0};
  size_t i;
  dc_tensor tensor;
  in->section = 2;
  file->network = text(in, &file->network_bytes);
  file->data = text(in, &file->data_bytes);
  extensions(file, in);
  file->count = at_most(in, MOST_TENSORS);
  if (file->count > left(in) / 4) invalid(in); /* each takes 4 bytes or more */
  if (in->status) return;
  file->entries = take(from, file->count * sizeof *file->entries, in);
  file->order = take(from, file->count * sizeof *file->order, in);
  in->section = 3;
#if !DC_HUFFMAN_ONLY
  for (i = 0; i < file->count && VERSION(file) > 1; i++) read_name(file, in, from, i, &name);
#endif
  for (i = 0; i < file->count && !in->status; i++) {
    in->section = 3;
    if (VERSION(file) == 1) read_name(file, in, from, i, &name);
    if (in->status) return;
    if (file->entries) {
      file->about = file->entries[i].name;
      file->about_bytes = file->entries[i].name_bytes;
      file->entries[i].fields = in->at;
      file->entries[i].section = section;
    }
    memset(&tensor, 0, sizeof tensor);
    tensor_fields(file, in, &tensor);
    if (in->status) return;
    if (file->entries) refer(file, i, &tensor, in);
    in->section = 1;
    if (tensor.section_bytes > room) invalid(in);
    if (in->status) return;
    section += tensor.section_bytes;
    room -= tensor.section_bytes;
    if (tensor.layout == ALIAS) continue;
    in->section = 7;
    if (tensor.count > (limit - file->decoded_bytes) / tensor.size) fail(in, DC_TOO_LARGE);
    else file->decoded_bytes += tensor.count * tensor.size;
  }
  if (in->status) return;
  file->about = NULL;
  in->section = 2;
  if (left(in)) invalid(in);
  in->section = 1;
  if (room) invalid(in);
}

/* Sorts the names, each of which must be there once. */
static void sort_names(dc_file *file, input *in) {
  uint32_t twin = sort(file->order, (uint32_t)file->count, compare_entries, file->entries);
  if (twin == file->count) return;
  file->about = file->entries[twin].name;
  file->about_bytes = file->entries[twin].name_bytes;
  in->section = 3;
  invalid(in);
}

#if !DC_HUFFMAN_ONLY
static void inflate(input *in, uint8_t *out, size_t count);
#endif

/* Sections 1, 9 and 13: from the magic to the header, which is given to `walk`. */
static dc_status open_file(dc_file *file, const uint8_t *data, size_t size, size_t limit, arena *from) {
  input in;
  size_t stored, inflated = 0;
  const uint8_t *header, *sections;
  unsigned flags = 2;
  memset(file, 0, sizeof *file);
  if (size > SIZE_MAX / 4) return STATUS(DC_TOO_LARGE, 7);
  if (size < 9 || (le32(data) & 0xffffff) != 0x434489) return STATUS(DC_INVALID, 1);
  file->bytes = data;
  file->size = size;
  file->version = data[3];
  if (file->version < 1 || file->version > 3) return STATUS(DC_UNSUPPORTED, 1);
  if (DC_HUFFMAN_ONLY && file->version > 1) return STATUS(DC_UNSUPPORTED, file->version == 2 ? 9 : 13);
  in.at = data + 4;
  in.end = data + size - 4;
  in.status = DC_OK;
  in.section = VERSION(file) == 1 ? 1 : 9;
  if (VERSION(file) > 1) flags = byte(&in);
  if (flags > 3) invalid(&in);
  file->checksums = flags >> 1 & 1;
  file->plain_names = VERSION(file) == 2 || (VERSION(file) == 3 && flags & 1);
  stored = at_most(&in, (size_t)1 << 26);
  if (flags & 1) {
    inflated = at_most(&in, 4096);
    if (!inflated) invalid(&in);
  }
  header = bytes(&in, stored);
  if (HAS_CHECKSUMS(file)) {
    sections = bytes(&in, 4);
    if (!in.status && dc_crc32(data, (size_t)(sections - data)) != le32(sections)) fail(&in, DC_DAMAGED);
  } else {
    if (size > 65536) invalid(&in);
    if (!in.status && dc_check(file)) fail(&in, DC_DAMAGED);
  }
  if (in.status) return in.status;
  if (!limit) limit = size > ((size_t)1 << 18) ? size < SIZE_MAX / 1024 ? size * 1024 : SIZE_MAX : (size_t)1 << 28;
  sections = in.at;
  in.at = header;
  in.end = header + stored;
#if !DC_HUFFMAN_ONLY
  if (inflated) {
    uint8_t *out = take(from, inflated, &in);
    if (from->counting) { /* nobody knows yet how many tensors there are: at most one for 4 bytes */
      take(from, inflated / 4 * sizeof *file->entries, &in);
      take(from, inflated / 4 * sizeof *file->order, &in);
      return in.status;
    }
    if (!out) return in.status;
    inflate(&in, out, inflated);
    in.at = out;
    in.end = out + inflated;
    if (in.status) return in.status;
  }
#endif
  file->header_end = in.end;
  walk(file, &in, from, sections, (size_t)(data + size - 4 - sections), limit);
  if (!in.status && !from->counting) sort_names(file, &in);
  file->memory_used = from->used;
  return in.status;
}

dc_status dc_open_memory(const void *data, size_t size, size_t *needed) {
  dc_file file;
  arena counter = {NULL, 0, 0, 0, 1};
  dc_status status = open_file(&file, data, size, SIZE_MAX, &counter);
  *needed = counter.used;
  return status;
}

dc_status dc_open(dc_file *file, const void *data, size_t size, size_t limit, void *memory, size_t memory_bytes) {
  arena from = {NULL, 0, 0, 0, 0};
  from.memory = memory;
  from.size = memory_bytes;
  if ((uintptr_t)memory & 7) return STATUS(DC_MEMORY, 7);
  return open_file(file, data, size, limit, &from);
}

dc_status dc_check(const dc_file *file) {
  size_t checked = file->size - 4;
  return dc_crc32(file->bytes, checked) == le32(file->bytes + checked) ? DC_OK : STATUS(DC_DAMAGED, 1);
}

dc_status dc_describe(const dc_file *file, size_t number, dc_tensor *tensor) {
  if (number >= file->count) return STATUS(DC_USAGE, 0);
  fill(file, number, tensor);
  return DC_OK;
}

size_t dc_find(const dc_file *file, const char *name, size_t name_bytes) {
  size_t low = 0, high = file->count, middle;
  int order;
  while (low < high) {
    middle = low + (high - low) / 2;
    order = compare_names(&file->entries[file->order[middle]], name, name_bytes);
    if (!order) return file->order[middle];
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  return file->count;
}

/* ---- Canonical words (sections 5 and 9) ---- */

enum { ALL_WORDS = 1 << 15 };

/* Makes a code of lengths from 0 to 15, and sorts the symbols by (length, symbol). Words are counted as what begins with them,
   15 bits long: returns how many there are, which is ALL_WORDS if the code is complete, and more if it is none. */
static uint32_t canonical(dc_words *code, uint16_t *sorted, const uint8_t *lengths, size_t count) {
  uint16_t next[16] = {0};
  uint32_t words = 0, index = 0, here;
  size_t i;
  unsigned k;
  for (i = 0; i < count; i++) next[lengths[i]]++;
  code->sorted = sorted;
  code->limit[0] = 0;
  for (k = 1; k < 16; k++) {
    here = next[k];
    next[k] = (uint16_t)index;
    code->base[k] = (uint16_t)(index - (words >> (15 - k)));
    index += here;
    words += here << (15 - k);
    code->limit[k] = (uint16_t)words;
    if (words > ALL_WORDS) return words;
  }
  for (i = 0; i < count; i++) {
    if (lengths[i]) sorted[next[lengths[i]]++] = (uint16_t)i;
  }
  return words;
}

/* The symbol of a word of so many bits, which are the first of 15. */
static inline uint32_t symbol_of(const dc_words *code, uint32_t bits, uint32_t length) {
  return code->sorted[((bits >> (15 - length)) + code->base[length]) & 0xffff];
}

#if !DC_HUFFMAN_ONLY
/* ---- Section 9: a deflated header (RFC 1951) ---- */

static const char dictionary[] =
    "self_attn.q_proj.weight\nmlp.down_proj.weight\nlayers.0.embeddings.\ntorchvision:resnet50\x08"
    "imagenet\0downsample.0.weight\nclassifier.6.weight\nfeatures.0.bias\nlayer1.0.conv1.weight\nlayer1.0.bn1.weight\n"
    "layer1.0.bn1.bias\nlayer1.0.bn1.running_mean\nlayer1.0.bn1.running_var\nlayer1.0.bn1.num_batches_tracked\n"
    "layer2.0.conv2.weight\nlayer2.0.bn2.weight\nlayer3.0.shortcut.0.weight\nfc.weight\nfc.bias\n\x08resnet20\x07"
    "cifar10\0\x0d"
    "fashion-mnist\x06"
    "digits\x06lenet5\x05mnist\0\x08"
    "conv1.weight\nconv1.bias\nconv2.weight\nconv2.bias\n\x0dlenet-300-100\x05mnist\0\x06"
    "fc1.weight\nfc1.bias\nfc2.weight\nfc2.bias\nfc3.weight\nfc3.bias\n";
enum { DICTIONARY = sizeof dictionary - 1, LITERALS = 288, DISTANCES = 30 };

typedef struct {
  dc_words code;
  uint16_t sorted[LITERALS];
} deflate_code;

typedef struct {
  input *in;
  uint32_t held;
  unsigned bits;
} deflate_bits;

static unsigned take_bits(deflate_bits *from, unsigned count) {
  unsigned value;
  while (from->bits < count) {
    from->held |= (uint32_t)byte(from->in) << from->bits;
    from->bits += 8;
  }
  value = from->held & ((1u << count) - 1);
  from->held >>= count;
  from->bits -= count;
  return value;
}

/* A code from its lengths. It must be complete, with the exceptions that inflaters make: no word, or one of one bit. */
static void deflate_table(deflate_code *to, const uint8_t *lengths, unsigned count, input *in) {
  uint32_t words = canonical(&to->code, to->sorted, lengths, count);
  if (words && words != ALL_WORDS && (words != ALL_WORDS / 2 || to->code.limit[1] != words)) invalid(in);
}

static unsigned deflate_symbol(deflate_bits *from, const deflate_code *code) {
  uint32_t word = 0;
  unsigned k;
  for (k = 1; k < 16; k++) {
    word |= take_bits(from, 1) << (15 - k);
    if (word < code->code.limit[k]) return symbol_of(&code->code, word, k);
  }
  invalid(from->in);
  return 256;
}

/* The two codes of a block of type 2. */
static void dynamic_codes(deflate_bits *from, deflate_code *literals, deflate_code *distances) {
  static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
  uint8_t lengths[LITERALS + 32];
  unsigned literal_count = take_bits(from, 5) + 257, distance_count = take_bits(from, 5) + 1, count = take_bits(from, 4) + 4;
  unsigned k, symbol, repeat, last;
  memset(lengths, 0, 19);
  for (k = 0; k < count; k++) lengths[order[k]] = (uint8_t)take_bits(from, 3);
  deflate_table(literals, lengths, 19, from->in);
  count = literal_count + distance_count;
  if (literal_count > 286 || distance_count > DISTANCES) invalid(from->in);
  for (k = 0; k < count && !from->in->status;) {
    symbol = deflate_symbol(from, literals);
    if (symbol < 16) {
      lengths[k++] = (uint8_t)symbol;
      continue;
    }
    last = 0;
    if (symbol == 16 && k == 0) invalid(from->in);
    if (symbol == 16 && k) last = lengths[k - 1];
    repeat = symbol == 16 ? 3 + take_bits(from, 2) : symbol == 17 ? 3 + take_bits(from, 3) : 11 + take_bits(from, 7);
    if (repeat > count - k) {
      invalid(from->in);
      return;
    }
    while (repeat--) lengths[k++] = (uint8_t)last;
  }
  if (from->in->status) return;
  if (!lengths[256]) invalid(from->in);
  deflate_table(literals, lengths, literal_count, from->in);
  deflate_table(distances, lengths + literal_count, distance_count, from->in);
}

static void fixed_codes(deflate_code *literals, deflate_code *distances, input *in) {
  uint8_t lengths[LITERALS];
  memset(lengths, 8, 144);
  memset(lengths + 144, 9, 112);
  memset(lengths + 256, 7, 24);
  memset(lengths + 280, 8, 8);
  deflate_table(literals, lengths, LITERALS, in);
  memset(lengths, 5, 32);
  deflate_table(distances, lengths, 32, in);
}

/* A length or a distance: symbols in steps of `each` have one more extra bit. */
static unsigned deflate_number(deflate_bits *from, unsigned symbol, unsigned step) {
  unsigned extra;
  if (symbol < 2 * step) return symbol;
  extra = symbol / step - 1;
  return ((step + symbol % step) << extra) + take_bits(from, extra);
}

static size_t inflate_block(deflate_bits *from, const deflate_code *literals, const deflate_code *distances,
                            const uint8_t *before, size_t before_bytes, uint8_t *out, size_t at, size_t count) {
  unsigned symbol, length, distance;
  while (!from->in->status && (symbol = deflate_symbol(from, literals)) != 256) {
    if (symbol < 256) {
      if (at == count) invalid(from->in);
      else out[at++] = (uint8_t)symbol;
      continue;
    }
    symbol -= 257;
    length = symbol == 28 ? 258 : 3 + deflate_number(from, symbol, 4);
    distance = deflate_symbol(from, distances);
    if (symbol > 28 || distance >= DISTANCES) invalid(from->in);
    if (from->in->status) break;
    distance = 1 + deflate_number(from, distance, 2);
    if (distance > at + before_bytes || length > count - at) invalid(from->in);
    if (from->in->status) break;
    for (; length; length--, at++) out[at] = distance > at ? before[before_bytes + at - distance] : out[at - distance];
  }
  return at;
}

static size_t stored_block(deflate_bits *from, uint8_t *out, size_t at, size_t count) {
  unsigned length;
  const uint8_t *start;
  from->bits = 0;
  from->held = 0;
  length = take_bits(from, 16);
  if ((take_bits(from, 16) ^ length) != 0xffff || length > count - at) invalid(from->in);
  start = bytes(from->in, length);
  if (from->in->status) return at;
  memcpy(out + at, start, length);
  return at + length;
}

/* Inflates exactly `count` bytes, so that there are fewer steps than that, or bytes of input. They may refer to the bytes
   `before`, as if those had come before them. */
static void inflate_after(input *in, const uint8_t *before, size_t before_bytes, uint8_t *out, size_t count) {
  deflate_code literals, distances;
  deflate_bits from = {NULL, 0, 0};
  size_t at = 0;
  unsigned last = 0, type;
  from.in = in;
  in->section = 9;
  while (!last && !in->status) {
    last = take_bits(&from, 1);
    type = take_bits(&from, 2);
    if (type == 0) {
      at = stored_block(&from, out, at, count);
      continue;
    }
    if (type == 1) fixed_codes(&literals, &distances, in);
    else if (type == 2) dynamic_codes(&from, &literals, &distances);
    else invalid(in);
    if (!in->status) at = inflate_block(&from, &literals, &distances, before, before_bytes, out, at, count);
  }
  if (at != count || left(in)) invalid(in);
}

/* Inflates a header, or the facts of an update. */
static void inflate(input *in, uint8_t *out, size_t count) {
  inflate_after(in, (const uint8_t *)dictionary, DICTIONARY, out, count);
}
#endif

/* ---- Section 5: streams of symbols ---- */

#define LONGER 0x80000000u /* an entry of a lookup: the word is longer than LOOKUP_BITS */

/* Reads `used` code lengths, into `lengths` if there is memory. */
static void code_lengths(input *table, uint8_t *lengths, size_t used) {
  size_t at = 0, i;
  unsigned length = 0, before;
  uint32_t word;
  for (i = 0; i < used && at < left(table) * 8; i++) {
    before = length;
    word = peek(table->at, at);
    if (word >> 31 == 0) at += 1;
    else if (word >> 30 == 2) at += 2, length++;
    else if (word >> 29 == 6) at += 3, length--;
    else {
      at += 7;
      length = word >> 25 & 15;
      if (length - before + 1 < 3) break;
    }
    if (length > 15) break;
    if (lengths) lengths[i] = (uint8_t)length;
  }
  if (i < used || !length || !ends(table->at, at, (at + 7) & ~(size_t)7)) invalid(table);
  bytes(table, (at + 7) / 8);
}

/* Fills the symbols of up to LOOKUP_BITS bits, and their lengths, by the bits that come. */
static void fill_lookup(dc_symbols *symbols) {
  uint32_t *entry = symbols->lookup, *end = entry + ((size_t)1 << LOOKUP_BITS);
  uint32_t length, word, found, copies;
  for (length = 1; length <= LOOKUP_BITS; length++) {
    word = symbols->code.limit[length - 1];
    for (; word < symbols->code.limit[length]; word += ALL_WORDS >> length) {
      found = symbol_of(&symbols->code, word, length) << 6 | length;
      for (copies = 1u << (LOOKUP_BITS - length); copies; copies--) *entry++ = found;
    }
  }
  while (entry < end) *entry++ = LONGER;
}

/* Where each lane of a stream begins and ends; most streams are one lane. */
static void find_lanes(arena *from, dc_symbols *symbols, input *in, size_t length, size_t count) {
  size_t lanes = 1, i, at = 0, here = length;
  if (symbols->coder == HUFFMAN && count >= (size_t)1 << 17) {
    while (lanes * 2 <= count / 2048) lanes *= 2;
    at = 2 * lanes;
  }
  symbols->mask = lanes - 1;
  if (at > length) invalid(in);
  if (in->status) return;
  symbols->lanes = take(from, lanes * sizeof *symbols->lanes, in);
  if (!symbols->lanes) return;
  for (i = 0; i < lanes; i++) {
    if (lanes > 1) here = (size_t)symbols->bytes[2 * i] | (size_t)symbols->bytes[2 * i + 1] << 8;
    symbols->lanes[i].at = at * 8;
    at += here;
    if (at > length) invalid(in);
    symbols->lanes[i].end = at * 8;
  }
  if (at != length) invalid(in);
}

/* Makes a stream of `count` symbols ready. `in` gives its table; the stream is what is left of `stream` then, which may be
   `in`. */
static void begin_symbols(arena *from, dc_symbols *symbols, unsigned coder, size_t alphabet, size_t count, input *in,
                          const input *stream) {
  size_t used, mark, length;
  uint16_t *sorted;
  uint8_t *lengths;
  memset(symbols, 0, sizeof *symbols);
  symbols->coder = (uint8_t)coder;
  symbols->alphabet = (uint32_t)alphabet;
  in->section = 5;
  if (coder > HUFFMAN || (coder == NO_SYMBOLS && count)) invalid(in);
  if (coder == SAME) {
    symbols->constant = (uint32_t)varint(in);
    if (symbols->constant >= alphabet) invalid(in);
  } else if (coder == FIXED) {
    for (symbols->width = 1; alphabet && (alphabet - 1) >> symbols->width;) symbols->width++;
  } else if (coder == HUFFMAN) {
    used = at_most(in, alphabet);
    sorted = take(from, used * sizeof *sorted, in);
    mark = from->used;
    lengths = take(from, used, in);
    from->used = mark;
    code_lengths(in, lengths, used);
    if (lengths && !in->status && canonical(&symbols->code, sorted, lengths, used) != ALL_WORDS) invalid(in);
    if (LOOKUP_BITS > 0) symbols->lookup = take(from, sizeof(uint32_t) << LOOKUP_BITS, in);
    if (LOOKUP_BITS > 0 && symbols->lookup && !in->status) fill_lookup(symbols);
  }
  symbols->bytes = stream->at;
  length = left(stream);
  if ((coder < FIXED || !count) && length) invalid(in);
  find_lanes(from, symbols, in, length, count);
}

#define NO_SYMBOL 0xffffffffu /* is in no alphabet */

/* The symbol of the word that 15 bits begin with, and its length. */
static inline uint32_t word(const dc_symbols *symbols, uint32_t bits, uint32_t *length) {
  uint32_t found = LOOKUP_BITS ? symbols->lookup[bits >> (15 - LOOKUP_BITS)] : LONGER;
  if (found != LONGER) {
    *length = found & 63;
    return found >> 6;
  }
  for (found = LOOKUP_BITS + 1; bits >= symbols->code.limit[found];) found++;
  *length = found;
  return symbol_of(&symbols->code, bits, found);
}

static inline uint32_t next_symbol(dc_symbols *symbols) {
  struct dc_lane *lane;
  uint32_t bits, symbol, length = symbols->width;
  if (symbols->coder == SAME) return symbols->constant;
  lane = &symbols->lanes[symbols->turn++ & symbols->mask];
  bits = peek(symbols->bytes, lane->at) >> 17;
  symbol = symbols->coder == FIXED ? bits >> (15 - length) : word(symbols, bits, &length);
  if (length > lane->end - lane->at) return NO_SYMBOL;
  lane->at += length;
  return symbol;
}

/* Whether all lanes are read to their ends. */
static int all_read(const dc_symbols *symbols) {
  size_t i;
  if (symbols->coder == SAME || !symbols->lanes) return 1;
  for (i = 0; i <= symbols->mask; i++) {
    if (!ends(symbols->bytes, symbols->lanes[i].at, symbols->lanes[i].end)) return 0;
  }
  return 1;
}

static int stop(dc_cursor *cursor, int code, int section) {
  if (!cursor->status) cursor->status = STATUS(code, section);
  return 0;
}

/* ---- Section 6: byte planes ---- */

/* A plane: its coder, the length of table and stream, and these. */
static void begin_plane(arena *from, dc_symbols *symbols, input *in, size_t count, size_t alphabet) {
  unsigned coder = byte(in);
  size_t length = varint(in);
  const uint8_t *end = in->end;
  if (!bytes(in, length)) return;
  in->end = in->at;
  in->at -= length;
  begin_symbols(from, symbols, coder, alphabet, count, in, in);
  in->at = in->end;
  in->end = end;
}

static void begin_planes(dc_cursor *cursor, arena *from, input *in, size_t count) {
  dc_symbols counted;
  unsigned k;
  cursor->streams = take(from, cursor->tensor.size * sizeof(dc_symbols), in);
  for (k = 0; k < cursor->tensor.size && !in->status; k++) {
    begin_plane(from, cursor->streams ? &cursor->streams[k] : &counted, in, count, 256);
  }
}

static inline int next_bytes(dc_cursor *cursor) {
  unsigned k;
  uint32_t symbol;
  for (k = 0; k < cursor->tensor.size; k++) {
    symbol = next_symbol(&cursor->streams[k]);
    if (symbol > 255) return stop(cursor, DC_INVALID, 5);
    cursor->element[k] = (uint8_t)symbol;
  }
  return 1;
}

/* Whether the first streams are read to their ends: 0, with what is wrong. */
static int streams_read(dc_cursor *cursor, unsigned count) {
  const dc_symbols *symbols = cursor->streams, *end = symbols + count;
  for (; symbols < end; symbols++) {
    if (!all_read(symbols)) return stop(cursor, DC_INVALID, 5);
  }
  return 0;
}

static inline int step_planes(dc_cursor *cursor) {
  if (cursor->next == cursor->tensor.count) return streams_read(cursor, cursor->tensor.size);
  cursor->position = cursor->next++;
  return next_bytes(cursor);
}

/* ---- Sections 4 and 10: codebooks ---- */

static void check_section(const dc_file *file, const dc_tensor *tensor, input *in) {
  if (HAS_CHECKSUMS(file) && dc_crc32(tensor->section, tensor->section_bytes) != tensor->checksum) fail(in, DC_DAMAGED);
}

typedef struct {
  const uint8_t *entries;
  unsigned size;
} codebook;

static int is_zero(const uint8_t *value, unsigned size) {
  while (size && !*value) value++, size--;
  return !size;
}

#if DC_HUFFMAN_ONLY
static int compare_values(const void *context, uint32_t a, uint32_t b) {
  const codebook *book = context;
  return memcmp(book->entries + a * book->size, book->entries + b * book->size, book->size);
}
#else
INLINED uint64_t load(const uint8_t *at, unsigned width) {
  uint64_t value = 0;
  while (width--) value = value << 8 | at[width];
  return value;
}

static uint64_t bits_of(const codebook *book, uint32_t number) {
  return load(book->entries + (size_t)number * book->size, book->size);
}

/* The order of section 11: entries with the sign bit first, in falling magnitude, then the others in rising magnitude. */
static uint64_t rank_of(const codebook *book, uint32_t number) {
  uint64_t bits = bits_of(book, number), sign = SIGN_BIT(book->size);
  return bits & sign ? ~bits & (sign - 1) : bits | sign;
}

static int compare_values(const void *book, uint32_t a, uint32_t b) {
  uint64_t first = rank_of(book, a), second = rank_of(book, b);
  return (first > second) - (first < second);
}
#endif

#if !DC_HUFFMAN_ONLY
static void put_float(uint8_t *out, float value) {
  uint32_t bits;
  unsigned k;
  memcpy(&bits, &value, 4);
  for (k = 0; k < 4; k++) out[k] = (uint8_t)(bits >> (8 * k));
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

/* A float16; infinite and NaN come out as infinite. */
static float half(const uint8_t *at) {
  uint32_t bits = (uint32_t)at[0] | (uint32_t)at[1] << 8, sign = (bits & 0x8000) << 16, magnitude = bits & 0x7fff;
  float value;
  if (magnitude >= 0x7c00) return float_of(sign | 0x7f800000);
  if (magnitude >= 0x400) return float_of(sign | ((magnitude << 13) + 0x38000000));
  value = (float)magnitude * 5.9604644775390625e-8f; /* 2^-24 */
  return sign ? -value : value;
}

/* Writes the entries of a grid: scale * j for those j that its mask has. */
static void expand_grid(const dc_tensor *tensor, input *in, uint8_t *out) {
  size_t not_zero, span = grid_span(tensor, &not_zero), i, found = 0;
  const uint8_t *scale_bytes = bytes(in, tensor->form == 2 ? 4 : 2), *mask = in->at;
  int all = not_zero == tensor->entries, chosen;
  float scale, value;
  if (tensor->form == 3) scale = half(scale_bytes);
  else scale = float_of(tensor->form == 2 ? le32(scale_bytes) : ((uint32_t)scale_bytes[0] | (uint32_t)scale_bytes[1] << 8) << 16);
  if (!(scale > 0)) invalid(in);
  if (!all && !bytes(in, (span + 7) / 8)) return;
  for (i = 0; i < span && !in->status; i++) {
    chosen = all ? tensor->lowest + (int32_t)i != 0 : mask[i >> 3] >> (7 - (i & 7)) & 1;
    if (!chosen) continue;
    value = (float)(scale * (float)(tensor->lowest + (int32_t)i));
    if (found == tensor->entries || !(value >= -LARGEST_FLOAT && value <= LARGEST_FLOAT)) {
      invalid(in);
    } else {
      put_float(out + 4 * found++, value); /* that of j = 0 is zero, and refused as such */
    }
  }
  if (found != tensor->entries || (!all && !ends(mask, span, (span + 7) / 8 * 8))) invalid(in);
}

static void expand_halves(const dc_tensor *tensor, input *in, uint8_t *out) {
  size_t i;
  const uint8_t *halves = bytes(in, tensor->entries * 2);
  for (i = 0; i < tensor->entries; i++) {
    if ((halves[2 * i + 1] & 0x7c) == 0x7c) invalid(in);
    put_float(out + 4 * i, half(halves + 2 * i));
  }
}
#endif

/* The codebook that a tensor stores, checked, and sorted if that is asked for. */
static const uint8_t *codebook_of(const dc_tensor *owner, arena *from, input *in, int sorted) {
  codebook book;
  uint32_t *order;
  uint8_t *out = NULL;
  size_t i, mark;
  book.entries = owner->section;
  book.size = owner->size;
#if !DC_HUFFMAN_ONLY
  if (owner->form) {
    input at = {NULL, NULL, DC_OK, 10};
    at.at = owner->section;
    at.end = owner->section + owner->section_bytes;
    out = take(from, owner->entries * 4, in);
    if (out && owner->form == 1) expand_halves(owner, &at, out);
    else if (out) expand_grid(owner, &at, out);
    if (at.status) invalid(in);
    book.entries = out;
  }
  if (sorted) out = take(from, owner->entries * owner->size, in);
#else
  (void)sorted;
#endif
  mark = from->used;
  order = take(from, owner->entries * sizeof *order, in);
  from->used = mark;
  if (in->status || !order) return book.entries;
  if (sort(order, (uint32_t)owner->entries, compare_values, &book) < owner->entries) invalid(in);
  for (i = 0; i < owner->entries; i++) {
    if (is_zero(book.entries + i * book.size, book.size)) invalid(in);
  }
  if (!sorted) return book.entries;
  for (i = 0; i < owner->entries; i++) memcpy(out + i * owner->size, book.entries + (size_t)order[i] * owner->size, owner->size);
  return out;
}

/* The codebook of the tensor that is read, which may be another's. */
static const uint8_t *read_codebook(dc_cursor *cursor, arena *from, input *in, int sorted) {
  dc_tensor owner;
  fill(cursor->file, cursor->tensor.owner, &owner);
  if (cursor->tensor.form == SHARED) check_section(cursor->file, &owner, in);
  in->section = VERSION(cursor->file) > 1 ? 10 : 4;
  return codebook_of(&owner, from, in, sorted);
}

#if DC_ADAPTIVE || DC_RANS
/* How many entries of a sorted codebook have the sign bit. */
static uint32_t negatives(const dc_cursor *cursor) {
  codebook book;
  uint32_t count = 0;
  book.entries = cursor->codebook;
  book.size = cursor->tensor.size;
  while (count < cursor->tensor.entries && book.entries && bits_of(&book, count) & SIGN_BIT(book.size)) count++;
  return count;
}
#endif

#if !DC_SMALL
/* The codebook with a zero before entry number `where`, so that each symbol has its value. */
static uint8_t *values_with_zero(const dc_cursor *cursor, arena *from, input *in, size_t where) {
  const size_t size = cursor->tensor.size, before = where * size, all = cursor->tensor.entries * size;
  uint8_t *values = take(from, all + size, in);
  if (!values || !cursor->codebook) return NULL;
  memcpy(values, cursor->codebook, before);
  memset(values + before, 0, size);
  memcpy(values + before + size, cursor->codebook + before, all - before);
  return values;
}
#endif

/* ---- Section 4: coded tensors ---- */

static void begin_coded(dc_cursor *cursor, arena *from, input *in) {
  const dc_tensor *tensor = &cursor->tensor;
  size_t symbols = tensor->offset_bits ? tensor->weights : tensor->count;
  dc_symbols counted, *streams;
  input offsets = *in, weights = *in;
  cursor->codebook = read_codebook(cursor, from, in, 0);
#if !DC_SMALL
  if (!tensor->offset_bits) {
    const uint8_t *values = values_with_zero(cursor, from, in, 0);
    if (values) cursor->codebook = values + tensor->size;
  }
#endif
  streams = cursor->streams = take(from, 2 * sizeof *streams, in);
  if (in->status) return;
  cursor->left = tensor->weights;
  cursor->skipped = tensor->fillers;
  offsets.end = weights.at = in->end - tensor->weight_bytes;
  in->end = offsets.at = offsets.end - tensor->offset_bytes;
  in->at = in->end - tensor->table_bytes;
  begin_symbols(from, streams ? &streams[0] : &counted, tensor->offset_coder, (size_t)1 << tensor->offset_bits,
                tensor->offset_bits ? tensor->weights + tensor->fillers : 0, in, &offsets);
  if (tensor->weight_coder == LITERAL) {
    cursor->codebook = NULL;
    cursor->at = weights.at;
    if (streams) memset(&streams[1], 0, sizeof *streams);
    if (tensor->weight_bytes != tensor->weights * tensor->size) invalid(in);
  } else if (!in->status) {
    begin_symbols(from, streams ? &streams[1] : &counted, tensor->weight_coder, tensor->entries + !tensor->offset_bits, symbols,
                  in, &weights);
  }
  if (left(in)) invalid(in);
}

static int coded_read(dc_cursor *cursor) {
  if (cursor->left || cursor->skipped) return stop(cursor, DC_INVALID, 4);
  return streams_read(cursor, 2);
}

/* The next weight by offsets. The header was checked: fillers and weights fit into the elements. */
static inline int step_offsets(dc_cursor *cursor) {
  const dc_tensor *tensor = &cursor->tensor;
  const uint32_t filler = (1u << tensor->offset_bits) - 1;
  uint32_t symbol;
  if (!cursor->left) return coded_read(cursor);
  while ((symbol = next_symbol(&cursor->streams[0])) >= filler) {
    if (symbol > filler) return stop(cursor, DC_INVALID, 5);
    if (!cursor->skipped--) return stop(cursor, DC_INVALID, 4);
    cursor->next += filler;
  }
  cursor->position = cursor->next + symbol;
  cursor->next = cursor->position + 1;
  cursor->left--;
  if (cursor->position >= tensor->count) return stop(cursor, DC_INVALID, 4);
  if (tensor->weight_coder == LITERAL) {
    cursor->value = cursor->at;
    cursor->at += tensor->size;
    return !is_zero(cursor->value, tensor->size) || stop(cursor, DC_INVALID, 4);
  }
  symbol = next_symbol(&cursor->streams[1]);
  if (symbol >= tensor->entries) return stop(cursor, DC_INVALID, 5);
  cursor->index = symbol;
  cursor->value = cursor->codebook + (size_t)symbol * tensor->size;
  return 1;
}

/* The next weight where every element has a symbol. */
static inline int step_symbols(dc_cursor *cursor) {
  const dc_tensor *tensor = &cursor->tensor;
  uint32_t symbol = 0;
  while (cursor->next < tensor->count && !symbol) {
    symbol = next_symbol(&cursor->streams[1]);
    cursor->next++;
  }
  if (!symbol) return coded_read(cursor);
  if (symbol > tensor->entries) return stop(cursor, DC_INVALID, 5);
  if (!cursor->left--) return stop(cursor, DC_INVALID, 4);
  cursor->position = cursor->next - 1;
  cursor->index = symbol - 1;
  cursor->value = cursor->codebook + (size_t)(symbol - 1) * tensor->size;
  return 1;
}

#if !DC_SMALL
/* ---- Section 4 at once: many symbols at a time, which is several times as fast ---- */

enum { BATCH = 8192 };

static inline uint64_t be64(const uint8_t *at) { return (uint64_t)be32(at) << 32 | be32(at + 4); }

static int one_word(const dc_symbols *symbols, struct dc_lane *lane, uint16_t *out) {
  uint32_t length;
  *out = (uint16_t)word(symbols, peek(symbols->bytes, lane->at) >> 17, &length);
  if (length > lane->end - lane->at) return 0;
  lane->at += length;
  return 1;
}

/* Four symbols of each lane, whose bits are read at once. An entry of a lookup has the length in its low 6 bits, which is what a
   shift looks at, and a sum of four lengths of up to LOOKUP_BITS bits stays there. */
static int four_rounds(const dc_symbols *symbols, uint16_t *out) {
  const size_t lanes = symbols->mask + 1;
  const uint8_t *const stream = symbols->bytes;
  const uint32_t *const lookup = symbols->lookup;
  struct dc_lane *lane = symbols->lanes;
  uint16_t *const end = out + lanes;
  for (; out < end; out++, lane++) {
    uint32_t a, b, c, d;
    uint64_t bits;
    if (lane->end - lane->at >= 4 * LOOKUP_BITS) {
      bits = be64(stream + (lane->at >> 3)) << (lane->at & 7);
      a = lookup[bits >> (64 - LOOKUP_BITS)];
      bits <<= a & 63;
      b = lookup[bits >> (64 - LOOKUP_BITS)];
      bits <<= b & 63;
      c = lookup[bits >> (64 - LOOKUP_BITS)];
      bits <<= c & 63;
      d = lookup[bits >> (64 - LOOKUP_BITS)];
      if (!((a | b | c | d) & LONGER)) {
        out[0] = (uint16_t)(a >> 6);
        out[lanes] = (uint16_t)(b >> 6);
        out[2 * lanes] = (uint16_t)(c >> 6);
        out[3 * lanes] = (uint16_t)(d >> 6);
        lane->at += (a + b + c + d) & 63;
        continue;
      }
    }
    if (!one_word(symbols, lane, out) || !one_word(symbols, lane, out + lanes)) return 0;
    if (!one_word(symbols, lane, out + 2 * lanes) || !one_word(symbols, lane, out + 3 * lanes)) return 0;
  }
  return 1;
}

static int next_words(dc_symbols *symbols, uint16_t *out, size_t count) {
  const size_t lanes = symbols->mask + 1;
  size_t i = 0;
  while (i < count) {
    size_t lane = symbols->turn & symbols->mask;
    size_t step = !lane && count - i >= 4 * lanes ? 4 * lanes : 1;
    if (step == 1 ? !one_word(symbols, &symbols->lanes[lane], out + i) : !four_rounds(symbols, out + i)) return 0;
    symbols->turn += step;
    i += step;
  }
  return 1;
}

/* Symbols of a stream, each below its alphabet; 0 if there are not so many. */
static int next_symbols(dc_symbols *symbols, uint16_t *out, size_t count) {
  struct dc_lane lane;
  uint32_t symbol;
  int enough = 1;
  if (symbols->coder == HUFFMAN && symbols->mask) return next_words(symbols, out, count);
  if (symbols->coder == HUFFMAN) {
    lane = *symbols->lanes;
    while (count-- && enough) enough = one_word(symbols, &lane, out++);
    *symbols->lanes = lane;
    return enough;
  }
  while (count-- && enough) {
    symbol = next_symbol(symbols);
    enough = symbol < symbols->alphabet;
    *out++ = (uint16_t)symbol;
  }
  return enough;
}

/* The values of symbols, at `ahead` or one after the other. With `size` as a constant this is several times as fast. */
static inline void put(uint8_t *out, const uint32_t *ahead, const uint8_t *values, const uint16_t *symbols, size_t count,
                       size_t size) {
  size_t i;
  for (i = 0; i < count; i++) memcpy(out + (ahead ? ahead[i] : i) * size, values + symbols[i] * size, size);
}

static void put_all(uint8_t *out, const uint32_t *ahead, const uint8_t *values, const uint16_t *symbols, size_t count,
                    size_t size) {
  if (size != 4) put(out, ahead, values, symbols, count, size);
  else if (ahead) put(out, ahead, values, symbols, count, 4);
  else put(out, NULL, values, symbols, count, 4);
}

/* All weights by offsets, into zeros. */
static void read_offsets(dc_cursor *cursor, uint8_t *out) {
  const dc_tensor *tensor = &cursor->tensor;
  const size_t size = tensor->size, filler = ((size_t)1 << tensor->offset_bits) - 1;
  uint16_t symbols[BATCH];
  uint32_t ahead[BATCH]; /* of `from`: how far the weight is */
  size_t todo = tensor->weights + tensor->fillers, at = 0, from, count, found, i, last = 0;
  for (; todo; todo -= count) {
    count = todo < BATCH ? todo : BATCH;
    if (!next_symbols(&cursor->streams[0], symbols, count)) break;
    from = at;
    for (i = found = 0; i < count; i++) {
      last = symbols[i] != filler;
      ahead[found] = (uint32_t)(at - from) + symbols[i];
      found += last;
      at += symbols[i] + last;
    }
    if (found > cursor->left || at > tensor->count) break;
    cursor->left -= found;
    if (!next_symbols(&cursor->streams[1], symbols, found)) break;
    put_all(out + from * size, ahead, cursor->codebook, symbols, found, size);
  }
  cursor->skipped = 0;
  if (todo || (tensor->weights && !last)) stop(cursor, DC_INVALID, 4);
  else coded_read(cursor);
}

/* All elements by a symbol for each. */
static void read_symbols(dc_cursor *cursor, uint8_t *out) {
  const dc_tensor *tensor = &cursor->tensor;
  const size_t size = tensor->size;
  const uint8_t *values = cursor->codebook - size;
  uint16_t symbols[BATCH];
  size_t todo = tensor->count, weights = 0, count, i;
  for (; todo; todo -= count) {
    count = todo < BATCH ? todo : BATCH;
    if (!next_symbols(&cursor->streams[1], symbols, count)) break;
    for (i = 0; i < count; i++) weights += symbols[i] != 0;
    put_all(out, NULL, values, symbols, count, size);
    out += count * size;
  }
  cursor->left = 0;
  if (todo || weights != tensor->weights) stop(cursor, DC_INVALID, 4);
  else coded_read(cursor);
}
#endif

#if !DC_HUFFMAN_ONLY
/* ---- Section 14: rows of different kinds ---- */

static input rest_of(dc_cursor *cursor) {
  input in = {NULL, NULL, DC_OK, 14};
  in.at = cursor->at;
  in.end = cursor->end;
  return in;
}

static void begin_kinds(dc_cursor *cursor, arena *from, input *in) {
  in->at = cursor->tensor.section;
  from->used = cursor->kinds_mark;
  begin_plane(from, &cursor->kinds, in, cursor->tensor.shape[0], 16);
}

static void begin_rows(dc_cursor *cursor, arena *from, input *in) {
  const dc_tensor *tensor = &cursor->tensor;
  size_t i, lanes;
  uint32_t kind;
  cursor->kinds_mark = from->used;
  begin_kinds(cursor, from, in);
  cursor->planes_mark = from->used;
  cursor->at = in->at;
  cursor->end = in->end;
  cursor->column = tensor->count / tensor->shape[0];
  if (from->counting) { /* which kinds there are is not known without memory: so as much as any planes need */
    lanes = tensor->count < (size_t)1 << 17 ? 1 : tensor->count / 2048;
    take(from, tensor->size * (sizeof(dc_symbols) + 512 + (sizeof(uint32_t) << LOOKUP_BITS) + 24), in);
    take(from, tensor->size * lanes * sizeof(struct dc_lane) + 256, in);
    return;
  }
  for (i = 0; i < tensor->shape[0] && !in->status; i++) {
    kind = next_symbol(&cursor->kinds);
    if (kind > 15) invalid(in);
    else cursor->rows[kind]++;
  }
  if (!in->status && !all_read(&cursor->kinds)) invalid(in);
  cursor->kind = 16; /* and so the first kind follows */
}

/* Ends the kind that was read, and begins the next one that occurs. */
static int next_kind(dc_cursor *cursor) {
  size_t row_size = cursor->tensor.count / cursor->tensor.shape[0];
  arena from = {NULL, 0, 0, 0, 0};
  input in = rest_of(cursor), kinds = rest_of(cursor);
  from.memory = cursor->memory;
  from.size = cursor->memory_bytes;
  if (cursor->kind < 16) streams_read(cursor, cursor->tensor.size);
  if (cursor->status) return 0;
  cursor->kind = cursor->kind == 16 ? 0 : cursor->kind + 1;
  while (cursor->kind < 16 && !cursor->rows[cursor->kind]) cursor->kind++;
  if (cursor->kind == 16) return left(&in) ? stop(cursor, DC_INVALID, 14) : 0;
  begin_kinds(cursor, &from, &kinds);
  from.used = cursor->planes_mark;
  begin_planes(cursor, &from, &in, cursor->rows[cursor->kind] * (cursor->kind ? row_size : 1));
  cursor->at = in.at;
  cursor->row = 0;
  cursor->left = cursor->rows[cursor->kind];
  if (in.status) cursor->status = in.status;
  return !in.status;
}

static int step_rows(dc_cursor *cursor) {
  size_t row_size = cursor->tensor.count / cursor->tensor.shape[0];
  if (cursor->column == row_size) {
    if (!cursor->left && !next_kind(cursor)) return 0;
    while (next_symbol(&cursor->kinds) != cursor->kind) cursor->row++;
    cursor->left--;
    cursor->next = cursor->row++ * row_size;
    cursor->column = 0;
    if (!cursor->kind && !next_bytes(cursor)) return 0;
  }
  cursor->column++;
  cursor->position = cursor->next++;
  return !cursor->kind || next_bytes(cursor);
}

#endif

#if DC_MODEL
/* ---- Section 11: weights by an adaptive model ---- */

enum { BLOCK = 1 << 19, LARGEST = 2880, INPUTS = 10, ENTRY_INPUTS = 6, CLASSES = 7, NUMBERS = 9 };
enum { BESIDE = 0, BEFORE = 64, GAP = 80, JOINT = 144, TABLES = 144 + 11 * 11 * 5 };
enum { ROW_CLASS = 1, COLUMN_CLASS = 8, PAIR = 15, ROW_NUMBER = 64, COLUMN_NUMBER = 73, ENTRY_SLOTS = 82 };

struct slot {
  uint32_t value;
  uint16_t count, rate; /* rate is 65536 // count */
};

/* What was last seen in a row or a column. */
struct trail {
  uint8_t last, balance, magnitude;
};

struct dc_model {
  const uint8_t *at, *end, *stream_end; /* the block, and the stream */
  uint32_t state;
  size_t block_left, todo, gap;         /* elements */
  size_t row, column, row_count, column_count, plane_size, line_size, x, y, plane, place;
  size_t ring, ring_slot, ring_step;    /* the columns that `seen` has, where the present one is, and how far apart they are */
  uint8_t *seen;                        /* classes of the elements */
  struct slot *rows, *columns, *planes, *places, *entries;
  struct trail *row_trails, *column_trails;
  uint32_t density, first_count;
  int32_t density_logit;
  uint32_t entry_count, negative;       /* k and z */
  int32_t weights[INPUTS], entry_weights[ENTRY_INPUTS];
  struct slot *tables;
  uint16_t *squash;
#if DC_UPDATES
  struct recorder *recorder; /* what is told of decisions when symbols are coded, and not decoded */
  uint32_t wanted;           /* the symbol that comes next then */
#endif
#if DC_SMALL
  uint16_t *least; /* of t = 0 and up: the largest p whose stretch is less */
#else
  int16_t *stretch;
#endif
};

#if DC_SMALL
enum { SQUASHED = LARGEST + 1 }; /* of t = 0 and up */
#else
enum { SQUASHED = 2 * LARGEST + 1, STRETCHED = 65536 };
#endif

/* 2^63 / (2^46 + e / 2^16) is twice a probability, where e is 2^62 * e^(-j / 512): j counts half logits. */
static void fill_tables(struct dc_model *model) {
  static const uint64_t factor = 0xff801ffaab554445; /* 2^64 * e^(-1 / 512) */
  uint64_t power = (uint64_t)1 << 62, twice;
  unsigned j, logit;
#if !DC_SMALL
  uint32_t p = 32768;
#endif
  for (j = 0; j <= 2 * LARGEST; j++) {
    twice = ((uint64_t)1 << 63) / (((uint64_t)1 << 46) + (power >> 16));
    logit = (j + 1) / 2;
    if (j % 2 == 0) {
#if DC_SMALL
      model->squash[logit] = (uint16_t)((twice + 1) >> 1);
#else
      model->squash[LARGEST + logit] = (uint16_t)((twice + 1) >> 1);
      model->squash[LARGEST - logit] = (uint16_t)(65536 - ((twice + 1) >> 1));
#endif
    } else {
#if DC_SMALL
      if (logit < LARGEST) model->least[logit] = (uint16_t)(twice / 2);
#else
      for (; p <= twice / 2 && p < 65536; p++) {
        model->stretch[p] = (int16_t)(logit - 1);
        model->stretch[65536 - p] = (int16_t)(1 - (int)logit);
      }
#endif
    }
    power = (power >> 32) * (factor >> 32) + ((power >> 32) * (factor & 0xffffffff) >> 32) +
            ((power & 0xffffffff) * (factor >> 32) >> 32);
  }
#if DC_SMALL
  model->least[0] = 32767;
#else
  model->stretch[0] = -LARGEST;
#endif
}

static inline uint32_t squash(const struct dc_model *model, int32_t logit) {
#if DC_SMALL
  return logit < 0 ? 65536u - model->squash[-logit] : model->squash[logit];
#else
  return model->squash[LARGEST + logit];
#endif
}

CALLED int32_t stretch(const struct dc_model *model, uint32_t p) {
#if DC_SMALL
  uint32_t high = p > 32768 ? p : 65536 - p;
  int32_t found = 0, step;
  if (!p) return -LARGEST;
  for (step = 2048; step; step >>= 1) {
    if (found + step < LARGEST && model->least[found + step] < high) found += step;
  }
  return p > 32768 ? found : -found;
#else
  return model->stretch[p];
#endif
}

static inline void set(struct slot *slot, uint32_t value, uint32_t count) {
  slot->value = value;
  slot->count = (uint16_t)count;
  slot->rate = (uint16_t)(65536 / count);
}

static inline void learn(struct slot *slot, int bit, unsigned limit) {
  int64_t target = -(int64_t)bit & (((int64_t)1 << 30) - 1);
  slot->value += (uint32_t)((target - slot->value) * slot->rate >> 16);
  if (slot->count < limit) {
    slot->count++;
    slot->rate = (uint16_t)(65536 / slot->count);
  }
}

static inline uint32_t mix(const struct dc_model *model, const int32_t *weights, const int32_t *logits, unsigned count) {
  int64_t sum = 0;
  unsigned k;
  for (k = 0; k < count; k++) sum += (int64_t)weights[k] * logits[k];
  sum >>= 16;
  return squash(model, sum > LARGEST ? LARGEST : sum < -LARGEST ? -LARGEST : (int32_t)sum);
}

static inline void adjust(int32_t *weights, const int32_t *logits, unsigned count, int32_t error, int32_t rate) {
  unsigned k;
  for (k = 0; k < count; k++) weights[k] += (int32_t)((int64_t)error * logits[k] * rate >> 22);
}

static inline void refill(struct dc_model *model) {
  while (model->state < 1u << 24 && model->at < model->end) model->state = model->state << 8 | *model->at++;
}

static inline int decode_decision(struct dc_model *model, uint32_t p) {
  uint32_t low = model->state & 0xffff, high = model->state >> 16, zero = 65536 - p;
  int bit = low >= zero;
  model->state = bit ? p * high + low - zero : zero * high + low;
  refill(model);
  return bit;
}

#if DC_ADAPTIVE
#if DC_UPDATES
#define WANTED(model, bit) ((model)->recorder ? (bit) : -1)
static int record(struct recorder *recorder, uint32_t p, int bit);
static uint32_t wanted_at(struct recorder *recorder, size_t position);
static void end_block(struct recorder *recorder);
#else
#define WANTED(model, bit) -1
#endif

/* The next decision: of the stream, or the one that is wanted. */
static inline int decide(struct dc_model *model, uint32_t p, int wanted) {
#if DC_UPDATES
  if (wanted >= 0) return record(model->recorder, p, wanted);
#else
  (void)wanted;
#endif
  return decode_decision(model, p);
}

/* Begins the next block; if there are more than one, it has its length in front. */
static int begin_block(dc_cursor *cursor, struct dc_model *model) {
  input in = {NULL, NULL, DC_OK, 11};
  size_t length;
#if DC_UPDATES
  if (model->recorder) {
    if (model->todo < cursor->tensor.count) end_block(model->recorder);
    model->block_left = model->todo < BLOCK ? model->todo : BLOCK;
    return 1;
  }
#endif
  in.at = model->at;
  in.end = model->stream_end;
  length = cursor->tensor.count > BLOCK ? varint(&in) : left(&in);
  model->at = in.at;
  if (in.status || length > left(&in) || (length && !*in.at)) return stop(cursor, DC_INVALID, 11);
  model->end = model->at + length;
  model->block_left = model->todo < BLOCK ? model->todo : BLOCK;
  refill(model);
  return 1;
}

/* No weights are left: the blocks that follow have no bytes. */
static int model_read(dc_cursor *cursor, struct dc_model *model) {
  while (model->at == model->end && !model->state) {
    model->todo -= model->block_left;
    if (!model->todo) return model->at == model->stream_end ? 0 : stop(cursor, DC_INVALID, 11);
    if (!begin_block(cursor, model)) return 0;
  }
  return stop(cursor, DC_INVALID, 11);
}

/* The class of the element that is `distance` columns back, in the row that `row_at` says. */
CALLED unsigned class_at(const struct dc_model *model, int there, size_t distance, size_t row_at) {
  size_t slot = model->ring_slot - distance;
  if (!there) return 0;
  if (model->ring_slot < distance) slot += model->ring;
  return model->seen[slot * model->ring_step + row_at];
}

static inline struct slot *column_slot(const struct dc_model *model, size_t column) { return &model->columns[column & 0xffff]; }

/* S3: what the columns beside and above say. */
static inline int32_t columns_around(const struct dc_model *model, int by_column, int32_t otherwise) {
  size_t c = model->column, line = model->line_size;
  uint32_t sum = 0, count = 0;
  if (model->x > 0) sum += column_slot(model, c - 1)->value, count++;
  if (model->y > 0) sum += column_slot(model, c - line)->value, count++;
  if (!by_column && model->x + 1 < line) sum += column_slot(model, c + 1)->value, count++;
  if (!by_column && model->place + line < model->plane_size) sum += column_slot(model, c + line)->value, count++;
  return count ? stretch(model, (count == 1 ? sum : count == 2 ? sum / 2 : count == 3 ? sum / 3 : sum / 4) >> 14) : otherwise;
}

/* A number of the table "joint": how far a logit is from that of the density. */
static inline unsigned step_of(int32_t logit, int32_t density, int32_t unit, int32_t middle, int32_t most) {
  int32_t step = (logit - density + 64 * unit) / unit - 64 + middle;
  return (unsigned)(step < 0 ? 0 : step > most ? most : step);
}

static inline int is_weight(struct dc_model *model, size_t weights_left, int by_column, size_t row_at, size_t row_before,
                            unsigned left_class, unsigned above_class) {
  int32_t S[INPUTS];
  struct slot *slots[8];
  size_t line = model->line_size, gap;
  unsigned k, bit, beside, before, gap_bits = 0;
  int x = model->x > 0, y = model->y > 0;
  uint32_t p;
  p = (uint32_t)(model->todo < 65536 ? (uint32_t)weights_left * 65536u / (uint32_t)model->todo
                                     : ((uint64_t)weights_left << 16) / model->todo);
  S[0] = stretch(model, p ? p : 1);
  slots[0] = &model->rows[model->row & 0xffff];
  slots[1] = column_slot(model, model->column);
  slots[2] = &model->planes[model->plane & 0xffff];
  slots[3] = &model->places[model->place & 0xffff];
  S[1] = stretch(model, slots[0]->value >> 14);
  S[2] = stretch(model, slots[1]->value >> 14);
  S[3] = columns_around(model, by_column, S[2]);
  S[4] = stretch(model, slots[2]->value >> 14);
  S[5] = stretch(model, slots[3]->value >> 14);
  beside = (left_class != 0) | (above_class != 0) << 1 | (class_at(model, x && y, line + 1, row_at) != 0) << 2 |
           (class_at(model, y && model->x + 1 < line, line - 1, row_at) != 0) << 3 |
           (class_at(model, model->x > 1, 2, row_at) != 0) << 4 | (class_at(model, model->y > 1, 2 * line, row_at) != 0) << 5;
  before = (class_at(model, model->row > 0, 0, row_before) != 0) |
           (class_at(model, model->plane > 0, model->plane_size, row_at) != 0) << 1 | (beside & 3) << 2;
  for (gap = model->gap; gap; gap >>= 1) gap_bits++;
  slots[4] = &model->tables[BESIDE + beside];
  slots[5] = &model->tables[BEFORE + before];
  slots[6] = &model->tables[GAP + gap_bits];
  slots[7] = &model->tables[JOINT + (11 * step_of(S[1], model->density_logit, 128, 5, 10) +
                                     step_of(S[2], model->density_logit, 128, 5, 10)) * 5 +
                            step_of(S[3], model->density_logit, 192, 2, 4)];
  for (k = 4; k < 8; k++) {
    if (!slots[k]->count) set(slots[k], squash(model, S[0]) << 14, model->first_count);
    S[k + 2] = stretch(model, slots[k]->value >> 14);
  }
  p = mix(model, model->weights, S, INPUTS);
  bit = (unsigned)decide(model, p, WANTED(model, model->wanted != 0));
  adjust(model->weights, S, INPUTS, (int32_t)(bit ? 65535 - p : 0 - p), 32);
  for (k = 0; k < 4; k++) learn(slots[k], (int)bit, 588);
  for (k = 4; k < 8; k++) learn(slots[k], (int)bit, 4000);
  return (int)bit;
}

/* Which entry of the sorted codebook a weight is, found by halving. */
static inline uint32_t which_entry(struct dc_model *model, const struct trail *row, const struct trail *column,
                                   unsigned left_class, unsigned above_class) {
  uint32_t low = 0, high = model->entry_count, middle, p;
  int split = model->negative > 0 && model->negative < high, bit;
  unsigned k;
  while (high - low > 1) {
    int32_t S[ENTRY_INPUTS];
    struct slot *slots[ENTRY_INPUTS];
    middle = split ? model->negative : (low + high) >> 1;
    slots[0] = &model->entries[(size_t)(middle - 1) * ENTRY_SLOTS];
    slots[1] = slots[0] + ROW_CLASS + row->last;
    slots[2] = slots[0] + COLUMN_CLASS + column->last;
    slots[3] = slots[0] + PAIR + left_class * CLASSES + above_class;
    slots[4] = slots[0] + ROW_NUMBER + (split ? row->balance : row->magnitude);
    slots[5] = slots[0] + COLUMN_NUMBER + (split ? column->balance : column->magnitude);
    if (!slots[0]->count) set(slots[0], 1u << 29, 65);
    for (k = 0; k < ENTRY_INPUTS; k++) {
      if (!slots[k]->count) set(slots[k], slots[0]->value, 2);
      S[k] = stretch(model, slots[k]->value >> 14);
    }
    p = mix(model, model->entry_weights, S, ENTRY_INPUTS);
    bit = decide(model, p, WANTED(model, model->wanted > middle));
    adjust(model->entry_weights, S, ENTRY_INPUTS, (int32_t)(bit ? 65535 - p : 0 - p), 96);
    for (k = 0; k < ENTRY_INPUTS; k++) learn(slots[k], bit, 250);
    if (bit) low = middle;
    else high = middle;
    split = 0;
  }
  return low;
}

static inline unsigned class_of(const struct dc_model *model, uint32_t entry) {
  uint32_t z = model->negative;
  return entry < z ? 1 + 3 * (z - 1 - entry) / z : 4 + 3 * (entry - z) / (model->entry_count - z);
}

static inline void follow(struct trail *trail, unsigned class) {
  unsigned h = (class - 1) % 3, magnitude = trail->magnitude;
  trail->last = (uint8_t)class;
  if (class < 4) trail->balance -= trail->balance > 0;
  else trail->balance += trail->balance < 8;
  if (!magnitude) magnitude = 2 * h + 1;
  else magnitude = (3 * magnitude + 8 * h + 2) >> 2;
  trail->magnitude = (uint8_t)(magnitude > 5 ? 5 : magnitude);
}

static inline void next_column(struct dc_model *model) {
  model->column++;
  if (++model->ring_slot == model->ring) model->ring_slot = 0;
  model->place++;
  if (++model->x < model->line_size) return;
  model->x = 0;
  model->y++;
  if (model->place < model->plane_size) return;
  model->place = model->y = 0;
  model->plane++;
}

static inline void first_column(struct dc_model *model) {
  model->column = model->ring_slot = model->place = model->x = model->y = model->plane = 0;
}

static inline void next_element(struct dc_model *model, int by_column) {
  model->todo--;
  model->block_left--;
  if (by_column) {
    if (++model->row < model->row_count) return;
    model->row = 0;
    next_column(model);
  } else {
    next_column(model);
    if (model->column < model->column_count) return;
    first_column(model);
    model->row++;
  }
}

/* The next weight. `by_column` is given as a constant, so that a compiler makes two functions of it. */
static inline int step_model(dc_cursor *cursor, int by_column) {
  struct dc_model *model = cursor->model;
  size_t row_at, row_before;
  unsigned left_class, above_class, class;
  uint32_t entry;
  int found;
  for (;;) {
    if (!cursor->left) return model_read(cursor, model);
    if (!model->block_left) {
      if (model->at != model->end || model->state) return stop(cursor, DC_INVALID, 11);
      if (!begin_block(cursor, model)) return 0;
    }
#if DC_UPDATES
    if (model->recorder) model->wanted = wanted_at(model->recorder, model->row * model->column_count + model->column);
#endif
    row_at = by_column ? model->row : (model->row & 1) * model->column_count;
    row_before = by_column ? model->row - 1 : (~model->row & 1) * model->column_count;
    left_class = class_at(model, model->x > 0, 1, row_at);
    above_class = class_at(model, model->y > 0, model->line_size, row_at);
    found = cursor->left == model->todo || is_weight(model, cursor->left, by_column, row_at, row_before, left_class, above_class);
    class = 0;
    if (found) {
      struct trail *row = &model->row_trails[model->row & 0xffff], *column = &model->column_trails[model->column & 0xffff];
      entry = which_entry(model, row, column, left_class, above_class);
      class = class_of(model, entry);
      follow(row, class);
      follow(column, class);
      cursor->left--;
      cursor->position = model->row * model->column_count + model->column;
      cursor->index = entry;
      cursor->value = cursor->codebook + (size_t)entry * cursor->tensor.size;
    }
    model->gap = found ? 0 : model->gap + 1;
    model->seen[model->ring_slot * model->ring_step + row_at] = (uint8_t)class;
    next_element(model, by_column);
    if (found) return 1;
  }
}

/* n * 2^30 // N, which takes 71 bits at the limits. */
static uint32_t density_of(size_t weights, size_t count) {
  uint32_t quotient = weights == count;
  size_t rest = weights % count;
  unsigned k;
  for (k = 0; k < 30; k++) {
    rest *= 2;
    quotient *= 2;
    if (rest >= count) rest -= count, quotient++;
  }
  return quotient < 1u << 15 ? 1u << 15 : quotient > (1u << 30) - (1u << 15) ? (1u << 30) - (1u << 15) : quotient;
}

static struct slot *slots_for(arena *from, size_t count, const struct dc_model *model, input *in) {
  size_t i;
  struct slot *slots;
  if (count > 65536) count = 65536;
  slots = take(from, count * sizeof *slots, in);
  for (i = 0; slots && i < count; i++) set(&slots[i], model->density, model->first_count);
  return slots;
}

static struct trail *trails_for(arena *from, size_t count, input *in) {
  size_t i;
  struct trail *trails;
  if (count > 65536) count = 65536;
  trails = take(from, count * sizeof *trails, in);
  for (i = 0; trails && i < count; i++) trails[i].last = trails[i].magnitude = 0, trails[i].balance = 4;
  return trails;
}

#endif

/* Memory for what `fill_tables` fills. */
static void take_tables(struct dc_model *model, arena *from, input *in) {
  model->squash = take(from, SQUASHED * sizeof *model->squash, in);
#if DC_SMALL
  model->least = take(from, LARGEST * sizeof *model->least, in);
#else
  model->stretch = take(from, STRETCHED * sizeof *model->stretch, in);
#endif
}

static void set_matrix(const dc_tensor *tensor, struct dc_model *model) {
  size_t k;
  model->row_count = tensor->rank < 2 ? 1 : tensor->shape[0];
  model->column_count = tensor->count / model->row_count;
  model->plane_size = model->line_size = model->column_count;
  if (tensor->flags & SQUARE) {
    model->line_size = tensor->side;
    model->plane_size = tensor->side * tensor->side;
  } else if (tensor->rank > 2) {
    model->line_size = tensor->shape[tensor->rank - 1];
    for (model->plane_size = 1, k = 2; k < tensor->rank; k++) model->plane_size *= tensor->shape[k];
  }
  model->ring = model->column_count;
  model->ring_step = 1;
  if (tensor->flags & BY_COLUMN) { /* as far back as there is an element to look at */
    k = model->column_count > model->plane_size ? model->plane_size : 2 * model->line_size;
    model->ring = k + 1 < model->ring ? k + 1 : model->ring;
    if (model->ring < 3) model->ring = 3;
    model->ring_step = model->row_count;
  }
}

#if DC_ADAPTIVE
/* Makes the model ready; the stream is what is left of `in`. */
static void start_model(dc_cursor *cursor, arena *from, input *in) {
  static const int32_t first[INPUTS] = {-17695, 11469, 5243, 11141, -1311, 4588, 15729, 13107, 10813, 2621};
  static const int32_t first_entry[ENTRY_INPUTS] = {-23593, 7209, 3277, 47841, 8847, 7864};
  const dc_tensor *tensor = &cursor->tensor;
  struct dc_model counted, *model;
  size_t seen, entry_slots;
  uint32_t density;
  cursor->left = tensor->weights;
  model = cursor->model = take(from, tensor->count ? sizeof *model : 0, in);
  if (!tensor->count && left(in)) invalid(in);
  if (!tensor->count || in->status) return;
  if (!model) model = &counted;
  memset(model, 0, sizeof *model);
  set_matrix(tensor, model);
  density = density_of(tensor->weights, tensor->count);
  model->density = density;
  density = density < 1u << 29 ? density : (1u << 30) - density;
  density = (1u << 26) / density;
  model->first_count = density < 2 ? 2 : density > 2000 ? 2000 : density;
  model->rows = slots_for(from, model->row_count, model, in);
  model->columns = slots_for(from, model->column_count, model, in);
  model->planes = slots_for(from, model->column_count / model->plane_size, model, in);
  model->places = slots_for(from, model->plane_size, model, in);
  model->row_trails = trails_for(from, model->row_count, in);
  model->column_trails = trails_for(from, model->column_count, in);
  seen = tensor->flags & BY_COLUMN ? model->ring * model->row_count : 2 * model->column_count;
  entry_slots = tensor->entries > 1 ? (tensor->entries - 1) * ENTRY_SLOTS * sizeof(struct slot) : 0;
  model->seen = take(from, tensor->weights ? seen : 0, in);
  model->entries = take(from, entry_slots, in);
  model->tables = take(from, TABLES * sizeof(struct slot), in);
  take_tables(model, from, in);
  if (in->status || from->counting) return;
  if (tensor->weights) memset(model->seen, 0, seen);
  memset(model->entries, 0, entry_slots);
  memset(model->tables, 0, TABLES * sizeof(struct slot));
  memcpy(model->weights, first, sizeof first);
  memcpy(model->entry_weights, first_entry, sizeof first_entry);
  fill_tables(model);
  model->density_logit = stretch(model, model->density >> 14);
  model->entry_count = (uint32_t)tensor->entries;
  model->negative = negatives(cursor);
  model->todo = tensor->count;
  model->at = model->end = in->at;
  model->stream_end = in->end;
}

static void begin_model(dc_cursor *cursor, arena *from, input *in) {
  cursor->codebook = read_codebook(cursor, from, in, 1);
  in->section = 11;
  bytes(in, cursor->tensor.section_bytes - cursor->tensor.weight_bytes);
  start_model(cursor, from, in);
}
#endif
#endif

#if DC_RANS
/* ---- Sections 17 to 19: ranks and multiples by interleaved rANS ---- */

enum { TOKENS = 119, GAP_TOKENS = 60, LONGEST_GAP = 32767, MOST_LANES = 256, ALL = 4096 };
enum { SCALES = 32, CONTEXTS = 128, FIRST_EXTRA = 31, /* token with extra bits */ MOST_NEIGHBOURS = 4, FIRST_STATE = 65536 };

struct neighbour {
  size_t rows, columns, back; /* how far it is, and that in groups of numbers */
  int16_t aim, size;
  const int16_t *group;       /* its numbers, if it is in the same lanes */
};

/* Where a lane is, with gaps. */
struct run {
  size_t row, end_row, column, first_column, end_column, position;
};

/* The words that are left of a stream; `missing` if there were not enough, or something else was wrong. */
typedef struct {
  const uint8_t *at, *end;
  int missing;
} words;

struct dc_rans {
  words left;
  size_t row_count, column_count, stream_rows;
  size_t first_row, rows, height, width; /* of the stream, and of its lanes */
  uint32_t lanes_down, lanes_across;     /* as powers of two; */
  uint32_t down, across, live;           /* and those lanes that are not empty */
  size_t position;                       /* dense: that of the first lane's number, */
  size_t i, j, slot, depth;              /* where the lanes are, and which of the last groups is the present one */
  uint32_t turn, group_down, group_across;
  uint32_t active;                       /* gaps: lanes that are not at their ends */
  uint32_t *states;
  int16_t *numbers, *group;              /* a group has a number of each lane; the last `depth` groups are kept */
  struct run *runs;
  uint8_t gaps;
  int32_t base;
  uint8_t *row_classes, *column_classes; /* NULL if all are 0 */
  uint32_t *columns;                     /* in the order of their classes; NULL if that is their own */
  unsigned neighbour_count, tokens;
  struct neighbour neighbours[MOST_NEIGHBOURS];
  uint32_t expected[SCALES];             /* by the scale alone: own * S >> 5 */
  uint8_t contexts[CONTEXTS];
#if DC_SMALL
  uint16_t *begins;                      /* of the tokens of each table, and ALL behind them */
#else
  uint32_t *lookup;                      /* by the low bits of a state: token << 24 | (these - begin) << 12 | (frequency - 1) */
  int16_t numbers_of[TOKENS];            /* without their extra bits */
  uint8_t *values;                       /* of ranks: the codebook with a zero in its place */
#endif
  float steps[4];                        /* of multiples: without the powers of two */
  uint8_t *row_steps;
  uint32_t lowest, span;                 /* numbers are from -lowest to span - lowest */
};

static size_t shifted_up(size_t count, uint32_t shift) { return (count + ((size_t)1 << shift) - 1) >> shift; }

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* A plane of section 6, read into `out`, if there is memory. */
static void read_plane(arena *from, input *in, size_t count, size_t alphabet, uint8_t *out) {
  size_t mark = from->used, i;
  uint32_t symbol;
  dc_symbols symbols;
  begin_plane(from, &symbols, in, count, alphabet);
  from->used = mark;
  if (!out || in->status) return;
  for (i = 0; i < count && !in->status; i++) {
    symbol = next_symbol(&symbols);
    if (symbol >= alphabet) invalid(in);
    out[i] = (uint8_t)symbol;
  }
  if (!all_read(&symbols)) invalid(in);
}

static uint8_t *take_plane(arena *from, input *in, size_t count, size_t alphabet) {
  uint8_t *out = take(from, count, in);
  read_plane(from, in, count, alphabet, out);
  return out;
}

static float row_step(const struct dc_rans *rans, size_t row) {
  unsigned step = rans->row_steps[row];
  return rans->steps[step & 3] * float_of((127 + (step >> 2)) << 23);
}

/* Section 17: the scales of multiples. */
static void read_scales(const dc_tensor *tensor, struct dc_rans *rans, arena *from, input *in) {
  static const uint32_t quarters[4] = {0x3f800000, 0x3f9837f0, 0x3fb504f3, 0x3fd744fd};
  const uint8_t *stored = bytes(in, 4);
  int32_t most = -tensor->lowest > tensor->highest ? -tensor->lowest : tensor->highest;
  float scale;
  size_t k;
  if (!stored) return;
  scale = float_of(le32(stored));
  if (!(scale >= 1.17549435e-38f && scale <= LARGEST_FLOAT)) invalid(in);
  for (k = 0; k < 4; k++) rans->steps[k] = scale * float_of(quarters[k]);
  rans->row_steps = take_plane(from, in, rans->row_count, 256);
  in->section = 17;
  if (!rans->row_steps) return;
  for (k = 0; k < rans->row_count && !in->status; k++) {
    if (!(row_step(rans, k) * (float)most <= LARGEST_FLOAT)) invalid(in);
  }
}

/* The classes of so many rows, planes or places; NULL if there are none, or there is no memory. */
static uint8_t *classes(arena *from, input *in, size_t count, int *there) {
  in->section = 18;
  if (!at_most(in, 1)) return NULL;
  *there = 1;
  return take_plane(from, in, count, 64);
}

static void read_classes(const dc_tensor *tensor, struct dc_rans *rans, arena *from, input *in) {
  size_t planes = tensor->rank > 2 ? tensor->shape[1] : 1, places = rans->column_count / planes, c, found = 0;
  uint8_t *of_planes, *of_places, *sums;
  uint32_t *columns;
  unsigned sum;
  int there = 0;
  rans->row_classes = classes(from, in, rans->row_count, &there);
  there = 0;
  of_planes = classes(from, in, planes, &there);
  of_places = classes(from, in, places, &there);
  if (!there) return;
  rans->column_classes = sums = take(from, rans->column_count, in);
  rans->columns = columns = rans->gaps ? take(from, rans->column_count * sizeof *columns, in) : NULL;
  if (in->status || !sums) return;
  for (c = 0; c < rans->column_count; c++) {
    sum = (of_planes ? of_planes[c / places] : 0u) + (of_places ? of_places[c % places] : 0u);
    sums[c] = (uint8_t)sum;
  }
  for (sum = 0; columns && found < rans->column_count; sum++) {
    for (c = 0; c < rans->column_count; c++) {
      if (sums[c] == sum) columns[found++] = (uint32_t)c;
    }
  }
}

static void read_neighbours(struct dc_rans *rans, input *in) {
  static const uint8_t thirds[3] = {64, 81, 102};
  struct neighbour *here;
  unsigned k, own;
  in->section = 18;
  rans->neighbour_count = byte(in);
  if (rans->neighbour_count > (rans->gaps ? 0 : MOST_NEIGHBOURS)) invalid(in);
  for (k = 0; k < rans->neighbour_count && !in->status; k++) {
    here = &rans->neighbours[k];
    here->rows = at_most(in, rans->row_count);
    here->columns = at_most(in, rans->column_count);
    here->aim = (int8_t)byte(in);
    here->size = (int16_t)byte(in);
    if (!here->rows && !here->columns) invalid(in);
  }
  own = rans->neighbour_count ? byte(in) : 0;
  for (k = 0; k < SCALES; k++) rans->expected[k] = (own * thirds[k % 3] << k / 3) >> 5;
}

static uint32_t weight_of(unsigned level) {
  static const uint8_t quarters[4] = {64, 76, 91, 108};
  return level ? (uint32_t)quarters[(level - 1) & 3] << ((level - 1) >> 2) : 0;
}

/* Table number `number` by the levels of its tokens. */
static void build_table(struct dc_rans *rans, input *in, size_t number, const uint8_t *levels) {
  uint32_t whole = 0, used = 0, sum = 0, share = 0, begin = 0, next, k;
#if DC_SMALL
  uint16_t *out = rans->begins + number * (rans->tokens + 1);
#else
  uint32_t *out = rans->lookup + number * ALL, i;
#endif
  for (k = 0; k < rans->tokens; k++) {
    if (levels[k] > 49) invalid(in);
    whole += weight_of(levels[k]);
    used += levels[k] > 0;
  }
  if (!used) invalid(in);
  if (in->status) return;
  for (k = 0; k < rans->tokens; k++, begin = next) {
    sum += weight_of(levels[k]);
    next = begin - share;
    share = (uint32_t)((uint64_t)sum * (ALL - used) / whole);
    next += share + (levels[k] > 0);
#if DC_SMALL
    out[k] = (uint16_t)begin;
#else
    for (i = begin; i < next; i++) *out++ = k << 24 | (i - begin) << 12 | (next - begin - 1);
#endif
  }
#if DC_SMALL
  out[k] = ALL;
#endif
}

/* The smallest magnitude of a class. */
static inline int32_t base_of(unsigned class) {
  return class < 16 ? (int32_t)class : (int32_t)(4 + (class & 3)) << ((class >> 2) - 2);
}

static void read_tables(struct dc_rans *rans, arena *from, input *in) {
  uint8_t levels[TOKENS] = {0}, *stored;
  unsigned tables = byte(in), contexts, k;
  size_t mark, i;
  rans->tokens = byte(in);
  if (!tables || tables > 64 || !rans->tokens || rans->tokens > TOKENS) invalid(in);
  if (in->status) return;
  contexts = rans->gaps ? 64 : rans->neighbour_count ? CONTEXTS : SCALES;
  read_plane(from, in, contexts, 64, from->counting ? NULL : rans->contexts);
  for (k = 0; k < contexts && !in->status; k++) {
    if (rans->contexts[k] >= tables) invalid(in);
  }
#if DC_SMALL
  rans->begins = take(from, tables * (rans->tokens + 1) * sizeof *rans->begins, in);
#else
  rans->lookup = take(from, tables * ALL * sizeof *rans->lookup, in);
#endif
#if !DC_SMALL
  for (k = 0; k < TOKENS; k++) rans->numbers_of[k] = (int16_t)(k & 1 ? -base_of((k + 1) >> 1) : base_of(k >> 1));
#endif
  mark = from->used;
  stored = take_plane(from, in, tables * rans->tokens, 64);
  from->used = mark;
  in->section = 18;
  for (i = 0; i < tables && stored && !in->status; i++) {
    for (k = 0; k < rans->tokens; k++) levels[k] = (levels[k] + *stored++) & 63;
    build_table(rans, in, i, levels);
  }
}

/* Section 18 */
static void read_model(const dc_tensor *tensor, struct dc_rans *rans, arena *from, input *in) {
  unsigned lanes;
  in->section = 18;
  rans->gaps = (uint8_t)at_most(in, 1);
  rans->stream_rows = at_most(in, rans->row_count);
  lanes = byte(in);
  rans->lanes_down = lanes >> 4;
  rans->lanes_across = lanes & 15;
  rans->base = (int32_t)at_most(in, 512) - 256;
  if (!rans->stream_rows || rans->lanes_down + rans->lanes_across > 8) invalid(in);
  if (in->status) return;
  read_classes(tensor, rans, from, in);
  read_neighbours(rans, in);
  read_tables(rans, from, in);
  if (left(in)) invalid(in);
}

/* Cuts a stream of so many rows into lanes, and says how many numbers are kept. */
static size_t cut(struct dc_rans *rans, size_t rows) {
  struct neighbour *here;
  rans->rows = rows;
  rans->height = shifted_up(rows, rans->lanes_down);
  rans->width = shifted_up(rans->column_count, rans->lanes_across);
  rans->down = (uint32_t)((rows - 1) / rans->height + 1);
  rans->across = (uint32_t)((rans->column_count - 1) / rans->width + 1);
  rans->live = rans->down * rans->across;
  rans->depth = 1;
  for (here = rans->neighbours; here < rans->neighbours + rans->neighbour_count; here++) {
    if (here->rows >= rans->height || here->columns >= rans->width) continue;
    here->back = here->rows * rans->width + here->columns;
    if (rans->depth <= here->back) rans->depth = here->back + 1;
  }
  return rans->depth * rans->live;
}

static void begin_run(const struct dc_rans *rans, size_t number) {
  struct run *run = &rans->runs[number];
  run->row = rans->first_row + number / rans->across * rans->height;
  run->end_row = smaller(run->row + rans->height, rans->first_row + rans->rows);
  run->column = run->first_column = number % rans->across * rans->width;
  run->end_column = smaller(run->column + rans->width, rans->column_count);
}

/* Begins the next stream: its states, and where its lanes are. */
static void begin_stream(struct dc_rans *rans, input *in) {
  uint32_t lane, across = 1u << rans->lanes_across, state, found = 0;
  size_t length = rans->stream_rows < rans->row_count ? varint(in) : left(in);
  cut(rans, smaller(rans->stream_rows, rans->row_count - rans->first_row));
  rans->left.at = bytes(in, length);
  rans->left.end = in->at;
  if (length < (size_t)4 << (rans->lanes_down + rans->lanes_across)) invalid(in);
  for (lane = 0; lane < across << rans->lanes_down && !in->status; lane++, rans->left.at += 4) {
    state = le32(rans->left.at);
    if (lane / across < rans->down && lane % across < rans->across) rans->states[found++] = state;
    else if (state != FIRST_STATE) invalid(in);
    if (state < FIRST_STATE) invalid(in);
  }
  rans->active = rans->live;
  for (lane = 0; rans->gaps && lane < rans->live; lane++) begin_run(rans, lane);
  rans->i = rans->j = rans->slot = 0;
}

/* Ends the stream that was read, if there was one, and begins the next one. */
static int next_stream(dc_cursor *cursor, struct dc_rans *rans) {
  input in = {NULL, NULL, DC_OK, 19};
  uint32_t lane;
  for (lane = 0; lane < rans->live; lane++) {
    if (rans->states[lane] != FIRST_STATE) invalid(&in);
  }
  if (rans->left.at != rans->left.end) invalid(&in);
  in.at = rans->left.end;
  in.end = cursor->end;
  rans->first_row += rans->rows;
  if (rans->first_row < rans->row_count && !in.status) {
    begin_stream(rans, &in);
    cursor->status = in.status;
    return !in.status;
  }
  if (left(&in)) invalid(&in);
  in.section = 17;
  if (cursor->left) invalid(&in);
  cursor->status = in.status;
  return 0;
}

/* Section 17: which values the numbers stand for. */
static void read_values(dc_cursor *cursor, struct dc_rans *rans, arena *from, input *in) {
  const dc_tensor *tensor = &cursor->tensor;
  if (tensor->form == MULTIPLES) {
    read_scales(tensor, rans, from, in);
    rans->lowest = (uint32_t)-tensor->lowest;
    rans->span = (uint32_t)(tensor->highest - tensor->lowest);
    cursor->value = cursor->element;
    if (left(in)) invalid(in);
  } else {
    cursor->codebook = read_codebook(cursor, from, in, 1);
    rans->lowest = negatives(cursor);
    rans->span = (uint32_t)tensor->entries;
#if !DC_SMALL
    rans->values = values_with_zero(cursor, from, in, rans->lowest);
#endif
  }
  in->section = 17;
  if (tensor->weights < tensor->count && rans->lowest > rans->span) invalid(in); /* 0 is not among the numbers */
}

/* Memory for the lanes of any stream: the last one may have fewer rows, and yet more lanes that are not empty. */
static void take_lanes(struct dc_rans *rans, arena *from, input *in) {
  size_t last = rans->row_count % rans->stream_rows, numbers = cut(rans, rans->stream_rows), others = last ? cut(rans, last) : 0;
  rans->states = take(from, MOST_LANES * sizeof *rans->states, in);
  rans->numbers = take(from, (numbers > others ? numbers : others) * sizeof *rans->numbers, in);
  if (rans->gaps) rans->runs = take(from, ((size_t)1 << (rans->lanes_down + rans->lanes_across)) * sizeof *rans->runs, in);
  rans->group = rans->numbers;
  rans->rows = rans->live = rans->height = 0; /* and so the first stream follows */
}

static void begin_integers(dc_cursor *cursor, arena *from, input *in) {
  const dc_tensor *tensor = &cursor->tensor;
  const uint8_t *streams = in->end - tensor->weight_bytes;
  struct dc_rans counted, *rans = take(from, sizeof *rans, in);
  cursor->rans = rans;
  cursor->end = in->end;
  cursor->left = tensor->weights;
  if (in->status) return;
  if (!rans) rans = &counted;
  memset(rans, 0, sizeof *rans);
  rans->row_count = tensor->rank > 1 ? tensor->shape[0] : 1;
  rans->column_count = tensor->count / rans->row_count;
  if (rans->column_count > 0xffffffff) fail(in, DC_TOO_LARGE);
  in->end = streams - tensor->table_bytes;
  read_values(cursor, rans, from, in);
  if (in->status) return;
  in->at = in->end;
  in->end = streams;
  read_model(tensor, rans, from, in);
  if (in->status) return;
  take_lanes(rans, from, in);
  rans->left.at = rans->left.end = streams;
}

static inline unsigned bits_of_number(uint32_t number) {
#ifdef __GNUC__
  return 31 - (unsigned)__builtin_clz(number);
#else
  unsigned bits = 0;
  while (number >>= 1) bits++;
  return bits;
#endif
}

/* A state that is small takes a word. */
CALLED uint32_t refilled(words *from, uint32_t state, const int sure) {
#if !DC_SMALL
  if (sure) { /* that there are enough: no branch, which nobody could predict */
    uint32_t few = state < FIRST_STATE, word = from->at[0] | (uint32_t)from->at[1] << 8;
    from->at += 2 * few;
    return state << 16 * few | (word & (0 - few));
  }
#endif
  (void)sure;
  if (state >= FIRST_STATE) return state;
  if (from->end - from->at < 2) {
    from->missing = 1;
    return FIRST_STATE;
  }
  from->at += 2;
  return state << 16 | (uint32_t)from->at[-1] << 8 | from->at[-2];
}

/* The token that a lane has next, by the table of a context. */
CALLED unsigned next_token(const struct dc_rans *rans, words *from, uint32_t *state, unsigned context, const int sure) {
  uint32_t low = *state & (ALL - 1), high = *state >> 12;
#if DC_SMALL
  const uint16_t *begins = rans->begins + rans->contexts[context] * (rans->tokens + 1);
  unsigned token = 0, end = rans->tokens, middle;
  while (end - token > 1) {
    middle = (token + end) >> 1;
    if (begins[middle] <= low) token = middle;
    else end = middle;
  }
  *state = refilled(from, (begins[token + 1] - begins[token]) * high + low - begins[token], sure);
  return token;
#else
  uint32_t found = rans->lookup[rans->contexts[context] * ALL + low];
  *state = refilled(from, ((found & (ALL - 1)) + 1) * high + (found >> 12 & (ALL - 1)), sure);
  return found >> 24;
#endif
}

static inline int32_t number_of(const struct dc_rans *rans, unsigned token) {
#if DC_SMALL
  int32_t magnitude = base_of((token + 1) >> 1);
  (void)rans;
  return token & 1 ? -magnitude : magnitude;
#else
  return rans->numbers_of[token];
#endif
}

/* A number of 16 or more, or -16 or less, with its extra bits. */
CALLED int32_t with_extra(words *from, uint32_t *state, int32_t number, const int sure) {
  unsigned bits = bits_of_number((uint32_t)(number < 0 ? -number : number)) - 2;
  int32_t extra = (int32_t)(*state & ((1u << bits) - 1));
  *state = refilled(from, *state >> bits, sure);
  return number < 0 ? number - extra : number + extra;
}

static inline int has_extra(int32_t number) { return number >= 16 || number <= -16; }

CALLED unsigned scale_at(const struct dc_rans *rans, int32_t of_row, size_t column) {
  int32_t scale = of_row + (rans->column_classes ? rans->column_classes[column] : 0);
  return scale < 0 ? 0 : scale >= SCALES ? SCALES - 1 : (unsigned)scale;
}

static inline int32_t row_class(const struct dc_rans *rans, size_t row) {
  return rans->base + (rans->row_classes ? rans->row_classes[row] : 0);
}

/* How many of the bounds 72, 88, 112, 144, … are at most what is expected; they are 7, 9 and 11 by powers of two. */
static inline unsigned expected_scale(uint32_t expected) {
  static const uint8_t passed[8] = {0, 1, 1, 2, 2, 2, 3, 3}; /* by the three bits below the first one, in an octave */
  unsigned octave, scale;
  if (expected < 72) return 0;
  octave = bits_of_number(expected) - 3;
  scale = 3 * octave - 9 + passed[expected >> octave & 7];
  return scale < SCALES ? scale : SCALES - 1;
}

/* Of how many lanes the neighbours are summed at once. */
#if DC_SMALL
enum { AT_ONCE = 1 };
#else
enum { AT_ONCE = MOST_LANES };
#endif

/* The context by what the neighbours say: the sums of aims and sizes. */
static inline unsigned context_of(const struct dc_rans *rans, unsigned scale, int32_t aim, int32_t size) {
  uint64_t expected = rans->expected[scale] + 32 * (uint32_t)size, off = (uint64_t)512 * (uint32_t)(aim < 0 ? -aim : aim);
  return 4 * expected_scale((uint32_t)expected) + (off >= 3 * expected) + (off >= 10 * expected) + (off >= 19 * expected);
}

/* Sums of the neighbours' numbers, by aim and by size, of `count` lanes from `first` on. */
static inline void sum_neighbours(const struct dc_rans *rans, uint32_t first, uint32_t count, int32_t *aims, int32_t *sizes) {
  const struct neighbour *here;
  const int16_t *group;
  int16_t aim, size;
  uint32_t k;
  memset(aims, 0, count * sizeof *aims);
  memset(sizes, 0, count * sizeof *sizes);
  for (here = rans->neighbours; here < rans->neighbours + rans->neighbour_count; here++) {
    if (!here->group) continue;
    group = here->group + first;
    aim = here->aim;
    size = here->size;
    for (k = 0; k < count; k++) {
      aims[k] += aim * group[k];
      sizes[k] += size * (group[k] < 0 ? -group[k] : group[k]);
    }
  }
}

/* Where the neighbours of all lanes' next elements are. */
static inline void find_neighbours(struct dc_rans *rans) {
  struct neighbour *here;
  size_t slot;
  for (here = rans->neighbours; here < rans->neighbours + rans->neighbour_count; here++) {
    slot = rans->slot + (rans->slot < here->back ? rans->depth : 0) - here->back;
    here->group = here->rows > rans->i || here->columns > rans->j ? NULL : rans->numbers + slot * rans->live;
  }
}

/* The numbers of all lanes, at their next element. */
INLINED void dense_group(struct dc_rans *rans, const int sure) {
  const size_t i = rans->i, j = rans->j, live = rans->live;
  const uint32_t down = rans->down - ((rans->down - 1) * rans->height + i >= rans->rows);
  const uint32_t across = rans->across - ((rans->across - 1) * rans->width + j >= rans->column_count);
  int32_t aims[AT_ONCE], sizes[AT_ONCE], number, of_row;
  uint8_t extras[MOST_LANES];
  int16_t *group = rans->group = rans->numbers + rans->slot * live;
  uint32_t d, a, lane, found = 0;
  unsigned context, token;
  int flipped = 0;
  words from = rans->left;
  rans->group_down = down;
  rans->group_across = across;
  rans->position = (rans->first_row + i) * rans->column_count + j;
  if (down < rans->down || across < rans->across) memset(group, 0, live * sizeof *group);
  find_neighbours(rans);
  for (d = 0; d < down; d++) {
    of_row = row_class(rans, rans->first_row + d * rans->height + i);
    for (a = 0, lane = d * rans->across; a < across; a++, lane++) {
      context = scale_at(rans, of_row, a * rans->width + j);
      if (rans->neighbour_count) {
        if (lane % AT_ONCE == 0) sum_neighbours(rans, lane, AT_ONCE == 1 ? 1 : rans->live, aims, sizes);
        context = context_of(rans, context, aims[lane % AT_ONCE], sizes[lane % AT_ONCE]);
        flipped = aims[lane % AT_ONCE] < 0;
      }
      token = next_token(rans, &from, &rans->states[lane], context, sure);
      number = number_of(rans, token);
      group[lane] = (int16_t)(flipped ? -number : number);
      extras[found] = (uint8_t)lane;
      found += token >= FIRST_EXTRA;
    }
  }
  for (a = 0; a < found; a++) {
    lane = extras[a];
    group[lane] = (int16_t)with_extra(&from, &rans->states[lane], group[lane], sure);
  }
  rans->left = from;
  if (++rans->slot == rans->depth) rans->slot = 0;
  if (++rans->j < rans->width) return;
  rans->j = 0;
  if (++rans->i == rans->height) rans->active = 0;
}

/* Skips elements of a lane, and says whether it has so many. */
static inline int skip(struct run *run, size_t count) {
  size_t rest;
  while (run->row < run->end_row) {
    rest = run->end_column - run->column;
    if (count < rest) {
      run->column += count;
      return 1;
    }
    count -= rest;
    run->column = run->first_column;
    run->row++;
  }
  return !count;
}

static inline unsigned run_scale(struct dc_rans *rans, struct run *run) {
  size_t column = rans->columns ? rans->columns[run->column] : run->column;
  run->position = run->row * rans->column_count + column;
  return scale_at(rans, row_class(rans, run->row), column);
}

/* Part of a round: all lanes, one after the other, decode the token of a gap (0), its extra bits (1), the token of a weight (2),
   or its extra bits (3). Lanes that have no weight in this round have the number 0. */
INLINED void gap_phase(struct dc_rans *rans, words *from, const unsigned phase, const int sure) {
  struct run *run = rans->runs, *const end = run + rans->live;
  int16_t *number = rans->group;
  uint32_t *state = rans->states;
  unsigned token;
  int32_t gap;
  for (; run < end; run++, number++, state++) {
    if (phase < 2 ? run->row == run->end_row : !*number) {
      *number = 0;
    } else if (phase % 2 == 0) {
      token = next_token(rans, from, state, 16 * phase + run_scale(rans, run), sure);
      if (phase ? !token : token >= GAP_TOKENS) from->missing = 1, token = 0;
      *number = (int16_t)(phase ? number_of(rans, token) : base_of(token));
    } else {
      gap = *number;
      if (has_extra(gap)) gap = with_extra(from, state, gap, sure);
      *number = (int16_t)gap;
      if (phase == 3) gap = 1;
      if (!skip(run, (size_t)gap)) from->missing = 1;
      rans->active -= run->row == run->end_row;
      if (phase == 1) *number = gap < LONGEST_GAP && run->row < run->end_row;
    }
  }
}

/* A round: a gap and a weight of each lane that is not at its end. */
INLINED void gap_group(struct dc_rans *rans, const int sure) {
  words from = rans->left;
#if DC_SMALL
  unsigned phase;
  for (phase = 0; phase < 4; phase++) gap_phase(rans, &from, phase, sure);
#else
  gap_phase(rans, &from, 0, sure);
  gap_phase(rans, &from, 1, sure);
  gap_phase(rans, &from, 2, sure);
  gap_phase(rans, &from, 3, sure);
#endif
  rans->left = from;
}

/* The next number of each lane; 0 at the end of the tensor. */
static int next_group(dc_cursor *cursor) {
  struct dc_rans *rans = cursor->rans;
  int enough;
  if (!rans->active && !next_stream(cursor, rans)) return 0;
  enough = !DC_SMALL && (size_t)(rans->left.end - rans->left.at) >= (size_t)8 * rans->live;
  if (rans->gaps) {
    if (enough) gap_group(rans, 1);
    else gap_group(rans, 0);
  } else if (enough) {
    dense_group(rans, 1);
  } else {
    dense_group(rans, 0);
  }
  rans->turn = 0;
  return !rans->left.missing || stop(cursor, DC_INVALID, 19);
}

/* Where the number of a lane belongs. */
static inline size_t position_of(const struct dc_rans *rans, uint32_t lane) {
  size_t row = lane / rans->across * rans->height, column = lane % rans->across * rans->width;
  return rans->gaps ? rans->runs[lane].position : rans->position + row * rans->column_count + column;
}

static inline int step_integers(dc_cursor *cursor) {
  struct dc_rans *rans = cursor->rans;
  uint32_t lane, offset;
  int32_t number;
  for (;;) {
    while (rans->turn < rans->live) {
      lane = rans->turn++;
      number = rans->group[lane];
      if (!number) continue;
      offset = (uint32_t)number + rans->lowest;
      if (offset > rans->span || !cursor->left--) return stop(cursor, DC_INVALID, 17);
      cursor->position = position_of(rans, lane);
      if (cursor->codebook) {
        cursor->index = offset - (number > 0);
        cursor->value = cursor->codebook + cursor->index * cursor->tensor.size;
      } else {
        put_float(cursor->element, row_step(rans, cursor->position / rans->column_count) * (float)number);
      }
      return 1;
    }
    if (!next_group(cursor)) return 0;
  }
}

#if !DC_SMALL
/* The values of a group's numbers. With `size` as a constant this is several times as fast. */
INLINED int put_group(dc_cursor *cursor, uint8_t *out, const size_t size) {
  const struct dc_rans *rans = cursor->rans;
  const uint32_t lowest = rans->lowest, span = rans->span;
  const size_t to_right = rans->width * size, down = rans->height * rans->column_count;
  const int16_t *number = rans->group;
  uint32_t d, a, offset, wrong = 0;
  uint8_t *at;
  float value;
  size_t weights = 0;
  for (d = 0; d < rans->group_down; d++) {
    at = out + (rans->position + d * down) * size;
    number = rans->group + d * rans->across;
    value = cursor->codebook ? 0 : row_step(rans, (rans->position + d * down) / rans->column_count);
    for (a = 0; a < rans->group_across; a++, number++, at += to_right) {
      offset = (uint32_t)*number + lowest;
      weights += *number != 0;
      wrong |= offset > span;
      if (cursor->codebook) memcpy(at, rans->values + (offset > span ? 0 : offset) * size, size);
      else put_float(at, value * (float)*number);
    }
  }
  if (wrong || weights > cursor->left) return stop(cursor, DC_INVALID, 17);
  cursor->left -= weights;
  return 1;
}

static void read_dense(dc_cursor *cursor, uint8_t *out) {
  while (next_group(cursor)) {
    if (!(cursor->tensor.size == 4 ? put_group(cursor, out, 4) : put_group(cursor, out, cursor->tensor.size))) return;
  }
}
#endif
#endif

/* ---- A tensor, element by element and at once ---- */

static const uint8_t content_sections[] = {3, 6, 4, 3, 9, 11, 14, 13, 17};

static void begin(dc_cursor *cursor, arena *from, input *in) {
  dc_tensor *tensor = &cursor->tensor;
  while (tensor->form == REPEATED) fill(cursor->file, tensor->owner, tensor);
  in->at = tensor->section;
  in->end = in->at + tensor->section_bytes;
  in->section = 1;
  check_section(cursor->file, tensor, in);
  if (in->status) return;
  in->section = DC_HUFFMAN_ONLY ? 6 : content_sections[tensor->layout];
  cursor->value = tensor->section;
  switch (tensor->layout) {
    case PLANES:
      begin_planes(cursor, from, in, tensor->count);
      if (left(in)) invalid(in);
      cursor->value = cursor->element;
      break;
    case CODED: begin_coded(cursor, from, in); break;
#if !DC_HUFFMAN_ONLY
#if DC_ADAPTIVE
    case ADAPTIVE: begin_model(cursor, from, in); break;
#endif
#if DC_RANS
    case INTEGERS: begin_integers(cursor, from, in); break;
#endif
    case ROWS:
      begin_rows(cursor, from, in);
      cursor->value = cursor->element;
      break;
#endif
    case RAW:
    case CONSTANT: break;
#if !DC_HUFFMAN_ONLY
    default: fail(in, DC_UNSUPPORTED);
#endif
  }
}

static dc_status begin_with(dc_cursor *cursor, const dc_file *file, size_t number, arena *from) {
  input in = {NULL, NULL, DC_OK, 0};
  memset(cursor, 0, sizeof *cursor);
  cursor->file = file;
  cursor->memory = from->memory;
  cursor->memory_bytes = from->size;
  cursor->status = dc_describe(file, number, &cursor->tensor);
  if (!cursor->status) {
    begin(cursor, from, &in);
    cursor->status = in.status;
  }
  cursor->memory_used = from->most;
  return cursor->status;
}

dc_status dc_memory(const dc_file *file, size_t number, size_t *needed) {
  dc_cursor cursor;
  arena counter = {NULL, 0, 0, 0, 1};
  begin_with(&cursor, file, number, &counter);
  *needed = counter.most;
  return cursor.status;
}

dc_status dc_begin(dc_cursor *cursor, const dc_file *file, size_t number, void *memory, size_t memory_bytes) {
  arena from = {NULL, 0, 0, 0, 0};
  from.memory = memory;
  from.size = memory_bytes;
  if (!((uintptr_t)memory & 7)) return begin_with(cursor, file, number, &from);
  memset(cursor, 0, sizeof *cursor);
  return cursor->status = STATUS(DC_MEMORY, 7);
}

static inline int step_raw(dc_cursor *cursor) {
  const dc_tensor *tensor = &cursor->tensor;
  if (cursor->next == tensor->count) return 0;
  cursor->position = cursor->next++;
  if (tensor->layout == RAW) cursor->value = tensor->section + cursor->position * tensor->size;
  return 1;
}

static inline int step(dc_cursor *cursor) {
  switch (cursor->tensor.layout) {
    case PLANES: return step_planes(cursor);
    case CODED: return cursor->tensor.offset_bits ? step_offsets(cursor) : step_symbols(cursor);
#if !DC_HUFFMAN_ONLY
    case ROWS: return step_rows(cursor);
#endif
#if DC_ADAPTIVE
    case ADAPTIVE:
      if (!cursor->tensor.count) return 0;
      return cursor->tensor.flags & BY_COLUMN ? step_model(cursor, 1) : step_model(cursor, 0);
#endif
#if DC_RANS
    case INTEGERS: return step_integers(cursor);
#endif
    default: return step_raw(cursor);
  }
}

int dc_next(dc_cursor *cursor) {
  if (cursor->status || !step(cursor)) return 0;
  if (cursor->tensor.dtype == BOOL && *cursor->value > 1) return stop(cursor, DC_INVALID, 3);
  return 1;
}

dc_status dc_read(const dc_file *file, size_t number, void *out, size_t out_bytes, void *memory, size_t memory_bytes) {
  dc_cursor cursor;
  uint8_t *to = out;
  size_t size;
  dc_status status = dc_begin(&cursor, file, number, memory, memory_bytes);
  if (status) return status;
  size = cursor.tensor.size;
  if (out_bytes != cursor.tensor.count * size) return STATUS(DC_USAGE, 0);
#if !DC_SMALL
  if (cursor.tensor.layout == CODED && cursor.codebook && !cursor.tensor.offset_bits) {
    read_symbols(&cursor, to);
    return cursor.status;
  }
#endif
  memset(to, 0, out_bytes);
#if !DC_SMALL
  if (cursor.tensor.layout == CODED && cursor.codebook) {
    read_offsets(&cursor, to);
    return cursor.status;
  }
#endif
#if !DC_SMALL && DC_RANS
  if (cursor.tensor.layout == INTEGERS && !cursor.rans->gaps) {
    read_dense(&cursor, to);
    return cursor.status;
  }
#endif
  while (dc_next(&cursor)) memcpy(to + cursor.position * size, cursor.value, size);
  return cursor.status;
}

/* ---- Names ---- */

int dc_code(dc_status status) { return status >> 8; }

int dc_section(dc_status status) { return status & 255; }

#if DC_TEXTS
const char *dc_dtype_name(unsigned dtype) {
  static const char *const names[] = {
      "float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool",
#if !DC_HUFFMAN_ONLY
      "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "uint16",
      "uint32", "uint64", "complex32", "complex64", "complex128",
#endif
  };
  return dtype < DTYPES ? names[dtype] : NULL;
}

const char *dc_message(dc_status status) {
  static const char *const messages[] = {"no error",
                                         "the file breaks a rule",
                                         "the file is damaged: a checksum is wrong",
                                         "the file needs what this reader does not have",
                                         "the tensors are too large",
                                         "the memory is too small, or not aligned",
                                         "there is no such tensor, or its bytes do not fit"};
  return dc_code(status) <= DC_USAGE ? messages[dc_code(status)] : messages[DC_USAGE];
}
#endif
