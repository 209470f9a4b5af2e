/* What adapters in 8 bits add to the products of a batch's rows. Inputs are rounded as for the products, and what comes of A
   to 16 bits; sums are of integers, so that they are the same whoever else is in the batch. */

#include "eight_bits.h"
#include "loops.h"

#ifdef __AVX512VNNI__

#define ROWS 4   /* of a tile: rows that share what is read of A */
#define PAIR 2   /* and of B */
#define MOST 32512 /* 127 times 256: what the largest of a row's ranks becomes */
#define LINE 64

/* The sums of four vectors. */
static inline __m128i sums_of(__m512i a, __m512i b, __m512i c, __m512i d) {
#define HALF(v) _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1))
    const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(HALF(a), HALF(b)), _mm256_hadd_epi32(HALF(c), HALF(d)));
#undef HALF
    return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

/* to[row][0 to 3] = A[0 to 3] x[row], A [ranks, in] and x [rows, stride] in integers. Meanwhile `next` is fetched. */
#define BEGIN(r) __m512i s##r##0 = zero, s##r##1 = zero, s##r##2 = zero, s##r##3 = zero;
#define STEP(r)                                                                                                 \
    {                                                                                                           \
        const __m512i inputs = _mm512_maskz_loadu_epi8(mask, x[r] + i);                                         \
        s##r##0 = _mm512_dpbusd_epi32(s##r##0, inputs, w0), s##r##1 = _mm512_dpbusd_epi32(s##r##1, inputs, w1); \
        s##r##2 = _mm512_dpbusd_epi32(s##r##2, inputs, w2), s##r##3 = _mm512_dpbusd_epi32(s##r##3, inputs, w3); \
    }
#define END(r) _mm_storeu_si128((__m128i *)to[r], sums_of(s##r##0, s##r##1, s##r##2, s##r##3));
#define LOWER(rows)                                                                                                    \
    static void lower##rows(const int8_t *a, const char *next, const uint8_t *const *x, long in, int32_t *const *to) { \
        const __m512i zero = _mm512_setzero_si512();                                                                   \
        ROWS##rows(BEGIN) for (long i = 0; i < in; i += LINE) {                                                        \
            const __mmask64 mask = in - i < LINE ? (1ul << (in - i)) - 1 : ~0ul;                                       \
            const __m512i w0 = _mm512_maskz_loadu_epi8(mask, a + i), w1 = _mm512_maskz_loadu_epi8(mask, a + in + i),   \
                          w2 = _mm512_maskz_loadu_epi8(mask, a + 2 * in + i),                                          \
                          w3 = _mm512_maskz_loadu_epi8(mask, a + 3 * in + i);                                          \
            for (int j = 0; j < 4; j++) _mm_prefetch(next + 4 * i + j * LINE, _MM_HINT_T0);                            \
            ROWS##rows(STEP)                                                                                           \
        }                                                                                                              \
        ROWS##rows(END)                                                                                                \
    }
LOWER(1) LOWER(2) LOWER(3) LOWER(4)
#undef BEGIN
#undef STEP
#undef END

/* The same of A[0] alone. */
static int32_t lower_one(const int8_t *a, const uint8_t *x, long in) {
    __m512i sums = _mm512_setzero_si512();
    for (long i = 0; i < in; i += LINE) {
        const __mmask64 mask = in - i < LINE ? (1ul << (in - i)) - 1 : ~0ul;
        sums = _mm512_dpbusd_epi32(sums, _mm512_maskz_loadu_epi8(mask, x + i), _mm512_maskz_loadu_epi8(mask, a + i));
    }
    return _mm512_reduce_add_epi32(sums);
}

/* A row's sums for each rank, times by and the rank's scale, to digits. */
static void digits_of(const int32_t *sums, const part_t *part, float by, low_t *to) {
    const int ranks = part->rank, wide = (ranks + 3) / 4 * 4;
    float exact[wide], most = 0;
    for (int k = 0; k < ranks; k++) {
        exact[k] = (sums[k] - part->sums[k]) * by * part->scale[k];
        const float size = fabsf(exact[k]);
        most = size > most || size != size ? size : most; /* once NaN always so */
    }
    for (int k = ranks; k < wide; k++) exact[k] = 0;
    const float times = most > 1e-30f && most < INFINITY ? MOST / most : 0;
    to->scale = most / MOST;
    int32_t all = 0;
    for (int k = 0; k < wide; k++) {
        const int32_t value = (int)rintf(times ? exact[k] * times : 0), high = (value + 128) >> 8;
        to->digits[k / 4][0][k % 4] = high;
        to->digits[k / 4][1][k % 4] = value - high * 256;
        all += value;
    }
    to->begin = -128 * all;
}

