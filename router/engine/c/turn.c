/* Rotary position embedding of queries and keys, which torch does in a dozen calls, and where keys and values are kept. */

#include "loops.h"

/* The halves of a head x [size], turned by cos and sin [size], of whose type the results are: in bf16 every operation is
   rounded. */
__attribute__((always_inline)) static inline void turn_head(const void *x, long at, int half, const void *cosines,
                                                            const void *sines, long angle, const int kept, void *to,
                                                            long put, const int wide, long size) {
#define ROUND(value) (kept ? rounded(value) : (value))
    for (long i = 0; i < size / 2; i += LANES) {
        const wide_t first = ROUND(load(x, at + i, half)), second = ROUND(load(x, at + size / 2 + i, half));
        const wide_t cos = load(cosines, angle + i, kept), sin = load(sines, angle + i, kept);
        const wide_t one = ROUND(first * cos), other = ROUND(-second * sin);
        const wide_t third = ROUND(second * cos), fourth = ROUND(first * sin);
        store(to, put + i, kept && !wide, ROUND(one + other));
        store(to, put + size / 2 + i, kept && !wide, ROUND(third + fourth));
    }
#undef ROUND
}

/* x [rows, time, heads + 2 groups, size], queries, keys and values of each position, bf16 with half, else float32: queries
   turned to q [rows, heads, time, size] in float32, keys turned to k and values to v [rows, groups, time, size], whose rows
   are `row` apart and groups `group`. cosines, sines [rows, time, size], whose second halves are like the first, k and v: bf16
   with kept, else float32. size: a multiple of 32. */
__attribute__((optimize("fp-contract=off"))) void turn(float *q, void *k, void *v, int kept, const void *x, int half,
                                                       const void *cosines, const void *sines, long rows, long time,
                                                       long heads, long groups, long size, long row, long group) {
    const long all = heads + 2 * groups;
#pragma omp parallel for schedule(static) if (rows * time > 4)
    for (long n = 0; n < rows * time; n++) {
        const long r = n / time, t = n % time;
        for (long h = 0; h < all; h++) {
            const long at = (n * all + h) * size, to = r * row + (h - heads) * group + t * size;
            const long value = to - groups * group;
            if (h < heads + groups) {
                const int wide = h < heads;
                void *side = wide ? q : k;
                const long put = wide ? ((r * heads + h) * time + t) * size : to;
                if (kept) turn_head(x, at, half, cosines, sines, n * size, 1, side, put, wide, size);
                else turn_head(x, at, half, cosines, sines, n * size, 0, side, put, wide, size);
            } else {
                for (long i = 0; i < size; i += LANES) store(v, value + i, kept, load(x, at + i, half));
            }
        }
    }
}
