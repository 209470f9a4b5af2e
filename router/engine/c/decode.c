/* What is left of a step beside its products: norms, the gate of the feed-forward layers, and attention of one new position
   of each row to those before it (prompt.c has that of many). */

#include "loops.h"
#include "shares.h"

#define WIDEST 8 /* vectors of a head */
#define HEADS 8  /* of a tile: sums that share what is read of the values */

/* y = weight * x / sqrt(mean of x^2 + eps) for rows [rows, width], width a multiple of 16. What is divided is rounded to the
   type of x first, and y is bf16 where both are. */
void normalise(void *y, const void *x, int half, long rows, long width, const void *weight, int weight_half, float eps) {
#pragma omp parallel for schedule(static) if (rows > 1)
    for (long r = 0; r < rows; r++) {
        wide_t squares = {0};
        for (long i = 0; i < width; i += LANES) {
            const wide_t some = load(x, r * width + i, half);
            squares += some * some;
        }
        const float scale = 1 / sqrtf(sum(squares) / width + eps);
        for (long i = 0; i < width; i += LANES) {
            wide_t some = load(x, r * width + i, half) * scale;
            if (half) some = rounded(some);
            store(y, r * width + i, half && weight_half, some * load(weight, i, weight_half));
        }
    }
}

/* y = gate / (1 + e^-gate) * up for rows x [rows, 2 width] of gate and up, width a multiple of 16. */
void gated(void *y, const void *x, int half, long rows, long width) {
#pragma omp parallel
    {
        const long threads = omp_get_num_threads(), me = omp_get_thread_num(), blocks = width / LANES;
        for (long r = 0; r < rows; r++)
            for (long b = blocks * me / threads; b < blocks * (me + 1) / threads; b++) {
                const wide_t gate = load(x, (2 * r) * width + b * LANES, half);
                const wide_t up = load(x, (2 * r + 1) * width + b * LANES, half);
                store(y, r * width + b * LANES, half, gate / (exponential(-gate) + 1.0f) * up);
            }
    }
}

/* scores[head][position] = q[head] k[position] * scale, `stride` apart, for heads of `parts` vectors. */
__attribute__((always_inline)) static inline void score(float *scores, const float *q, const void *k, const int half,
                                                        const long parts, long heads, long positions, long stride,
                                                        float scale) {
    const long size = parts * LANES;
    for (long p = 0; p < positions; p++) {
        wide_t key[WIDEST];
        for (long d = 0; d < parts; d++) key[d] = load(k, p * size + d * LANES, half);
        for (long h = 0; h < heads; h++) {
            wide_t products = key[0] * load(q, h * size, 0);
            for (long d = 1; d < parts; d++) products += key[d] * load(q, h * size + d * LANES, 0);
            scores[h * stride + p] = sum(products) * scale;
        }
    }
}

/* Sums over positions of their shares times 16 numbers of their values, for up to 8 heads. */
#define BEGIN(h) wide_t s##h = {0};
#define STEP(h) s##h += values * shares[h * stride + p];
#define END(h) store(y, h * size, half, s##h);
#define MIX(heads)                                                                                                  \
    __attribute__((always_inline)) static inline void mix##heads(                                                   \
        void *y, const void *v, const int half, long size, long positions, const float *shares, long stride) {      \
        ROWS##heads(BEGIN) for (long p = 0; p < positions; p++) {                                                   \
            const wide_t values = load(v, p * size, half);                                                          \
            ROWS##heads(STEP)                                                                                       \
        }                                                                                                           \
        ROWS##heads(END)                                                                                            \
    }
MIX(1) MIX(2) MIX(3) MIX(4) MIX(5) MIX(6) MIX(7) MIX(8)

static void mix(void *y, const void *v, int half, long heads, long size, long positions, const float *shares, long stride) {
#define CASE(n)                                                            \
    case n:                                                                \
        if (half) mix##n(y, v, 1, size, positions, shares, stride);        \
        else mix##n(y, v, 0, size, positions, shares, stride);             \
        break;
    switch (heads) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#undef CASE
}

/* y [rows, groups, shared, size]: what q, of the same shape, attends to among k and v [rows, groups, positions, size], whose
   rows are `row` apart and groups `group`. seen [rows, positions]: where there is something; all, if it is null. scores: room
   for rows * groups * shared times positions, up to a multiple of 16. size: a multiple of 16, at most 128. y, k
   and v are bf16 with half, else float32. */
void attend(void *y, const float *q, const void *k, const void *v, int half, const uint8_t *seen, long rows, long groups,
            long shared, long positions, long size, long row, long group, float scale, float *scores) {
    const long bytes = half ? 2 : 4, stride = (positions + LANES - 1) / LANES * LANES;
#pragma omp parallel for schedule(static) collapse(2)
    for (long r = 0; r < rows; r++)
        for (long g = 0; g < groups; g++) {
            const long own = (r * groups + g) * shared;
            const float *asked = q + own * size;
            const char *keys = (const char *)k + (r * row + g * group) * bytes;
            const char *values = (const char *)v + (r * row + g * group) * bytes;
            float *mine = scores + own * stride;
            if (half && size == 64) score(mine, asked, keys, 1, 4, shared, positions, stride, scale);
            else if (half && size == 128) score(mine, asked, keys, 1, 8, shared, positions, stride, scale);
            else score(mine, asked, keys, half, size / LANES, shared, positions, stride, scale);
            for (long h = 0; h < shared; h++)
                share(mine + h * stride, seen ? seen + r * positions : 0, positions - 1, stride);
            for (long h = 0; h < shared; h += HEADS)
                for (long d = 0; d < size; d += LANES)
                    mix((char *)y + ((own + h) * size + d) * bytes, values + d * bytes, half,
                        shared - h < HEADS ? shared - h : HEADS, size, positions, mine + h * stride, stride);
        }
}
