/* Rows and adapters in 8 bits: what products and what adapters add to them share. */

#pragma once

#include "lora.h"

#ifdef __AVX512VNNI__

#include <immintrin.h>

static inline __m512i four(const void *from) {
    int32_t found;
    memcpy(&found, from, sizeof found);
    return _mm512_set1_epi32(found);
}

/* One row x [in] as unsigned numbers around 128, filled up with 128; its scale, which is its largest over 127, or NaN where
   one of them is. */
__attribute__((always_inline)) static inline float shorten(const void *x, long at, const int half, long in, long stride,
                                                           uint8_t *to) {
    float most = 1e-12f;
    int odd = 0;
#pragma omp simd reduction(max : most) reduction(| : odd)
    for (long i = 0; i < in; i++) {
        const float size = fabsf(load_one(x, at + i, half));
        most = size > most ? size : most;
        odd |= size != size;
    }
    const float by = odd ? NAN : most / 127;
#pragma omp simd
    for (long i = 0; i < in; i++) to[i] = (int)rintf(load_one(x, at + i, half) / by) + 128;
    for (long i = in; i < stride; i++) to[i] = 128;
    return by;
}

/* A thread's share of x [rows, in], each row to `stride` bytes of `to` and its scale to `by`. */
static inline void shorten_rows(const void *x, int half, long rows, long in, long stride, uint8_t *to, float *by, long me,
                                long threads) {
    for (long r = rows * me / threads; r < rows * (me + 1) / threads; r++)
        by[r] = half ? shorten(x, r * in, 1, in, stride, to + r * stride) : shorten(x, r * in, 0, in, stride, to + r * stride);
}

/* What a row has of one layer's ranks: each times 32512 over the largest as 256 times one digit plus another, the digits of
   four ranks and then the others; what a digit of B in unsigned numbers is too much; and what their products are to be
   multiplied by. Whoever calls gives LOW(ranks) bytes for each row and part. */
typedef struct {
    float scale;
    int32_t begin;
    int8_t digits[][2][4];
} low_t;
#define LOW(ranks) (sizeof(low_t) + 8L * (((ranks) + 3) / 4))

/* Of rows x [rows, stride] that are shortened by by [rows], where a row of the batch is rows / batch.rows of them, A x for
   every row's own adapter to low [rows, parts]. first, parts: those of this product in every table. */
void lower_eight_bits(const uint8_t *x, long stride, const float *by, long rows, long in, const batch_t *batch, int first,
                      int parts, char *low, long me, long threads);

/* A block of y [rows, out] += B times what lower_eight_bits, of all threads, has found. */
void raise_eight_bits(float *y, long rows, long out, long block, const batch_t *batch, int first, int parts,
                      const char *low);

/* What raise_eight_bits will read of B for a block, in pieces of so many bytes; how many there are, at most `room`. */
long pieces_of_b(const char **to, long room, long bytes, long block, const batch_t *batch, int first, int parts);

#endif
