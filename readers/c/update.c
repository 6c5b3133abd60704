/* Applies updates. The parts stand in the order of docs/update-format.md, and what writes a .dc file comes last.

   Tensors of the new file are made one after the other, twice: first to know what the header says of them, and then to write
   them. What is needed for one tensor alone lies in front in the caller's memory, and what is kept at its end. */

#define DC_UPDATES 1
#include "update.h"

#include "deepcompress.c"
#include "sha256.h"

extern void *memmove(void *, const void *, size_t);

#if DC_HUFFMAN_ONLY
#error "updates need the words of all versions: build update.c without DC_HUFFMAN_ONLY"
#endif

enum { KEPT_NAME = 8, NEW_NAME = 16, HEAD = 29, WINDOW = 32768 };
enum { SAME_TENSORS, RENAMED, STORED, SHARED_WEIGHTS, EXACT };       /* section 3 */
enum { BOOK_SAME, BOOK_TOLD, BOOK_MOVED, BOOK_OF_OWNER };            /* section 4 */
enum { LABELS = 1, TOLD_HEADER = 2, CHANGES_BLOCK = 1 << 16, CHUNK = 512 };

/* ---- The job ---- */

/* What is known of differences of one width (section 6): slots for all contexts, and a page of slots for each context. */
struct learned {
  struct slot *all;
  struct slot *pages[256];
  uint32_t lately;
};

/* The weights of a tensor that are not zero: a bit for each element, and the symbols in their order, from 1. */
typedef struct {
  uint8_t *bits, *symbols;
  unsigned width; /* bytes of a symbol */
  size_t size, count;
  uint32_t *marks; /* how many weights there are before each chunk, if that is asked for */
} weights;

typedef struct {
  dc_update *update;
  dc_file old;
  arena memory;
  input in;                  /* the facts, and what is wrong */
  input first_facts;         /* where the records begin, */
  const uint8_t *payloads, *first_payload, *payloads_end;
  const uint8_t *labels;     /* and where labels are told, if they are */
  dc_tensor *made;           /* tensors of the new file; `section` is where a codebook of theirs is */
  size_t count, next, decoded, limit;
  struct name name;
  struct learned *learned[4];
  int named, writing;
  uint32_t crc;              /* of what goes out: of the tensor, or of the file when it is written */
  size_t length, all_sections;
  uint8_t *block;
  size_t filled;
  sha256 hash;
} job;

static void refuse(job *job, int code, int section) {
  job->in.section = section;
  fail(&job->in, code);
}

/* Goes on with what is wrong elsewhere, if something is. */
static void pass_on(job *job, dc_status status) {
  if (status) refuse(job, dc_code(status), dc_section(status));
}

static void damaged(job *job, int section) { refuse(job, DC_INVALID, DC_OF_UPDATE | section); }

/* Takes memory that is kept until the end. */
static void *keep(job *job, size_t count) {
  arena *from = &job->memory;
  if (count > from->size || ((from->size - count) & ~(size_t)7) < from->used) {
    refuse(job, DC_MEMORY, 7);
    return NULL;
  }
  from->size = (from->size - count) & ~(size_t)7;
  return from->memory + from->size;
}

static void *zeros(job *job, size_t count) {
  void *out = take(&job->memory, count, &job->in);
  if (out) memset(out, 0, count);
  return out;
}

/* The rest of the memory, for a while. */
static arena rest_of_memory(const job *job) {
  arena rest = {NULL, 0, 0, 0, 0};
  size_t start = (job->memory.used + 7) & ~(size_t)7;
  rest.memory = job->memory.memory + start;
  if (start < job->memory.size) rest.size = job->memory.size - start;
  return rest;
}

static void note_used(job *job, size_t more) {
  more += job->memory.used + 7;
  if (job->memory.most < more) job->memory.most = more;
}

/* The next bytes of the payloads, or NULL. */
static const uint8_t *payload(job *job, size_t count) {
  const uint8_t *start = job->payloads;
  if (job->in.status) return NULL;
  if (count > (size_t)(job->payloads_end - start)) {
    damaged(job, 2);
    return NULL;
  }
  job->payloads += count;
  return start;
}

static uint32_t crc_more(uint32_t crc, const uint8_t *data, size_t count) {
  while (count--) crc = crc_of_byte(crc ^ *data++);
  return crc;
}

static void write_block(job *job) {
  if (!job->filled || job->in.status) return;
  sha256_add(&job->hash, job->block, job->filled);
  if (job->update->write(job->update->context, job->block, job->filled)) refuse(job, DC_WRITE, 0);
  job->update->new_bytes += job->filled;
  job->filled = 0;
}

/* Bytes of the new file: they are counted, or written. */
static void emit(job *job, const uint8_t *data, size_t count) {
  size_t step;
  if (job->in.status) return;
  job->crc = crc_more(job->crc, data, count);
  job->length += count;
  while (job->writing && count && !job->in.status) {
    step = job->update->block_bytes - job->filled;
    if (step > count) step = count;
    memcpy(job->block + job->filled, data, step);
    job->filled += step;
    data += step;
    count -= step;
    if (job->filled == job->update->block_bytes) write_block(job);
  }
}

/* ---- Section 3: records ---- */

typedef struct {
  unsigned op, way, shift, book_shift;
  size_t base, count, bytes, book_bytes, changed[3];
  int told;          /* whether the layout is */
  dc_tensor tensor;  /* what its layout is: the told one, or the base's */
  dc_tensor book;    /* of a told codebook */
} dc_record;

static size_t zigzag_step(input *in, size_t from) {
  size_t folded = varint(in), half = folded >> 1;
  return folded & 1 ? from - half - 1 : from + half;
}

static void read_base(job *job, dc_record *record) {
  record->base = zigzag_step(&job->in, job->next);
  if (record->base >= job->old.count) damaged(job, 3);
  job->next = record->base + 1;
}

/* A name, unless it is known already, or tensors are only counted. */
static void read_tensor_name(job *job) {
  if (job->named || !job->made) {
    varint(&job->in);
    bytes(&job->in, varint(&job->in));
    return;
  }
  name_with_prefix(&job->in, &job->memory, &job->name);
  if (job->name.bytes < 1 || job->name.bytes > 512) invalid(&job->in);
  if (!job->in.status && !is_text((const uint8_t *)job->name.text, job->name.bytes)) damaged(job, 3);
}

/* What a layout says of an earlier tensor of the new file must hold. */
static void refer_to_made(job *job, const dc_tensor *tensor) {
  const dc_tensor *earlier;
  int fits;
  if (tensor->form < SHARED || job->in.status) return;
  fits = tensor->owner < job->count;
  if (fits) {
    earlier = &job->made[tensor->owner];
    if (tensor->form == REPEATED) {
      fits = same_shape(tensor, earlier) && earlier->layout != ALIAS && (tensor->layout == ALIAS || earlier->layout != COPY);
    } else {
      fits = earlier->form < MULTIPLES && earlier->dtype == tensor->dtype && earlier->entries == tensor->entries;
    }
  }
  if (!fits) damaged(job, 3);
}

/* What a file is whose header has the words of version 3. */
static dc_file newest_format(void) {
  dc_file format;
  memset(&format, 0, sizeof format);
  format.version = 3;
  format.size = SIZE_MAX / 8;
  return format;
}

/* A layout, in the words of a header of version 3; 0 if none is told, or none is asked for. */
static int read_layout(job *job, dc_tensor *to) {
  size_t length = at_most(&job->in, 1024);
  input in = {NULL, NULL, DC_OK, 0};
  const dc_file format = newest_format();
  in.at = bytes(&job->in, length);
  if (!length || job->in.status || !job->made) return 0;
  in.end = in.at + length;
  memset(to, 0, sizeof *to);
  tensor_fields(&format, &in, to);
  if (!in.status && left(&in)) invalid(&in);
  pass_on(job, in.status);
  refer_to_made(job, to);
  return 1;
}

/* The old tensor that stores the values of another. */
static void stored_tensor(const dc_file *file, size_t number, dc_tensor *to) {
  fill(file, number, to);
  while (to->form == REPEATED) fill(file, to->owner, to);
}

static void read_book(job *job, dc_record *record) {
  const dc_file format = newest_format();
  input *in = &job->in;
  record->way = byte(in);
  if (record->way > BOOK_OF_OWNER) invalid(in);
  if (record->way == BOOK_TOLD) {
    memset(&record->book, 0, sizeof record->book);
    record->book.dtype = job->made ? record->tensor.dtype : FLOAT32;
    record->book.size = job->made ? record->tensor.size : 4;
    record->book.section_bytes = codebook_fields(&format, in, &record->book);
    if (record->book.form >= MULTIPLES) invalid(in);
    in->section = DC_OF_UPDATE | 4;
  }
  if (record->way == BOOK_MOVED) record->book_shift = (unsigned)at_most(in, 63);
  if (record->way == BOOK_TOLD || record->way == BOOK_MOVED) record->book_bytes = varint(in);
}

/* Reads a record. Without memory for tensors, only how many it makes. */
static void read_record(job *job, dc_record *record) {
  input *in = &job->in;
  unsigned k;
  memset(record, 0, sizeof *record);
  in->section = DC_OF_UPDATE | 3;
  record->op = byte(in);
  record->count = 1;
  if (record->op > EXACT) invalid(in);
  if (record->op != SAME_TENSORS) read_tensor_name(job);
  if (record->op != STORED) read_base(job, record);
  if (in->status) return;
  if (record->op == SAME_TENSORS) {
    record->count = at_most(in, job->old.count - record->base);
    if (!record->count) invalid(in);
    job->next = record->base + record->count;
  }
  if (record->op < STORED) return;
  record->told = read_layout(job, &record->tensor);
  if (in->status) return;
  if (record->op == STORED) {
    if (job->made && !record->told) invalid(in);
  } else {
    if (!record->told) stored_tensor(&job->old, record->base, &record->tensor);
    if (record->op == SHARED_WEIGHTS) read_book(job, record);
    else record->shift = (unsigned)at_most(in, 63);
    for (k = 0; k < (record->op == EXACT ? 1 : 3); k++) record->changed[k] = varint(in);
  }
  record->bytes = varint(in);
}

/* ---- Section 6: differences ---- */

enum { ANY_NEGATIVE = 8, ANY_MORE, ANY_NODE, OF_NEGATIVE = 8, OF_MORE, OF_NODE, YOUNG = 24, LEARN_LIMIT = 900 };

