/* The router: a score for every expert, the best choices, their scores as weights. */
#include "compute/cpu/cpu.h"

#include <math.h>

typedef struct gate_args {
    const gr_cpu *cpu;
    const gr_router_weights *router;
    const grace_gate *rule;
    int32_t n_experts, top_k;
    float *logits;          /* [n_rows, n_experts]; become scores */
    float *choices;         /* [n_threads, n_experts + n_groups] */
    int32_t *ids;
    float *weights;
} gate_args;

/* The top_k largest of p, largest first; equal ones in order of id because a later one must be larger to pass. */
static void select_largest(const float *p, int32_t n, int32_t top_k, int32_t *ids, float *values) {
    int32_t n_kept = 0;
    for (int32_t e = 0; e < n; e++) {
        if (n_kept == top_k && !(p[e] > values[top_k - 1])) continue;
        int32_t at = n_kept < top_k ? n_kept++ : top_k - 1;
        for (; at > 0 && p[e] > values[at - 1]; at--) {
            values[at] = values[at - 1];
            ids[at] = ids[at - 1];
        }
        values[at] = p[e];
        ids[at] = e;
    }
}

static float best_of_group(const float *choice, int32_t n, bool two) {
    float best = -INFINITY, second = -INFINITY;
    for (int32_t e = 0; e < n; e++) {
        if (choice[e] > best) second = best, best = choice[e];
        else if (choice[e] > second) second = choice[e];
    }
    return two && n > 1 ? best + second : best;
}

/* Experts outside the top_groups best groups (equal ones by id) drop out. values [n_groups] */
static void keep_groups(const grace_gate *rule, float *choice, int32_t n_experts, float *values) {
    const int32_t size = n_experts / rule->n_groups;
    for (int32_t g = 0; g < rule->n_groups; g++) values[g] = best_of_group(choice + g * size, size, rule->group_best == 2);
    for (int32_t g = 0; g < rule->n_groups; g++) {
        int32_t better = 0;
        for (int32_t h = 0; h < rule->n_groups; h++) better += values[h] > values[g] || (values[h] == values[g] && h < g);
        for (int32_t e = 0; better >= rule->top_groups && e < size; e++) choice[g * size + e] = -INFINITY;
    }
}

/* By falling weight, equal ones by id. */
static void sort_choices(int32_t n, int32_t *ids, float *weights) {
    for (int32_t i = 1; i < n; i++) {
        const float w = weights[i];
        const int32_t id = ids[i];
        int32_t at = i;
        for (; at > 0 && (w > weights[at - 1] || (w == weights[at - 1] && id < ids[at - 1])); at--) weights[at] = weights[at - 1], ids[at] = ids[at - 1];
        weights[at] = w;
        ids[at] = id;
    }
}

static void scores_of_row(const gate_args *g, float *p) {
    if (g->router->bias) g->cpu->k->add(p, g->router->bias->vector, g->n_experts);
    if (g->rule->score == GRACE_SCORE_SIGMOID) {
        g->cpu->k->sigmoid(p, g->n_experts);
        return;
    }
    const float total = g->cpu->k->softmax(p, g->n_experts, 1.0f, NULL);
    for (int32_t e = 0; e < g->n_experts; e++) p[e] /= total;
}

/* Where choices are not the scores themselves, they get a place of their own. */
static void choose(const gate_args *g, const float *p, int32_t thread, int32_t *ids, float *weights) {
    const gr_weight *correction = g->router->correction;
    const int32_t n = g->n_experts, k = g->top_k;
    float *choice = g->choices + (int64_t)thread * (n + g->rule->n_groups);
    if (!correction && g->rule->n_groups == 0) {
        select_largest(p, n, k, ids, weights);
        return;
    }
    for (int32_t e = 0; e < n; e++) choice[e] = correction ? p[e] + correction->vector[e] : p[e];
    if (g->rule->n_groups) keep_groups(g->rule, choice, n, choice + n);
    select_largest(choice, n, k, ids, weights);
    for (int32_t i = 0; i < k; i++) weights[i] = p[ids[i]];
    sort_choices(k, ids, weights);
}

static void gate_row(void *args, int64_t row, int32_t thread) {
    const gate_args *g = args;
    float *p = g->logits + row * g->n_experts, *weights = g->weights + row * g->top_k;
    scores_of_row(g, p);
    choose(g, p, thread, g->ids + row * g->top_k, weights);
    if (g->rule->norm_topk) {
        float sum = 0;
        for (int32_t i = 0; i < g->top_k; i++) sum += weights[i];
        for (int32_t i = 0; sum > 0 && i < g->top_k; i++) weights[i] /= sum;
    }
    if (g->rule->scaling != 1)
        for (int32_t i = 0; i < g->top_k; i++) weights[i] *= g->rule->scaling;
}

static grace_status check_finite(const float *logits, int32_t n_rows, int32_t n_experts) {
    for (int32_t row = 0; row < n_rows; row++)
        for (int32_t e = 0; e < n_experts; e++) {
            const float x = logits[(int64_t)row * n_experts + e];
            if (!isfinite(x)) return gr_fail(GRACE_ERR_NUMERIC, "router logit of row %d, expert %d is %g, expected a finite number", row, e, (double)x);
        }
    return GRACE_OK;
}

grace_status gr_cpu_gate(gr_compute *c, const gr_router_weights *router, const grace_gate *rule, const void *x, int32_t n_rows, int32_t top_k,
                         int32_t *ids, float *weights) {
    grace_status st = GRACE_OK;
    gr_cpu *cpu = gr_cpu_of(c);
    const int32_t n = router->w->rows, allowed = rule->n_groups ? n / rule->n_groups * rule->top_groups : n;
    GR_CHECK(top_k >= 1 && top_k <= allowed, GRACE_ERR_ARG, "top %d of %d experts", top_k, allowed);
    GR_TRY(gr_scratch_reserve(&cpu->scores, sizeof(float) * (size_t)n_rows * (size_t)n, "router logits"));
    GR_TRY(gr_scratch_reserve(&cpu->choices, sizeof(float) * (size_t)cpu->n_threads * (size_t)(n + rule->n_groups), "router choices"));
    gate_args g = {cpu, router, rule, n, top_k, cpu->scores.data, cpu->choices.data, ids, weights};
    if (router->norm) GR_TRY(gr_cpu_norm(c, router->norm->w, router->norm->eps, x, n_rows, router->norm->to));
    GR_TRY(gr_cpu_linear(c, router->w, router->norm ? router->norm->to : x, n_rows, g.logits));
    GR_TRY(check_finite(g.logits, n_rows, n));
    gr_cpu_for(cpu, n_rows, (int64_t)n_rows * n * 16, gate_row, &g);
done:
    return st;
}
