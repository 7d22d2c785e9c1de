#include "cuda/moe_case.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

static void choose_slots(moe_case *c, gr_rng *rng, spread how) {
    bool taken[GR_CUDA_SLOTS_MAX];
    for (int32_t i = 0; i < c->n_rows; i++) {
        memset(taken, 0, sizeof taken);
        for (int32_t j = 0; j < c->top_k; j++) {
            int32_t s;
            do {
                double u = gr_rng_uniform(rng);
                s = how == SPREAD_ONE ? j : (int32_t)((how == SPREAD_SKEWED ? u * u * u : u) * c->n_slots);
            } while (taken[s]);
            taken[s] = true;
            c->slot[i * c->top_k + j] = s;
            c->weight[i * c->top_k + j] = (float)(0.05 + 0.2 * gr_rng_uniform(rng));
        }
    }
}

void moe_case_open(moe_case *c, uint64_t seed, spread how) {
    gr_rng rng = gr_rng_seed(seed);
    size_t n_choices = (size_t)c->n_rows * c->top_k, n_up = (size_t)c->n_slots * 2 * c->width * c->hidden, n_down = n_up / 2;
    c->rows = malloc((size_t)c->n_rows * c->hidden * 2 + 2), c->gate_up = malloc(n_up * 2), c->down = malloc(n_down * 2);
    c->slot = malloc(n_choices * 4 + 4), c->weight = malloc(n_choices * 4 + 4);
    fill_bf16(seed + 1, c->rows, (size_t)c->n_rows * c->hidden, 1);
    fill_bf16(seed + 2, c->gate_up, n_up, 1 / sqrtf((float)c->hidden));
    fill_bf16(seed + 3, c->down, n_down, 1 / sqrtf((float)c->width));
    choose_slots(c, &rng, how);
    c->d_rows = to_device(c->rows, (size_t)c->n_rows * c->hidden * 2);
    c->d_gate_up = to_device(c->gate_up, n_up * 2), c->d_down = to_device(c->down, n_down * 2);
    c->d_slot = to_device(c->slot, n_choices * 4), c->d_weight = to_device(c->weight, n_choices * 4);
    c->d_y = to_device(NULL, n_choices * c->hidden * 2), c->d_out = to_device(NULL, (size_t)c->n_rows * c->hidden * 2);
    must(cudaMemset(c->d_y, 0xFF, n_choices * c->hidden * 2) == cudaSuccess, "poison");
    must(cudaMemset(c->d_out, 0xFF, (size_t)c->n_rows * c->hidden * 2) == cudaSuccess, "poison");
    c->pairs = (gr_cuda_pairs){.n_slots = c->n_slots, .n_rows = c->n_rows, .top_k = c->top_k,
                               .first_pair = to_device(NULL, ((size_t)c->n_slots + 1) * 4), .row_of_pair = to_device(NULL, n_choices * 4),
                               .pair_of_choice = to_device(NULL, n_choices * 4),
                               .scratch = to_device(NULL, (size_t)gr_cuda_group_scratch((int64_t)n_choices, c->n_slots) * 4)};
    must(!gr_cuda_experts_open(c->d_gate_up, c->d_down, c->n_slots, c->hidden, c->width, (int32_t)n_choices + 1, &c->experts), "experts_open");
}

void moe_case_close(moe_case *c) {
    void *device[] = {c->d_rows, c->d_gate_up, c->d_down, c->d_y, c->d_out, c->d_slot, c->d_weight, c->pairs.first_pair, c->pairs.row_of_pair,
                      c->pairs.pair_of_choice, c->pairs.scratch};
    gr_cuda_experts_close(c->experts);
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) cudaFree(device[i]);
    free(c->rows), free(c->gate_up), free(c->down), free(c->slot), free(c->weight);
}

void moe_case_run(const moe_case *c, gr_cuda_stream stream) {
    must(!gr_cuda_group(c->d_slot, &c->pairs, stream), "group");
    must(!gr_cuda_experts_run(c->experts, &c->pairs, c->d_rows, c->d_y, stream), "experts");
    must(!gr_cuda_combine(&c->pairs, c->d_weight, c->d_y, NULL, c->hidden, c->d_out, stream), "combine");
}

void moe_reference(const moe_case *c, int32_t row, double *y, double *magnitude) {
    double *act = malloc(sizeof *act * (size_t)c->width);
    for (int32_t h = 0; h < c->hidden; h++) y[h] = magnitude[h] = 0;
    for (int32_t j = 0; j < c->top_k; j++) {
        int32_t s = c->slot[row * c->top_k + j];
        const uint16_t *x = c->rows + (size_t)row * c->hidden, *up = c->gate_up + (size_t)s * 2 * c->width * c->hidden;
        for (int32_t w = 0; w < c->width; w++) {
            const uint16_t *g = up + ((size_t)(w / 64) * 128 + w % 64) * c->hidden, *u = g + (size_t)64 * c->hidden;
            double gate = 0, lift = 0;
            for (int32_t h = 0; h < c->hidden; h++) gate += (double)from_bf16(g[h]) * from_bf16(x[h]), lift += (double)from_bf16(u[h]) * from_bf16(x[h]);
            act[w] = gate / (1 + exp(-gate)) * lift;
        }
        for (int32_t h = 0; h < c->hidden; h++) {
            const uint16_t *d = c->down + ((size_t)s * c->hidden + h) * c->width;
            double sum = 0, all = 0;
            for (int32_t w = 0; w < c->width; w++) sum += from_bf16(d[w]) * act[w], all += fabs(from_bf16(d[w]) * act[w]);
            y[h] += c->weight[row * c->top_k + j] * sum;
            magnitude[h] += c->weight[row * c->top_k + j] * (fabs(sum) + all / sqrt((double)c->width));
        }
    }
    free(act);
}