static struct learned *learned_of(job *job, unsigned width) {
  unsigned k = width == 1 ? 0 : width == 2 ? 1 : width == 4 ? 2 : 3, i, count = ANY_NODE + 40 * width;
  struct learned *found = job->learned[k];
  if (found || job->in.status) return found;
  found = keep(job, sizeof *found);
  if (!found) return NULL;
  memset(found, 0, sizeof *found);
  found->all = keep(job, count * sizeof *found->all);
  for (i = 0; found->all && i < count; i++) set(&found->all[i], 1u << 29, 2);
  job->learned[k] = found;
  return found;
}

/* The slots of a context. */
static struct slot *page_of(job *job, struct learned *from, unsigned context, unsigned width) {
  size_t count = (OF_NODE + 8 * width) * sizeof(struct slot);
  if (from->pages[context]) return from->pages[context];
  from->pages[context] = keep(job, count);
  if (from->pages[context]) memset(from->pages[context], 0, count);
  return from->pages[context];
}

/* A decision by one slot, which begins as its parent is, if it has one. `truncated`: what a 0 takes away is rounded down. */
static int decide_by(struct dc_model *model, struct slot *slot, struct slot *parent, int truncated) {
  uint32_t p;
  int bit, up;
  if (parent && !slot->count) set(slot, parent->value, 2);
  p = slot->value >> 14;
  bit = decode_decision(model, p ? p : 1);
  if (parent && slot->count < YOUNG) learn(parent, bit, LEARN_LIMIT);
  up = truncated && !bit && ((uint64_t)slot->value * slot->rate & 0xffff) != 0;
  learn(slot, bit, LEARN_LIMIT);
  slot->value += (uint32_t)up;
  return bit;
}

static void store(uint8_t *at, uint64_t value, unsigned width) {
  for (; width; width--, value >>= 8) *at++ = (uint8_t)value;
}

static unsigned context_of_old(uint64_t old, unsigned width) {
  return (unsigned)(width == 1 ? old & 127 : old >> (8 * width - 9) & 255);
}

/* Bits that no model codes. */
typedef struct {
  const uint8_t *bytes;
  size_t at, end; /* in bits */
} raw_bits;

/* The magnitude of a difference less 1. */
static uint64_t magnitude_of(struct dc_model *model, struct learned *from, struct slot *page, unsigned width, raw_bits *raw) {
  const unsigned bits = 8 * width;
  struct slot *top;
  uint64_t value = 1;
  unsigned node = 1, left_bits, seen, bit;
  if (!decide_by(model, &page[OF_MORE], &from->all[ANY_MORE], 0)) return 0;
  while (node < bits) {
    node = 2 * node + (unsigned)decide_by(model, &page[OF_NODE + node], &from->all[ANY_NODE + node], 0);
  }
  left_bits = node - bits;
  top = &from->all[ANY_NODE + bits + 4 * left_bits];
  for (seen = 0; left_bits && seen < 2; seen++, left_bits--) {
    bit = (unsigned)decide_by(model, top, NULL, 0);
    value = value << 1 | bit;
    top += 1 + bit;
  }
  for (; left_bits; left_bits--, raw->at++) {
    bit = raw->at < raw->end ? raw->bytes[raw->at >> 3] >> (~raw->at & 7) & 1 : 0;
    value = value << 1 | bit;
  }
  return value;
}

static void begin_decisions(struct dc_model *model, const uint8_t *start, const uint8_t *end, input *in) {
  model->at = start;
  model->end = end;
  model->state = 0;
  if (start < end && !*start) invalid(in);
  refill(model);
}

static void end_decisions(const struct dc_model *model, input *in) {
  if (model->at != model->end || model->state) invalid(in);
}

/* Makes of up to 2^16 old elements the new ones, and says how many are others. */
static size_t differ_block(job *job, uint8_t *elements, size_t count, unsigned width, unsigned shift, input *in) {
  static const uint16_t bounds[] = {80, 400, 1000, 2200, 4500, 9000, 20000};
  const uint64_t top = (uint64_t)1 << (8 * width - 1);
  struct dc_model model;
  struct slot *page;
  raw_bits raw;
  uint64_t old, m;
  unsigned level;
  struct learned *from = learned_of(job, width);
  size_t i, changed = 0, mark = job->memory.used, length = varint(in);
  const uint8_t *start = bytes(in, length);
  uint8_t *flags = zeros(job, (count + 7) / 8);
  if (job->in.status || in->status) return 0;
  begin_decisions(&model, start, start + length, in);
  raw.bytes = in->at;
  raw.at = 0;
  raw.end = 8 * left(in);
  for (i = 0; i < count; i++) {
    page = page_of(job, from, context_of_old(load(elements + i * width, width), width), width);
    if (!page) return 0;
    for (level = 0; level < 7 && bounds[level] <= (from->lately >> 6) * 64;) level++;
    if (decide_by(&model, &page[level], &from->all[level], 1)) {
      flags[i >> 3] |= (uint8_t)(1 << (i & 7));
      from->lately += (65535 - from->lately) >> 5;
      changed++;
    } else {
      from->lately -= from->lately >> 5;
    }
  }
  for (i = 0; i < count; i++) {
    if (!(flags[i >> 3] >> (i & 7) & 1)) continue;
    old = load(elements + i * width, width);
    page = from->pages[context_of_old(old, width)];
    level = (unsigned)decide_by(&model, &page[OF_NEGATIVE], &from->all[ANY_NEGATIVE], 0);
    m = magnitude_of(&model, from, page, width, &raw);
    m = (level ? ~m : m + 1) << shift;
    m += old & top ? ~(old & (top - 1)) : old;
    store(elements + i * width, m & top ? (~m & (top - 1)) | top : m & (top - 1), width);
  }
  end_decisions(&model, in);
  if (raw.at > raw.end || raw.end - raw.at > 7 || (raw.end > raw.at && raw.bytes[raw.at >> 3] & ((1u << (raw.end - raw.at)) - 1))) {
    invalid(in);
  }
  job->memory.used = mark;
  return changed;
}

/* The same of any number of elements. */
static size_t differ(job *job, uint8_t *elements, size_t count, unsigned width, unsigned shift, const uint8_t *start, size_t length) {
  size_t changed = 0, step, size;
  input in = {NULL, NULL, DC_OK, DC_OF_UPDATE | 6}, block;
  if (!start || !elements || job->in.status) return 0;
  in.at = start;
  in.end = start + length;
  for (; count && !in.status && !job->in.status; count -= step, elements += step * width) {
    step = count < CHANGES_BLOCK ? count : CHANGES_BLOCK;
    size = varint(&in);
    block = in;
    if (!bytes(&in, size)) break;
    block.at = in.at - size;
    block.end = in.at;
    changed += differ_block(job, elements, step, width, shift, &block);
    if (block.status) in.status = block.status;
  }
  if (!in.status && left(&in)) invalid(&in);
  pass_on(job, in.status);
  return changed;
}

/* ---- Section 4: symbols ---- */

static int bit_at(const weights *of, size_t i) { return of->bits[i >> 3] >> (i & 7) & 1; }

static uint32_t symbol_number(const weights *of, size_t number) {
  return of->width == 1 ? of->symbols[number] : of->symbols[2 * number] | (uint32_t)of->symbols[2 * number + 1] << 8;
}

static void set_symbol(weights *of, size_t number, uint32_t symbol) { store(of->symbols + number * of->width, symbol, of->width); }

/* How many weights there are before each chunk of elements. */
static void mark_chunks(weights *of) {
  size_t i;
  uint32_t found = 0;
  for (i = 0; i < of->size; i++) {
    if (i % CHUNK == 0) of->marks[i / CHUNK] = found;
    found += (uint32_t)bit_at(of, i);
  }
}

/* How many weights there are before an element. */
static size_t rank_of_weight(const weights *of, size_t i) {
  size_t found = of->marks[i / CHUNK], k;
  unsigned byte;
  for (k = i / CHUNK * CHUNK / 8; k < i >> 3; k++) {
    for (byte = of->bits[k]; byte; byte &= byte - 1) found++;
  }
  for (byte = of->bits[i >> 3] & ((1u << (i & 7)) - 1); byte; byte &= byte - 1) found++;
  return found;
}

static void weights_for(job *job, weights *to, size_t size, size_t count, size_t entries) {
  memset(to, 0, sizeof *to);
  to->size = size;
  to->width = entries < 256 ? 1 : 2;
  to->bits = zeros(job, size / 8 + 1);
  to->symbols = take(&job->memory, count <= size ? count * to->width : 0, &job->in);
}

/* A codebook: its entries in the order of the file, and which of them each of the sorted ones is. */
typedef struct {
  codebook book;
  uint32_t count, *order;
} ordered_book;

static void order_book(job *job, const dc_tensor *owner, ordered_book *to) {
  job->in.section = 10;
  to->book.size = owner->size;
  to->count = (uint32_t)owner->entries;
  to->book.entries = codebook_of(owner, &job->memory, &job->in, 0);
  to->order = take(&job->memory, owner->entries * sizeof *to->order, &job->in);
  if (!job->in.status) sort(to->order, to->count, compare_values, &to->book);
}

/* The ordered integer of a sorted entry. Doubles hold those of 8 bytes as the specification wants them. */
static double place_of(const ordered_book *of, uint32_t rank) {
  uint64_t bits = bits_of(&of->book, of->order[rank]), top = SIGN_BIT(of->book.size);
  return (double)(bits & top ? -1 - (int64_t)(bits & (top - 1)) : (int64_t)bits);
}

/* What is expected of each index of the old tensor: a symbol in terms of the new codebook. */
static uint16_t *expected_symbols(job *job, const dc_tensor *from, const ordered_book *old, const ordered_book *now) {
  uint16_t *become = take(&job->memory, old->count * sizeof *become, &job->in);
  uint32_t rank, k, best;
  double at, distance, least = 0;
  for (rank = 0; rank < old->count && !job->in.status; rank++) {
    best = rank;
    if (old->count != now->count) {
      at = place_of(old, rank);
      for (best = k = 0; k < now->count; k++) {
        distance = at - place_of(now, k);
        if (distance < 0) distance = -distance;
        if (!k || distance < least) best = k, least = distance;
      }
    }
    become[from->layout == CODED ? old->order[rank] : rank] = (uint16_t)(now->count ? best + 1 : 0);
  }
  return become;
}

