/* The adapters of a batch, as the loops find them. */

#pragma once

#include "vectors.h"

#define OUT 64 /* columns of a block of a product */

/* Whether weights are bf16, and what they meet, known when it is compiled. */
#define BY_KIND(call, kind, half)     \
    switch (2 * !!kind + !!half) {    \
        case 0: { call(0, 0) } break; \
        case 1: { call(0, 1) } break; \
        case 2: { call(1, 0) } break; \
        case 3: { call(1, 1) } break; \
    }

/* Of one adapter and one linear layer, whose columns of the product's output are `width` from `start`: A [rank, in], and B
   in the product's blocks [those with columns of this layer, rank, 64], zeros where a column is not the layer's. In 8 bits B
   is in unsigned numbers around 128 and by four ranks [blocks, ceil(rank / 4), 64, 4], scale [rank] is what each rank is
   multiplied by, and sums [rank] 128 times the sum of its A. rank 0: it leaves the layer alone. */
typedef struct {
    const void *a, *b;
    const float *scale;
    const int32_t *sums;
    int32_t rank, start, width, unused;
} part_t;

/* Rows by adapter: those of group g are order[ends[g - 1]] to order[ends[g] - 1], and tables[g] are its adapter's parts,
   of all products one after another. kind: of A and B, as in vectors.h. ranks: the highest there is. */
typedef struct {
    const int32_t *ends, *order;
    const part_t *const *tables;
    int32_t rows, groups, kind, ranks;
} batch_t;

static inline int least(int one, int other) { return one < other ? one : other; }

static inline void fetch(const void *from, long bytes) {
    for (long at = 0; at < bytes; at += 64) __builtin_prefetch((const char *)from + at);
}
