/* What the adapters of a batch add to the products of its rows. Sums are always of the same parts in the same order,
   whatever the number of threads. */

#include "lora.h"

#define ROWS 4      /* of a tile: rows that share what is read of A or B, */
#define RANKS 4     /* and ranks that share what is read of a row */
#define COLUMNS 256 /* of an output, for one thread at a time */

static inline int least(int one, int other) { return one < other ? one : other; }

/* Whether weights are bf16, and whether rows are, known when it is compiled. */
#define BY_KIND(call, half, other)      \
    if (half && other) { call(1, 1) }   \
    else if (half) { call(1, 0) }       \
    else if (other) { call(0, 1) }      \
    else { call(0, 0) }

/* low[row][0 to 3] = A[0 to 3] x[row], where row r of x begins at from[r]. */
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
        const int half, const int x_half, const void *a, const void *x, const long *from, long in, float *const *low) { \
        const wide_t zero = {0};                                                                                      \
        long i = 0;                                                                                                   \
        ROWS##rows(BEGIN4) for (; i + LANES <= in; i += LANES) {                                                      \
            const wide_t w0 = load(a, i, half), w1 = load(a, in + i, half), w2 = load(a, 2 * in + i, half),           \
                         w3 = load(a, 3 * in + i, half);                                                              \
            ROWS##rows(STEP4)                                                                                         \
        }                                                                                                             \
        ROWS##rows(END4) for (; i < in; i++) for (int r = 0; r < rows; r++) for (int k = 0; k < 4; k++)               \
            low[r][k] += load_one(a, k * in + i, half) * load_one(x, from[r] + i, x_half);                            \
    }
LOWER4(1) LOWER4(2) LOWER4(3) LOWER4(4)

/* The same of A[0] alone, for the ranks that are over. */
__attribute__((always_inline)) static inline void lower1(const int half, const int x_half, const void *a, const void *x,
                                                         long from, long in, float *low) {
    wide_t sums = {0};
    long i = 0;
    for (; i + LANES <= in; i += LANES) sums += load(a, i, half) * load(x, from + i, x_half);
    *low = sum(sums);
    for (; i < in; i++) *low += load_one(a, i, half) * load_one(x, from + i, x_half);
}

static void lower(int ranks, int rows, int half, int x_half, const void *a, const void *x, const long *from, long in,
                  float *const *low) {
#define ONE(half, x_half) lower1(half, x_half, a, x, from[r], in, low[r]);
#define FOUR(half, x_half)                                          \
    switch (rows) {                                                 \
        case 1: lower4_1(half, x_half, a, x, from, in, low); break; \
        case 2: lower4_2(half, x_half, a, x, from, in, low); break; \
        case 3: lower4_3(half, x_half, a, x, from, in, low); break; \
        case 4: lower4_4(half, x_half, a, x, from, in, low); break; \
    }
    if (ranks == 4) {
        BY_KIND(FOUR, half, x_half)
    } else
        for (int r = 0; r < rows; r++) {
            BY_KIND(ONE, half, x_half)
        }
#undef ONE
#undef FOUR
}

/* y[row] += sum over ranks of low[row][rank] B[rank], for `columns` columns from `at`, where row r of y begins at to[r] and
   a row of B is `width` long. */
#define BEGIN(r) wide_t s##r = load(y, to[r] + c, y_half);
#define STEP(r) s##r += weights * low[r][k];
#define END(r) store(y, to[r] + c, y_half, s##r);
#define RAISE(rows)                                                                                                   \
    __attribute__((always_inline)) static inline void raise##rows(                                                    \
        const int half, const int y_half, const void *b, long at, int rank, long width, int columns,                  \
        const float *const *low, void *y, const long *to) {                                                           \
        int c = 0;                                                                                                    \
        for (; c + LANES <= columns; c += LANES) {                                                                    \
            ROWS##rows(BEGIN) for (int k = 0; k < rank; k++) {                                                        \
                const wide_t weights = load(b, k * width + at + c, half);                                             \
                ROWS##rows(STEP)                                                                                      \
            }                                                                                                         \
            ROWS##rows(END)                                                                                           \
        }                                                                                                             \
        for (; c < columns; c++)                                                                                      \
            for (int r = 0; r < rows; r++) {                                                                          \
                float found = load_one(y, to[r] + c, y_half);                                                         \
                for (int k = 0; k < rank; k++) found += load_one(b, k * width + at + c, half) * low[r][k];            \
                store_one(y, to[r] + c, y_half, found);                                                               \
            }                                                                                                         \
    }