/* One run over an old tensor: symbols one after the other, or with `marked` each where it belongs. Says if both are the same. */
static int read_weights(job *job, size_t number, const uint16_t *become, weights *to, int marked) {
  arena rest = rest_of_memory(job);
  dc_cursor cursor;
  size_t found = 0, last = 0;
  int rising = 1;
  if (job->in.status) return 1;
  dc_begin(&cursor, &job->old, number, rest.memory, rest.size);
  note_used(job, cursor.memory_used);
  while (dc_next(&cursor)) {
    if (!become[cursor.index]) continue;
    rising &= !found || cursor.position > last;
    last = cursor.position;
    to->bits[last >> 3] |= (uint8_t)(1 << (last & 7));
    set_symbol(to, marked ? rank_of_weight(to, last) : found, become[cursor.index]);
    found++;
  }
  to->count = found;
  pass_on(job, cursor.status);
  return rising;
}

static void read_expected(job *job, size_t number, const dc_tensor *from, const uint16_t *become, size_t entries, weights *to) {
  size_t mark;
  weights_for(job, to, from->count, from->weights, entries);
  if (read_weights(job, number, become, to, 0) || job->in.status) return;
  mark = job->memory.used;
  to->marks = take(&job->memory, (to->size / CHUNK + 1) * sizeof *to->marks, &job->in);
  if (!to->marks) return;
  mark_chunks(to);
  read_weights(job, number, become, to, 1);
  job->memory.used = mark;
}

/* ---- Section 5: changes ---- */

enum { BACK, FELL, MOVED, KINDS, CHANGE_INPUTS = 8, BESIDE_SLOTS = 64, FILLED_SLOTS = 25, GAP_SLOTS = 64, FAR_SLOTS = 16 };

typedef struct {
  struct dc_model *model;   /* tables, the decoder, and the matrix */
  const weights *old;
  uint32_t entries;
  size_t left[KINDS], rest[KINDS], gap, last_row, last_column, last_place;
  size_t row, column, place; /* of the element */
  uint32_t *filled;          /* classes of rows and columns */
  uint8_t *seen;             /* of each column, the element last coded: 1 if it changed, 2 if it was a weight before */
  int32_t mixes[KINDS][CHANGE_INPUTS];
  struct slot *slots[KINDS], *ups, *fars, *tree;
} changes;

static struct slot *no_slots(job *job, size_t count) { return zeros(job, count * sizeof(struct slot)); }

static size_t at_most_mask(size_t count) { return count < 65536 ? count : 65536; }

/* The model with its tables alone. */
static struct dc_model *tables_alone(job *job) {
  struct dc_model *model = zeros(job, sizeof *model);
  if (model) take_tables(model, &job->memory, &job->in);
  if (job->in.status) return NULL;
  fill_tables(model);
  return model;
}

/* How full rows and columns were: counts become classes. */
static void fill_classes(changes *to) {
  const size_t rows = to->model->row_count, columns = to->model->column_count;
  uint64_t all = to->old->count ? to->old->count : 1, share;
  size_t i;
  for (i = 0; i < to->old->size; i++) {
    if (!bit_at(to->old, i)) continue;
    to->filled[i / columns]++;
    to->filled[rows + i % columns]++;
  }
  for (i = 0; i < rows + columns; i++) {
    share = 4 * (uint64_t)to->filled[i] * (i < rows ? rows : columns) / all;
    to->filled[i] = (share >= 1) + (share >= 3) + (share >= 5) + (share >= 8);
  }
}

static void begin_changes(job *job, changes *to, const dc_tensor *tensor, const weights *old, size_t entries, const size_t *changed) {
  static const int32_t first[CHANGE_INPUTS] = {19661, 6554, 6554, 3277, 9830, 13107, 9830, 3277};
  struct dc_model *model;
  size_t count;
  unsigned k;
  memset(to, 0, sizeof *to);
  model = to->model = tables_alone(job);
  if (!model) return;
  set_matrix(tensor, model);
  to->old = old;
  to->entries = (uint32_t)entries;
  to->last_row = at_most_mask(model->row_count);
  to->last_column = to->last_row + at_most_mask(model->column_count);
  to->last_place = to->last_column + at_most_mask(model->plane_size);
  count = to->last_place + BESIDE_SLOTS + entries + 1 + FILLED_SLOTS + GAP_SLOTS;
  for (k = 0; k < KINDS; k++) {
    to->left[k] = changed[k];
    to->rest[k] = k == BACK ? old->size - old->count : old->count;
    to->slots[k] = no_slots(job, changed[k] ? count : 0);
    memcpy(to->mixes[k], first, sizeof first);
  }
  to->ups = no_slots(job, entries + 1);
  to->fars = no_slots(job, FAR_SLOTS);
  to->tree = no_slots(job, entries + 1);
  to->filled = zeros(job, (model->row_count + model->column_count) * sizeof *to->filled);
  to->seen = zeros(job, model->column_count);
  if (!job->in.status) fill_classes(to);
}

static unsigned bit_count(size_t number) {
  unsigned bits = 0;
  for (; number; number >>= 1) bits++;
  return bits;
}

/* Whether an element changed, by all that is known around it. */
static int mixed_decision(changes *of, unsigned kind, size_t i, uint32_t symbol) {
  struct dc_model *model = of->model;
  struct slot *slots[CHANGE_INPUTS], *table = of->slots[kind];
  const size_t line = model->line_size;
  int32_t logits[CHANGE_INPUTS];
  uint32_t p, start, count;
  unsigned beside = 0, k;
  int bit;
  if (of->place % line) beside |= of->seen[of->column - 1];
  if (of->place >= line) beside |= (unsigned)of->seen[of->column - line] << 2;
  if (of->row) beside |= (of->seen[of->column] & 1u) << 4;
  if (i + 1 < of->old->size) beside |= (unsigned)bit_at(of->old, i + 1) << 5;
  start = (uint32_t)(((uint64_t)of->left[kind] << 16) / of->rest[kind]);
  start = start < 1 ? 1 : start > 65535 ? 65535 : start;
  count = 65536 / (8 * (start < 32768 ? start : 65536 - start));
  count = count < 2 ? 2 : count > 300 ? 300 : count;
  slots[1] = table + (of->row & 0xffff);
  slots[2] = table + of->last_row + (of->column & 0xffff);
  slots[3] = table + of->last_column + (of->place & 0xffff);
  table += of->last_place;
  slots[4] = table + beside;
  slots[5] = table + BESIDE_SLOTS + symbol;
  table += BESIDE_SLOTS + of->entries + 1;
  slots[6] = table + 5 * of->filled[of->row] + of->filled[model->row_count + of->column];
  slots[7] = table + FILLED_SLOTS + bit_count(of->gap);
  logits[0] = stretch(model, start);
  for (k = 1; k < CHANGE_INPUTS; k++) {
    if (!slots[k]->count) set(slots[k], start << 14, count);
    logits[k] = stretch(model, slots[k]->value >> 14);
  }
  p = mix(model, of->mixes[kind], logits, CHANGE_INPUTS);
  bit = decode_decision(model, p);
  adjust(of->mixes[kind], logits, CHANGE_INPUTS, (int32_t)(bit ? 65535 - p : 0 - p), 24);
  for (k = 1; k < CHANGE_INPUTS; k++) learn(slots[k], bit, 400);
  return bit;
}

static int whether(changes *of, unsigned kind, size_t i, uint32_t symbol) {
  int bit = of->left[kind] > 0;
  if (bit && of->left[kind] < of->rest[kind]) bit = mixed_decision(of, kind, i, symbol);
  of->rest[kind]--;
  of->left[kind] -= (size_t)bit;
  if (kind == FELL && bit) of->rest[MOVED]--;
  return bit;
}

static int alone(changes *of, struct slot *slot) {
  int bit;
  if (!slot->count) set(slot, 1u << 29, 2);
  bit = decode_decision(of->model, squash(of->model, stretch(of->model, slot->value >> 14)));
  learn(slot, bit, 250);
  return bit;
}

static uint32_t moved_symbol(changes *of, uint32_t before) {
  uint32_t up = before == 1, far = 1, beyond, middle;
  if (before > 1 && before < of->entries) up = (uint32_t)alone(of, &of->ups[before]);
  beyond = up ? of->entries - before + 1 : before;
  while (beyond - far > 1) {
    middle = far < 8 ? far + 1 : (far + beyond) >> 1;
    if (alone(of, &of->fars[2 * (far < 8 ? far : 0) + up])) far = middle;
    else beyond = middle;
  }
  return up ? before + far : before - far;
}

static uint32_t symbol_come_back(changes *of) {
  uint32_t low = 0, high = of->entries, middle;
  while (high - low > 1) {
    middle = (low + high) >> 1;
    if (alone(of, &of->tree[middle])) low = middle;
    else high = middle;
  }
  return low + 1;
}

static void next_place(changes *of) {
  of->column++;
  if (++of->place == of->model->plane_size) of->place = 0;
  if (of->column < of->model->column_count) return;
  of->column = of->place = 0;
  of->row++;
}

/* Decodes elements from `i` to `end`, whose bits change in their place. */
static int decode_changes(changes *of, weights *old, weights *now, size_t *taken, size_t i, size_t end) {
  uint32_t before, after;
  int changed;
  for (; i < end; i++) {
    before = bit_at(old, i) ? symbol_number(old, (*taken)++) : 0;
    after = before;
    changed = whether(of, before ? FELL : BACK, i, before);
    if (changed) {
      after = before ? 0 : symbol_come_back(of);
    } else if (before && whether(of, MOVED, i, before)) {
      changed = 1;
      after = moved_symbol(of, before);
    }
    of->gap = changed ? 0 : of->gap + 1;
    of->seen[of->column] = (uint8_t)(changed | (before ? 2 : 0));
    next_place(of);
    if (!after != !before) old->bits[i >> 3] ^= (uint8_t)(1 << (i & 7));
    if (!after) continue;
    if (now->count == now->size) return 0;
    set_symbol(now, now->count++, after);
  }
  return 1;
}

/* Makes of the weights that are expected the new ones. */
static void change(job *job, const dc_tensor *tensor, weights *of, size_t entries, const dc_record *record) {
  const size_t *changed = record->changed;
  const uint8_t *start = payload(job, record->bytes);
  input in = {NULL, NULL, DC_OK, DC_OF_UPDATE | 5};
  weights now;
  changes state;
  size_t i, end, mark, length, taken = 0;
  if (!start) return;
  in.at = start;
  in.end = start + record->bytes;
  if (changed[BACK] > of->size - of->count || changed[FELL] > of->count || changed[MOVED] > of->count - changed[FELL] ||
      (changed[BACK] && !entries) || (changed[MOVED] && entries < 2)) {
    invalid(&in);
  }
  if (in.status || !(changed[BACK] || changed[FELL] || changed[MOVED])) {
    if (left(&in)) invalid(&in);
    pass_on(job, in.status);
    return;
  }
  now = *of;
  now.size = of->count - changed[FELL] + changed[BACK];
  now.count = 0;
  now.symbols = take(&job->memory, now.size * now.width, &job->in);
  mark = job->memory.used;
  begin_changes(job, &state, tensor, of, entries, changed);
  for (i = 0; i < of->size && !in.status && !job->in.status; i = end) {
    end = of->size - i < CHANGES_BLOCK ? of->size : i + CHANGES_BLOCK;
    length = of->size > CHANGES_BLOCK ? varint(&in) : left(&in);
    if (!bytes(&in, length)) break;
    begin_decisions(state.model, in.at - length, in.at, &in);
    if (!decode_changes(&state, of, &now, &taken, i, end)) invalid(&in);
    end_decisions(state.model, &in);
  }
  if (!in.status && (left(&in) || now.count != now.size)) invalid(&in);
  pass_on(job, in.status);
  job->memory.used = mark;
  of->symbols = now.symbols;
  of->count = now.count;
}

