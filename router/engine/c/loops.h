/* What layer.c calls, included where it is written too, so that the compiler compares. */

#pragma once

#include "lora.h"

void normalise(void *y, const void *x, int half, long rows, long width, const void *weight, int weight_half, float eps);
void gated(void *y, const void *x, int half, long rows, long width);
void turn(float *q, void *k, void *v, int kept, const void *x, int half, const void *cosines, const void *sines, long rows,
          long time, long heads, long groups, long size, long row, long group);
void attend(void *y, const float *q, const void *k, const void *v, int half, const uint8_t *seen, long rows, long groups,
            long shared, long positions, long size, long row, long group, float scale, float *scores);
void attend_many(void *y, const float *q, const void *k, const void *v, int half, const uint8_t *seen, long rows, long time,
                 long groups, long shared, long positions, long size, long row, long group, float scale, float *scratch);
void multiply_eight_bits(float *y, const void *x, int half, long rows, long in, long out, const int8_t *w,
                         const int32_t *sums, const float *scale, const float *bias, uint8_t *scratch,
                         const batch_t *batch, int first, int parts, char *low);

void multiply_four_bits(float *y, const void *x, int half, long rows, long in, long out, const uint8_t *w, const float *bias,
                        uint8_t *scratch);
void add_lora_eight_bits(float *y, const void *x, int half, long rows, long in, long out, const batch_t *batch, int first,
                         int parts, uint8_t *scratch, char *low);
