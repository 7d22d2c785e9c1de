/* The gate on a GPU (compute/cuda/gate.cu) against the cpu backend's, to the bit: a router that is the identity makes both see the same logits.
 * Without a GPU it says "skipped". */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"
#include "compute/compute.h"
#include "compute/cuda/gate.h"
#include "compute/cuda/rows.h"
#include "cuda/device.h"
#include "plan/turns.h"

static int n_failed;
static gr_compute *cpu;

typedef enum spread { LOGITS_NORMAL, LOGITS_TIED, LOGITS_WIDE, LOGITS_EQUAL } spread;     /* wide: most scores are 0 beside the best */

typedef struct gate_case {
    uint64_t seed;
    int32_t n_rows, hidden;
    bool with_pick, with_padding;
    gr_cuda_gate g;                         /* device pointers */
    float *logits, *bias, *correction;      /* host */
    int32_t *pick, *sequence, *position, *kv_sequence;
    int32_t *ids, *slots;                   /* what the cpu says */
    float *weights;
    void *d_logits, *d_sequence, *d_position, *d_kv_sequence, *d_ids, *d_weights, *d_slots, *d_flaw;
} gate_case;

static void claim(bool holds, const char *what, const gate_case *c) {
    const grace_gate *r = &c->g.rule;
    if (!holds)
        printf("FAILED %s: seed %llu: %d rows, top %d of %d, %s, groups %d of %d by %d, norm %d, scaling %g, bias %d, correction %d, pick %d\n", what,
               (unsigned long long)c->seed, c->n_rows, c->g.top_k, c->g.n_experts, r->score == GRACE_SCORE_SIGMOID ? "sigmoid" : "softmax",
               r->top_groups, r->n_groups, r->group_best, r->norm_topk, (double)r->scaling, c->bias != NULL, c->correction != NULL, c->with_pick);
    n_failed += !holds;
}

static float random_float(gr_rng *rng, float scale) {
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += gr_rng_uniform(rng) - 0.5;
    return scale * (float)(sum * 1.7);
}

static float *random_floats(gr_rng *rng, int64_t n, float scale) {
    float *x = malloc(sizeof *x * (size_t)n + 4);
    for (int64_t i = 0; i < n; i++) x[i] = random_float(rng, scale);
    return x;
}

static float random_logit(gr_rng *rng, spread how) {
    const float x = random_float(rng, 2);
    return how == LOGITS_TIED ? rintf(2 * x) / 2 : how == LOGITS_WIDE ? x * 60 : how == LOGITS_EQUAL ? 1.5f : x;
}

/* ---- the reference ---- */
static gr_weight *open_vector(const float *v, int32_t n, int32_t rows) {
    grace_tensor t = {.data = v, .rows = rows, .cols = n, .dtype = GRACE_F32};
    gr_weight *w = NULL;
    must(cpu->ops->weight_open(cpu, &t, &w) == GRACE_OK, "weight");
    return w;
}

static void place(gate_case *c) {
    for (int32_t i = 0; i < c->n_rows * c->g.top_k; i++) {
        const int32_t row = i / c->g.top_k, e = c->ids[i];
        const uint32_t turn = (gr_mix32((uint32_t)c->sequence[row], (uint32_t)c->g.layer, (uint32_t)e) + (uint32_t)c->position[row]) % GR_TURNS;
        c->slots[i] = c->with_pick ? c->pick[e * GR_TURNS + (int32_t)turn] : e;
        if (c->kv_sequence[row] < 0) c->ids[i] = i % c->g.top_k, c->weights[i] = 0, c->slots[i] = -1;
    }
}

static void choose_on_cpu(gate_case *c) {
    const int32_t n = c->g.n_experts;
    float *identity = calloc((size_t)n * (size_t)n, sizeof *identity);
    for (int32_t e = 0; e < n; e++) identity[e * n + e] = 1;
    gr_weight *w = open_vector(identity, n, n), *bias = c->bias ? open_vector(c->bias, n, 1) : NULL;
    gr_weight *correction = c->correction ? open_vector(c->correction, n, 1) : NULL;
    const gr_router_weights router = {.w = w, .bias = bias, .correction = correction};
    must(cpu->ops->gate(cpu, &router, &c->g.rule, c->logits, c->n_rows, c->g.top_k, c->ids, c->weights) == GRACE_OK, "the cpu's gate");
    cpu->ops->weight_close(cpu, w), cpu->ops->weight_close(cpu, bias), cpu->ops->weight_close(cpu, correction);
    free(identity);
    place(c);
}

