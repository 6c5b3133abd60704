/* LeNet-5 (LeCun et al. 1998, in its Caffe form) straight from a .dc file: no weight is ever stored outside of it. */

#ifndef LENET5_H
#define LENET5_H

#include "deepcompress.h"

enum { SIDE = 28, DIGITS = 10 };

/* Bytes of memory: activations, and behind them what the decoder of the layer's weights needs. */
enum { LENET5_MEMORY = 70144 };

/* `image` has SIDE * SIDE pixels from 0 to 1, row by row; `logits` gets one number for each digit. */
dc_status lenet5(const dc_file *file, const float *image, float logits[DIGITS], uint64_t memory[LENET5_MEMORY / 8]);

#endif
