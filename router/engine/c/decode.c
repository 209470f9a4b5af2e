/* What is left of a step beside its products: norms, the gate of the feed-forward layers, and attention of one new position
   of each row to those before it. */

#include "vectors.h"

#define WIDEST 8 /* vectors of a head */
#define HEADS 8  /* of a tile: sums that share what is read of the values */

typedef int32_t whole_t __attribute__((vector_size(64)));

static inline wide_t either(whole_t where, wide_t one, wide_t other) {
    return (wide_t)((where & (whole_t)one) | (~where & (whole_t)other));
}

/* e to the x: 2^n times a polynomial (Cephes' expf), within 2 units in the last place; 0 below -87, that of 88 above it. */
static inline wide_t exponential(wide_t x) {
    const wide_t high = (wide_t){0} + 88.0f, magic = (wide_t){0} + 12582912.0f;
    const whole_t nothing = x < -87.0f;
    x = either(nothing, (wide_t){0}, either(x > high, high, x));
    const wide_t n = (x * 1.44269504f + magic) - magic, r = x - n * 0.693359375f + n * 2.12194440e-4f;
    wide_t found = r * 1.9875691500e-4f + 1.3981999507e-3f;
    found = found * r + 8.3334519073e-3f;
    found = found * r + 4.1665795894e-2f;
    found = found * r + 1.6666665459e-1f;
    found = found * r + 5.0000001201e-1f;
    found = found * (r * r) + r + 1.0f;
    return either(nothing, (wide_t){0}, found * (wide_t)((__builtin_convertvector(n, whole_t) + 127) << 23));
}

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

/* Scores to shares of 1, of as many positions as there are; 0 where nothing is seen and beyond. */
static void share(float *scores, const uint8_t *seen, long positions, long stride) {
    for (long p = 0; p < stride; p++)
        if (p >= positions || (seen && !seen[p])) scores[p] = -INFINITY;
    wide_t most = load(scores, 0, 0), total = {0};
    for (long p = LANES; p < stride; p += LANES) {
        const wide_t some = load(scores, p, 0);
        most = either(some > most, some, most);
    }
    float greatest = most[0];
    for (int i = 1; i < LANES; i++) greatest = most[i] > greatest ? most[i] : greatest;
    for (long p = 0; p < stride; p += LANES) {
        const wide_t some = exponential(load(scores, p, 0) - greatest);
        store(scores, p, 0, some);
        total += some;
    }
    const float by = 1 / sum(total);
    for (long p = 0; p < stride; p += LANES) store(scores, p, 0, load(scores, p, 0) * by);
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
                share(mine + h * stride, seen ? seen + r * positions : 0, positions, stride);
            for (long h = 0; h < shared; h += HEADS)
                for (long d = 0; d < size; d += LANES)
                    mix((char *)y + ((own + h) * size + d) * bytes, values + d * bytes, half,
                        shared - h < HEADS ? shared - h : HEADS, size, positions, mine + h * stride, stride);
        }
}
