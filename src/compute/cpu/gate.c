/* The router: probabilities of all experts, the largest of them in order. */
#include "compute/cpu/cpu.h"

#include <math.h>

typedef struct gate_args {
    const gr_cpu *cpu;
    int32_t n_experts, top_k;
    bool norm_topk;
    float *logits;          /* [n_rows, n_experts]; become exponentials */
    int32_t *ids;
    float *weights;
} gate_args;

/* The top_k largest of p, largest first; equal ones in order of id because a later one must be larger to pass. */
static void select_largest(const float *p, int32_t n, int32_t top_k, int32_t *ids, float *weights) {
    int32_t n_kept = 0;
    for (int32_t e = 0; e < n; e++) {
        if (n_kept == top_k && !(p[e] > weights[top_k - 1])) continue;
        int32_t at = n_kept < top_k ? n_kept++ : top_k - 1;
        for (; at > 0 && p[e] > weights[at - 1]; at--) {
            weights[at] = weights[at - 1];
            ids[at] = ids[at - 1];
        }
        weights[at] = p[e];
        ids[at] = e;
    }
}

static void gate_row(void *args, int64_t row, int32_t thread) {
    const gate_args *g = args;
    float *p = g->logits + row * g->n_experts, *weights = g->weights + row * g->top_k;
    (void)thread;
    const float total = g->cpu->k->softmax(p, g->n_experts, 1.0f);
    for (int32_t e = 0; e < g->n_experts; e++) p[e] /= total;
    select_largest(p, g->n_experts, g->top_k, g->ids + row * g->top_k, weights);
    if (!g->norm_topk) return;
    float sum = 0;
    for (int32_t i = 0; i < g->top_k; i++) sum += weights[i];
    for (int32_t i = 0; i < g->top_k; i++) weights[i] /= sum;
}

static grace_status check_finite(const float *logits, int32_t n_rows, int32_t n_experts) {
    for (int32_t row = 0; row < n_rows; row++)
        for (int32_t e = 0; e < n_experts; e++) {
            const float x = logits[(int64_t)row * n_experts + e];
            if (!isfinite(x)) return gr_fail(GRACE_ERR_NUMERIC, "router logit of row %d, expert %d is %g, expected a finite number", row, e, (double)x);
        }
    return GRACE_OK;
}

grace_status gr_cpu_gate(gr_compute *c, const gr_weight *w, const float *x, int32_t n_rows, int32_t top_k, bool norm_topk,
                         int32_t *ids, float *weights) {
    grace_status st = GRACE_OK;
    gr_cpu *cpu = gr_cpu_of(c);
    GR_CHECK(top_k >= 1 && top_k <= w->rows, GRACE_ERR_ARG, "top %d of %d experts", top_k, w->rows);
    GR_TRY(gr_scratch_reserve(&cpu->scores, sizeof(float) * (size_t)n_rows * (size_t)w->rows, "router logits"));
    gate_args g = {cpu, w->rows, top_k, norm_topk, cpu->scores.data, ids, weights};
    GR_TRY(gr_cpu_linear(c, w, x, n_rows, g.logits));
    GR_TRY(check_finite(g.logits, n_rows, w->rows));
    gr_cpu_for(cpu, n_rows, (int64_t)n_rows * w->rows * 16, gate_row, &g);
done:
    return st;
}