/* ---- a case ---- */
static void open_case(gate_case *c, spread how) {
    gr_rng rng = gr_rng_seed(c->seed);
    const int32_t n = c->g.n_experts;
    const size_t rows = (size_t)c->n_rows, choices = rows * (size_t)c->g.top_k;
    c->logits = malloc(sizeof(float) * rows * (size_t)n + 4);
    for (int64_t i = 0; i < (int64_t)c->n_rows * n; i++) c->logits[i] = random_logit(&rng, how);
    c->pick = malloc(4 * (size_t)n * GR_TURNS);
    for (int32_t i = 0; i < n * GR_TURNS; i++) c->pick[i] = (int32_t)gr_rng_below(&rng, 1000);
    c->sequence = malloc(4 * rows + 4), c->position = malloc(4 * rows + 4), c->kv_sequence = malloc(4 * rows + 4);
    for (int32_t i = 0; i < c->n_rows; i++) {
        c->sequence[i] = (int32_t)gr_rng_below(&rng, 1 << 20), c->position[i] = (int32_t)gr_rng_below(&rng, 5000);
        c->kv_sequence[i] = c->with_padding && gr_rng_below(&rng, 4) == 0 ? -1 : i;
    }
    c->ids = malloc(4 * choices + 4), c->slots = malloc(4 * choices + 4), c->weights = malloc(4 * choices + 4);
    c->d_logits = to_device(c->logits, 4 * rows * (size_t)n);
    c->d_sequence = to_device(c->sequence, 4 * rows), c->d_position = to_device(c->position, 4 * rows);
    c->d_kv_sequence = to_device(c->kv_sequence, 4 * rows);
    c->d_ids = to_device(NULL, 4 * choices), c->d_slots = to_device(NULL, 4 * choices), c->d_weights = to_device(NULL, 4 * choices);
    c->d_flaw = to_device(&(int32_t){0}, 4);
    c->g.pick = c->with_pick ? to_device(c->pick, 4 * (size_t)n * GR_TURNS) : NULL;
    c->g.bias = c->bias ? to_device(c->bias, 4 * (size_t)n) : NULL;
    c->g.correction = c->correction ? to_device(c->correction, 4 * (size_t)n) : NULL;
}

static void close_case(gate_case *c) {
    void *host[] = {c->logits, c->bias, c->correction, c->pick, c->sequence, c->position, c->kv_sequence, c->ids, c->slots, c->weights};
    void *device[] = {c->d_logits, c->d_sequence, c->d_position, c->d_kv_sequence, c->d_ids, c->d_slots, c->d_weights, c->d_flaw,
                      (void *)c->g.pick, (void *)c->g.bias, (void *)c->g.correction};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) cudaFree(device[i]);
}

static void poison(const gate_case *c) {
    const size_t bytes = 4 * (size_t)c->n_rows * (size_t)c->g.top_k;
    must(cudaMemset(c->d_ids, 0xFF, bytes) == cudaSuccess && cudaMemset(c->d_slots, 0x7F, bytes) == cudaSuccess &&
             cudaMemset(c->d_weights, 0xFF, bytes) == cudaSuccess, "cudaMemset");
}