/* ---- Writing streams of symbols (format, section 5) ---- */

enum { OF_OFFSETS, OF_INDICES, OF_ELEMENTS, OF_BYTES };

/* Where symbols come from, one after the other. */
typedef struct {
  unsigned what;
  const weights *of;          /* offsets, indices of weights, or a symbol for each element: by the order of a codebook */
  const uint32_t *order;
  size_t filler, at, last, number;
  const uint8_t *bytes, *kinds; /* bytes of elements: those of the rows of a kind, if there are kinds */
  size_t step, row, rows, column, columns, row_bytes;
  unsigned kind;
} source;

static uint32_t next_from(source *from) {
  const weights *of = from->of;
  size_t gap;
  if (from->what == OF_BYTES) {
    if (from->column == from->columns) from->column = 0, from->row++;
    while (from->row < from->rows && from->kinds && !from->column && from->kinds[from->row] != from->kind) from->row++;
    if (from->row >= from->rows || !from->columns) return NO_SYMBOL;
    return from->bytes[from->row * from->row_bytes + from->column++ * from->step];
  }
  if (from->what == OF_INDICES) {
    return from->number == of->count ? NO_SYMBOL : from->order[symbol_number(of, from->number++) - 1];
  }
  if (from->what == OF_ELEMENTS) {
    if (from->at == of->size) return NO_SYMBOL;
    return bit_at(of, from->at++) ? 1 + from->order[symbol_number(of, from->number++) - 1] : 0;
  }
  while (from->at < of->size && !bit_at(of, from->at)) from->at++;
  if (from->at == of->size) return NO_SYMBOL;
  gap = from->at - from->last;
  if (gap >= from->filler) {
    from->last += from->filler;
    return (uint32_t)from->filler;
  }
  from->last = ++from->at;
  return (uint32_t)gap;
}

/* A stream that is to be written. */
typedef struct {
  source from;
  size_t count, alphabet, used, table_bytes, stream_bytes, lanes;
  unsigned coder, width;
  uint32_t constant;
  uint8_t *lengths;
} stream;

/* Bits from the most significant one of each byte down. Without memory they are counted. */
static void put_bits(uint8_t *out, size_t *at, uint32_t value, unsigned width) {
  while (width--) {
    if (out && value >> width & 1) out[*at >> 3] |= (uint8_t)(128 >> (*at & 7));
    ++*at;
  }
}

static size_t put_varint(uint8_t *out, size_t value) {
  size_t count = 0;
  for (; value > 127; value >>= 7, count++) {
    if (out) out[count] = (uint8_t)(value | 128);
  }
  if (out) out[count] = (uint8_t)value;
  return count + 1;
}

/* The table of a stream, into zeros, and how many bytes it has. */
static size_t put_table(const stream *of, uint8_t *out) {
  size_t start, at, i;
  unsigned before = 0, length;
  if (of->coder == SAME) return put_varint(out, of->constant);
  if (of->coder != HUFFMAN) return 0;
  start = put_varint(out, of->used);
  at = 8 * start;
  for (i = 0; i < of->used; i++, before = length) {
    length = of->lengths[i];
    if (length == before) put_bits(out, &at, 0, 1);
    else if (length == before + 1) put_bits(out, &at, 2, 2);
    else if (length + 1 == before) put_bits(out, &at, 6, 3);
    else put_bits(out, &at, 112 + length, 7);
  }
  return (at + 7) / 8;
}

typedef struct {
  const uint32_t *counts;
  const uint16_t *symbols;
} leaves;

static int compare_leaves(const void *context, uint32_t a, uint32_t b) {
  const leaves *of = context;
  uint32_t first = of->counts[of->symbols[a]], second = of->counts[of->symbols[b]];
  return first == second ? (a > b) - (a < b) : (first > second) - (first < second);
}

/* A leaf or a package: how often, and its first symbol, by which those of one count are in order. */
struct item {
  uint64_t count;
  uint16_t symbol;
};

static int comes_before(const struct item *a, const struct item *b) {
  return a->count < b->count || (a->count == b->count && a->symbol < b->symbol);
}

/* Code lengths of at most 15 bits by package-merge; `occurring` symbols have counts. */
static void code_lengths_of(job *job, const uint32_t *counts, size_t alphabet, uint32_t occurring, uint8_t *lengths) {
  const size_t mark = job->memory.used, bytes_of_level = (2 * occurring + 7) / 8;
  uint16_t *symbols = take(&job->memory, occurring * sizeof *symbols, &job->in);
  uint32_t *order = take(&job->memory, occurring * sizeof *order, &job->in);
  struct item *packages = take(&job->memory, occurring * sizeof *packages, &job->in);
  struct item *merged = take(&job->memory, 2 * occurring * sizeof *merged, &job->in);
  uint8_t *is_leaf = zeros(job, 15 * bytes_of_level), *level;
  size_t i, leaf, package, count, package_count = 0, taken;
  struct item next;
  leaves of;
  int k;
  if (job->in.status) return;
  for (i = count = 0; i < alphabet; i++) {
    if (counts[i]) symbols[count++] = (uint16_t)i;
  }
  of.counts = counts;
  of.symbols = symbols;
  sort(order, occurring, compare_leaves, &of);
  for (k = 0; k < 15; k++) {
    level = is_leaf + (size_t)k * bytes_of_level;
    for (count = leaf = package = 0; leaf < occurring || package < package_count; count++) {
      next.symbol = leaf < occurring ? symbols[order[leaf]] : 0;
      next.count = leaf < occurring ? counts[next.symbol] : UINT64_MAX;
      if (package < package_count && !comes_before(&next, &packages[package])) {
        merged[count] = packages[package++];
      } else {
        merged[count] = next;
        level[count >> 3] |= (uint8_t)(1 << (count & 7));
        leaf++;
      }
    }
    package_count = count / 2;
    for (i = 0; i < package_count; i++) {
      packages[i].count = merged[2 * i].count + merged[2 * i + 1].count;
      packages[i].symbol = merged[2 * i].symbol;
    }
  }
  taken = 2 * (occurring - 1);
  for (k = 14; k >= 0; k--) {
    level = is_leaf + (size_t)k * bytes_of_level;
    for (i = leaf = 0; i < taken; i++) {
      if (level[i >> 3] >> (i & 7) & 1) lengths[symbols[order[leaf++]]]++;
    }
    taken = 2 * (taken - leaf);
  }
  job->memory.used = mark;
}

/* How many bytes a Huffman stream has: as an encoder estimates it, by half a byte for what fills a lane. */
static size_t huffman_bytes(const stream *of, const uint32_t *counts) {
  uint64_t bits = 0;
  size_t i;
  for (i = 0; i < of->alphabet; i++) bits += (uint64_t)counts[i] * of->lengths[i];
  return (size_t)((bits + 7) / 8) + (of->lanes > 1 ? of->lanes * 5 / 2 : 0);
}

/* Chooses the coder of a stream; `allowed`: it may be Huffman. */
static void plan_stream(job *job, stream *of, const source *from, size_t alphabet, int allowed) {
  size_t mark, i, fixed;
  uint32_t *counts, symbol, occurring = 0;
  source again = *from;
  memset(of, 0, sizeof *of);
  of->from = *from;
  of->alphabet = alphabet;
  of->lengths = zeros(job, alphabet);
  mark = job->memory.used;
  counts = zeros(job, alphabet * sizeof *counts);
  if (job->in.status) return;
  while ((symbol = next_from(&again)) != NO_SYMBOL) {
    occurring += !counts[symbol]++;
    of->constant = symbol;
    of->count++;
  }
  for (of->lanes = 1; of->count >= (size_t)1 << 17 && of->lanes * 2 <= of->count / 2048;) of->lanes *= 2;
  for (of->width = 1; alphabet && (alphabet - 1) >> of->width;) of->width++;
  fixed = (size_t)(((uint64_t)of->count * of->width + 7) / 8);
  of->coder = !occurring ? NO_SYMBOLS : occurring == 1 ? SAME : FIXED;
  if (of->coder == FIXED) of->stream_bytes = fixed;
  if (of->coder == FIXED && allowed) {
    of->coder = HUFFMAN;
    code_lengths_of(job, counts, alphabet, occurring, of->lengths);
    for (i = 0; i < alphabet; i++) {
      if (of->lengths[i]) of->used = i + 1;
    }
    of->stream_bytes = huffman_bytes(of, counts);
    if (of->stream_bytes + put_table(of, NULL) >= fixed) of->coder = FIXED, of->stream_bytes = fixed;
  }
  of->table_bytes = put_table(of, NULL);
  job->memory.used = mark;
}

/* The words of the symbols, by their lengths. */
static void code_words(const stream *of, uint16_t *words) {
  uint32_t word = 0;
  unsigned length;
  size_t i;
  for (length = 1; length < 16; length++, word <<= 1) {
    for (i = 0; i < of->used; i++) {
      if (of->lengths[i] == length) words[i] = (uint16_t)word++;
    }
  }
}

/* Finds where the lanes of a Huffman stream begin, and its length. */
static void lay_lanes(stream *of, size_t *lanes, uint8_t *lengths) {
  source again = of->from;
  size_t i, at = 2 * of->lanes, size;
  uint32_t symbol;
  for (i = 0; (symbol = next_from(&again)) != NO_SYMBOL; i++) lanes[i & (of->lanes - 1)] += of->lengths[symbol];
  for (i = 0; i < of->lanes; i++) {
    size = (lanes[i] + 7) / 8;
    if (lengths) store(lengths + 2 * i, size, 2);
    lanes[i] = 8 * at;
    at += size;
  }
  of->stream_bytes = at;
}

