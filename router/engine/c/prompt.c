/* Attention of many new positions of each row to those before them: two products in float32 and what is between them. */

#include "loops.h"
#include "shares.h"

#define ROWS 6  /* of a tile: with 24 sums, 4 registers of what they share and one of their own */
#define WIDE 64 /* columns of a tile */

/* y [rows, 64] = a [rows, count] b [count, 64], whose rows are so far apart. */
#define BEGIN(r) wide_t s##r##0 = {0}, s##r##1 = {0}, s##r##2 = {0}, s##r##3 = {0};
#define STEP(r)                                                                         \
    {                                                                                   \
        const float by = a[r * a_apart + i];                                            \
        s##r##0 += w0 * by, s##r##1 += w1 * by, s##r##2 += w2 * by, s##r##3 += w3 * by; \
    }
#define END(r)                                                                       \
    store(y, r * y_apart, half, s##r##0), store(y, r * y_apart + 16, half, s##r##1); \
    store(y, r * y_apart + 32, half, s##r##2), store(y, r * y_apart + 48, half, s##r##3);
#define TILE(rows)                                                                                                      \
    __attribute__((always_inline)) static inline void tile##rows(const float *a, long a_apart, const float *b,          \
                                                                 long b_apart, long count, void *y, long y_apart,       \
                                                                 const int half) {                                      \
        ROWS##rows(BEGIN) for (long i = 0; i < count; i++) {                                                            \
            const float *from = b + i * b_apart;                                                                        \
            const wide_t w0 = load(from, 0, 0), w1 = load(from, 16, 0), w2 = load(from, 32, 0), w3 = load(from, 48, 0); \
            ROWS##rows(STEP)                                                                                            \
        }                                                                                                               \
        ROWS##rows(END)                                                                                                 \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)

static void tile(long rows, const float *a, long a_apart, const float *b, long b_apart, long count, void *y, long y_apart,
                 int half) {
#define CASE(n)                                                          \
    case n:                                                              \
        if (half) tile##n(a, a_apart, b, b_apart, count, y, y_apart, 1); \
        else tile##n(a, a_apart, b, b_apart, count, y, y_apart, 0);      \
        break;
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
}

/* y [rows, time, groups * shared, size]: what q [rows, groups * shared, time, size] in float32, the last of so many positions,
   attends to among k and v [rows, groups, positions, size], whose rows are `row` apart and groups `group`: every position
   to itself and to those before it, seen [rows, positions] or all, if it is null. y, k and v are bf16 with half, else float32. size: a
   multiple of 64. scratch: 2 * rows * groups * size times positions, up to a multiple of 64, and 6 times these for each
   thread. */
void attend_many(void *y, const float *q, const void *k, const void *v, int half, const uint8_t *seen, long rows, long time,
                 long groups, long shared, long positions, long size, long row, long group, float scale, float *scratch) {
    const long stride = (positions + WIDE - 1) / WIDE * WIDE, tiles = (time + ROWS - 1) / ROWS, heads = groups * shared;
    float *const keys = scratch, *const values = keys + rows * groups * size * stride;
    float *const every = values + rows * groups * size * stride;
#pragma omp parallel
    {
        float *scores = every + omp_get_thread_num() * ROWS * stride;
#pragma omp for schedule(static)
        for (long n = 0; n < rows * groups; n++) { /* keys by number, and times the scale; values by position */
            const long from = n / groups * row + n % groups * group;
            float *key = keys + n * size * stride, *value = values + n * size * stride;
            for (long p = 0; p < stride; p++)
                for (long d = 0; d < size; d++)
                    key[d * stride + p] = p < positions ? load_one(k, from + p * size + d, half) * scale : 0;
            for (long i = 0; i < positions * size; i += LANES) store(value, i, 0, load(v, from + i, half));
        }
#pragma omp for schedule(static, 1)
        for (long n = 0; n < tiles * rows * heads; n++) {
            const long at = n / (rows * heads) * ROWS, head = n % (rows * heads), mine = head / shared;
            const long some = time - at < ROWS ? time - at : ROWS, begin = positions - time + at, end = begin + some;
            const long wide = (end + WIDE - 1) / WIDE * WIDE;
            const float *asked = q + (head * time + at) * size;
            for (long c = 0; c < wide; c += WIDE)
                tile(some, asked, size, keys + mine * size * stride + c, stride, size, scores + c, stride, 0);
            for (long r = 0; r < some; r++)
                share(scores + r * stride, seen ? seen + head / heads * positions : 0, begin + r, wide);
            const long to = ((head / heads * time + at) * heads + head % heads) * size;
            for (long c = 0; c < size; c += WIDE)
                tile(some, scores, stride, values + mine * size * stride + c, size, end, (char *)y + (to + c) * (half ? 2 : 4),
                     heads * size, half);
        }
    }
}