/* Row `n` of a group's rows, each `time` long, that begin with order[begin]. */
static inline long row_of(const batch_t *batch, int begin, long n, long time) {
    return time == 1 ? batch->order[begin + n] : batch->order[begin + n / time] * time + n % time;
}

void lower_eight_bits(const uint8_t *x, long stride, const float *by, long rows, long in, const batch_t *batch, int first,
                      int parts, char *low, long me, long threads) {
    const long time = rows / batch->rows, size = LOW(batch->ranks);
    long job = 0, jobs = 0;
    for (int g = 0; g < batch->groups; g++)
        jobs += parts * (((batch->ends[g] - (g ? batch->ends[g - 1] : 0)) * time + ROWS - 1) / ROWS);
    const long mine = jobs * me / threads, end = jobs * (me + 1) / threads;
    for (int g = 0; g < batch->groups && job < end; g++) {
        const int begin = g ? batch->ends[g - 1] : 0;
        const long count = (batch->ends[g] - begin) * time;
        for (int p = 0; p < parts; p++) {
            const part_t *part = batch->tables[g] + first + p;
            const char *then = part->a; /* after this part */
            if (p + 1 < parts) then = part[1].a;
            else if (g + 1 < batch->groups) then = batch->tables[g + 1][first].a;
            for (long n = 0; n < count; n += ROWS) {
                if (job++ < mine || job > end || !part->rank) continue;
                const int some = least(ROWS, count - n);
                long row[ROWS];
                const uint8_t *from[ROWS];
                int32_t sums[ROWS][(part->rank + 3) / 4 * 4], *to[ROWS];
                for (int r = 0; r < some; r++) {
                    row[r] = row_of(batch, begin, n + r, time);
                    from[r] = x + row[r] * stride;
                }
                for (int k = 0; k < part->rank;) {
                    const int8_t *a = (const int8_t *)part->a + k * in;
                    for (int r = 0; r < some; r++) to[r] = sums[r] + k;
                    if (part->rank - k < 4) {
                        for (int r = 0; r < some; r++) *to[r] = lower_one(a, from[r], in);
                        k++;
                        continue;
                    }
                    k += 4;
                    const char *next = k < part->rank ? (const char *)(a + 4 * in) : n + ROWS < count ? part->a : then;
                    if (some == 1) lower1(a, next, from, in, to);
                    else if (some == 2) lower2(a, next, from, in, to);
                    else if (some == 3) lower3(a, next, from, in, to);
                    else lower4(a, next, from, in, to);
                }
                for (int r = 0; r < some; r++)
                    digits_of(sums[r], part, by[row[r]], (low_t *)(low + (row[r] * parts + p) * size));
            }
        }
    }
}

/* B of the layer's columns in a block that has some. */
static inline const char *block_of(const part_t *part, long block) {
    return (const char *)part->b + (block - part->start / OUT) * ((part->rank + 3) / 4) * OUT * 4;
}

/* y[row] += low[row] B for a block of B [ranks / 4, 64, 4] in unsigned numbers around 128, in the columns of each mask. */
#define BEGIN(r)                                                                                                        \
    __m512i h##r##0 = zero, h##r##1 = zero, h##r##2 = zero, h##r##3 = zero, s##r##0 = _mm512_set1_epi32(low[r]->begin), \
            s##r##1 = s##r##0, s##r##2 = s##r##0, s##r##3 = s##r##0;
#define SUM(r, c)                                          \
    h##r##c = _mm512_dpbusd_epi32(h##r##c, w##c, high##r); \
    s##r##c = _mm512_dpbusd_epi32(s##r##c, w##c, rest##r);
#define STEP(r)                                                                               \
    const __m512i high##r = four(low[r]->digits[k][0]), rest##r = four(low[r]->digits[k][1]); \
    SUM(r, 0) SUM(r, 1) SUM(r, 2) SUM(r, 3)
