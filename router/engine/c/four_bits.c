/* Products of rows in 8 bits with weights in 4 bits, 32 of which share a scale and a least. Half the bytes of eight_bits.c, and more to do
   for each of them. */

#include "eight_bits.h"
#include "loops.h"

#ifdef __AVX512VNNI__

#define ROWS 3                      /* of a tile: with 12 sums of integers, 12 of floats and 3 registers of weights */
#define GROUP 32                    /* weights of a scale: those of 4 pairs of 4 inputs */
#define PAIR (OUT * 4)              /* bytes for 8 inputs of a block's outputs: 4 in low digits, 4 in the high ones */
#define NUMBERS (GROUP / 8 * PAIR)  /* bytes of a group without its scales, */
#define RECORD (NUMBERS + OUT * 4)  /* and with them and the least ones, in bf16 */
#define AHEAD 8192                  /* bytes that weights are fetched before they are multiplied */

/* w [out, groups, 16], of which a byte holds a number and, in its high digits, the one after it, and scale and least
   [out, groups] in bf16, by which it stands for a weight of scale * number + least, to blocks of 64 outputs, and within them
   groups; to [blocks, groups, RECORD], zeros where there is no output. */
void pack_four_bits(const uint8_t *w, const uint16_t *scale, const uint16_t *least, long out, long groups, uint8_t *to) {
    const long blocks = (out + OUT - 1) / OUT;
#pragma omp parallel for schedule(static)
    for (long b = 0; b < blocks; b++)
        for (long g = 0; g < groups; g++) {
            uint8_t *record = to + (b * groups + g) * RECORD;
            memset(record, 0, RECORD);
            for (long o = 0; o < OUT && b * OUT + o < out; o++) {
                const long from = (b * OUT + o) * groups + g;
                for (long i = 0; i < GROUP; i++) {
                    const int digits = w[from * GROUP / 2 + i / 2] >> i % 2 * 4 & 15;
                    record[i / 8 * PAIR + o * 4 + i % 4] |= digits << i / 4 % 2 * 4;
                }
                ((uint16_t *)(record + NUMBERS))[o] = scale[from];
                ((uint16_t *)(record + NUMBERS))[OUT + o] = least[from];
            }
        }
}

/* A tile of 1 to 3 rows and a block of outputs. x: signed; sums: of each group of a row. */
#define BEGIN(r) __m512 f##r##0 = _mm512_setzero_ps(), f##r##1 = f##r##0, f##r##2 = f##r##0, f##r##3 = f##r##0;
#define GROUPS(r) __m512i s##r##0 = zero, s##r##1 = zero, s##r##2 = zero, s##r##3 = zero;
#define STEP(r, c)                                                                                 \
    s##r##c = _mm512_dpbusd_epi32(s##r##c, low, four(x + r * groups * GROUP + g * GROUP + p * 8)); \
    s##r##c = _mm512_dpbusd_epi32(s##r##c, high, four(x + r * groups * GROUP + g * GROUP + p * 8 + 4));
#define STEP0(r) STEP(r, 0)
#define STEP1(r) STEP(r, 1)
#define STEP2(r) STEP(r, 2)
#define STEP3(r) STEP(r, 3)
#define PART(rows, c)                                                                                                    \
    {                                                                                                                    \
        const __m512i both = _mm512_loadu_si512(at + p * PAIR + c * 64);                                                 \
        const __m512i low = _mm512_and_si512(both, digits), high = _mm512_and_si512(_mm512_srli_epi16(both, 4), digits); \
        ROWS##rows(STEP##c)                                                                                              \
    }
#define SCALE(r, c) f##r##c = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s##r##c), scale##c, _mm512_fmadd_ps(least##c, sum##r, f##r##c));
#define SCALES(r)                                               \
    const __m512 sum##r = _mm512_set1_ps(sums[r * groups + g]); \
    SCALE(r, 0) SCALE(r, 1) SCALE(r, 2) SCALE(r, 3)
