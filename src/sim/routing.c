#include "sim/routing.h"

#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/rng.h"
#include "plan/trace.h"

/* ---- a trace ---- */

static grace_status select_sequences(grace_routing *r, const grace_selection *which) {
    static const grace_selection all = {0};
    grace_status st = GRACE_OK;
    bool *domains = NULL;
    const grace_selection *chosen = which ? which : &all;
    GR_CALLOC(r->wanted, r->n_sequences);
    GR_TRY(gr_selection_resolve(chosen, r->trace, &domains));
    for (int32_t s = 0; s < r->n_sequences; s++) r->wanted[s] = gr_selected(chosen, domains, r->trace, s);
done:
    free(domains);
    return st;
}

/* Rows of the trace by sequence, in the order they were routed. */
static grace_status list_tokens(grace_routing *r) {
    grace_status st = GRACE_OK;
    int64_t row = 0, *at = NULL;
    GR_CALLOC(r->first_token, r->n_sequences + 1);
    GR_CALLOC(r->tokens, grace_trace_n_tokens(r->trace));
    GR_CALLOC(at, r->n_sequences + 1);
    for (int32_t i = 0; i < grace_trace_n_segments(r->trace); i++) {
        grace_trace_segment s = grace_trace_segment_at(r->trace, i);
        if (r->wanted[s.sequence]) r->first_token[s.sequence + 1] += s.n_tokens;
    }
    for (int32_t s = 0; s < r->n_sequences; s++) at[s + 1] = r->first_token[s + 1] += r->first_token[s];
    for (int32_t i = 0; i < grace_trace_n_segments(r->trace); i++) {
        grace_trace_segment s = grace_trace_segment_at(r->trace, i);
        for (int32_t t = 0; t < s.n_tokens && r->wanted[s.sequence]; t++) r->tokens[at[s.sequence]++] = row + t;
        row += s.n_tokens;
    }
    r->n_tokens = r->first_token[r->n_sequences];
done:
    free(at);
    return st;
}

/* Sequences without tokens have nothing to deal out. */
static void drop_empty(grace_routing *r) {
    int32_t kept = 0;
    for (int32_t s = 0; s < r->n_sequences; s++)
        if (r->first_token[s + 1] > r->first_token[s]) r->first_token[kept++] = r->first_token[s];
    r->first_token[kept] = r->n_tokens;
    r->n_sequences = kept;
}

grace_status grace_routing_of_trace(const grace_trace *trace, const grace_selection *which, grace_routing **out) {
    grace_status st = GRACE_OK;
    grace_routing *r = NULL;
    GR_CALLOC(r, 1);
    r->trace = trace;
    r->info = *grace_trace_describe(trace);
    r->n_sequences = grace_trace_n_sequences(trace);
    GR_TRY(select_sequences(r, which));
    GR_TRY(list_tokens(r));
    GR_CHECK(r->n_tokens > 0, GRACE_ERR_ARG, "expected tokens to replay, found none%s", which ? " in the selection" : "");
    drop_empty(r);
    *out = r, r = NULL;
done:
    grace_routing_free(r);
    return st;
}

bool grace_routing_has_steps(const grace_routing *r) {
    return r->trace && grace_trace_segment_at(r->trace, grace_trace_n_segments(r->trace) - 1).step > grace_trace_segment_at(r->trace, 0).step;
}

/* ---- made up ---- */

static void shuffle(gr_rng *rng, int32_t *values, int32_t n) {
    for (int32_t i = 0; i < n; i++) values[i] = i;
    for (int32_t i = n - 1; i > 0; i--) {
        int32_t j = (int32_t)gr_rng_below(rng, (uint32_t)i + 1), kept = values[i];
        values[i] = values[j];
        values[j] = kept;
    }
}