static void run_choose(const gate_case *c) {
    poison(c);
    must(gr_cuda_gate_choose(&c->g, c->d_logits, c->d_sequence, c->d_position, c->d_kv_sequence, c->n_rows, c->d_ids, c->d_weights, c->d_slots,
                             c->d_flaw, NULL) == GRACE_OK, "gate_choose");
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* What the device chose is what the host's arrays say; the first difference is told. */
static bool agrees(const gate_case *c) {
    const size_t n = (size_t)c->n_rows * (size_t)c->g.top_k;
    int32_t *ids = malloc(4 * n + 4), *slots = malloc(4 * n + 4);
    float *weights = malloc(4 * n + 4);
    bool good = true;
    to_host(ids, c->d_ids, 4 * n), to_host(slots, c->d_slots, 4 * n), to_host(weights, c->d_weights, 4 * n);
    for (size_t i = 0; i < n && good; i++) {
        good = ids[i] == c->ids[i] && slots[i] == c->slots[i] && bits_of(weights[i]) == bits_of(c->weights[i]);
        if (!good)
            printf("       row %zu, choice %zu: expected expert %d, slot %d, weight %a, found expert %d, slot %d, weight %a\n", i / (size_t)c->g.top_k,
                   i % (size_t)c->g.top_k, c->ids[i], c->slots[i], (double)c->weights[i], ids[i], slots[i], (double)weights[i]);
    }
    free(ids), free(slots), free(weights);
    return good;
}

static int32_t flaw_of(const gate_case *c) {
    int32_t flaw;
    to_host(&flaw, c->d_flaw, 4);
    return flaw;
}

static gate_case random_case(uint64_t seed) {
    static const int32_t experts[] = {1, 4, 8, 24, 60, 64, 96, 128, 160, 256}, rows[] = {0, 1, 3, 64, 257};
    gr_rng rng = gr_rng_seed(seed * 77);
    gate_case c = {.seed = seed, .n_rows = rows[gr_rng_below(&rng, 5)], .with_pick = gr_rng_below(&rng, 2), .with_padding = gr_rng_below(&rng, 2)};
    c.g = (gr_cuda_gate){.n_experts = experts[gr_rng_below(&rng, 10)], .layer = (int32_t)gr_rng_below(&rng, 48)};
    c.g.rule = (grace_gate){.norm_topk = gr_rng_below(&rng, 2), .scaling = 1};
    if (gr_rng_below(&rng, 2)) c.g.rule.score = GRACE_SCORE_SIGMOID;
    int32_t allowed = c.g.n_experts;
    if (c.g.n_experts % 4 == 0 && gr_rng_below(&rng, 3) == 0) {
        c.g.rule.n_groups = c.g.n_experts % 8 == 0 && gr_rng_below(&rng, 2) ? 8 : 4;
        c.g.rule.top_groups = 1 + (int32_t)gr_rng_below(&rng, (uint32_t)c.g.rule.n_groups);
        c.g.rule.group_best = 1 + (int32_t)gr_rng_below(&rng, 2);
        allowed = c.g.n_experts / c.g.rule.n_groups * c.g.rule.top_groups;
    }
    c.g.top_k = 1 + (int32_t)gr_rng_below(&rng, (uint32_t)(allowed < GR_CUDA_GATE_TOP_K_MAX ? allowed : GR_CUDA_GATE_TOP_K_MAX));
    if (gr_rng_below(&rng, 3) == 0) c.g.rule.scaling = 2.5f;
    if (gr_rng_below(&rng, 3) == 0) c.bias = random_floats(&rng, c.g.n_experts, 1);
    if (gr_rng_below(&rng, 2) == 0) c.correction = random_floats(&rng, c.g.n_experts, 0.2f);
    return c;
}

static void check_choice(uint64_t seed) {
    gate_case c = random_case(seed);
    open_case(&c, (spread)(seed % 4));
    choose_on_cpu(&c);
    run_choose(&c);
    claim(agrees(&c), "the gate chooses as the cpu does, to the bit", &c);
    claim(flaw_of(&c) == 0, "finite logits are no flaw", &c);
    close_case(&c);
}

/* A flawed row is named and gets experts 0 .. k-1 without weight; the others are as ever; padding may hold anything. */
static void check_flaw(float bad) {
    gate_case c = {.seed = 5, .n_rows = 70, .with_padding = true};
    c.g = (gr_cuda_gate){.n_experts = 60, .top_k = 4, .rule = {.score = GRACE_SCORE_SOFTMAX, .scaling = 1}};
    open_case(&c, LOGITS_NORMAL);
    choose_on_cpu(&c);
    for (int32_t row = 0; row < c.n_rows; row++)
        if (row == 40 || c.kv_sequence[row] < 0) c.logits[row * 60 + 33] = bad;
    c.kv_sequence[40] = 40;
    for (int32_t i = 0; i < 4; i++) c.ids[40 * 4 + i] = c.slots[40 * 4 + i] = i, c.weights[40 * 4 + i] = 0;
    cudaFree(c.d_logits), c.d_logits = to_device(c.logits, 4 * 70 * 60);
    cudaFree(c.d_kv_sequence), c.d_kv_sequence = to_device(c.kv_sequence, 4 * 70);
    run_choose(&c);
    claim(agrees(&c), "a flawed row gets the first experts, other rows their own", &c);
    claim(flaw_of(&c) == 41, "the flaw names the row", &c);
    close_case(&c);
}

/* ---- logits and choice in one ---- */
typedef struct router_case { uint16_t *x; float *w; void *d_x; gr_cuda_router r; } router_case;

static router_case open_router(const gate_case *c, bool fp32) {
    const size_t n = (size_t)c->g.n_experts * (size_t)c->hidden, m = (size_t)c->n_rows * (size_t)c->hidden;
    router_case r = {.x = malloc(2 * m + 2), .w = malloc(4 * n), .r = {.w = {.rows = c->g.n_experts, .cols = c->hidden, .fp32 = fp32}}};
    uint16_t *rounded = malloc(2 * n);
    fill_bf16(c->seed, r.x, m, 1), fill_bf16(c->seed + 1, rounded, n, 2 / sqrtf((float)c->hidden));
    for (size_t i = 0; i < n; i++) r.w[i] = from_bf16(rounded[i]) * (fp32 ? 1.0009765625f : 1);
    r.d_x = to_device(r.x, 2 * m);
    r.r.w.data = fp32 ? to_device(r.w, 4 * n) : to_device(rounded, 2 * n);
    r.r.logits = to_device(NULL, 4 * (size_t)c->n_rows * (size_t)c->g.n_experts);
    r.r.n_done = to_device(NULL, 4 * (size_t)c->n_rows);
    must(cudaMemset(r.r.n_done, 0, 4 * (size_t)c->n_rows) == cudaSuccess, "cudaMemset");
    free(rounded);
    return r;
}

static void close_router(router_case *r) {
    free(r->x), free(r->w);
    cudaFree(r->d_x), cudaFree((void *)r->r.w.data), cudaFree(r->r.logits), cudaFree(r->r.n_done);
}

/* Sums of hidden / 32 terms one after the other, then of 32. */
static bool logits_are_right(const gate_case *c, const router_case *r, double *worst) {
    for (int32_t i = 0; i < c->n_rows; i++)
        for (int32_t e = 0; e < c->g.n_experts; e++) {
            const uint16_t *x = r->x + (int64_t)i * c->hidden;
            const float *w = r->w + (int64_t)e * c->hidden;
            double sum = 0, size = 0;
            for (int32_t k = 0; k < c->hidden; k++) {
                const double term = (double)from_bf16(x[k]) * (double)w[k];
                sum += term, size += fabs(term);
            }
            const double found = (double)c->logits[i * c->g.n_experts + e], bound = (c->hidden / 32.0 + 14) * 0x1p-24 * size;
            if (fabs(found - sum) / bound > *worst) *worst = fabs(found - sum) / bound;
            if (fabs(found - sum) <= bound) continue;
            printf("       logit of row %d, expert %d: expected %.9g, found %.9g, error %.3f of the bound\n", i, e, sum, found, fabs(found - sum) / bound);
            return false;
        }
    return true;
}

static void run_few(const gate_case *c, const router_case *r) {
    poison(c);
    must(gr_cuda_gate_few(&c->g, &r->r, r->d_x, c->d_sequence, c->d_position, c->d_kv_sequence, c->n_rows, c->d_ids, c->d_weights, c->d_slots,
                          c->d_flaw, NULL) == GRACE_OK, "gate_few");
}

static bool counters_are_zero(const gate_case *c, const router_case *r) {
    int32_t *n = malloc(4 * (size_t)c->n_rows + 4), sum = 0;
    to_host(n, r->r.n_done, 4 * (size_t)c->n_rows);
    for (int32_t i = 0; i < c->n_rows; i++) sum |= n[i];
    free(n);
    return sum == 0;
}

/* Every row alone: its logits' bits, and its choice. */
static bool rows_alone_agree(const gate_case *c, const router_case *r) {
    const int32_t n = c->g.n_experts, k = c->g.top_k;
    poison(c);
    must(cudaMemset(r->r.logits, 0xFF, 4 * (size_t)c->n_rows * (size_t)n) == cudaSuccess, "cudaMemset");
    for (int32_t i = 0; i < c->n_rows; i++) {
        gr_cuda_router one = r->r;
        one.logits += (int64_t)i * n;
        must(gr_cuda_gate_few(&c->g, &one, (uint16_t *)r->d_x + (int64_t)i * c->hidden, (int32_t *)c->d_sequence + i, (int32_t *)c->d_position + i,
                              (int32_t *)c->d_kv_sequence + i, 1, (int32_t *)c->d_ids + i * k, (float *)c->d_weights + i * k,
                              (int32_t *)c->d_slots + i * k, c->d_flaw, NULL) == GRACE_OK, "gate of one row");
    }
    float *logits = malloc(4 * (size_t)c->n_rows * (size_t)n + 4);
    to_host(logits, r->r.logits, 4 * (size_t)c->n_rows * (size_t)n);
    const bool same = memcmp(logits, c->logits, 4 * (size_t)c->n_rows * (size_t)n) == 0;
    free(logits);
    return same && agrees(c);
}

/* The products of exact mode have the logits' bits, so that it does not matter which kernel a step takes. */
static bool exact_products_agree(const gate_case *c, const router_case *r) {
    const size_t bytes = 4 * (size_t)c->n_rows * (size_t)c->g.n_experts;
    gr_cuda_linears *exact = NULL;
    float *logits = malloc(bytes + 4);
    must(gr_cuda_linears_open(true, false, &exact) == GRACE_OK, "products");
    must(gr_cuda_linear(exact, &r->r.w, r->d_x, c->hidden, c->n_rows, false, r->r.logits, c->g.n_experts, true, NULL) == GRACE_OK, "product");
    to_host(logits, r->r.logits, bytes);
    bool same = true;
    for (int64_t i = 0; i < (int64_t)c->n_rows * c->g.n_experts && same; i++) {
        same = bits_of(logits[i]) == bits_of(c->logits[i]);
        if (!same) printf("       row %lld, expert %lld: the gate's logit is %a, the product %a\n", (long long)(i / c->g.n_experts),
                          (long long)(i % c->g.n_experts), (double)c->logits[i], (double)logits[i]);
    }
    free(logits), gr_cuda_linears_close(exact);
    return same;
}

/* The gate of normed rows, and the gate that makes the norm itself: rows, logits and choices are the same. */
static bool norms_itself(const gate_case *c, router_case *r) {
    const size_t n = (size_t)c->n_rows * (size_t)c->hidden, logits = 4 * (size_t)c->n_rows * (size_t)c->g.n_experts;
    float *weights = malloc(4 * (size_t)c->hidden), *found = malloc(logits + 4);
    gr_rng rng = gr_rng_seed(c->seed + 9);
    for (int32_t i = 0; i < c->hidden; i++) weights[i] = 0.5f + (float)gr_rng_uniform(&rng);
    void *x = r->d_x, *d_weights = to_device(weights, 4 * (size_t)c->hidden), *normed = to_device(NULL, 2 * n), *again = to_device(NULL, 2 * n);
    uint16_t *apart = malloc(2 * n + 2), *together = malloc(2 * n + 2);
    must(cudaMemset(again, 0xFF, 2 * n) == cudaSuccess, "cudaMemset");
    must(gr_cuda_norm(d_weights, 1e-5f, c->n_rows, c->hidden, x, c->hidden, NULL, normed, c->hidden, NULL) == GRACE_OK, "norm");
    r->d_x = normed;
    run_few(c, r);
    to_host(c->logits, r->r.logits, logits);
    to_host(c->ids, c->d_ids, 4 * (size_t)c->n_rows * (size_t)c->g.top_k), to_host(c->slots, c->d_slots, 4 * (size_t)c->n_rows * (size_t)c->g.top_k);
    to_host(c->weights, c->d_weights, 4 * (size_t)c->n_rows * (size_t)c->g.top_k);
    r->d_x = x, r->r.norm = (gr_cuda_norming){d_weights, 1e-5f, again};
    run_few(c, r);
    to_host(found, r->r.logits, logits), to_host(apart, normed, 2 * n), to_host(together, again, 2 * n);
    const bool good = !memcmp(apart, together, 2 * n) && !memcmp(found, c->logits, logits) && agrees(c);
    r->r.norm = (gr_cuda_norming){0};
    free(weights), free(found), free(apart), free(together), cudaFree(d_weights), cudaFree(normed), cudaFree(again);
    return good;
}

static void check_few(uint64_t seed, int32_t n_rows, int32_t hidden, int32_t n_experts, int32_t top_k, bool fp32, double *worst) {
    gate_case c = {.seed = seed, .n_rows = n_rows, .hidden = hidden, .with_pick = seed & 1, .with_padding = seed & 2};
    gr_rng rng = gr_rng_seed(seed);
    c.g = (gr_cuda_gate){.n_experts = n_experts, .top_k = top_k, .layer = 3, .rule = {.norm_topk = true, .scaling = 1}};
    if (seed % 3 == 0) c.g.rule.score = GRACE_SCORE_SIGMOID, c.correction = random_floats(&rng, n_experts, 0.1f);
    open_case(&c, LOGITS_NORMAL);
    router_case r = open_router(&c, fp32);
    run_few(&c, &r);
    to_host(c.logits, r.r.logits, 4 * (size_t)n_rows * (size_t)n_experts);
    claim(logits_are_right(&c, &r, worst), "logits are within rounding", &c);
    choose_on_cpu(&c);
    claim(agrees(&c), "few rows choose as the cpu does from the same logits", &c);
    claim(counters_are_zero(&c, &r), "the counters are zero again", &c);
    run_few(&c, &r);
    claim(agrees(&c), "the same again", &c);
    claim(rows_alone_agree(&c, &r), "a row's bits are the same alone and among others", &c);
    if (!fp32) claim(exact_products_agree(&c, &r), "logits have the bits of exact products", &c);
    claim(norms_itself(&c, &r), "a norm on the way to the gate changes no bit, and rows are as the norm alone makes them", &c);
    claim(flaw_of(&c) == 0, "finite logits are no flaw", &c);
    close_router(&r), close_case(&c);
}

static void check_refusals(void) {
    gate_case c = {.g = {.n_experts = 257, .top_k = 2}};
    claim(gr_cuda_gate_check(&c.g) == GRACE_ERR_LIMIT, "more experts than a warp holds are refused", &c);
    c.g.n_experts = 64, c.g.top_k = 17;
    claim(gr_cuda_gate_check(&c.g) == GRACE_ERR_LIMIT, "more choices than there is room for are refused", &c);
    c.g.n_experts = 8, c.g.top_k = 9;
    claim(gr_cuda_gate_check(&c.g) == GRACE_ERR_ARG, "more choices than experts are refused", &c);
    c.g = (gr_cuda_gate){.n_experts = 64, .top_k = 2, .rule = {.n_groups = 5, .top_groups = 1}};
    claim(gr_cuda_gate_check(&c.g) == GRACE_ERR_ARG, "groups of unequal size are refused", &c);
}

/* "small": only what a sanitizer gets through in seconds. */
int main(int argc, char **argv) {
    bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    double worst = 0;
    if (no_gpu("the gate")) return SKIPPED;
    must(gr_compute_cpu_open("portable", 1, &cpu) == GRACE_OK, "the cpu backend");
    check_refusals();
    for (uint64_t seed = 1; seed <= (small ? 40 : 600); seed++) check_choice(seed);
    check_flaw(NAN), check_flaw(INFINITY), check_flaw(-INFINITY);
    check_few(1, 1, 192, 8, 2, false, &worst);
    check_few(2, 0, 192, 8, 2, false, &worst);
    check_few(3, 3, 2048, 64, 8, false, &worst);
    check_few(4, 9, 2048, 60, 4, true, &worst);
    check_few(5, 5, 24, 24, 3, true, &worst);
    check_few(6, 33, 512, 128, 8, false, &worst);
    check_few(7, 4, 2880, 129, 8, true, &worst);
    check_few(12, 100, 72, 256, 8, false, &worst);
    check_few(15, 2, 2048, 128, 8, false, &worst);
    check_few(16, 1, 1544, 60, 4, false, &worst);
    check_few(17, 1, 2056, 64, 6, false, &worst);
    if (!small) {
        check_few(13, 300, 2048, 128, 8, false, &worst);
        check_few(14, 70, 2880, 32, 4, false, &worst);
        check_few(8, 64, 2048, 128, 8, false, &worst);
        check_few(9, 64, 2048, 64, 6, true, &worst);
        check_few(10, 130, 1024, 256, 8, false, &worst);
        check_few(11, 2, 7168, 256, 8, true, &worst);
    }
    printf("%d failed; worst logit %.3f of the bound\n", n_failed, worst);
    cpu->ops->free(cpu);
    return n_failed > 0;
}
