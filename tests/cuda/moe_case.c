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
            bool none = how == SPREAD_GAPS && (i >= c->n_rows - c->n_rows / 4 || gr_rng_uniform(rng) < 1 / 3.0);
            c->slot[i * c->top_k + j] = none ? -1 - j : s;
            c->weight[i * c->top_k + j] = c->unweighted ? 1 : (float)(0.05 + 0.2 * gr_rng_uniform(rng));
        }
    }
}

static float *random_bias(gr_rng *rng, size_t n) {
    float *bias = malloc(n * sizeof *bias);
    for (size_t i = 0; i < n; i++) bias[i] = (float)gr_rng_uniform(rng) - 0.5f;
    return bias;
}

static void open_tables(moe_case *c, size_t n_choices) {
    c->pairs = (gr_cuda_pairs){.n_slots = c->n_slots, .n_rows = c->n_rows, .top_k = c->top_k};
    if (c->untabled) return;
    c->pairs.first_pair = to_device(NULL, ((size_t)c->n_slots + 1) * 4), c->pairs.row_of_pair = to_device(NULL, n_choices * 4);
    c->pairs.pair_of_choice = to_device(NULL, n_choices * 4);
    c->pairs.scratch = to_device(NULL, (size_t)gr_cuda_group_scratch((int64_t)n_choices, c->n_slots) * 4);
}

void moe_case_open(moe_case *c, uint64_t seed, spread how) {
    gr_rng rng = gr_rng_seed(seed);
    size_t n_choices = (size_t)c->n_rows * c->top_k, n_up = (size_t)c->n_slots * 2 * c->width * c->hidden, n_down = n_up / 2;
    size_t n_up_bias = (size_t)c->n_slots * 2 * c->width, n_down_bias = (size_t)c->n_slots * c->hidden;
    c->rows = malloc((size_t)c->n_rows * c->hidden * 2 + 2), c->gate_up = malloc(n_up * 2), c->down = malloc(n_down * 2);
    c->slot = malloc(n_choices * 4 + 4), c->weight = malloc(n_choices * 4 + 4);
    fill_bf16(seed + 1, c->rows, (size_t)c->n_rows * c->hidden, 1);
    fill_bf16(seed + 2, c->gate_up, n_up, 1 / sqrtf((float)c->hidden));
    fill_bf16(seed + 3, c->down, n_down, 1 / sqrtf((float)c->width));
    choose_slots(c, &rng, how);
    c->d_rows = to_device(c->rows, (size_t)c->n_rows * c->hidden * 2);
    c->d_gate_up = to_device(c->gate_up, n_up * 2), c->d_down = to_device(c->down, n_down * 2);
    c->d_slot = to_device(c->slot, n_choices * 4), c->d_weight = to_device(c->weight, n_choices * 4);
    if (c->biased) {
        c->gate_up_bias = random_bias(&rng, n_up_bias), c->down_bias = random_bias(&rng, n_down_bias);
        c->d_gate_up_bias = to_device(c->gate_up_bias, n_up_bias * 4), c->d_down_bias = to_device(c->down_bias, n_down_bias * 4);
    }
    c->d_y = to_device(NULL, n_choices * c->hidden * 2), c->d_out = to_device(NULL, (size_t)c->n_rows * c->hidden * 2);
    c->d_act = to_device(NULL, (n_choices + 1) * c->width * 2);
    must(cudaMemset(c->d_y, 0xFF, n_choices * c->hidden * 2) == cudaSuccess, "poison");
    must(cudaMemset(c->d_act, 0xFF, (n_choices + 1) * c->width * 2) == cudaSuccess, "poison");
    must(cudaMemset(c->d_out, 0xFF, (size_t)c->n_rows * c->hidden * 2) == cudaSuccess, "poison");
    open_tables(c, n_choices);
    const gr_cuda_experts_options options = {
        .kernels = c->kernels, .n_slots = c->n_slots, .hidden = c->hidden, .width = c->width, .gate_up = c->d_gate_up, .down = c->d_down,
        .gate_up_bias = c->d_gate_up_bias, .down_bias = c->d_down_bias, .swiglu_limit = c->limit, .act = c->d_act, .n_pairs_max = (int32_t)n_choices + 1};
    must(!gr_cuda_experts_open(&options, &c->experts), "experts_open");
}

