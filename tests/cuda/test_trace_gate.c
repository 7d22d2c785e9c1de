/* Recorded routing on a GPU (compute/cuda/trace_gate.cu) is the table's, row by row, placed as the router places; padding rows choose no slot. Without a
 * GPU it says "skipped". */
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"
#include "compute/cuda/trace_gate.h"
#include "cuda/device.h"

enum { LAYERS = 3, TOKENS = 50, EXPERTS = 100, TURNS = 64, LAYER_OF_MODEL = 7 };

/* Everything twice: here, and there for the kernel. */
typedef struct scene {
    uint16_t *experts;
    float *weights;
    int32_t *pick, *sequence, *position, *recorded;
    gr_recorded r;
    gr_place place;
    gr_step_rows rows;
} scene;

static int n_failed;

static void *copy(const void *from, size_t bytes) { return to_device(from, bytes + 4); }

static void scene_open(scene *s, int32_t n_rows, int32_t top_k, bool weighted, bool picks) {
    const size_t n_table = (size_t)LAYERS * TOKENS * (size_t)top_k, n = (size_t)n_rows + 1;
    gr_rng rng = gr_rng_seed(5);
    *s = (scene){.experts = malloc(n_table * 2 + 4), .weights = malloc(n_table * 4 + 4), .pick = malloc(EXPERTS * TURNS * 4 + 4), .sequence = malloc(n * 4),
                 .position = malloc(n * 4), .recorded = malloc(n * 4)};
    for (size_t i = 0; i < n_table; i++) s->experts[i] = (uint16_t)gr_rng_below(&rng, EXPERTS), s->weights[i] = (float)gr_rng_uniform(&rng);
    for (int32_t i = 0; i < EXPERTS * TURNS; i++) s->pick[i] = (int32_t)gr_rng_below(&rng, 200);
    for (int32_t i = 0; i < n_rows; i++) {
        s->sequence[i] = (int32_t)gr_rng_below(&rng, 1000), s->position[i] = (int32_t)gr_rng_below(&rng, 4096);
        s->recorded[i] = i % 5 == 4 ? -1 : (int32_t)gr_rng_below(&rng, TOKENS);
    }
    s->r = (gr_recorded){LAYERS, top_k, copy(s->experts, n_table * 2), weighted ? copy(s->weights, n_table * 4) : NULL, 0.125f};
    s->place = (gr_place){.pick = picks ? copy(s->pick, EXPERTS * TURNS * 4) : NULL, .layer = LAYER_OF_MODEL,
                          .slots = to_device(NULL, n * (size_t)top_k * 4)};
    s->rows = (gr_step_rows){.n = n_rows, .sequence = copy(s->sequence, n * 4 - 4), .position = copy(s->position, n * 4 - 4),
                             .recorded = copy(s->recorded, n * 4 - 4)};
}

static void scene_close(scene *s) {
    void *const there[] = {s->r.experts, s->r.weights, (void *)s->place.pick, s->place.slots, (void *)s->rows.sequence, (void *)s->rows.position,
                           (void *)s->rows.recorded};
    void *const here[] = {s->experts, s->weights, s->pick, s->sequence, s->position, s->recorded};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++) must(cudaFree(there[i]) == cudaSuccess, "cudaFree");
    for (size_t i = 0; i < sizeof here / sizeof *here; i++) free(here[i]);
}

typedef struct choice { int32_t id, slot; float weight; } choice;

static choice expected(const scene *s, int32_t layer, int64_t at) {
    const int32_t row = (int32_t)(at / s->r.top_k), k = (int32_t)(at % s->r.top_k), token = s->recorded[row];
    if (token < 0) return (choice){k, -1, 0};
    const int64_t from = ((int64_t)token * LAYERS + layer) * s->r.top_k + k;
    const int32_t id = s->experts[from];
    const uint32_t turn = (gr_mix32((uint32_t)s->sequence[row], LAYER_OF_MODEL, (uint32_t)id) + (uint32_t)s->position[row]) % TURNS;
    return (choice){id, s->place.pick ? s->pick[id * TURNS + (int32_t)turn] : id, s->r.weights ? s->weights[from] : 0.125f};
}

static void check(int32_t n_rows, int32_t top_k, int32_t layer, bool weighted, bool picks) {
    scene s;
    scene_open(&s, n_rows, top_k, weighted, picks);
    const size_t n = (size_t)n_rows * (size_t)top_k, bytes = n * 4 + 4;
    int32_t *ids = malloc(bytes), *slots = malloc(bytes), *d_ids = to_device(NULL, bytes);
    float *weights = malloc(bytes), *d_weights = to_device(NULL, bytes);
    int64_t wrong = -1;
    must(gr_cuda_recall(&s.r, layer, &s.place, &s.rows, d_ids, d_weights, NULL) == GRACE_OK, "recall");
    to_host(ids, d_ids, n * 4), to_host(weights, d_weights, n * 4), to_host(slots, s.place.slots, n * 4);
    for (int64_t i = (int64_t)n - 1; i >= 0; i--) {
        const choice c = expected(&s, layer, i);
        if (ids[i] != c.id || slots[i] != c.slot || weights[i] != c.weight) wrong = i;
    }
    printf("%s rows take the recorded choices: %d rows, top %d, layer %d, %s weights, %s\n", wrong < 0 ? "ok    " : "FAILED", n_rows, top_k, layer,
           weighted ? "recorded" : "equal", picks ? "picked slots" : "slot = expert");
    if (wrong >= 0) {
        const choice c = expected(&s, layer, wrong);
        printf("       first wrong choice %lld: expected id %d, slot %d, weight %g, found %d, %d, %g\n", (long long)wrong, c.id, c.slot, (double)c.weight,
               ids[wrong], slots[wrong], (double)weights[wrong]);
    }
    n_failed += wrong >= 0;
    free(ids), free(slots), free(weights);
    must(cudaFree(d_ids) == cudaSuccess && cudaFree(d_weights) == cudaSuccess, "cudaFree");
    scene_close(&s);
}

int main(void) {
    if (no_gpu("recorded routing")) return SKIPPED;
    check(0, 8, 0, false, false);
    check(1, 6, 2, true, false);
    check(7, 8, 1, false, true);
    check(4097, 8, 1, true, true);
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
