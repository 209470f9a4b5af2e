/* What the adapters of a batch add to the products of its rows, in two parts: a thread's share of each. */

#include "vectors.h"

/* Of one adapter and one linear layer: A [rank, in], B [rank, width] and its first column of the product's output.
   rank 0: it leaves the layer alone. */
typedef struct {
    const void *a, *b;
    int32_t rank, start, width, unused;
} part_t;

/* Rows by adapter: those of group g are order[ends[g - 1]] to order[ends[g] - 1], and tables[g] are its adapter's parts,
   of all products one after another. half: A and B are bf16, else float32. ranks: the highest there is. */
typedef struct {
    const int32_t *ends, *order;
    const part_t *const *tables;
    int32_t rows, groups, half, ranks;
} batch_t;

/* Of x [rows, in], where a row of the batch is rows / batch.rows of them, A x for every row's own adapter to low [rows, parts,
   batch.ranks]. first, parts: those of this product in every table. */
void lower_rows(const void *x, int x_half, long rows, long in, const batch_t *batch, int first, int parts, float *low,
                long me, long threads);

/* y [rows, out] += B times what lower_rows, of all threads, has found. */
void raise_rows(void *y, int y_half, long rows, long out, const batch_t *batch, int first, int parts, const float *low,
                long me, long threads);
