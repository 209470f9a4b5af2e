/* A decoder layer of Qwen2 whose weights are in 8 bits or in 4, in one call: where rows are few, what lies between the
   products takes longer to be called than to be computed. */

#include "eight_bits.h"
#include "loops.h"

#ifdef __AVX512VNNI__

int omp_get_max_threads(void);

/* One or more linear layers as a product; see multiply_eight_bits, and multiply_four_bits, which has neither sums nor scale.
   parts: 0 where no adapter of the batch adds to it. */
typedef struct {
    const void *w;
    const int32_t *sums;
    const float *scale, *bias;
    int32_t in, out, first, parts;
} product_t;

typedef struct {
    const void *before, *between; /* weights of the norms before attention and before the feed-forward layers */
    product_t qkv, out, gate_up, down;
    int32_t half, heads, groups, size; /* half: the norms' weights are bf16 */
    float eps, scale;                  /* scale: of scores of attention */
} layer_t;

/* New positions of rows [rows, time], and where their keys and values go: k and v [rows, groups, positions, size], of which
   the last `time` are theirs, rows `row` apart and groups `group`; bf16 with kept, else float32. */
typedef struct {
    void *k, *v;
    const void *cosines, *sines; /* [rows, time, size] of the same type */
    const uint8_t *seen;         /* [rows, positions], or null for all */
    int64_t rows, time, positions, row, group;
    int32_t kept;
} turn_t;

/* What is between the products. Some share their place, for they are not needed at once. */
typedef struct {
    float *normal, *wide, *q, *mixed, *scores;
    uint8_t *bytes;
} work_t;

static long carve(const layer_t *layer, const turn_t *now, char *from, work_t *work) {
    const long rows = now->rows * now->time, inner = layer->heads * layer->size, width = layer->qkv.in;
    const long most = layer->down.in > inner && layer->down.in > width ? layer->down.in : inner > width ? inner : width;
    const long steps = (now->positions + OUT - 1) / OUT * OUT, wide = layer->gate_up.out;
    const long scores = now->time == 1 ? now->rows * layer->heads * steps
                                       : steps * (2 * now->rows * layer->groups * layer->size + 6L * omp_get_max_threads());
    char *at = from;
#define TAKE(place, type, count) place = (type *)at, at += ((count) * sizeof(type) + 63) / 64 * 64
    TAKE(work->normal, float, rows * width);
    TAKE(work->wide, float, rows * (wide > layer->qkv.out ? wide : layer->qkv.out));
    TAKE(work->q, float, rows * inner);
    TAKE(work->mixed, float, rows * most);
    TAKE(work->bytes, uint8_t, rows * ((most + 31) / 32 * 36 + 4) + 4); /* what multiply_four_bits needs is most */
    TAKE(work->scores, float, scores);
#undef TAKE
    return at - from;
}

long layer_bytes(const layer_t *layer, const turn_t *now) {
    work_t work;
    return carve(layer, now, 0, &work);
}

static void product(float *y, const void *x, int half, long rows, const product_t *by, uint8_t *scratch,
                    const batch_t *batch, char *low) {
    if (by->sums) {
        multiply_eight_bits(y, x, half, rows, by->in, by->out, by->w, by->sums, by->scale, by->bias, scratch,
                            by->parts ? batch : 0, by->first, by->parts, low);
        return;
    }
    multiply_four_bits(y, x, half, rows, by->in, by->out, by->w, by->bias, scratch);
    if (by->parts) add_lora_eight_bits(y, x, half, rows, by->in, by->out, batch, by->first, by->parts, scratch, low);
}

/* y = x + more, for a count that is a multiple of 16. */
static void add(float *y, const void *x, int half, const float *more, long count) {
#pragma omp parallel for schedule(static) if (count > 1 << 14)
    for (long i = 0; i < count; i += LANES) store(y, i, 0, load(x, i, half) + load(more, i, 0));
}

/* y [rows * time, width]: what the layer makes of x, of the same shape, bf16 with half, else float32; they may be the same.
   scratch: layer_bytes; low: as add_lora_eight_bits needs, for the product with the most parts. */
void layer(float *y, const void *x, int half, const layer_t *layer, const turn_t *now, const batch_t *batch, char *low,
           char *scratch) {
    const long rows = now->rows * now->time, width = layer->qkv.in, size = layer->size, shared = layer->heads / layer->groups;
    const long new = (now->positions - now->time) * size * bytes_of(now->kept);
    work_t work;
    carve(layer, now, scratch, &work);
    normalise(work.normal, x, half, rows, width, layer->before, layer->half, layer->eps);
    product(work.wide, work.normal, half && layer->half, rows, &layer->qkv, work.bytes, batch, low);
    turn(work.q, (char *)now->k + new, (char *)now->v + new, now->kept, work.wide, 0, now->cosines, now->sines, now->rows,
         now->time, layer->heads, layer->groups, size, now->row, now->group);
    if (now->time == 1)
        attend(work.mixed, work.q, now->k, now->v, now->kept, now->seen, rows, layer->groups, shared, now->positions, size,
               now->row, now->group, layer->scale, work.scores);
    else
        attend_many(work.mixed, work.q, now->k, now->v, now->kept, now->seen, now->rows, now->time, layer->groups, shared,
                    now->positions, size, now->row, now->group, layer->scale, work.scores);
    product(work.normal, work.mixed, now->kept, rows, &layer->out, work.bytes, batch, low);
    add(y, x, half, work.normal, rows * width);
    normalise(work.normal, y, 0, rows, width, layer->between, layer->half, layer->eps);
    product(work.wide, work.normal, 0, rows, &layer->gate_up, work.bytes, batch, low);
    gated(work.mixed, work.wide, 0, rows, layer->down.in);
    product(work.normal, work.mixed, 0, rows, &layer->down, work.bytes, batch, low);
    add(y, y, 0, work.normal, rows * width);
}

#endif
