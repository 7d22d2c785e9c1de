/* Rotary embedding tables. The reference makes angles in float32 (position * frequency), so they are made the same way here; cosine and sine of
 * that float are taken in double and, with their magnitude, rounded once. */
#include "compute/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void gr_rope_free(gr_rope_table *t) {
    free(t->cosine);
    free(t->sine);
    t->cosine = t->sine = NULL;
    t->rope.dim = t->n_positions = 0;
}

static void fill(gr_rope_table *t, int32_t first, int32_t last) {
    const int32_t half = t->rope.dim / 2;
    const double magnitude = (double)t->rope.magnitude;
    for (int32_t i = 0; i < half; i++)
        for (int32_t p = first; p < last; p++) {
            const float angle = (float)p * t->rope.frequency[i];
            t->cosine[(int64_t)p * half + i] = (float)(cos((double)angle) * magnitude);
            t->sine[(int64_t)p * half + i] = (float)(sin((double)angle) * magnitude);
        }
}

static grace_status grow(float **table, int64_t n) {
    float *grown = realloc(*table, (size_t)n * sizeof *grown);
    if (!grown) return gr_fail(GRACE_ERR_MEMORY, "rope table: no memory for %lld floats", (long long)n);
    *table = grown;
    return GRACE_OK;
}

static bool is_same(const grace_rope *a, const grace_rope *b) {
    return a->dim == b->dim && a->magnitude == b->magnitude && !memcmp(a->frequency, b->frequency, (size_t)(a->dim / 2) * sizeof *a->frequency);
}

grace_status gr_rope_reserve(gr_rope_table *t, const grace_rope *rope, int32_t n_positions) {
    grace_status st = GRACE_OK;
    const int32_t half = rope->dim / 2;
    if (!is_same(&t->rope, rope)) gr_rope_free(t);
    if (n_positions <= t->n_positions || half == 0) return st;
    int64_t n = 2 * (int64_t)t->n_positions;
    if (n < n_positions) n = n_positions;
    if (n > INT32_MAX) n = INT32_MAX;
    GR_TRY(grow(&t->cosine, n * half));
    GR_TRY(grow(&t->sine, n * half));
    t->rope = *rope;
    fill(t, t->n_positions, (int32_t)n);
    t->n_positions = (int32_t)n;
done:
    return st;
}
