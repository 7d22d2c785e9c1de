/* Rotary embedding tables. The reference makes angles in float32 (frequency = 1 / theta^(2i/d), angle = position * frequency), so they
 * are made the same way here; cosine and sine of that float are taken in double and rounded once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compute/cpu/cpu.h"

void gr_rope_free(gr_rope_table *t) {
    free(t->cosine);
    free(t->sine);
    t->cosine = t->sine = NULL;
    t->half = t->n_positions = 0;
}

static void fill(gr_rope_table *t, int32_t first, int32_t last) {
    for (int32_t i = 0; i < t->half; i++) {
        const float exponent = (float)(2 * i) / (float)(2 * t->half), frequency = 1.0f / (float)pow(t->theta, exponent);
        for (int32_t p = first; p < last; p++) {
            const float angle = (float)p * frequency;
            t->cosine[(int64_t)p * t->half + i] = (float)cos(angle);
            t->sine[(int64_t)p * t->half + i] = (float)sin(angle);
        }
    }
}

static grace_status grow(float **table, int64_t n) {
    float *grown = realloc(*table, (size_t)n * sizeof *grown);
    if (!grown) return gr_fail(GRACE_ERR_MEMORY, "rope table: no memory for %lld floats", (long long)n);
    *table = grown;
    return GRACE_OK;
}

grace_status gr_rope_reserve(gr_rope_table *t, float theta, int32_t head_dim, int32_t n_positions) {
    grace_status st = GRACE_OK;
    const int32_t half = head_dim / 2;
    if (t->theta != theta || t->half != half) gr_rope_free(t);
    if (n_positions <= t->n_positions || half == 0) return st;
    int64_t n = 2 * (int64_t)t->n_positions;
    if (n < n_positions) n = n_positions;
    if (n > INT32_MAX) n = INT32_MAX;
    GR_TRY(grow(&t->cosine, n * half));
    GR_TRY(grow(&t->sine, n * half));
    t->theta = theta;
    t->half = half;
    fill(t, t->n_positions, (int32_t)n);
    t->n_positions = (int32_t)n;
done:
    return st;
}
