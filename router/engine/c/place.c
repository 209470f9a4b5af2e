/* Adapters from the tensors of their file to where and how lora.c reads them. */

#include "lora.h"

/* What 127 stands for, by what numbers of that size are rounded to 8 bits: router.engine.products.eight_bits. */
static inline float step_of(float most) { return (most > 1e-12f ? most : 1e-12f) / 127; }

static inline float larger(float most, float value) {
    const float size = fabsf(value);
    return size > most ? size : most;
}

__attribute__((always_inline)) static inline void put(void *to, long at, const int kind, float value, float step) {
    if (kind == 2) ((int8_t *)to)[at] = (int)rintf(value / step);
    else store_one(to, at, kind, value);
}

/* One rank of A. */
__attribute__((always_inline)) static inline void place_a(const int kind, const int half, const void *a, long in, void *to,
                                                          float *scale) {
    float most = 0;
    if (kind == 2)
        for (long i = 0; i < in; i++) most = larger(most, load_one(a, i, half));
    const float step = step_of(most);
    for (long i = 0; i < in; i++) put(to, i, kind, load_one(a, i, half), step);
    if (kind == 2) *scale = step;
}

/* All of B, one output after another. */
__attribute__((always_inline)) static inline void place_b(const int kind, const int half, const void *b, float by, long rank,
                                                          long width, long start, void *to, float *scale) {
    float steps[rank];
    for (long k = 0; k < rank; k++) steps[k] = 0;
    if (kind == 2) {
        for (long c = 0; c < width; c++)
            for (long k = 0; k < rank; k++) steps[k] = larger(steps[k], load_one(b, c * rank + k, half) * by);
        for (long k = 0; k < rank; k++) scale[k] *= steps[k] = step_of(steps[k]);
    }
    for (long c = 0, end; c < width; c = end) {
        const long column = start % OUT + c;
        end = c + OUT - column % OUT < width ? c + OUT - column % OUT : width;
        for (long k = 0; k < rank; k++) {
            const long at = (column / OUT * rank + k) * OUT + column % OUT;
            for (long i = 0; i < end - c; i++)
                put(to, at + i, kind, load_one(b, (c + i) * rank + k, half) * by, steps[k]);
        }
    }
}

/* a [rank, in] to to_a, and b [width, rank] times `by`, whose first output is column `start` of its product, to to_b, which is
   zeros, as part_t has them. kind: that they are to be of; a_half and b_half: whether they are bf16. With kind 2 each rank of
   either is rounded by its largest number, and scale [rank] is what their products are to be multiplied by. */
void place_part(const void *a, int a_half, const void *b, int b_half, float by, long rank, long in, long width, long start,
                int kind, void *to_a, void *to_b, float *scale) {
    for (long k = 0; k < rank; k++) {
        const void *from = (const char *)a + k * in * bytes_of(a_half);
        void *to = (char *)to_a + k * in * bytes_of(kind);
#define A(kind, half) place_a(kind, half, from, in, to, scale + k);
        BY_KIND(A, kind, a_half)
    }
#define B(kind, half) place_b(kind, half, b, by, rank, width, start, to_b, scale);
    BY_KIND(B, kind, b_half)
}