#define PUT(r, c)                                                                                          \
    {                                                                                                      \
        const __m512 found = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(h##r##c, 8), s##r##c)); \
        float *at = y[r] + c * LANES;                                                                      \
        const __mmask16 mask = columns >> c * LANES;                                                       \
        _mm512_mask_storeu_ps(at, mask, _mm512_fmadd_ps(found, by##r, _mm512_maskz_loadu_ps(mask, at)));   \
    }
#define END(r)                                          \
    const __m512 by##r = _mm512_set1_ps(low[r]->scale); \
    PUT(r, 0) PUT(r, 1) PUT(r, 2) PUT(r, 3)
#define RAISE(rows)                                                                                            \
    __attribute__((always_inline)) static inline void raise##rows(const char *b, long quads, uint64_t columns, \
                                                                  const low_t *const *low, float *const *y) {  \
        const __m512i zero = _mm512_setzero_si512();                                                           \
        ROWS##rows(BEGIN) for (long k = 0; k < quads; k++, b += 4 * OUT) {                                     \
            const __m512i w0 = _mm512_loadu_si512(b), w1 = _mm512_loadu_si512(b + LINE),                       \
                          w2 = _mm512_loadu_si512(b + 2 * LINE), w3 = _mm512_loadu_si512(b + 3 * LINE);        \
            ROWS##rows(STEP)                                                                                   \
        }                                                                                                      \
        ROWS##rows(END)                                                                                        \
    }
RAISE(1) RAISE(2)

void raise_eight_bits(float *y, long rows, long out, long block, const batch_t *batch, int first, int parts,
                      const char *low) {
    const long time = rows / batch->rows, size = LOW(batch->ranks);
    for (int p = 0; p < parts; p++) {
        const part_t *any = batch->tables[0] + first + p;
        const long begin = any->start > block * OUT ? any->start : block * OUT;
        const int count = least(any->start + any->width, (block + 1) * OUT) - begin;
        if (count <= 0) continue;
        const uint64_t columns = (count < OUT ? (1ul << count) - 1 : ~0ul) << begin % OUT;
        for (int g = 0; g < batch->groups; g++) {
            const part_t *part = batch->tables[g] + first + p;
            if (!part->rank) continue;
            const char *b = block_of(part, block);
            const long from = g ? batch->ends[g - 1] : 0, left = (batch->ends[g] - from) * time, quads = (part->rank + 3) / 4;
            if (g + 1 < batch->groups) {
                const part_t *next = batch->tables[g + 1] + first + p;
                fetch(block_of(next, block), (next->rank + 3) / 4 * 4L * OUT);
                fetch(y + batch->order[batch->ends[g]] * time * out + block * OUT, OUT * sizeof *y);
            }
            for (long n = 0; n < left; n += PAIR) {
                const int some = least(PAIR, left - n);
                const low_t *lows[PAIR];
                float *to[PAIR];
                for (int r = 0; r < some; r++) {
                    const long row = row_of(batch, from, n + r, time);
                    lows[r] = (const low_t *)(low + (row * parts + p) * size);
                    to[r] = y + row * out + block * OUT;
                }
                if (some == 2) raise2(b, quads, columns, lows, to);
                else raise1(b, quads, columns, lows, to);
            }
        }
    }
}

/* y [rows, out] += B A x for every row's own adapter; x [rows, in] float32, or bf16 with half. scratch: for each row
   in + 4 bytes, and 4 more; low: LOW(batch.ranks) for each row and part. */
void add_lora_eight_bits(float *y, const void *x, int half, long rows, long in, long out, const batch_t *batch, int first,
                         int parts, uint8_t *scratch, char *low) {
    const long blocks = (out + OUT - 1) / OUT;
    float *by = (float *)(scratch + (rows * in + 3) / 4 * 4);
#pragma omp parallel
    {
        const long threads = omp_get_num_threads(), me = omp_get_thread_num();
        shorten_rows(x, half, rows, in, in, scratch, by, me, threads);
#pragma omp barrier
        lower_eight_bits(scratch, in, by, rows, in, batch, first, parts, low, me, threads);
#pragma omp barrier
        for (long b = blocks * me / threads; b < blocks * (me + 1) / threads; b++)
            raise_eight_bits(y, rows, out, b, batch, first, parts, low);
    }
}

long pieces_of_b(const char **to, long room, long bytes, long block, const batch_t *batch, int first, int parts) {
    long count = 0;
    for (int p = first; p < first + parts; p++) {
        const part_t *some = batch->tables[0] + p;
        if (some->start + some->width <= block * OUT || some->start >= (block + 1) * OUT) continue;
        for (int g = 0; g < batch->groups; g++) {
            const part_t *part = batch->tables[g] + p;
            const char *b = block_of(part, block);
            for (long left = (part->rank + 3) / 4 * 4L * OUT; left > 0 && count < room; left -= bytes, b += bytes)
                to[count++] = b;
        }
    }
    return count;
}

#endif
