#include "lenet5.h"

extern void *memcpy(void *, const void *, size_t);
extern void *memset(void *, int, size_t);

/* What a layer is: 1 x 1 kernels over 1 x 1 pixels make a fully connected one. */
typedef struct {
  const char *weight, *bias;
  size_t weight_bytes, bias_bytes; /* of the names */
  size_t inputs, outputs, kernel, side; /* channels, and pixels of a side of the output */
} layer;

static const layer conv1 = {"conv1.weight", "conv1.bias", 12, 10, 1, 20, 5, 24};
static const layer conv2 = {"conv2.weight", "conv2.bias", 12, 10, 20, 50, 5, 8};
static const layer fc1 = {"fc1.weight", "fc1.bias", 10, 8, 800, 500, 1, 1};
static const layer fc2 = {"fc2.weight", "fc2.bias", 10, 8, 500, DIGITS, 1, 1};

static float value_of(const dc_cursor *cursor) {
  float value;
  memcpy(&value, cursor->value, sizeof value); /* both are little-endian */
  return value;
}

/* Adds a weight times the part of the input that it sees to its output channel. `at` is its place in the weight tensor. */
static void add_weight(const layer *l, size_t at, float weight, const float *in, float *out) {
  size_t kernel = l->kernel, side = l->side, in_side = side + kernel - 1, x, y;
  size_t kx = at % kernel, ky = at / kernel % kernel, input = at / (kernel * kernel) % l->inputs;
  in += (input * in_side + ky) * in_side + kx;
  out += at / (kernel * kernel * l->inputs) * side * side;
  for (y = 0; y < side; y++, in += in_side, out += side) {
    for (x = 0; x < side; x++) out[x] += weight * in[x];
  }
}

static void add_bias(const layer *l, size_t at, float bias, float *out) {
  size_t k;
  for (k = 0; k < l->side * l->side; k++) out[at * l->side * l->side + k] += bias;
}

/* Runs a layer: its weights come one by one, in whatever order the file has them, and the zeros do not come at all. */
static dc_status run(const dc_file *file, const layer *l, const float *in, float *out, void *memory, size_t memory_bytes) {
  dc_cursor cursor;
  dc_status status;
  memset(out, 0, l->outputs * l->side * l->side * sizeof *out);
  status = dc_begin(&cursor, file, dc_find(file, l->weight, l->weight_bytes), memory, memory_bytes);
  if (status) return status;
  if (cursor.tensor.count != l->outputs * l->inputs * l->kernel * l->kernel || cursor.tensor.dtype != 0) return DC_USAGE << 8;
  while (dc_next(&cursor)) add_weight(l, cursor.position, value_of(&cursor), in, out);
  if (cursor.status) return cursor.status;
  status = dc_begin(&cursor, file, dc_find(file, l->bias, l->bias_bytes), memory, memory_bytes);
  if (status) return status;
  if (cursor.tensor.count != l->outputs || cursor.tensor.dtype != 0) return DC_USAGE << 8;
  while (dc_next(&cursor)) add_bias(l, cursor.position, value_of(&cursor), out);
  return cursor.status;
}

/* The largest of each 2 x 2 pixels, in place. */
static void pool(const layer *l, float *values) {
  size_t half = l->side / 2, channel, x, y;
  const float *at = values;
  for (channel = 0; channel < l->outputs; channel++, at += l->side * l->side) {
    for (y = 0; y < half; y++) {
      for (x = 0; x < half; x++) {
        const float *four = at + 2 * y * l->side + 2 * x;
        float top = four[0] > four[1] ? four[0] : four[1];
        float below = four[l->side] > four[l->side + 1] ? four[l->side] : four[l->side + 1];
        *values++ = top > below ? top : below;
      }
    }
  }
}

dc_status lenet5(const dc_file *file, const float *image, float logits[DIGITS], uint64_t memory[LENET5_MEMORY / 8]) {
  enum { FIRST = 20 * 24 * 24, POOLED = 20 * 12 * 12, BOTH = POOLED + 50 * 8 * 8 }; /* floats */
  float *a = (float *)memory, *b = a + POOLED;
  size_t k;
  dc_status status = run(file, &conv1, image, a, a + FIRST, LENET5_MEMORY - FIRST * sizeof *a);
  if (status) return status;
  pool(&conv1, a);
  status = run(file, &conv2, a, b, a + BOTH, LENET5_MEMORY - BOTH * sizeof *a);
  if (status) return status;
  pool(&conv2, b);
  status = run(file, &fc1, b, a, a + BOTH, LENET5_MEMORY - BOTH * sizeof *a);
  if (status) return status;
  for (k = 0; k < fc1.outputs; k++) a[k] = a[k] > 0 ? a[k] : 0;
  return run(file, &fc2, a, logits, a + BOTH, LENET5_MEMORY - BOTH * sizeof *a);
}
