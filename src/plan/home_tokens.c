#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "plan/homes.h"
#include "plan/trace.h"

enum { FEW = 4 };       /* occurrences that a mean is held against */

/* sum [vocab, n_nodes] of rows by home, over all tokens of an id and all layers. */
typedef struct learning { gr_home_rows rows; const grace_selection *which; bool *wanted; int32_t *n; double *sum; } learning;

static void learn_piece(learning *w, const grace_trace *t) {
    size_t k = (size_t)t->info.top_k, layers = (size_t)t->info.n_layers, nodes = (size_t)w->rows.n_nodes;
    for (int64_t i = 0, token = 0; i < t->n_segments; token += t->segments[i++].n_tokens) {
        if (!gr_selected(w->which, w->wanted, t, t->segments[i].sequence)) continue;
        for (int64_t at = token; at < token + t->segments[i].n_tokens; at++) {
            w->n[t->token_ids[at]]++;
            for (size_t l = 0; l < layers; l++)
                gr_home_rows_add(&w->rows, (int32_t)l, t->experts + ((size_t)at * layers + l) * k, w->sum + (size_t)t->token_ids[at] * nodes);
        }
    }
}

/* A node's value of an id: what is saved against the mean over nodes, held down where few tokens were seen. */
static double saved_on(const learning *w, int32_t id, int32_t node) {
    const double *sum = w->sum + (size_t)id * (size_t)w->rows.n_nodes;
    double mean = 0;
    for (int32_t m = 0; m < w->rows.n_nodes; m++) mean += sum[m] / w->rows.n_nodes;
    return (mean - sum[node]) / (w->n[id] + FEW);
}

static grace_status quantise(const learning *w, int32_t vocab, gr_token_saves *out) {
    grace_status st = GRACE_OK;
    int32_t nodes = w->rows.n_nodes;
    double most = 0;
    *out = (gr_token_saves){.vocab = vocab, .n_nodes = nodes};
    GR_CALLOC(out->saved, (size_t)vocab * (size_t)nodes);
    for (int32_t id = 0; id < vocab; id++)
        for (int32_t node = 0; node < nodes; node++) most = fmax(most, fabs(saved_on(w, id, node)));
    out->scale = (float)(most / 127);
    for (int32_t id = 0; id < vocab && most > 0; id++)
        for (int32_t node = 0; node < nodes; node++)
            out->saved[(size_t)id * (size_t)nodes + (size_t)node] = (int8_t)lround(saved_on(w, id, node) / most * 127);
done:
    return st;
}

grace_status gr_token_saves_learn(const grace_plan *plan, grace_trace_reader *r, const grace_selection *which, gr_token_saves *out) {
    grace_status st = GRACE_OK;
    const grace_trace *head = grace_trace_reader_head(r), *piece = NULL;
    learning w = {.which = which};
    gr_token_saves v = {0};
    GR_TRY(gr_home_check_shape(plan, &head->info));
    GR_CHECK(head->info.vocab > 0, GRACE_ERR_ARG, "homes: the trace has no token ids to learn from");
    GR_TRY(gr_selection_resolve(which, head, &w.wanted));
    GR_TRY(gr_home_rows_build(plan, &w.rows));
    GR_CALLOC(w.n, head->info.vocab);
    GR_CALLOC(w.sum, (size_t)head->info.vocab * (size_t)plan->cluster.n_nodes);
    grace_trace_reader_rewind(r);
    for (;;) {
        GR_TRY(grace_trace_reader_next(r, &piece));
        if (!piece) break;
        learn_piece(&w, piece);
    }
    GR_TRY(quantise(&w, head->info.vocab, &v));
    *out = v, v.saved = NULL;
done:
    gr_token_saves_free(&v);
    gr_home_rows_free(&w.rows);
    free(w.wanted), free(w.n), free(w.sum);
    return st;
}

void gr_token_saves_free(gr_token_saves *v) {
    free(v->saved);
    v->saved = NULL;
}

void gr_token_saves_add(const gr_token_saves *v, const int32_t *ids, int32_t n, double *cost) {
    for (int32_t i = 0; i < n; i++)
        for (int32_t node = 0; node < v->n_nodes && ids[i] >= 0 && ids[i] < v->vocab; node++)
            cost[node] -= (double)v->scale * v->saved[(size_t)ids[i] * (size_t)v->n_nodes + (size_t)node];
}