/* The bytes of a stream; its length may be another than was estimated where there are lanes. */
static uint8_t *write_stream(job *job, stream *of) {
  uint16_t *words = zeros(job, of->coder == HUFFMAN ? 2 * of->alphabet : 0);
  size_t *lanes = zeros(job, of->lanes * sizeof *lanes), i;
  source again = of->from;
  uint8_t *out;
  uint32_t symbol;
  if (job->in.status || of->coder < FIXED) return NULL;
  if (of->coder == HUFFMAN && of->lanes > 1) lay_lanes(of, lanes, NULL);
  out = zeros(job, of->stream_bytes);
  if (!out) return NULL;
  if (of->coder == FIXED) {
    while ((symbol = next_from(&again)) != NO_SYMBOL) put_bits(out, lanes, symbol, of->width);
    return out;
  }
  if (of->lanes > 1) {
    memset(lanes, 0, of->lanes * sizeof *lanes);
    lay_lanes(of, lanes, out);
  }
  code_words(of, words);
  for (i = 0; (symbol = next_from(&again)) != NO_SYMBOL; i++) {
    put_bits(out, &lanes[i & (of->lanes - 1)], words[symbol], of->lengths[symbol]);
  }
  return out;
}

static void emit_table(job *job, const stream *of) {
  size_t mark = job->memory.used;
  uint8_t *out = zeros(job, of->table_bytes);
  if (out) put_table(of, out);
  emit(job, out, of->table_bytes);
  job->memory.used = mark;
}

static void emit_stream(job *job, stream *of) {
  size_t mark = job->memory.used;
  uint8_t *out = write_stream(job, of);
  if (out) emit(job, out, of->stream_bytes);
  job->memory.used = mark;
}

/* A plane (format, section 6). */
static void emit_plane(job *job, const source *from, size_t alphabet) {
  size_t mark = job->memory.used;
  stream of;
  uint8_t *out, head[12];
  plan_stream(job, &of, from, alphabet, 1);
  out = write_stream(job, &of);
  if (of.coder < FIXED) of.stream_bytes = 0;
  head[0] = (uint8_t)of.coder;
  emit(job, head, 1 + put_varint(head + 1, of.table_bytes + of.stream_bytes));
  emit_table(job, &of);
  if (out) emit(job, out, of.stream_bytes);
  job->memory.used = mark;
}

/* ---- Writing sections of shared weights ---- */

/* The section of layout 2 behind its codebook; `values` are literal weights. */
static void emit_coded(job *job, dc_tensor *tensor, const weights *of, const uint32_t *order, const uint8_t *values) {
  const unsigned offset = tensor->offset_coder, coder = tensor->weight_coder;
  const int allowed = (offset != FIXED && coder != FIXED) || offset == HUFFMAN || coder == HUFFMAN;
  const size_t mark = job->memory.used;
  stream offsets, symbols;
  source from;
  size_t i;
  memset(&from, 0, sizeof from);
  memset(&offsets, 0, sizeof offsets);
  memset(&symbols, 0, sizeof symbols);
  from.of = of;
  from.order = order;
  from.what = tensor->offset_bits ? OF_OFFSETS : OF_ELEMENTS;
  from.filler = ((size_t)1 << tensor->offset_bits) - 1;
  if (tensor->offset_bits) plan_stream(job, &offsets, &from, from.filler + 1, allowed);
  if (tensor->offset_bits) from.what = OF_INDICES;
  if (!values) plan_stream(job, &symbols, &from, tensor->entries + !tensor->offset_bits, allowed);
  tensor->weights = of->count;
  tensor->offset_coder = (uint8_t)offsets.coder;
  tensor->weight_coder = (uint8_t)(values ? LITERAL : symbols.coder);
  tensor->fillers = offsets.count - (tensor->offset_bits ? of->count : 0);
  tensor->table_bytes = offsets.table_bytes + symbols.table_bytes;
  emit_table(job, &offsets);
  emit_table(job, &symbols);
  tensor->offset_bytes = job->length;
  emit_stream(job, &offsets);
  tensor->weight_bytes = job->length;
  tensor->offset_bytes = job->length - tensor->offset_bytes;
  if (!values) emit_stream(job, &symbols);
  for (i = 0; values && i < of->size; i++) {
    if (bit_at(of, i)) emit(job, values + i * tensor->size, tensor->size);
  }
  tensor->weight_bytes = job->length - tensor->weight_bytes;
  job->memory.used = mark;
}

#if DC_ADAPTIVE
/* What is told of the decisions of layout 5 while its symbols are coded: those from `from` up to `to` are kept. */
struct recorder {
  const weights *of;
  uint32_t *decisions;
  size_t number, from, to, *ends, blocks; /* of decisions; and where blocks end */
  size_t last, rank;                      /* an element, and how many weights there are before it */
};

static int record(struct recorder *recorder, uint32_t p, int bit) {
  size_t number = recorder->number++;
  if (number >= recorder->from && number < recorder->to) recorder->decisions[number - recorder->from] = p << 1 | (uint32_t)bit;
  return bit;
}

static uint32_t wanted_at(struct recorder *recorder, size_t position) {
  if (!bit_at(recorder->of, position)) return 0;
  return symbol_number(recorder->of, rank_of_weight(recorder->of, position));
}

static void end_block(struct recorder *recorder) {
  recorder->ends[recorder->blocks++] = recorder->number;
}

/* Codes the tensor from its beginning, up to decision `to`; says how much memory the model took. */
static size_t play(job *job, const dc_tensor *tensor, const uint8_t *sorted, struct recorder *recorder) {
  const size_t mark = job->memory.used;
  input nothing = {NULL, NULL, DC_OK, 11};
  size_t used;
  dc_cursor cursor;
  memset(&cursor, 0, sizeof cursor);
  cursor.tensor = *tensor;
  cursor.codebook = sorted;
  recorder->number = recorder->blocks = 0;
  start_model(&cursor, &job->memory, &nothing);
  pass_on(job, nothing.status);
  used = job->memory.used;
  if (!job->in.status && tensor->count) {
    cursor.model->recorder = recorder;
    if (tensor->flags & BY_COLUMN) {
      while (recorder->number < recorder->to && step_model(&cursor, 1)) continue;
    } else {
      while (recorder->number < recorder->to && step_model(&cursor, 0)) continue;
    }
  }
  job->memory.used = mark;
  return used;
}

/* The bytes of decisions, the last one first, in front of `out`; returns where they begin. */
static uint8_t *give(const uint32_t *decisions, size_t count, uint64_t *state, uint8_t *out) {
  uint32_t p, width;
  unsigned bit;
  uint64_t x = *state;
  while (count--) {
    p = decisions[count] >> 1;
    bit = decisions[count] & 1;
    width = bit ? p : 65536 - p;
    for (; x >= (uint64_t)width << 16; x >>= 8) *--out = (uint8_t)x;
    x = (x / width << 16) + x % width + (bit ? 65536 - p : 0);
  }
  *state = x;
  return out;
}

/* The section of layout 5 behind its codebook. The stream is made from its end; where memory does not hold all decisions, the
   model runs again for each part of them. */
static void emit_adaptive(job *job, dc_tensor *tensor, weights *of, const uint8_t *sorted) {
  const size_t mark = job->memory.used, blocks = tensor->count / BLOCK + 1;
  struct recorder recorder;
  size_t total, start, room, end, length, used, k;
  uint8_t *out, *floor, head[10];
  uint64_t state = 0;
  memset(&recorder, 0, sizeof recorder);
  of->marks = take(&job->memory, (of->size / CHUNK + 1) * sizeof *of->marks, &job->in);
  recorder.ends = take(&job->memory, blocks * sizeof *recorder.ends, &job->in);
  tensor->weights = of->count;
  tensor->weight_bytes = 0;
  if (job->in.status || !tensor->count) {
    job->memory.used = mark;
    return;
  }
  mark_chunks(of);
  recorder.of = of;
  recorder.from = recorder.to = SIZE_MAX;
  used = play(job, tensor, sorted, &recorder);
  total = recorder.number;
  k = recorder.blocks;
  floor = job->memory.memory + ((used + 7) & ~(size_t)7);
  out = job->memory.memory + job->memory.size;
  recorder.decisions = (uint32_t *)(void *)floor;
  for (end = total;; k--) {
    uint8_t *const block_end = out;
    start = k ? recorder.ends[k - 1] : 0;
    while (end > start && !job->in.status) {
      if ((size_t)(out - floor) < 1024) {
        refuse(job, DC_MEMORY, 7);
        break;
      }
      room = ((size_t)(out - floor) - 16) / 6; /* 4 bytes for each decision, and 2 at most for what it becomes */
      recorder.to = end;
      recorder.from = end - start > room ? end - room : start;
      play(job, tensor, sorted, &recorder);
      out = give(recorder.decisions, end - recorder.from, &state, out);
      length = used + 8 + 4 * (end - recorder.from) + job->memory.size - (size_t)(out - job->memory.memory);
      if (job->memory.most < length) job->memory.most = length;
      end = recorder.from;
    }
    if (job->in.status) break;
    for (; state; state >>= 8) *--out = (uint8_t)state;
    if (tensor->count > BLOCK) {
      length = put_varint(head, (size_t)(block_end - out));
      out -= length;
      memcpy(out, head, length);
    }
    if (!k) break;
  }
  length = job->memory.size - (size_t)(out - job->memory.memory);
  tensor->weight_bytes = length;
  emit(job, out, length);
  job->memory.used = mark;
}
#endif

/* The bytes of a codebook as it is stored. */
static size_t book_bytes(const dc_tensor *book) {
  size_t not_zero, span;
  if (book->form < 2) return book->entries * (book->form ? 2 : book->size);
  span = grid_span(book, &not_zero);
  return (book->form == 2 ? 4 : 2) + (not_zero == book->entries ? 0 : (span + 7) / 8);
}

/* A codebook with room behind it: bits of a grid's mask are read 4 bytes at once, and an update has none behind its end. */
static const uint8_t *with_room(job *job, const dc_tensor *book) {
  uint8_t *out = book->form > 1 ? zeros(job, book->section_bytes + 4) : NULL;
  if (!out || job->in.status) return book->section;
  memcpy(out, book->section, book->section_bytes);
  return out;
}

