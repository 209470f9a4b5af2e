/* Adapters from the tensors of their file to where and how the loops read them. */

#include "lora.h"

/* a [rank, in] to to_a, and b [width, rank] times `by`, whose first output is column `start` of its product, to to_b, which is
   zeros, as part_t has them. kind: that they are to be of, float32 or bf16; a_half and b_half: whether they are bf16. */
void place_part(const void *a, int a_half, const void *b, int b_half, float by, long rank, long in, long width, long start,
                int kind, void *to_a, void *to_b) {
#define A(kind, half) \
    for (long i = 0; i < rank * in; i++) store_one(to_a, i, kind, load_one(a, i, half));
    BY_KIND(A, kind, a_half)
#define B(kind, half)                                        \
    for (long c = 0, at = start % OUT; c < width; c++, at++) \
        for (long k = 0; k < rank; k++)                      \
            store_one(to_b, (at / OUT * rank + k) * OUT + at % OUT, kind, load_one(b, c * rank + k, half) * by);
    BY_KIND(B, kind, b_half)
}

/* Of `count` numbers, `step` apart: what 127 stands for when they are rounded to 8 bits; see
   router.engine.products.eight_bits. */
__attribute__((always_inline)) static inline float step_of(const void *from, long at, long step, long count, const int half,
                                                           float by) {
    float most = 1e-12f;
    for (long i = 0; i < count; i++) {
        const float size = fabsf(load_one(from, at + i * step, half) * by);
        most = size > most ? size : most;
    }
    return most / 127;
}

/* The same in 8 bits, each rank of A and of B rounded by its largest number. to_b need not be zeros. */
void place_eight_bits(const void *a, int a_half, const void *b, int b_half, float by, long rank, long in, long width,
                      long start, int8_t *to_a, uint8_t *to_b, float *scale, int32_t *sums) {
    const long quads = (rank + 3) / 4;
    float steps[rank];
    memset(to_b, 128, (start % OUT + width + OUT - 1) / OUT * quads * OUT * 4);
#define A(half)                                                                         \
    for (long k = 0; k < rank; k++) {                                                   \
        const float step = step_of(a, k * in, 1, in, half, 1);                          \
        int32_t sum = 0;                                                                \
        for (long i = 0; i < in; i++)                                                   \
            sum += to_a[k * in + i] = (int)rintf(load_one(a, k * in + i, half) / step); \
        scale[k] = step, sums[k] = 128 * sum;                                           \
    }
#define B(half)                                                                                  \
    for (long k = 0; k < rank; k++) scale[k] *= steps[k] = step_of(b, k, rank, width, half, by); \
    for (long c = 0, at = start % OUT; c < width; c++, at++)                                     \
        for (long k = 0; k < rank; k++)                                                          \
            to_b[((at / OUT * quads + k / 4) * OUT + at % OUT) * 4 + k % 4] =                    \
                (int)rintf(load_one(b, c * rank + k, half) * by / steps[k]) + 128;
    if (a_half) { A(1) } else { A(0) }
    if (b_half) { B(1) } else { B(0) }
}
