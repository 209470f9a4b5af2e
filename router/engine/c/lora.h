/* What the adapters of a batch add to the products of its rows, in two parts: a thread's share of each. */

#include "vectors.h"

#define OUT 64 /* columns of a block of a product */

/* Of what kind weights are, and whether what they meet is bf16, known when it is compiled. */
#define BY_KIND(call, kind, half)     \
    switch (2 * kind + !!half) {      \
        case 0: { call(0, 0) } break; \
        case 1: { call(0, 1) } break; \
        case 2: { call(1, 0) } break; \
        case 3: { call(1, 1) } break; \
        case 4: { call(2, 0) } break; \
        case 5: { call(2, 1) } break; \
    }

/* Of one adapter and one linear layer, whose columns of the product's output are `width` from `start`: A [rank, in], and B
   in the product's blocks [those with columns of this layer, rank, 64], zeros where a column is not the layer's.
   rank 0: it leaves the layer alone. scale [rank]: what each rank is
   multiplied by, null for 1. */
typedef struct {
    const void *a, *b;
    const float *scale;
    int32_t rank, start, width, unused;
} part_t;

/* Rows by adapter: those of group g are order[ends[g - 1]] to order[ends[g] - 1], and tables[g] are its adapter's parts,
   of all products one after another. kind: of A and B, as in vectors.h. ranks: the highest there is. */
typedef struct {
    const int32_t *ends, *order;
    const part_t *const *tables;
    int32_t rows, groups, kind, ranks;
} batch_t;

/* Of x [rows, in], where a row of the batch is rows / batch.rows of them, A x for every row's own adapter to low [rows, parts,
   batch.ranks]. first, parts: those of this product in every table. */
void lower_rows(const void *x, int x_half, long rows, long in, const batch_t *batch, int first, int parts, float *low,
                long me, long threads);

/* A block of y [rows, out] += B times what lower_rows, of all threads, has found. */
void raise_rows(void *y, int y_half, long rows, long out, long block, const batch_t *batch, int first, int parts,
                const float *low);

#define CHUNK 1024 /* bytes that are fetched from memory together */

/* What raise_rows will read of B for a block, in chunks of memory; how many there are, at most `room`. */
long chunks_of_block(const char **to, long room, long block, const batch_t *batch, int first, int parts);
