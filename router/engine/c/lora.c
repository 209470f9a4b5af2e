/* What the adapters of a batch add to the products of its rows. Sums are always of the same parts in the same order,
   whatever the number of threads. */

#include "lora.h"

#define ROWS 4      /* of a tile: rows that share what is read of A or B, */
#define RANKS 4     /* and ranks that share what is read of a row */

/* low[row][0 to 3] = A[0 to 3] x[row], where row r of x begins at from[r]. Meanwhile as much is fetched from `next`. */
#define BEGIN4(r) wide_t s##r##0 = zero, s##r##1 = zero, s##r##2 = zero, s##r##3 = zero;
#define STEP4(r)                                           \
    {                                                      \
        const wide_t inputs = load(x, from[r] + i, x_half); \
        s##r##0 += w0 * inputs, s##r##1 += w1 * inputs;    \
        s##r##2 += w2 * inputs, s##r##3 += w3 * inputs;    \
    }
#define END4(r) low[r][0] = sum(s##r##0), low[r][1] = sum(s##r##1), low[r][2] = sum(s##r##2), low[r][3] = sum(s##r##3);
#define LOWER4(rows)                                                                                                  \
    __attribute__((always_inline)) static inline void lower4_##rows(                                                  \
        const int kind, const int x_half, const void *a, const void *next, const void *x, const long *from, long in,  \
        float *const *low) {                                                                                          \
        const wide_t zero = {0};                                                                                      \
        long i = 0;                                                                                                   \
        ROWS##rows(BEGIN4) for (; i + LANES <= in; i += LANES) {                                                      \
            const wide_t w0 = load(a, i, kind), w1 = load(a, in + i, kind), w2 = load(a, 2 * in + i, kind),           \
                         w3 = load(a, 3 * in + i, kind);                                                              \
            for (int j = 0; j < bytes_of(kind); j++)                                                                  \
                __builtin_prefetch((const char *)next + 4 * i * bytes_of(kind) + 64 * j);                             \
            ROWS##rows(STEP4)                                                                                         \
        }                                                                                                             \
        ROWS##rows(END4) for (; i < in; i++) for (int r = 0; r < rows; r++) for (int k = 0; k < 4; k++)               \
            low[r][k] += load_one(a, k * in + i, kind) * load_one(x, from[r] + i, x_half);                            \
    }
LOWER4(1) LOWER4(2) LOWER4(3) LOWER4(4)

/* The same of A[0] alone, for the ranks that are over. */
__attribute__((always_inline)) static inline void lower1(const int kind, const int x_half, const void *a, const void *x,
                                                         long from, long in, float *low) {
    wide_t sums = {0};
    long i = 0;
    for (; i + LANES <= in; i += LANES) sums += load(a, i, kind) * load(x, from + i, x_half);
    *low = sum(sums);
    for (; i < in; i++) *low += load_one(a, i, kind) * load_one(x, from + i, x_half);
}

static void lower(int ranks, int rows, int kind, int x_half, const void *a, const void *next, const void *x,
                  const long *from, long in, float *const *low) {
#define ONE(kind, x_half) lower1(kind, x_half, a, x, from[r], in, low[r]);
#define FOUR(kind, x_half)                                          \
    switch (rows) {                                                 \
        case 1: lower4_1(kind, x_half, a, next, x, from, in, low); break; \
        case 2: lower4_2(kind, x_half, a, next, x, from, in, low); break; \
        case 3: lower4_3(kind, x_half, a, next, x, from, in, low); break; \
        case 4: lower4_4(kind, x_half, a, next, x, from, in, low); break; \
    }
    if (ranks == 4) {
        BY_KIND(FOUR, kind, x_half)
    } else
        for (int r = 0; r < rows; r++) {
            BY_KIND(ONE, kind, x_half)
        }
#undef ONE
#undef FOUR
}

/* y[row] += sum over ranks of low[row][rank] B[rank], for a block of B, where the columns of row r of y begin at to[r]. */
#define BEGIN(r)                                                                                            \
    wide_t s##r##0 = load(y, to[r], y_half), s##r##1 = load(y, to[r] + 16, y_half), s##r##2 = load(y, to[r] + 32, y_half), \
           s##r##3 = load(y, to[r] + 48, y_half);
#define STEP(r)                                                   \
    {                                                             \
        const float by = low[r][k];                               \
        s##r##0 += w0 * by, s##r##1 += w1 * by, s##r##2 += w2 * by, s##r##3 += w3 * by; \
    }
#define END(r)                                                                     \
    store(y, to[r], y_half, s##r##0), store(y, to[r] + 16, y_half, s##r##1);       \
    store(y, to[r] + 32, y_half, s##r##2), store(y, to[r] + 48, y_half, s##r##3);
#define RAISE(rows)                                                                                                   \
    __attribute__((always_inline)) static inline void raise##rows(const int kind, const int y_half, const void *b,    \
                                                                  int rank, const float *const *low, void *y,         \
                                                                  const long *to) {                                   \
        ROWS##rows(BEGIN) for (long k = 0; k < rank; k++) {                                                           \
            const wide_t w0 = load(b, k * OUT, kind), w1 = load(b, k * OUT + 16, kind),                               \
                         w2 = load(b, k * OUT + 32, kind), w3 = load(b, k * OUT + 48, kind);                          \
            ROWS##rows(STEP)                                                                                          \
        }                                                                                                             \
        ROWS##rows(END)                                                                                               \
    }
RAISE(1) RAISE(2) RAISE(3) RAISE(4)

