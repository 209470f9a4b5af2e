/* Vectors of float32 that lie in memory as float32 or as bf16; GCC's own, so that the compiler picks instructions. */

#include <math.h>
#include <stdint.h>
#include <string.h>

int omp_get_num_threads(void);
int omp_get_thread_num(void);

#define LANES 16

typedef float wide_t __attribute__((vector_size(64), aligned(4)));
typedef uint32_t bits_t __attribute__((vector_size(64), aligned(4)));
typedef uint16_t half_t __attribute__((vector_size(32), aligned(2)));

static inline wide_t load(const void *from, long at, int half) {
    if (half) return (wide_t)(__builtin_convertvector(*(const half_t *)((const uint16_t *)from + at), bits_t) << 16);
    return *(const wide_t *)((const float *)from + at);
}

static inline float load_one(const void *from, long at, int half) {
    if (!half) return ((const float *)from)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[at] << 16;
    float found;
    memcpy(&found, &bits, sizeof found);
    return found;
}

/* To the nearest bf16, and of two as near to the even one. */
static inline void store_one(void *to, long at, int half, float value) {
    if (!half) {
        ((float *)to)[at] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)to)[at] = value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline void store(void *to, long at, int half, wide_t value) {
    if (half)
        for (int i = 0; i < LANES; i++) store_one(to, at + i, 1, value[i]);
    else
        *(wide_t *)((float *)to + at) = value;
}