#define READ(c)                                                       \
    const __m512 scale##c = (__m512)load(at + NUMBERS, c * LANES, 1); \
    const __m512 least##c = (__m512)load(at + NUMBERS, OUT + c * LANES, 1);
#define PUT(r, c)                                                                                  \
    if (left > c * LANES) {                                                                        \
        const __mmask16 mask = left - c * LANES >= LANES ? 0xffff : (1 << (left - c * LANES)) - 1; \
        __m512 found = _mm512_mul_ps(f##r##c, _mm512_set1_ps(by[r]));                              \
        if (bias) found = _mm512_add_ps(found, _mm512_maskz_loadu_ps(mask, bias + c * LANES));     \
        _mm512_mask_storeu_ps(y + r * out + c * LANES, mask, found);                               \
    }
#define END(r) PUT(r, 0) PUT(r, 1) PUT(r, 2) PUT(r, 3)
#define TILE(rows)                                                                                               \
    __attribute__((optimize("fp-contract=off"))) static void tile##rows(                                         \
        const uint8_t *x, const float *sums, long groups, const uint8_t *at, const float *by, const float *bias, \
        float *y, long out, long left) {                                                                         \
        const __m512i digits = _mm512_set1_epi8(15), zero = _mm512_setzero_si512();                              \
        ROWS##rows(BEGIN) for (long g = 0; g < groups; g++, at += RECORD) {                                      \
            ROWS##rows(GROUPS) for (long p = 0; p < GROUP / 8; p++) {                                            \
                for (int j = 0; j < 4; j++) _mm_prefetch(at + AHEAD + p * PAIR + j * 64, _MM_HINT_T1);           \
                PART(rows, 0) PART(rows, 1) PART(rows, 2) PART(rows, 3)                                          \
            }                                                                                                    \
            READ(0) READ(1) READ(2) READ(3)                                                                      \
            ROWS##rows(SCALES)                                                                                   \
        }                                                                                                        \
        ROWS##rows(END)                                                                                          \
    }
TILE(1) TILE(2) TILE(3)

/* y [rows, out] = x [rows, in] W' + bias, if there is one, in float32; x is bf16 with half, else float32. w: of pack_four_bits.
   scratch: for each row as many bytes as inputs, up to a multiple of 32, then a float for each 32 of them, and one more. */
void multiply_four_bits(float *y, const void *x, int half, long rows, long in, long out, const uint8_t *w, const float *bias,
                        uint8_t *scratch) {
    const long blocks = (out + OUT - 1) / OUT, groups = (in + GROUP - 1) / GROUP, stride = groups * GROUP;
    float *sums = (float *)(scratch + rows * stride), *by = sums + rows * groups;
#pragma omp parallel
    {
        const long threads = omp_get_num_threads(), me = omp_get_thread_num();
        shorten_rows(x, half, rows, in, stride, scratch, by, me, threads);
        for (long g = rows * me / threads * groups; g < rows * (me + 1) / threads * groups; g++) {
            int32_t sum = 0;
            for (long i = 0; i < GROUP; i++) {
                scratch[g * GROUP + i] ^= 128;
                sum += (int8_t)scratch[g * GROUP + i];
            }
            sums[g] = sum;
        }
#pragma omp barrier
        for (long b = blocks * me / threads; b < blocks * (me + 1) / threads; b++)
            for (long r = 0; r < rows; r += ROWS) {
#define CASE(n)                                                                                   \
    case n:                                                                                       \
        tile##n(scratch + r * stride, sums + r * groups, groups, w + b * groups * RECORD, by + r, \
                bias ? bias + b * OUT : 0, y + r * out + b * OUT, out, out - b * OUT);            \
        break;
                switch (least(ROWS, rows - r)) { CASE(1) CASE(2) CASE(3) }
            }
    }
}

#endif
