/* Scores of attention to shares. */

#pragma once

#include "vectors.h"

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

/* Scores of positions 0 to own to shares of 1; 0 where nothing is seen, but for `own` itself, and beyond, up to `stride`, a
   multiple of 16. */
static inline void share(float *scores, const uint8_t *seen, long own, long stride) {
    for (long p = 0; p < stride; p++)
        if (p > own || (seen && !seen[p] && p < own)) scores[p] = -INFINITY;
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