/* The codebook of a new tensor, whose fields the tensor gets if it stores it. */
static void find_book(job *job, dc_record *record, const dc_tensor *owner, dc_tensor *book) {
  dc_tensor *tensor = &record->tensor;
  uint8_t *moved;
  size_t size;
  if (record->way == BOOK_OF_OWNER) {
    if (tensor->form != SHARED) damaged(job, 4);
    if (!job->in.status) *book = job->made[tensor->owner];
    return;
  }
  *book = *owner;
  if (record->way == BOOK_TOLD) {
    *book = record->book;
    book->section = payload(job, record->book_bytes);
    if (record->book_bytes != book->section_bytes) damaged(job, 4);
  } else if (record->way == BOOK_MOVED) {
    size = owner->form == 1 ? 2 : owner->size;
    moved = keep(job, owner->entries * size);
    if (owner->form > 1) damaged(job, 4);
    if (job->in.status) return;
    memcpy(moved, owner->section, owner->entries * size);
    differ(job, moved, owner->entries, (unsigned)size, record->book_shift, payload(job, record->book_bytes), record->book_bytes);
    book->section = moved;
  }
  if (record->way != BOOK_TOLD && tensor->dtype != owner->dtype) damaged(job, 4);
  tensor->form = book->form;
  tensor->entries = book->entries;
  tensor->lowest = book->lowest;
  tensor->highest = book->highest;
  tensor->owner = job->count;
}

/* A tensor told by the symbols of an old one. */
static void make_shared(job *job, dc_record *record) {
  dc_tensor *tensor = &record->tensor, from, owner, book;
  ordered_book old, now;
  uint16_t *become;
  weights found;
  stored_tensor(&job->old, record->base, &from);
  owner = from;
  if (from.form == SHARED) fill(&job->old, from.owner, &owner);
  if (owner.form > 4 || from.weight_coder == LITERAL || tensor->weight_coder == LITERAL || tensor->form == NONE ||
      tensor->form == MULTIPLES || tensor->form == REPEATED || from.count != tensor->count) {
    damaged(job, 4);
  } else if (tensor->layout == INTEGERS || (!DC_ADAPTIVE && tensor->layout == ADAPTIVE)) {
    refuse(job, DC_UNSUPPORTED, DC_OF_UPDATE | 4);
  }
  if (job->in.status) return;
  check_section(&job->old, &owner, &job->in);
  find_book(job, record, &owner, &book);
  if (job->in.status) return;
  tensor->section = book.section;
  book.section_bytes = book_bytes(&book);
  if (tensor->form != SHARED) emit(job, book.section, book.section_bytes);
  book.section = with_room(job, &book);
  order_book(job, &owner, &old);
  order_book(job, &book, &now);
  if (job->in.status) return;
  become = expected_symbols(job, &from, &old, &now);
  read_expected(job, record->base, &from, become, now.count, &found);
  if (job->in.status) return;
  job->in.section = DC_OF_UPDATE | 3;
  change(job, tensor, &found, now.count, record);
  if (tensor->layout == CODED) {
    emit_coded(job, tensor, &found, now.order, NULL);
#if DC_ADAPTIVE
  } else {
    emit_adaptive(job, tensor, &found, codebook_of(&book, &job->memory, &job->in, 1));
#endif
  }
}

/* ---- Tensors told by their elements ---- */

/* The elements of an old tensor. */
static uint8_t *old_elements(job *job, size_t number, const dc_tensor *from) {
  uint8_t *out = zeros(job, from->count * from->size);
  arena rest = rest_of_memory(job);
  dc_cursor cursor;
  if (job->in.status) return NULL;
  dc_begin(&cursor, &job->old, number, rest.memory, rest.size);
  note_used(job, cursor.memory_used);
  while (dc_next(&cursor)) memcpy(out + cursor.position * from->size, cursor.value, from->size);
  pass_on(job, cursor.status);
  return out;
}

static void emit_planes(job *job, const dc_tensor *tensor, source *from) {
  const uint8_t *elements = from->bytes;
  unsigned k;
  for (k = 0; k < tensor->size; k++) {
    from->bytes = elements + k;
    emit_plane(job, from, 256);
  }
  from->bytes = elements;
}

/* The kind of a row (format, section 14). */
static uint8_t kind_of(const dc_tensor *tensor, const uint8_t *row, size_t bytes_of_row) {
  const unsigned size = tensor->size;
  uint64_t used = 0;
  uint8_t kind = 1;
  size_t i;
  int same = 1;
  for (i = 0; i < bytes_of_row; i++) same &= row[i] == row[i % size];
  if (same) return 0;
  if (tensor->dtype != FLOAT32 && tensor->dtype != 3) return kind;
  for (i = 0; i < bytes_of_row; i += size) used |= load(row + i, size);
  if (!(used & (size == 4 ? 0x1fff : 0x1fffffff))) kind = 2;
  if (!(used & (size == 4 ? 0xffff : ((uint64_t)1 << 42) - 1))) kind = 3;
  return kind;
}

static void emit_rows(job *job, const dc_tensor *tensor, source *from) {
  const size_t rows = tensor->shape[0];
  uint8_t *kinds = take(&job->memory, rows, &job->in);
  source all;
  size_t i, of_kind[4] = {0};
  if (!kinds) return;
  for (i = 0; i < rows; i++) of_kind[kinds[i] = kind_of(tensor, from->bytes + i * from->row_bytes, from->row_bytes)]++;
  for (i = 0; i < 4; i++) {
    if (of_kind[i] == rows) damaged(job, 3);
  }
  memset(&all, 0, sizeof all);
  all.what = OF_BYTES;
  all.bytes = kinds;
  all.rows = 1;
  all.columns = rows;
  all.step = 1;
  emit_plane(job, &all, 16);
  from->kinds = kinds;
  for (from->kind = 0; from->kind < 4; from->kind++) {
    from->columns = from->kind ? from->row_bytes / tensor->size : 1;
    if (of_kind[from->kind]) emit_planes(job, tensor, from);
  }
}

static void make_exact(job *job, dc_record *record) {
  dc_tensor *tensor = &record->tensor, from;
  const unsigned width = tensor->size < 8 ? tensor->size : 8;
  const int literal = tensor->layout == CODED && tensor->weight_coder == LITERAL;
  uint8_t *elements;
  source all;
  weights found;
  size_t i;
  stored_tensor(&job->old, record->base, &from);
  if (!literal && tensor->layout != RAW && tensor->layout != PLANES && tensor->layout != CONSTANT && tensor->layout != ROWS) {
    damaged(job, 3);
  }
  if ((from.size < 8 ? from.size : 8) != width || from.count * from.size != tensor->count * tensor->size) damaged(job, 3);
  elements = old_elements(job, record->base, &from);
  if (job->in.status) return;
  i = tensor->count * tensor->size / width;
  if (differ(job, elements, i, width, record->shift, payload(job, record->bytes), record->bytes) != record->changed[0]) damaged(job, 6);
  if (job->in.status) return;
  memset(&all, 0, sizeof all);
  all.what = OF_BYTES;
  all.bytes = elements;
  all.step = tensor->size;
  all.rows = tensor->layout == ROWS ? tensor->shape[0] : 1;
  all.columns = tensor->count / all.rows;
  all.row_bytes = all.columns * tensor->size;
  if (literal) {
    weights_for(job, &found, tensor->count, 0, 0);
    if (job->in.status) return;
    for (i = 0; i < tensor->count; i++) {
      if (is_zero(elements + i * tensor->size, tensor->size)) continue;
      found.bits[i >> 3] |= (uint8_t)(1 << (i & 7));
      found.count++;
    }
    emit_coded(job, tensor, &found, NULL, elements);
  } else if (tensor->layout == ROWS) {
    emit_rows(job, tensor, &all);
  } else if (tensor->layout == PLANES) {
    emit_planes(job, tensor, &all);
  } else {
    emit(job, elements, tensor->layout == CONSTANT ? tensor->size : all.row_bytes);
  }
}

/* ---- Tensors ---- */

static void add(job *job, const dc_tensor *tensor) {
  const uint64_t size = (uint64_t)tensor->count * tensor->size;
  dc_tensor *to;
  if (job->in.status) return;
  if (size > job->limit - job->decoded) refuse(job, DC_TOO_LARGE, DC_OF_UPDATE | 8);
  if (tensor->form >= SHARED && tensor->owner >= job->count) damaged(job, 3);
  if (job->in.status) return;
  job->decoded += (size_t)size;
  to = &job->made[job->count++];
  *to = *tensor;
  to->checksum = ~job->crc;
  to->section_bytes = job->length;
  job->all_sections += job->length;
}

static void begin_section(job *job) {
  job->length = 0;
  if (!job->writing) job->crc = 0xffffffff;
}

static void make_old(job *job, size_t number, const char *name, size_t name_bytes) {
  dc_tensor tensor;
  fill(&job->old, number, &tensor);
  job->in.section = 1;
  check_section(&job->old, &tensor, &job->in);
  begin_section(job);
  emit(job, tensor.section, tensor.section_bytes);
  if (name) tensor.name = name, tensor.name_bytes = name_bytes;
  if (tensor.form < SHARED) tensor.owner = job->count;
  add(job, &tensor);
}

static void make_tensor(job *job, dc_record *record) {
  dc_tensor *tensor = &record->tensor;
  const char *name = job->named ? job->made[job->count].name : job->name.text;
  size_t name_bytes = job->named ? job->made[job->count].name_bytes : job->name.bytes;
  if (record->op == RENAMED) {
    make_old(job, record->base, name, name_bytes);
    return;
  }
  if ((uint64_t)tensor->count * tensor->size > job->limit - job->decoded) refuse(job, DC_TOO_LARGE, DC_OF_UPDATE | 8);
  if (job->in.status) return;
  begin_section(job);
  tensor->name = name;
  tensor->name_bytes = name_bytes;
  if (record->op == SHARED_WEIGHTS) {
    make_shared(job, record);
  } else if (record->op == EXACT) {
    make_exact(job, record);
  } else {
    if (tensor->section_bytes != record->bytes) damaged(job, 3);
    tensor->section = payload(job, record->bytes);
    emit(job, tensor->section, record->bytes);
    if (tensor->form < SHARED) tensor->owner = job->count;
  }
  add(job, tensor);
}

/* All tensors, one after the other. */
static void make_tensors(job *job) {
  dc_record record;
  size_t mark, i;
  job->in = job->first_facts;
  job->payloads = job->first_payload;
  job->count = job->next = job->decoded = job->all_sections = 0;
  job->name.text = "";
  job->name.bytes = 0;
  memset(job->learned, 0, sizeof job->learned);
  while (left(&job->in) && !job->in.status) {
    read_record(job, &record);
    mark = job->memory.used;
    for (i = 0; record.op == SAME_TENSORS && i < record.count && !job->in.status; i++) make_old(job, record.base + i, NULL, 0);
    if (record.op != SAME_TENSORS && !job->in.status) make_tensor(job, &record);
    job->in.section = DC_OF_UPDATE | 3;
    job->memory.used = mark;
  }
  if (!job->in.status && job->payloads != job->payloads_end) damaged(job, 2);
}

