#include "run/trace_gate.h"

#include <limits.h>
#include <string.h>

#include "base/memory.h"
#include "plan/trace.h"

static const char *name_of(const grace_trace *trace) { return trace->name[0] ? trace->name : "the trace"; }

static grace_status check(const grace_trace *trace, const grace_model_info *m) {
    grace_status st = GRACE_OK;
    const grace_trace_info *t = grace_trace_describe(trace);
    GR_CHECK(t->n_experts == m->n_experts && t->top_k == m->top_k, GRACE_ERR_MISMATCH,
             "routing of %s: it has %d experts, top %d, the model has %d, top %d", name_of(trace), t->n_experts, t->top_k, m->n_experts, m->top_k);
    GR_CHECK(grace_trace_n_tokens(trace) <= INT32_MAX, GRACE_ERR_LIMIT, "routing of %s: %lld tokens, at most %d can be replayed", name_of(trace),
             (long long)grace_trace_n_tokens(trace), INT32_MAX);
done:
    return st;
}

/* ---- the selected tokens of each sequence, in order of position ---- */

/* One token with its place in the trace. */
typedef struct place { int32_t sequence, position; int32_t token; } place;

static int by_sequence_and_position(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->sequence != y->sequence) return x->sequence < y->sequence ? -1 : 1;
    if (x->position != y->position) return x->position < y->position ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

static grace_status select_tokens(const grace_trace *trace, const grace_selection *which, place **out, int32_t *n_out) {
    grace_status st = GRACE_OK;
    bool *wanted = NULL;
    place *all = NULL;
    int32_t token = 0, n = 0;
    GR_TRY(gr_selection_resolve(which, trace, &wanted));
    GR_CALLOC(all, grace_trace_n_tokens(trace));
    for (int32_t s = 0; s < grace_trace_n_segments(trace); s++) {
        const grace_trace_segment seg = grace_trace_segment_at(trace, s);
        const bool take = gr_selected(which, wanted, trace, seg.sequence);
        for (int32_t i = 0; i < seg.n_tokens; i++, token++)
            if (take) all[n++] = (place){seg.sequence, seg.position + i, token};
    }
    GR_CHECK(n > 0, GRACE_ERR_ARG, "routing of %s: none of its %lld tokens is selected", name_of(trace), (long long)grace_trace_n_tokens(trace));
    qsort(all, (size_t)n, sizeof *all, by_sequence_and_position);
    *out = all, *n_out = n;
    all = NULL;
done:
    free(wanted);
    free(all);
    return st;
}

/* ---- copies ---- */

/* Equal weights stand by id, as a gate orders them. */
static void copy_by_id(const uint16_t *from, int32_t n, uint16_t *to) {
    for (int32_t i = 0; i < n; i++) {
        int32_t at = i;
        for (; at > 0 && to[at - 1] > from[i]; at--) to[at] = to[at - 1];
        to[at] = from[i];
    }
}

/* The selected tokens' choices, here. */
typedef struct table { uint16_t *experts; float *weights; } table;

static void fill_token(const table *t, const grace_trace *trace, int32_t from, int32_t to) {
    const grace_trace_info *info = grace_trace_describe(trace);
    const int64_t n = (int64_t)info->n_layers * info->top_k, source = from * n, target = to * n;
    if (t->weights) {
        memcpy(t->experts + target, grace_trace_experts(trace) + source, (size_t)n * sizeof *t->experts);
        memcpy(t->weights + target, grace_trace_gate_weights(trace) + source, (size_t)n * sizeof *t->weights);
    } else
        for (int64_t i = 0; i < n; i += info->top_k) copy_by_id(grace_trace_experts(trace) + source + i, info->top_k, t->experts + target + i);
}

static grace_status send(gr_compute *c, const void *host, size_t bytes, void **there) {
    grace_status st = c->ops->alloc(c, bytes, there);
    return st ? st : c->ops->upload(c, *there, host, bytes);
}

static grace_status copy_choices(gr_trace_gate *g, const grace_trace *trace, const place *all, int32_t n) {
    grace_status st = GRACE_OK;
    const size_t n_choices = (size_t)n * (size_t)g->choices.n_layers * (size_t)g->choices.top_k;
    table t = {0};
    GR_CALLOC(t.experts, n_choices);
    if (grace_trace_gate_weights(trace)) GR_CALLOC(t.weights, n_choices);
    for (int32_t i = 0; i < n; i++) fill_token(&t, trace, all[i].token, i);
    GR_TRY(send(g->compute, t.experts, n_choices * sizeof *t.experts, (void **)&g->choices.experts));
    if (t.weights) GR_TRY(send(g->compute, t.weights, n_choices * sizeof *t.weights, (void **)&g->choices.weights));
done:
    free(t.experts);
    free(t.weights);
    return st;
}

grace_status gr_trace_gate_open(gr_compute *compute, const grace_trace *trace, const grace_selection *which, const grace_model_info *info,
                                gr_trace_gate **out) {
    grace_status st = GRACE_OK;
    gr_trace_gate *g = NULL;
    place *all = NULL;
    int32_t n = 0;
    GR_TRY(check(trace, info));
    GR_TRY(select_tokens(trace, which, &all, &n));
    GR_CALLOC(g, 1);
    g->compute = compute;
    g->choices = (gr_recorded){.n_layers = grace_trace_describe(trace)->n_layers, .top_k = info->top_k, .weight = info->gate.scaling / (float)info->top_k};
    GR_CALLOC(g->first, (size_t)grace_trace_n_sequences(trace) + 1);
    for (int32_t i = 0; i < n; i++)
        if (i == 0 || all[i].sequence != all[i - 1].sequence) g->first[g->n_sequences++] = i;
    g->first[g->n_sequences] = n;
    GR_TRY(copy_choices(g, trace, all, n));
    *out = g;
    g = NULL;
done:
    free(all);
    gr_trace_gate_close(g);
    return st;
}

void gr_trace_gate_close(gr_trace_gate *g) {
    if (!g) return;
    void *const there[] = {g->choices.experts, g->choices.weights};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        if (there[i]) g->compute->ops->release(g->compute, there[i]);
    free(g->first);
    free(g);
}

int32_t gr_trace_gate_token(const gr_trace_gate *g, int32_t sequence, int32_t position) {
    const int32_t s = sequence % g->n_sequences, turn = sequence / g->n_sequences, n = g->first[s + 1] - g->first[s];
    const int64_t start = (int64_t)(0.6180339887498949 * n) * turn;
    return g->first[s] + (int32_t)((start + position) % n);
}
