/* Products in 8 bits: rows are rounded to 8 bits and multiplied, with AVX-512's instruction for it, by weights packed so
   that a thread reads them one after another, at the speed of memory up to some 16 rows.

   Sums are of integers, and what they are multiplied with is rounded as torch rounds: equal to the bit to
   router.engine.products.Int8. */

#include "eight_bits.h"
#include "loops.h"

#ifdef __AVX512VNNI__

#define ROWS 6          /* of a tile: with 24 sums of 16 outputs, 4 registers of weights and one of inputs */
#define BLOCK (OUT * 4) /* bytes of a block for 4 inputs */
#define HELD (1L << 20) /* bytes of rows that stay in a core's cache while all weights go by */
#define AHEAD 8192      /* bytes that weights are fetched from memory before they are multiplied */
#define FEW 64          /* pieces of adapters that are fetched at once where rows are few */
#define TURNS 8         /* of 4 inputs, while which a piece of memory is fetched, a line or two with each */

/* w [out, in] to blocks of 64 outputs, and within them 4 inputs of each output at a time, zeros where there are none
   [blocks, ceil(in / 4), 64, 4]. sums [blocks, 64]: 128 times the sum of each output's weights. */
void pack_eight_bits(const int8_t *w, long out, long in, int8_t *to, int32_t *sums) {
    const long blocks = (out + OUT - 1) / OUT, quads = (in + 3) / 4;
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

/* Tiles of 1 to 6 rows and a block of outputs. Meanwhile memory is fetched that is read later: with every 4 inputs two lines,
   `step` further on each time and `pair` apart, from w + pieces[0], and from the next of pieces every TURNS times. */
#define BEGIN(r) __m512i s##r##0 = zero, s##r##1 = zero, s##r##2 = zero, s##r##3 = zero;
#define STEP(r)                                              \
    {                                                        \
        const __m512i inputs = four(x + r * stride + q * 4); \
        s##r##0 = _mm512_dpbusd_epi32(s##r##0, inputs, w0);  \
        s##r##1 = _mm512_dpbusd_epi32(s##r##1, inputs, w1);  \
        s##r##2 = _mm512_dpbusd_epi32(s##r##2, inputs, w2);  \
        s##r##3 = _mm512_dpbusd_epi32(s##r##3, inputs, w3);  \
    }
#define PART(r, c)                                                                                                    \
    finish(s##r##c, sums + c * LANES, scale + c * LANES, by[r], bias ? bias + c * LANES : 0, y + r * out + c * LANES, \
           left - c * LANES);
#define END(r) PART(r, 0) PART(r, 1) PART(r, 2) PART(r, 3)
#define TILE(rows)                                                                                                     \
    __attribute__((optimize("fp-contract=off"))) static void tile##rows(                                               \
        const uint8_t *x, long stride, const int8_t *w, const long *pieces, long step, long pair, const int32_t *sums, \
        const float *scale, const float *by, const float *bias, float *y, long out, long left) {                       \
        const __m512i zero = _mm512_setzero_si512();                                                                   \
        ROWS##rows(BEGIN) for (long q = 0; q < stride / 4; q++) {                                                      \
            const int8_t *at = w + q * BLOCK;                                                                          \
            const __m512i w0 = _mm512_loadu_si512(at), w1 = _mm512_loadu_si512(at + 64),                               \
                          w2 = _mm512_loadu_si512(at + 128), w3 = _mm512_loadu_si512(at + 192);                        \
            const char *next = (const char *)w + pieces[q / TURNS] + q % TURNS * step;                                 \
            _mm_prefetch(next, _MM_HINT_T1);                                                                           \
            _mm_prefetch(next + pair, _MM_HINT_T1);                                                                    \
            ROWS##rows(STEP)                                                                                           \
        }                                                                                                              \
        ROWS##rows(END)                                                                                                \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)

/* What is fetched while the tiles after a block's first are multiplied: the next block, and what is read of adapters. */
typedef struct {
    long bytes, own, other; /* of a piece, and how many of the next block and of adapters there is time for */
    long *pieces, *others;  /* where each is, from the block; which of them are of adapters */
} plan_t;

/* The pieces at even distances: who asks for much at once waits for memory and cannot multiply. */
static void spread(const plan_t *plan, long slots, long size) {
    const long all = plan->own + plan->other;
    long due = 0, kind = 0, own = 0, other = 0;
    for (long i = 0; i < slots; i++) {
        plan->pieces[i] = 0;
        if ((due += all) < slots) continue;
        due -= slots;
        if ((kind += plan->other) < all) {
            plan->pieces[i] = size + own++ * plan->bytes;
        } else {
            kind -= all;
            plan->others[other++] = i;
        }
    }
}