void moe_case_close(moe_case *c) {
    void *device[] = {c->d_rows, c->d_gate_up, c->d_down, c->d_y, c->d_out, c->d_act, c->d_gate_up_bias, c->d_down_bias, c->d_slot, c->d_weight,
                      c->pairs.first_pair, c->pairs.row_of_pair, c->pairs.pair_of_choice, c->pairs.scratch};
    gr_cuda_experts_close(c->experts);
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) cudaFree(device[i]);
    free(c->rows), free(c->gate_up), free(c->down), free(c->gate_up_bias), free(c->down_bias), free(c->slot), free(c->weight);
}

void moe_case_run(const moe_case *c, gr_cuda_stream stream) { moe_case_run_part(c, 0, c->n_rows, stream); }

void moe_case_run_part(const moe_case *c, int32_t first_row, int32_t n_rows, gr_cuda_stream stream) {
    size_t first_choice = (size_t)first_row * c->top_k, first_value = (size_t)first_row * c->hidden;
    gr_cuda_pairs pairs = c->pairs;
    pairs.n_rows = n_rows;
    if (!c->untabled) must(!gr_cuda_group(c->d_slot + first_choice, &pairs, stream), "group");
    must(!gr_cuda_experts_run(c->experts, &pairs, (const uint16_t *)c->d_rows + first_value, c->d_y, stream), "experts");
    must(!gr_cuda_combine(&pairs, c->unweighted ? NULL : c->d_weight + first_choice, c->d_y, NULL, c->hidden, (uint16_t *)c->d_out + first_value, stream),
         "combine");
}

static double dot(const uint16_t *weight, const uint16_t *x, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)from_bf16(weight[i]) * from_bf16(x[i]);
    return sum;
}

static double swiglu(double gate, double up, double limit) {
    if (limit == 0) return gate / (1 + exp(-gate)) * up;
    gate = fmin(gate, limit), up = fmin(fmax(up, -limit), limit);
    return gate / (1 + exp(-1.702 * gate)) * (up + 1);
}

/* act [width] of row x in one slot. */
static void reference_act(const moe_case *c, int32_t slot, const uint16_t *x, double *act) {
    const int32_t block = c->width % 64 ? c->width : 64;
    for (int32_t w = 0; w < c->width; w++) {
        size_t gate = (size_t)slot * 2 * c->width + (size_t)(w / block) * 2 * block + w % block, up = gate + block;
        act[w] = swiglu(dot(c->gate_up + gate * c->hidden, x, c->hidden) + (c->biased ? c->gate_up_bias[gate] : 0),
                        dot(c->gate_up + up * c->hidden, x, c->hidden) + (c->biased ? c->gate_up_bias[up] : 0), c->limit);
    }
}

void moe_reference(const moe_case *c, int32_t row, double *y, double *magnitude) {
    double *act = malloc(sizeof *act * (size_t)c->width);
    for (int32_t h = 0; h < c->hidden; h++) y[h] = magnitude[h] = 0;
    for (int32_t j = 0; j < c->top_k; j++) {
        int32_t s = c->slot[row * c->top_k + j];
        if (s < 0) continue;
        reference_act(c, s, c->rows + (size_t)row * c->hidden, act);
        for (int32_t h = 0; h < c->hidden; h++) {
            const uint16_t *d = c->down + ((size_t)s * c->hidden + h) * c->width;
            double sum = c->biased ? c->down_bias[s * c->hidden + h] : 0, squares = 0;
            for (int32_t w = 0; w < c->width; w++) sum += from_bf16(d[w]) * act[w], squares += pow(from_bf16(d[w]) * act[w], 2);
            y[h] += c->weight[row * c->top_k + j] * sum;
            magnitude[h] += c->weight[row * c->top_k + j] * (fabs(sum) + sqrt(squares));
        }
    }
    free(act);
}