static int compare_made(const void *context, uint32_t a, uint32_t b) {
  const dc_tensor *first = (const dc_tensor *)context + a, *second = (const dc_tensor *)context + b;
  size_t shorter = first->name_bytes < second->name_bytes ? first->name_bytes : second->name_bytes;
  int order = memcmp(first->name, second->name, shorter);
  return order ? order : (first->name_bytes > second->name_bytes) - (first->name_bytes < second->name_bytes);
}

/* No two tensors have one name. */
static void check_names(job *job) {
  const size_t mark = job->memory.used;
  uint32_t *order = take(&job->memory, job->count * sizeof *order, &job->in);
  if (job->in.status || sort(order, (uint32_t)job->count, compare_made, job->made) < job->count) damaged(job, 3);
  job->memory.used = mark;
}

/* ---- Writing the header (format, sections 1 to 4, 9, 10 and 13) ---- */

/* Bytes that grow in the rest of the memory. */
typedef struct {
  job *job;
  uint8_t *start;
  size_t count;
} growing;

static growing grow(job *job) {
  growing out = {NULL, NULL, 0};
  out.job = job;
  out.start = job->memory.memory + job->memory.used;
  return out;
}

static void put_bytes(growing *to, const void *data, size_t count) {
  job *job = to->job;
  if (job->in.status) return;
  if (count > job->memory.size - job->memory.used) {
    refuse(job, DC_MEMORY, 7);
    return;
  }
  memcpy(to->start + to->count, data, count);
  to->count += count;
  job->memory.used += count;
  note_used(job, 0);
}

static void put_byte(growing *to, unsigned value) {
  uint8_t byte = (uint8_t)value;
  put_bytes(to, &byte, 1);
}

static void put_number(growing *to, size_t value) {
  uint8_t bytes[10];
  put_bytes(to, bytes, put_varint(bytes, value));
}

static void put_signed(growing *to, int32_t value) { put_number(to, value < 0 ? 2 * (size_t)(-1 - value) + 1 : 2 * (size_t)value); }

static void put_le32(growing *to, uint32_t value) {
  uint8_t bytes[4];
  store(bytes, value, 4);
  put_bytes(to, bytes, 4);
}

/* Four bits, and a number; in version 3 one of 15 and more is in a byte of its own. */
static void put_kind(growing *to, unsigned high, unsigned number) {
  put_byte(to, high << 4 | (number < 15 ? number : 15));
  if (number >= 15) put_byte(to, number);
}

static void put_codebook(growing *to, const dc_tensor *tensor, unsigned version) {
  put_number(to, tensor->entries);
  if (tensor->form == SHARED) put_number(to, tensor->owner + (version > 1 ? SHARED : 1));
  else put_number(to, version > 1 ? tensor->form : 0);
  if (tensor->form < 2 || tensor->form == SHARED) return;
  put_signed(to, tensor->lowest);
  put_signed(to, tensor->highest);
  if (tensor->form == MULTIPLES) put_number(to, tensor->section_bytes - tensor->table_bytes - tensor->weight_bytes);
}

static void put_tensor(growing *to, const dc_tensor *tensor, unsigned version, int checked) {
  size_t k;
  if (version > 1) {
    put_kind(to, (unsigned)tensor->rank, tensor->dtype);
    put_kind(to, tensor->flags, tensor->layout);
  } else {
    put_byte(to, (unsigned)tensor->layout << 4 | tensor->dtype);
    put_number(to, tensor->rank);
  }
  for (k = 0; k < tensor->rank; k++) put_number(to, tensor->shape[k]);
  if (tensor->layout == PLANES || tensor->layout == ROWS) put_number(to, tensor->section_bytes);
  if (tensor->form == REPEATED) put_number(to, tensor->owner);
  if (tensor->form != NONE && tensor->form != REPEATED) {
    put_codebook(to, tensor, version);
    put_number(to, tensor->weights);
    if (tensor->layout == CODED) {
      put_byte(to, tensor->offset_bits);
      put_byte(to, (unsigned)tensor->offset_coder << 4 | tensor->weight_coder);
    }
    if (tensor->layout == ADAPTIVE && tensor->flags & SQUARE) put_number(to, tensor->side);
    if (tensor->layout != ADAPTIVE) put_number(to, tensor->table_bytes);
    put_number(to, tensor->weight_bytes);
    if (tensor->layout == CODED && tensor->offset_bits) {
      put_number(to, tensor->fillers);
      put_number(to, tensor->offset_bytes);
    }
  }
  if (checked && tensor->form != REPEATED) put_le32(to, tensor->checksum);
}

static void put_name(growing *to, const dc_tensor *tensor, const dc_tensor *before, int in_line) {
  size_t shared = 0;
  if (!in_line) {
    while (before && shared < tensor->name_bytes && shared < before->name_bytes && tensor->name[shared] == before->name[shared]) shared++;
    put_number(to, shared);
    put_number(to, tensor->name_bytes - shared);
  }
  put_bytes(to, tensor->name + shared, tensor->name_bytes - shared);
  if (in_line) put_byte(to, '\n');
}

/* Network, data and extensions: those of the old file, or told ones, whose extensions have no flags. */
static void put_labels(growing *to) {
  job *job = to->job;
  input in = {NULL, NULL, DC_OK, 2};
  size_t bytes_of_text, count;
  const uint8_t *start;
  const int told = job->labels != NULL;
  in.at = told ? job->labels : (const uint8_t *)job->old.network;
  in.end = told ? job->first_facts.at : job->old.header_end;
  start = in.at;
  if (!told) {
    put_number(to, job->old.network_bytes);
    in.at += job->old.network_bytes;
  } else {
    text(&in, &bytes_of_text);
  }
  text(&in, &bytes_of_text);
  count = at_most(&in, 255);
  put_bytes(to, start, (size_t)(in.at - start));
  while (count-- && !in.status) {
    start = in.at;
    if (told) put_byte(to, 0);
    else byte(&in);
    text(&in, &bytes_of_text);
    bytes(&in, varint(&in));
    put_bytes(to, start, (size_t)(in.at - start));
  }
}

static growing header_body(job *job, unsigned version, int checked, int in_lines) {
  growing out = grow(job);
  size_t i;
  put_labels(&out);
  put_number(&out, job->count);
  for (i = 0; version > 1 && i < job->count; i++) put_name(&out, &job->made[i], i ? &job->made[i - 1] : NULL, in_lines);
  for (i = 0; i < job->count; i++) {
    if (version == 1) put_name(&out, &job->made[i], i ? &job->made[i - 1] : NULL, 0);
    put_tensor(&out, &job->made[i], version, checked);
  }
  return out;
}

/* The code of a length or a distance, in steps of `step` codes for each extra bit, less its base; and its extra bits. */
static unsigned deflate_code_of(unsigned value, unsigned step, unsigned *extra) {
  unsigned bits = 0;
  while (value >> bits >= 2 * step) bits++;
  *extra = bits;
  return step * bits + (value >> bits);
}

struct choice {
  uint16_t bits, length, distance; /* bits of all from here on; no distance: a literal */
};

typedef struct {
  growing out;
  uint32_t held;
  unsigned bits;
} upward_bits;

static void put_upward(upward_bits *to, uint32_t value, unsigned count) {
  to->held |= value << to->bits;
  to->bits += count;
  for (; to->bits >= 8; to->bits -= 8, to->held >>= 8) put_byte(&to->out, to->held & 255);
}

static void put_word(upward_bits *to, unsigned word, unsigned count) {
  while (count--) put_upward(to, word >> count & 1, 1);
}

/* A literal, the end or a length, in the fixed code. */
static void put_symbol(upward_bits *to, unsigned symbol) {
  if (symbol < 144) put_word(to, 0x30 + symbol, 8);
  else if (symbol < 256) put_word(to, 0x190 + symbol - 144, 9);
  else if (symbol < 280) put_word(to, symbol - 256, 7);
  else put_word(to, 0xc0 + symbol - 280, 8);
}

static unsigned length_code(unsigned length, unsigned *extra) {
  *extra = 0;
  return length == 258 ? 28 : deflate_code_of(length - 3, 4, extra);
}

static uint8_t window_at(const growing *body, size_t i) {
  return i < DICTIONARY ? (uint8_t)dictionary[i] : body->start[i - DICTIONARY];
}

/* Of all ways to cut the rest into literals and matches, one of the fewest bits. */
static void choose_match(const growing *body, size_t at, struct choice *best) {
  const size_t end = DICTIONARY + body->count, most = end - at < 258 ? end - at : 258;
  struct choice *here = &best[at - DICTIONARY];
  unsigned extra, more, all, code;
  size_t from, length, longest = 2;
  here->bits = (uint16_t)(here[1].bits + (window_at(body, at) < 144 ? 8 : 9));
  here->length = 1;
  here->distance = 0;
  for (from = at; from-- > 0 && longest < most;) {
    if (window_at(body, from + longest) != window_at(body, at + longest)) continue;
    for (length = 0; length < most && window_at(body, from + length) == window_at(body, at + length);) length++;
    if (length <= longest) continue;
    deflate_code_of((unsigned)(at - from - 1), 2, &more);
    while (longest < length) {
      code = length_code((unsigned)++longest, &extra);
      all = (code < 23 ? 7 : 8) + extra + 5 + more + here[longest].bits;
      if (all >= here->bits) continue;
      here->bits = (uint16_t)all;
      here->length = (uint16_t)longest;
      here->distance = (uint16_t)(at - from);
    }
  }
}

/* A deflated header (format, section 9): one block of fixed codes, as section 3 wants it. */
static growing deflate(job *job, const growing *body) {
  struct choice *best = take(&job->memory, (body->count + 1) * sizeof *best, &job->in);
  upward_bits bits = {{NULL, NULL, 0}, 0, 0};
  unsigned extra, code;
  size_t at;
  bits.out = grow(job);
  if (job->in.status) return bits.out;
  best[body->count].bits = 7;
  for (at = DICTIONARY + body->count; at-- > DICTIONARY;) choose_match(body, at, best);
  put_upward(&bits, 3, 3); /* the last block, of type 1 */
  for (at = 0; at < body->count && !job->in.status; at += best[at].length) {
    if (!best[at].distance) {
      put_symbol(&bits, body->start[at]);
      continue;
    }
    code = length_code(best[at].length, &extra);
    put_symbol(&bits, 257 + code);
    put_upward(&bits, (best[at].length - 3u) & ((1u << extra) - 1), extra);
    code = deflate_code_of(best[at].distance - 1u, 2, &extra);
    put_word(&bits, code, 5);
    put_upward(&bits, (best[at].distance - 1u) & ((1u << extra) - 1), extra);
  }
  put_symbol(&bits, 256);
  if (bits.bits) put_byte(&bits.out, bits.held & 255);
  return bits.out;
}