/* The plan for block b of `size` bytes; a line at a time if there is time for all, else two. found: the pieces of adapters, at
   most `room`; returns how many there are. */
static long plan_block(plan_t *plan, long slots, const int8_t *block, long size, const char **found, long room, long b,
                       const batch_t *batch, int first, int parts) {
    const plan_t before = *plan;
    long count = 0;
    for (plan->bytes = TURNS * 64;; plan->bytes *= 2) {
        plan->own = (size + plan->bytes - 1) / plan->bytes;
        count = batch ? pieces_of_b(found, room, plan->bytes, b, batch, first, parts) : 0;
        if (plan->own + count <= slots || plan->bytes > TURNS * 64) break;
    }
    plan->own = least(plan->own, slots);
    plan->other = least(count, slots - plan->own);
    if (plan->bytes != before.bytes || plan->other != before.other) spread(plan, slots, size);
    for (long i = 0; i < plan->other; i++) plan->pieces[plan->others[i]] = found[i] - (const char *)block;
    return count;
}

/* y [rows, out] = x [rows, in] W' + bias, if there is one, in float32; x is bf16 with half, else float32. w, sums: of
   pack_eight_bits. scale [out]: of each output's weights. scratch: for each row as many bytes as inputs, up to a multiple
   of 4, and then a float for each row. With a batch, what its adapters, in 8 bits, add as well; see
   add_lora_eight_bits. */
void multiply_eight_bits(float *y, const void *x, int half, long rows, long in, long out, const int8_t *w,
                         const int32_t *sums, const float *scale, const float *bias, uint8_t *scratch,
                         const batch_t *batch, int first, int parts, char *low) {
    const long blocks = (out + OUT - 1) / OUT, stride = (in + 3) / 4 * 4, size = stride * OUT;
    const long held = HELD / stride < ROWS ? ROWS : HELD / stride / ROWS * ROWS;
    float *by = (float *)(scratch + rows * stride);
    const long turns = (stride / 4 + TURNS - 1) / TURNS;
#pragma omp parallel
    {
        const long threads = omp_get_num_threads(), me = omp_get_thread_num();
        const long from = blocks * me / threads, mine = blocks * (me + 1) / threads - from;
        shorten_rows(x, half, rows, in, stride, scratch, by, me, threads);
#pragma omp barrier
        if (batch) {
            lower_eight_bits(scratch, stride, by, rows, in, batch, first, parts, low, me, threads);
#pragma omp barrier
        }
        for (long begin = 0; begin < rows; begin += held) {
            const long last = begin + held < rows ? begin + held : rows, tiles = (last - begin + ROWS - 1) / ROWS;
            const long slots = (tiles - 1) * turns, room = slots + FEW;
            const char *found[room];
            long stream[turns], pieces[slots + 1], others[slots + 1];
            for (long i = 0; i < turns; i++) stream[i] = AHEAD + i * TURNS * BLOCK;
            plan_t plan = {0, 0, 0, pieces, others};
            for (long n = 0; n < mine; n++) {
                const long b = from + n;
                const int8_t *block = w + b * size;
                const long count = plan_block(&plan, slots, block, size, found, room, b, batch, first, parts);
                for (long r = begin; r < last; r += ROWS) {
                    const long tile = (r - begin) / ROWS;
                    if (tile == 1) /* what there is no time for is fetched at once */
                        for (long i = plan.other; i < count; i++) fetch(found[i], plan.bytes);
                    const long *at = tile ? pieces + (tile - 1) * turns : stream;
                    const long step = tile ? plan.bytes / TURNS : BLOCK, pair = tile ? step - 64 : BLOCK / 2;
#define CASE(n)                                                                                               \
    case n:                                                                                                   \
        tile##n(scratch + r * stride, stride, block, at, step, pair, sums + b * OUT, scale + b * OUT, by + r, \
                bias ? bias + b * OUT : 0, y + r * out + b * OUT, out, out - b * OUT);                        \
        break;
                    switch (last - r < ROWS ? last - r : ROWS) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
                }
                if (batch && last == rows) raise_eight_bits(y, rows, out, b, batch, first, parts, low);
            }
        }
    }
}

#endif