RAISE(1) RAISE(2) RAISE(3) RAISE(4)

static void raise_tile(int rows, int half, int y_half, const void *b, long at, int rank, long width, int columns,
                       const float *const *low, void *y, const long *to) {
#define ANY(half, y_half)                                                                    \
    switch (rows) {                                                                          \
        case 1: raise1(half, y_half, b, at, rank, width, columns, low, y, to); break;        \
        case 2: raise2(half, y_half, b, at, rank, width, columns, low, y, to); break;        \
        case 3: raise3(half, y_half, b, at, rank, width, columns, low, y, to); break;        \
        case 4: raise4(half, y_half, b, at, rank, width, columns, low, y, to); break;        \
    }
    BY_KIND(ANY, half, y_half)
#undef ANY
}

/* Tiles of one part for the rows of a group. */
static long tiles(const batch_t *batch, int group, int part, long time) {
    const int rank = batch->tables[group][part].rank;
    const long rows = (batch->ends[group] - (group ? batch->ends[group - 1] : 0)) * time;
    return (rank / RANKS + rank % RANKS) * ((rows + ROWS - 1) / ROWS);
}

void lower_rows(const void *x, int x_half, long rows, long in, const batch_t *batch, int first, int parts, float *low,
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
                const char *a = (const char *)part->a + k * in * (batch->half ? 2 : 4);
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
                    lower(ranks, some, batch->half, x_half, a, x, from, in, to);
                }
            }
        }
    }
}

void raise_rows(void *y, int y_half, long rows, long out, const batch_t *batch, int first, int parts, const float *low,
                long me, long threads) {
    const long time = rows / batch->rows, wide = (long)parts * batch->ranks;
    for (int g = 0; g < batch->groups; g++) {
        const int begin = g ? batch->ends[g - 1] : 0;
        const long count = (batch->ends[g] - begin) * time;
        for (int p = 0; p < parts; p++) {
            const part_t *part = batch->tables[g] + first + p;
            for (int c = 0; part->rank && c < part->width; c += COLUMNS) {
                if ((part->start + c) * threads / out != me) continue;
                for (long n = 0; n < count; n += ROWS) {
                    const int some = least(ROWS, count - n);
                    const float *from[ROWS];
                    long to[ROWS];
                    for (int r = 0; r < some; r++) {
                        const long row = batch->order[begin + (n + r) / time] * time + (n + r) % time;
                        from[r] = low + row * wide + p * batch->ranks;
                        to[r] = row * out + part->start + c;
                    }
                    raise_tile(some, batch->half, y_half, part->b, c, part->rank, part->width,
                               least(COLUMNS, part->width - c), from, y, to);
                }
            }
        }
    }
}

/* y += B A x for every row's own adapter; see lora.h. x [rows, in], y [rows, out], float32 or, with x_half and y_half, bf16. */
void add_lora(void *y, int y_half, const void *x, int x_half, long rows, long in, long out, const batch_t *batch,
              int first, int parts, float *low) {
#pragma omp parallel
    {
        const long threads = omp_get_num_threads(), me = omp_get_thread_num();
        lower_rows(x, x_half, rows, in, batch, first, parts, low, me, threads);
#pragma omp barrier
        raise_rows(y, y_half, rows, out, batch, first, parts, low, me, threads);
    }
}