/* The same of `columns` columns of the block, from `at`. */
__attribute__((always_inline)) static inline void raise_some(const int kind, const int y_half, int rows, const void *b,
                                                             long at, int columns, int rank, const float *const *low,
                                                             void *y, const long *to) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            float found = load_one(y, to[r] + c, y_half);
            for (long k = 0; k < rank; k++) found = fmaf(load_one(b, k * OUT + at + c, kind), low[r][k], found);
            store_one(y, to[r] + c, y_half, found);
        }
}

/* B of the layer's columns in a block that has some. */
static inline const void *block_of(const part_t *part, long block, int kind) {
    return (const char *)part->b + (block - part->start / OUT) * part->rank * OUT * bytes_of(kind);
}

/* Tiles of one part for the rows of a group. */
static long tiles(const batch_t *batch, int group, int part, long time) {
    const int rank = batch->tables[group][part].rank;
    const long rows = (batch->ends[group] - (group ? batch->ends[group - 1] : 0)) * time;
    return (rank / RANKS + rank % RANKS) * ((rows + ROWS - 1) / ROWS);
}

static void lower_rows(const void *x, int x_half, long rows, long in, const batch_t *batch, int first, int parts, float *low,
                long me, long threads) {
    const long time = rows / batch->rows, wide = (long)parts * batch->ranks;
    long job = 0, jobs = 0;
    for (int g = 0; g < batch->groups; g++)
        for (int p = 0; p < parts; p++) jobs += tiles(batch, g, first + p, time);
    for (int g = 0; g < batch->groups; g++) {
        const int begin = g ? batch->ends[g - 1] : 0;
        const long count = (batch->ends[g] - begin) * time;
        for (int p = 0; p < parts; p++) {
            const part_t *part = batch->tables[g] + first + p;
            for (int k = 0, ranks; k < part->rank; k += ranks) {
                ranks = part->rank - k < RANKS ? 1 : RANKS;
                const char *a = (const char *)part->a + k * in * bytes_of(batch->kind);
                const char *then = a + ranks * in * bytes_of(batch->kind);
                if (k + ranks == part->rank && p + 1 < parts) then = part[1].a;
                else if (k + ranks == part->rank && g + 1 < batch->groups) then = batch->tables[g + 1][first].a;
                for (long n = 0; n < count; n += ROWS) {
                    if (job++ * threads / jobs != me) continue;
                    const int some = least(ROWS, count - n);
                    long from[ROWS];
                    float *to[ROWS];
                    for (int r = 0; r < some; r++) {
                        const long row = batch->order[begin + (n + r) / time] * time + (n + r) % time;
                        from[r] = row * in;
                        to[r] = low + row * wide + p * batch->ranks + k;
                    }
                    lower(ranks, some, batch->kind, x_half, a, n + ROWS < count ? a : then, x, from, in, to);
                }
            }
        }
    }
}

/* Part `p` of every table to a block of y, where a row of y is `out` long, one of low `wide`, and one of the batch `time`. */
__attribute__((always_inline)) static inline void raise_part(const int kind, const int y_half, void *y, long out, long block,
                                                             const batch_t *batch, int p, const float *low, long wide,
                                                             long time) {
    const part_t *any = batch->tables[0] + p;
    const long begin = any->start > block * OUT ? any->start : block * OUT;
    const int columns = least(any->start + any->width, (block + 1) * OUT) - begin;
    if (columns <= 0) return;
    long at = 0, moment = 0;
    for (int g = 0; g < batch->groups; g++) {
        const part_t *part = batch->tables[g] + p;
        const int rank = part->rank;
        if (!rank) {
            at = batch->ends[g];
            continue;
        }
        const void *b = block_of(part, block, kind);
        if (g + 1 < batch->groups) {
            const part_t *next = batch->tables[g + 1] + p;
            fetch(block_of(next, block, kind), next->rank * OUT * bytes_of(kind));
        }
        for (long left = (batch->ends[g] - at) * time; left > 0; left -= ROWS) {
            const int some = least(ROWS, left);
            const float *from[ROWS];
            long to[ROWS];
            for (int r = 0; r < some; r++) {
                const long row = batch->order[at] * time + moment;
                from[r] = low + row * wide;
                to[r] = row * out + begin;
                if (++moment == time) moment = 0, at++;
            }
            if (columns < OUT) raise_some(kind, y_half, some, b, begin % OUT, columns, rank, from, y, to);
            else if (some == 1) raise1(kind, y_half, b, rank, from, y, to);
            else if (some == 2) raise2(kind, y_half, b, rank, from, y, to);
            else if (some == 3) raise3(kind, y_half, b, rank, from, y, to);
            else raise4(kind, y_half, b, rank, from, y, to);
        }
    }
}

static void raise_rows(void *y, int y_half, long rows, long out, long block, const batch_t *batch, int first, int parts,
                const float *low) {
    const long time = rows / batch->rows, wide = (long)parts * batch->ranks;
#define PART(kind, y_half) raise_part(kind, y_half, y, out, block, batch, first + p, low + p * batch->ranks, wide, time);
    for (int p = 0; p < parts; p++) BY_KIND(PART, batch->kind, y_half)
#undef PART
}

/* y += B A x for every row's own adapter. x [rows, in], y [rows, out], float32 or, with x_half and y_half, bf16. low: of
   batch.ranks floats for each row and part. */
void add_lora(void *y, int y_half, const void *x, int x_half, long rows, long in, long out, const batch_t *batch,
              int first, int parts, float *low) {
    const long blocks = (out + OUT - 1) / OUT;
#pragma omp parallel
    {
        const long threads = omp_get_num_threads(), me = omp_get_thread_num();
        lower_rows(x, x_half, rows, in, batch, first, parts, low, me, threads);
#pragma omp barrier
        for (long b = blocks * me / threads; b < blocks * (me + 1) / threads; b++)
            raise_rows(y, y_half, rows, out, b, batch, first, parts, low);
    }
}
