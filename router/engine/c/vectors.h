/* Vectors of float32 that lie in memory as float32 or as bf16: kind 0 or 1. Vectors are GCC's own, so that the compiler picks
   instructions. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h> /* of whose widening GCC 12 makes one instruction instead of four */
#endif

int omp_get_num_threads(void);
int omp_get_thread_num(void);

#define LANES 16

typedef float wide_t __attribute__((vector_size(64), aligned(4)));
typedef uint32_t bits_t __attribute__((vector_size(64), aligned(4)));
typedef uint16_t half_t __attribute__((vector_size(32), aligned(2)));

static inline long bytes_of(int kind) { return kind ? 2 : 4; }

static inline wide_t load(const void *from, long at, int kind) {
    if (!kind) return *(const wide_t *)((const float *)from + at);
    const half_t halves = *(const half_t *)((const uint16_t *)from + at);
#ifdef __AVX512F__
    return (wide_t)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)halves), 16);
#else
    return (wide_t)(__builtin_convertvector(halves, bits_t) << 16);
#endif
}

static inline float load_one(const void *from, long at, int kind) {
    if (!kind) return ((const float *)from)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[at] << 16;
    float found;
    memcpy(&found, &bits, sizeof found);
    return found;
}

/* To the nearest bf16, and of two as near to the even one; a NaN stays one. */
static inline void store_one(void *to, long at, int half, float value) {
    if (!half) {
        ((float *)to)[at] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)to)[at] = value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline wide_t rounded(wide_t value) {
    const bits_t bits = (bits_t)value;
    return (wide_t)((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

static inline void store(void *to, long at, int half, wide_t value) {
    if (half)
        *(half_t *)((uint16_t *)to + at) = __builtin_convertvector((bits_t)rounded(value) >> 16, half_t);
    else
        *(wide_t *)((float *)to + at) = value;
}

/* Always of the same pairs: halves, quarters, and so on. */
static inline float sum(wide_t lanes) {
    typedef float eight_t __attribute__((vector_size(32), aligned(4)));
    typedef float four_t __attribute__((vector_size(16), aligned(4)));
    const eight_t eight = ((eight_t *)&lanes)[0] + ((eight_t *)&lanes)[1];
    const four_t four = ((four_t *)&eight)[0] + ((four_t *)&eight)[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* Something for each row of a tile: macros, since GCC 12 keeps an array of registers in memory. */
#define ROWS1(each) each(0)
#define ROWS2(each) ROWS1(each) each(1)
#define ROWS3(each) ROWS2(each) each(2)
#define ROWS4(each) ROWS3(each) each(3)
#define ROWS5(each) ROWS4(each) each(4)
#define ROWS6(each) ROWS5(each) each(5)
#define ROWS7(each) ROWS6(each) each(6)
#define ROWS8(each) ROWS7(each) each(7)