grace_status grace_routing_made_up(const grace_synthetic *how, grace_routing **out) {
    grace_status st = GRACE_OK;
    grace_routing *r = NULL;
    gr_rng rng = gr_rng_seed(how->seed);
    double sum = 0;
    GR_CHECK(how->n_layers >= 1 && how->n_layers <= 1024 && how->top_k >= 1 && how->n_experts <= 4096 && how->top_k <= how->n_experts / 2 + 1,
             GRACE_ERR_ARG, "made-up routing: expected 1 to 1024 layers and top-k up to half of at most 4096 experts, found %d, %d of %d", how->n_layers,
             how->top_k, how->n_experts);
    GR_CHECK(how->top_k <= how->n_experts && how->zipf >= 0 && how->zipf <= 2, GRACE_ERR_ARG, "made-up routing: expected an exponent from 0 to 2, found %g",
             how->zipf);
    GR_CALLOC(r, 1);
    r->info = (grace_trace_info){.n_layers = how->n_layers, .n_experts = how->n_experts, .top_k = how->top_k, .n_ranks = 1, .n_nodes = 1, .synthetic = true};
    snprintf(r->info.model, sizeof r->info.model, "zipf %g (synthetic)", how->zipf);
    r->seed = how->seed;
    GR_CALLOC(r->cumulated, how->n_experts);
    GR_CALLOC(r->expert_of_rank, (size_t)how->n_layers * (size_t)how->n_experts);
    for (int32_t e = 0; e < how->n_experts; e++) r->cumulated[e] = sum += pow(e + 1, -how->zipf);
    for (int32_t l = 0; l < how->n_layers; l++) shuffle(&rng, r->expert_of_rank + (int64_t)l * how->n_experts, how->n_experts);
    *out = r, r = NULL;
done:
    grace_routing_free(r);
    return st;
}

static int32_t draw(const grace_routing *r, gr_rng *rng) {
    double at = gr_rng_uniform(rng) * r->cumulated[r->info.n_experts - 1];
    int32_t low = 0, high = r->info.n_experts - 1;
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (r->cumulated[middle] > at) high = middle;
        else low = middle + 1;
    }
    return low;
}

static bool has(const int32_t *values, int32_t n, int32_t value) {
    for (int32_t i = 0; i < n; i++)
        if (values[i] == value) return true;
    return false;
}

static void make_up(const grace_routing *r, int64_t token, int32_t layer, int32_t *experts) {
    gr_rng rng = gr_rng_seed(r->seed ^ ((uint64_t)token * 1024 + (uint64_t)layer) * 0x9E3779B97F4A7C15u);
    const int32_t *expert_of_rank = r->expert_of_rank + (int64_t)layer * r->info.n_experts;
    for (int32_t j = 0; j < r->info.top_k;) {
        int32_t e = expert_of_rank[draw(r, &rng)];
        if (!has(experts, j, e)) experts[j++] = e;
    }
}

/* ---- both ---- */

int64_t gr_routing_token(const grace_routing *r, int32_t sequence, int32_t position, int32_t span) {
    if (!r->trace) return (int64_t)sequence * (1 << 20) + position;
    int32_t s = sequence % r->n_sequences;
    int64_t n = r->first_token[s + 1] - r->first_token[s], from = (int64_t)(sequence / r->n_sequences) * span;
    return r->tokens[r->first_token[s] + (from + position) % n];
}

void gr_routing_experts(const grace_routing *r, int64_t token, int32_t layer, int32_t *experts) {
    if (!r->trace) {
        make_up(r, token, layer, experts);
        return;
    }
    const uint16_t *ids = grace_trace_experts(r->trace) + (token * r->info.n_layers + layer) * r->info.top_k;
    for (int32_t j = 0; j < r->info.top_k; j++) experts[j] = ids[j];
}

const grace_trace_info *grace_routing_info(const grace_routing *r) { return &r->info; }

void grace_routing_free(grace_routing *r) {
    if (!r) return;
    free(r->wanted), free(r->first_token), free(r->tokens), free(r->cumulated), free(r->expert_of_rank);
    free(r);
}
