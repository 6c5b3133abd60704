/* SHA-256 (FIPS 180-4), for update.c and for the program that says what a file holds. */

#ifndef DEEPCOMPRESS_SHA256_H
#define DEEPCOMPRESS_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32 };

typedef struct {
  uint32_t state[8];
  uint8_t block[64];
  uint64_t count;
} sha256;

static uint32_t sha256_turned(uint32_t x, unsigned n) { return x >> n | x << (32 - n); }

static void sha256_block(uint32_t state[8], const uint8_t *block) {
  static const uint32_t k[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
      0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
      0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
      0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
      0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
      0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  uint32_t w[16], s[8], one, two;
  unsigned i, j;
  for (i = 0; i < 8; i++) s[i] = state[i];
  for (i = 0; i < 64; i++) {
    if (i < 16) {
      w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    } else {
      one = w[(i + 1) & 15];
      two = w[(i + 14) & 15];
      w[i & 15] += (sha256_turned(one, 7) ^ sha256_turned(one, 18) ^ one >> 3) + w[(i + 9) & 15] +
                   (sha256_turned(two, 17) ^ sha256_turned(two, 19) ^ two >> 10);
    }
    one = s[7] + (sha256_turned(s[4], 6) ^ sha256_turned(s[4], 11) ^ sha256_turned(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
          k[i] + w[i & 15];
    two = (sha256_turned(s[0], 2) ^ sha256_turned(s[0], 13) ^ sha256_turned(s[0], 22)) +
          ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
    for (j = 7; j > 0; j--) s[j] = s[j - 1];
    s[4] += one;
    s[0] = one + two;
  }
  for (i = 0; i < 8; i++) state[i] += s[i];
}

static void sha256_begin(sha256 *hash) {
  static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  unsigned i;
  for (i = 0; i < 8; i++) hash->state[i] = first[i];
  hash->count = 0;
}

static void sha256_add(sha256 *hash, const uint8_t *data, size_t count) {
  for (; count; count--) {
    hash->block[hash->count++ & 63] = *data++;
    if (!(hash->count & 63)) sha256_block(hash->state, hash->block);
  }
}

static void sha256_end(sha256 *hash, uint8_t digest[SHA256_BYTES]) {
  static const uint8_t one = 0x80, zero = 0;
  uint64_t bits = hash->count * 8;
  uint8_t byte;
  int i;
  sha256_add(hash, &one, 1);
  while ((hash->count & 63) != 56) sha256_add(hash, &zero, 1);
  for (i = 56; i >= 0; i -= 8) {
    byte = (uint8_t)(bits >> i);
    sha256_add(hash, &byte, 1);
  }
  for (i = 0; i < SHA256_BYTES; i++) digest[i] = (uint8_t)(hash->state[i / 4] >> (24 - i % 4 * 8));
}

#endif