/* The bytes before the first section, at the front of the memory that is free. */
static growing pack_header(job *job, unsigned version, int checked) {
  const size_t mark = job->memory.used;
  growing body = header_body(job, version, checked, version > 1), packed = {NULL, NULL, 0}, out;
  size_t end, length = body.count;
  uint8_t bytes[10];
  int deflated = 0;
  if (version > 1 && length <= 4096) {
    packed = deflate(job, &body);
    deflated = packed.count + put_varint(bytes, length) < length;
  }
  if (!deflated) {
    packed = body;
    if (version > 2) packed = header_body(job, version, checked, 0);
  }
  out = grow(job);
  put_bytes(&out, "\x89" "DC", 3);
  put_byte(&out, version);
  if (version > 1) put_byte(&out, (unsigned)deflated | (unsigned)checked << 1);
  put_number(&out, packed.count);
  if (deflated) put_number(&out, length);
  put_bytes(&out, packed.start, packed.count);
  if (checked && !job->in.status) put_le32(&out, dc_crc32(out.start, out.count));
  end = job->memory.used;
  if (!job->in.status) memmove(job->memory.memory + mark, out.start, out.count);
  out.start = job->memory.memory + mark;
  job->memory.used = job->in.status ? end : mark + out.count;
  return out;
}

/* The first version that has all of a tensor. */
static unsigned version_of(const dc_tensor *tensor) {
  if (tensor->dtype > BOOL || tensor->layout > ADAPTIVE) return 3;
  if (tensor->layout > ALIAS) return 2;
  return tensor->layout == CODED && tensor->form > 0 && tensor->form < MULTIPLES ? 2 : 1;
}

static growing make_header(job *job) {
  const size_t mark = job->memory.used;
  unsigned version = 1, other;
  growing out;
  size_t i;
  for (i = 0; i < job->count; i++) {
    other = version_of(&job->made[i]);
    if (version < other) version = other;
  }
  out = pack_header(job, version, version == 1);
  if (version == 1 || out.count + job->all_sections + 4 <= 65536) return out;
  job->memory.used = mark;
  return pack_header(job, version, 1);
}

/* ---- Sections 1 and 2: the file ---- */

/* Counts the tensors of the records, and makes room for them. */
static void count_tensors(job *job) {
  dc_record record;
  const size_t mark = job->memory.used;
  size_t count = 0;
  job->name.text = "";
  while (left(&job->in) && !job->in.status) {
    read_record(job, &record);
    count += record.count;
    job->memory.used = mark;
    if (count > MOST_TENSORS) damaged(job, 3);
  }
  job->made = take(&job->memory, count * sizeof *job->made, &job->in);
}

/* Reads the beginning of the facts, and how many tensors they tell; returns the told header, or NULL. */
static const uint8_t *read_facts(job *job, size_t *header_bytes) {
  input payloads = job->in, packed;
  size_t length, stored, bytes_of_text, flags, count;
  const uint8_t *old_start = job->old.bytes, *old_end;
  uint8_t *facts, *header = NULL;
  payloads.section = DC_OF_UPDATE | 2;
  length = at_most(&payloads, (size_t)1 << 26);
  stored = at_most(&payloads, (size_t)1 << 26);
  packed = payloads;
  job->in.status = payloads.status;
  job->in.at = bytes(&payloads, stored ? stored : length);
  if (payloads.status) return pass_on(job, payloads.status), NULL;
  job->first_payload = job->payloads = payloads.at;
  job->in.end = payloads.at;
  if (stored) {
    packed.end = payloads.at;
    facts = take(&job->memory, length, &job->in);
    if (!facts) return NULL;
    inflate(&packed, facts, length);
    if (packed.status) return refuse(job, DC_INVALID, DC_OF_UPDATE | 2), NULL;
    job->in.at = facts;
    job->in.end = facts + length;
  }
  job->in.section = DC_OF_UPDATE | 3;
  flags = byte(&job->in);
  if (flags > (LABELS | TOLD_HEADER)) invalid(&job->in);
  if (flags & LABELS) {
    job->labels = job->in.at;
    text(&job->in, &bytes_of_text);
    text(&job->in, &bytes_of_text);
    for (count = at_most(&job->in, 255); count && !job->in.status; count--) {
      text(&job->in, &bytes_of_text);
      bytes(&job->in, varint(&job->in));
    }
  }
  if (flags & TOLD_HEADER) {
    *header_bytes = at_most(&job->in, (size_t)1 << 26);
    if (!*header_bytes) invalid(&job->in);
    packed.at = payload(job, length = varint(&job->in));
    if (job->in.status) return NULL;
    packed.end = packed.at + length;
    packed.status = DC_OK;
    old_end = job->old.count ? job->old.entries[0].section : job->old.bytes + job->old.size - 4;
    if (old_end - old_start > WINDOW) old_start = old_end - WINDOW;
    header = take(&job->memory, *header_bytes, &job->in);
    if (header) inflate_after(&packed, old_start, (size_t)(old_end - old_start), header, *header_bytes);
    if (packed.status) refuse(job, DC_INVALID, DC_OF_UPDATE | 3);
  }
  job->first_payload = job->payloads;
  job->first_facts = job->in;
  count_tensors(job);
  return header;
}

static void open_old(job *job) {
  size_t needed;
  void *memory;
  pass_on(job, dc_open_memory(job->update->old, job->update->old_bytes, &needed));
  memory = job->in.status ? NULL : take(&job->memory, needed, &job->in);
  if (!memory) return;
  pass_on(job, dc_open(&job->old, job->update->old, job->update->old_bytes, job->limit, memory, needed));
}

/* The new file of kind 1. */
static void build(job *job) {
  size_t header_bytes = 0;
  const uint8_t *header;
  growing made;
  uint8_t crc[4];
  open_old(job);
  if (job->in.status) return;
  header = read_facts(job, &header_bytes);
  if (job->in.status) return;
  if (!header) {
    const size_t end = job->memory.size;
    make_tensors(job);
    job->memory.size = end;
    check_names(job);
    if (job->in.status) return;
    job->named = 1;
    made = make_header(job);
    header = made.start;
    header_bytes = made.count;
  }
  if (job->in.status) return;
  job->writing = 1;
  job->crc = 0xffffffff;
  emit(job, header, header_bytes);
  make_tensors(job);
  check_names(job);
  store(crc, ~job->crc, 4);
  emit(job, crc, 4);
}

/* Whether the update is for this old file. */
static dc_status check_old(const dc_update *update) {
  const uint8_t *bytes = update->update;
  uint8_t digest[SHA256_BYTES];
  sha256 hash;
  if (update->update_bytes < HEAD || (le32(bytes) & 0xffffff) != 0x504489) return STATUS(DC_INVALID, DC_OF_UPDATE | 1);
  if (bytes[3] != 1) return STATUS(DC_UNSUPPORTED, DC_OF_UPDATE | 1);
  sha256_begin(&hash);
  sha256_add(&hash, update->old, update->old_bytes);
  sha256_end(&hash, digest);
  if (memcmp(digest, bytes + 4, KEPT_NAME)) {
    return STATUS(memcmp(digest, bytes + 12, NEW_NAME) ? DC_OTHER_FILE : DC_APPLIED, DC_OF_UPDATE | 1);
  }
  if (bytes[28] > 2) return STATUS(DC_INVALID, DC_OF_UPDATE | 1);
  return bytes[28] == 2 ? STATUS(DC_CHECKPOINT, DC_OF_UPDATE | 7) : DC_OK;
}

static size_t limit_of(const dc_update *update) {
  const size_t least = (size_t)1 << 28, files = update->old_bytes + update->update_bytes;
  if (update->limit) return update->limit;
  return files > SIZE_MAX / 1024 ? SIZE_MAX : files * 1024 < least ? least : files * 1024;
}

dc_status dc_apply(dc_update *update, void *memory, size_t memory_bytes) {
  const uint8_t *bytes = update->update;
  uint8_t digest[SHA256_BYTES];
  job job;
  dc_status status = check_old(update);
  if (status) return status;
  if ((uintptr_t)memory & 7) return STATUS(DC_MEMORY, 7);
  if (!update->block_bytes) return STATUS(DC_USAGE, 0);
  memset(&job, 0, sizeof job);
  job.update = update;
  job.limit = limit_of(update);
  job.memory.memory = memory;
  job.memory.size = memory_bytes & ~(size_t)7;
  job.in.at = bytes + HEAD;
  job.in.end = job.payloads_end = bytes + update->update_bytes;
  job.block = keep(&job, update->block_bytes);
  update->new_bytes = 0;
  sha256_begin(&job.hash);
  if (!job.in.status && bytes[HEAD - 1] == 0) {
    job.writing = 1;
    emit(&job, job.in.at, update->update_bytes - HEAD);
  } else if (!job.in.status) {
    build(&job);
  }
  write_block(&job);
  if (job.in.status) return job.in.status;
  update->memory_used = job.memory.most + memory_bytes - job.memory.size; /* what is kept may have come after the most */
  if (update->memory_used > memory_bytes) update->memory_used = memory_bytes;
  sha256_end(&job.hash, digest);
  return memcmp(digest, bytes + 12, NEW_NAME) ? STATUS(DC_DAMAGED, DC_OF_UPDATE | 1) : DC_OK;
}

#if DC_TEXTS
const char *dc_update_message(dc_status status) {
  switch (dc_code(status)) {
    case DC_OTHER_FILE: return "the update is for another file";
    case DC_APPLIED: return "the update is already applied: this is the new file";
    case DC_CHECKPOINT: return "this is an update of a checkpoint, which `deepcompress patch` applies";
    case DC_WRITE: return "the new file cannot be written";
    default: break;
  }
  if (dc_section(status) < DC_OF_UPDATE) return dc_message(status);
  if (dc_code(status) == DC_DAMAGED) return "it does not give the file that it names: the update is damaged";
  if (status == STATUS(DC_INVALID, DC_OF_UPDATE | 1)) return "this is no update";
  if (dc_code(status) == DC_INVALID) return "the update is damaged";
  if (status == STATUS(DC_UNSUPPORTED, DC_OF_UPDATE | 1)) return "this reader applies version 1 of updates; `deepcompress patch` may know this one";
  if (status == STATUS(DC_UNSUPPORTED, DC_OF_UPDATE | 4)) return "it tells a tensor in a layout that this reader does not write; `deepcompress patch` does";
  return dc_message(status);
}
#endif
