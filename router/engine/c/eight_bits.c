/* Products in 8 bits: rows are rounded to 8 bits and multiplied, with AVX-512's instruction for it, by weights packed so
   that a thread reads them one after another, at the speed of memory up to some 16 rows.

   Sums are of integers, and what they are multiplied with is rounded as torch rounds: equal to the bit to
   router.engine.products.Int8. */

#include "lora.h"

#ifdef __AVX512VNNI__

#include <immintrin.h>
#include <sys/mman.h>

#define ROWS 6          /* of a tile: with 24 sums of 16 outputs, 4 registers of weights and one of inputs */
#define BLOCK (OUT * 4) /* bytes of a block for 4 inputs */
#define HELD (1L << 20) /* bytes of rows that stay in a core's cache while all weights go by */
#define AHEAD 8192      /* bytes that weights are fetched from memory before they are multiplied */
#define PAGE (1L << 21) /* bytes of memory with one address to look up, where the system has such pages */
#define FEW 64          /* chunks of adapters that are fetched at once */
#define TURNS 8         /* of 4 inputs, while which a chunk of memory is fetched */

/* w [out, in] to blocks of 64 outputs, and within them 4 inputs of each output at a time, zeros where there are none
   [blocks, ceil(in / 4), 64, 4]. sums [blocks, 64]: 128 times the sum of each output's weights. */
void pack_eight_bits(const int8_t *w, long out, long in, int8_t *to, int32_t *sums) {
    const long blocks = (out + OUT - 1) / OUT, quads = (in + 3) / 4;
    char *const first = (char *)(((uintptr_t)to + PAGE - 1) / PAGE * PAGE);
    const long whole = ((char *)to + blocks * OUT * quads * 4 - first) / PAGE * PAGE;
    if (whole > 0) madvise(first, whole, MADV_HUGEPAGE); /* fewer addresses to look up; without effect where there are none */
#pragma omp parallel for schedule(static)
    for (long row = 0; row < blocks * OUT; row++) {
        int8_t *mine = to + (row / OUT * quads * OUT + row % OUT) * 4;
        int32_t sum = 0;
        for (long i = 0; i < quads * 4; i++) {
            const int8_t weight = row < out && i < in ? w[row * in + i] : 0;
            mine[i / 4 * BLOCK + i % 4] = weight;
            sum += weight;
        }
        sums[row] = 128 * sum;
    }
}

/* One row as unsigned numbers around 128; its scale, which is its largest over 127, or NaN where one of them is. */
__attribute__((always_inline)) static inline float shorten(const void *x, long at, const int half, long in, uint8_t *to) {
    float most = 1e-12f;
    int odd = 0;
#pragma omp simd reduction(max : most) reduction(| : odd)
    for (long i = 0; i < in; i++) {
        const float size = fabsf(load_one(x, at + i, half));
        most = size > most ? size : most;
        odd |= size != size;
    }
    const float by = odd ? NAN : most / 127;
#pragma omp simd
    for (long i = 0; i < in; i++) to[i] = (int)rintf(load_one(x, at + i, half) / by) + 128;
    return by;
}

static inline __m512i four(const uint8_t *from) {
    int32_t found;
    memcpy(&found, from, sizeof found);
    return _mm512_set1_epi32(found);
}

/* y = (sum - sums) * scale * by + bias for as many of 16 outputs as are left. */
__attribute__((always_inline, optimize("fp-contract=off"))) static inline void finish(
    __m512i sum, const int32_t *sums, const float *scale, float by, const float *bias, float *y, long left) {
    if (left <= 0) return;
    const __mmask16 mask = left >= LANES ? 0xffff : (1 << left) - 1;
    __m512 found = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_loadu_si512(sums)));
    found = _mm512_mul_ps(_mm512_mul_ps(found, _mm512_maskz_loadu_ps(mask, scale)), _mm512_set1_ps(by));
    if (bias) found = _mm512_add_ps(found, _mm512_maskz_loadu_ps(mask, bias));
    _mm512_mask_storeu_ps(y, mask, found);
}

/* Tiles of 1 to 6 rows and a block of outputs. With every 4 inputs each fetches two lines of memory that are multiplied later,
   of a chunk for every 8 times. */
#define BEGIN(r) __m512i s##r##0 = zero, s##r##1 = zero, s##r##2 = zero, s##r##3 = zero;
#define STEP(r)                                              \
    {                                                        \
        const __m512i inputs = four(x + r * stride + q * 4); \
        s##r##0 = _mm512_dpbusd_epi32(s##r##0, inputs, w0);  \
        s##r##1 = _mm512_dpbusd_epi32(s##r##1, inputs, w1);  \
        s##r##2 = _mm512_dpbusd_epi32(s##r##2, inputs, w2);  \
        s##r##3 = _mm512_dpbusd_epi32(s##r##3, inputs, w3);  \
    }
#define PART(r, c)                                                                                          \
    finish(s##r##c, sums + c * LANES, scale + c * LANES, by[r], bias ? bias + c * LANES : 0, y + r * out + c * LANES, \
           left - c * LANES);
#define END(r) PART(r, 0) PART(r, 1) PART(r, 2) PART(r, 3)
#define TILE(rows)                                                                                                \
    __attribute__((optimize("fp-contract=off"))) static void tile##rows(                                          \
        const uint8_t *x, long stride, const int8_t *w, const char *const *chunks, long step, const int32_t *sums, \
        const float *scale, const float *by, const float *bias, float *y, long out, long left) {                  \
        const __m512i zero = _mm512_setzero_si512();                                                              \
        ROWS##rows(BEGIN) for (long q = 0; q < stride / 4; q++) {                                                 \
            const int8_t *at = w + q * BLOCK;                                                                     \
            const __m512i w0 = _mm512_loadu_si512(at), w1 = _mm512_loadu_si512(at + 64),                          \
                          w2 = _mm512_loadu_si512(at + 128), w3 = _mm512_loadu_si512(at + 192);                   \
            const char *next = chunks[q / TURNS] + q % TURNS * step;                                              \
            _mm_prefetch(next, _MM_HINT_T1);                                                                      \
            _mm_prefetch(next + step / 2, _MM_HINT_T1);                                                           \
            ROWS##rows(STEP)                                                                                      \
        }                                                                                                         \
        ROWS##rows(END)                                                                                           \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)

/* y [rows, out] = x [rows, in] W' + bias, if there is one, in float32; x is bf16 with half, else float32. w, sums: of
   pack_eight_bits. scale [out]: of each output's weights. scratch: for each row as many bytes as inputs, up to a multiple
   of 4, and then a float for each row. With a batch, what its adapters add as well; see add_lora. */
void multiply_eight_bits(float *y, const void *x, int half, long rows, long in, long out, const int8_t *w,
                         const int32_t *sums, const float *scale, const float *bias, uint8_t *scratch,
                         const batch_t *batch, int first, int parts, float *low) {
    const long blocks = (out + OUT - 1) / OUT, stride = (in + 3) / 4 * 4, size = stride * OUT;
    const long held = HELD / stride < ROWS ? ROWS : HELD / stride / ROWS * ROWS;
    float *by = (float *)(scratch + rows * stride);
    const long turns = (stride / 4 + TURNS - 1) / TURNS;
#pragma omp parallel
    {
        const long threads = omp_get_num_threads(), me = omp_get_thread_num();
        if (batch) lower_rows(x, half, rows, in, batch, first, parts, low, me, threads);
#pragma omp for schedule(static)
        for (long r = 0; r < rows; r++) {
            uint8_t *to = scratch + r * stride;
            by[r] = half ? shorten(x, r * in, 1, in, to) : shorten(x, r * in, 0, in, to);
            for (long i = in; i < stride; i++) to[i] = 0;
        }
        for (long begin = 0; begin < rows; begin += held) {
            const long last = begin + held < rows ? begin + held : rows, tiles = (last - begin + ROWS - 1) / ROWS;
            const long spare = tiles > 3 ? (tiles - 3) * turns : 0, room = spare ? spare : FEW;
            const char *chunks[3 * turns + room];
            for (long b = blocks * me / threads; b < blocks * (me + 1) / threads; b++) {
                /* The first tile waits for memory; the next two fetch a half each of the block that comes next, and those
                   after them what is read of adapters for this block. Where there are none, it is fetched at once. */
                const char *block = (const char *)(w + b * size);
                for (long i = 0; i < turns; i++) {
                    chunks[i] = block + AHEAD + i * TURNS * BLOCK;
                    chunks[turns + i] = block + size + i * TURNS * BLOCK / 2;
                    chunks[2 * turns + i] = block + size + size / 2 + i * TURNS * BLOCK / 2;
                }
                const char **rest = chunks + 3 * turns;
                const long found = batch ? chunks_of_block(rest, room, b, batch, first, parts) : 0;
                for (long i = found; i < spare; i++) rest[i] = block;
                for (long r = begin; r < last; r += ROWS) {
                    const long tile = (r - begin) / ROWS;
                    if (tile == 1 && !spare)
                        for (long i = 0; i < found; i++)
                            for (long j = 0; j < CHUNK; j += 64) _mm_prefetch(rest[i] + j, _MM_HINT_T1);
#define CASE(n)                                                                                                        \
    case n:                                                                                                            \
        tile##n(scratch + r * stride, stride, w + b * size, chunks + tile * turns, tile ? BLOCK / 2 : BLOCK,           \
                sums + b * OUT, scale + b * OUT, by + r, bias ? bias + b * OUT : 0, y + r * out + b * OUT, out,        \
                out - b * OUT);                                                                                        \
        break;
                    switch (last - r < ROWS ? last - r : ROWS) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
                }
                if (batch && last == rows) raise_rows(y, 0, rows, out, b, batch, first, parts, low);
            }
        }
    }
}

#endif
