#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "plan/homes.h"
#include "plan/trace.h"

/* sum [vocab, n_nodes] of rows by home, over all tokens of an id and all layers. */
typedef struct learning { gr_home_rows rows; int32_t *place, *n; double *sum; } learning;

static void learn_piece(learning *w, const grace_trace *t) {
    size_t k = (size_t)t->info.top_k, layers = (size_t)t->info.n_layers, nodes = (size_t)w->rows.n_nodes;
    for (int64_t i = 0, token = 0; i < t->n_segments; token += t->segments[i++].n_tokens) {
        if (w->place[t->segments[i].sequence] < 0) continue;
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
    return (mean - sum[node]) / (w->n[id] + GR_HOMES_FEW);
}

static grace_status quantise(const learning *w, int32_t vocab, grace_token_saves *out) {
    grace_status st = GRACE_OK;
    int32_t nodes = w->rows.n_nodes;
    double most = 0;
    while (vocab > 1 && w->n[vocab - 1] == 0) vocab--;      /* ids above those seen say nothing */
    *out = (grace_token_saves){.vocab = vocab, .n_nodes = nodes};
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

grace_status gr_token_saves_learn(const grace_plan *plan, grace_trace_reader *r, const grace_selection *which, int64_t tokens_in_all, grace_token_saves *out) {
    grace_status st = GRACE_OK;
    const grace_trace *piece = NULL;
    const grace_trace_info *info = &grace_trace_reader_head(r)->info;
    int32_t n_sequences, vocab = info->vocab;
    learning w = {0};
    grace_token_saves v = {0};
    GR_TRY(gr_home_check_shape(plan, info));
    GR_CHECK(vocab > 0, GRACE_ERR_ARG, "homes: the trace has no token ids to learn from");
    GR_TRY(gr_home_number(r, which, tokens_in_all, &w.place, &n_sequences));
    GR_TRY(gr_home_rows_build(plan, &w.rows));
    GR_CALLOC(w.n, vocab);
    GR_CALLOC(w.sum, (size_t)vocab * (size_t)plan->cluster.n_nodes);
    grace_trace_reader_rewind(r);
    for (;;) {
        GR_TRY(grace_trace_reader_next(r, &piece));
        if (!piece) break;
        learn_piece(&w, piece);
    }
    GR_TRY(quantise(&w, vocab, &v));
    *out = v, v.saved = NULL;
done:
    gr_token_saves_free(&v);
    gr_home_rows_free(&w.rows);
    free(w.place), free(w.n), free(w.sum);
    return st;
}

void gr_token_saves_free(grace_token_saves *v) {
    free(v->saved);
    v->saved = NULL;
}

void gr_token_saves_add(const grace_token_saves *v, const int32_t *ids, int32_t n, double *cost) {
    for (int32_t i = 0; i < n; i++)
        for (int32_t node = 0; node < v->n_nodes && ids[i] >= 0 && ids[i] < v->vocab; node++)
            cost[node] -= (double)v->scale * v->saved[(size_t)ids[i] * (size_t)v->n_nodes + (size_t)node];
}

/* ---- plan.json: a string for each node, two hex digits an id ---- */

static const char digits[] = "0123456789abcdef";

static grace_status push_node(gr_json *nodes, const grace_token_saves *v, int32_t node) {
    grace_status st = GRACE_OK;
    char *text = NULL;
    GR_CALLOC(text, 2 * (size_t)v->vocab + 1);
    for (int32_t id = 0; id < v->vocab; id++) {
        uint8_t byte = (uint8_t)v->saved[(size_t)id * (size_t)v->n_nodes + (size_t)node];
        text[2 * id] = digits[byte >> 4], text[2 * id + 1] = digits[byte & 15];
    }
    gr_json_push_string(nodes, text);
done:
    free(text);
    return st;
}

gr_json *gr_token_saves_json(const grace_token_saves *v) {
    gr_json *o = gr_json_new_object(), *nodes = gr_json_new_array();
    gr_json_set_int(o, "vocab", v->vocab);
    gr_json_set_real(o, "scale", (double)v->scale);
    for (int32_t node = 0; node < v->n_nodes; node++)
        if (push_node(nodes, v, node)) gr_json_push_string(nodes, NULL);        /* no memory: what reads it will refuse it */
    gr_json_set(o, "saved", nodes);
    return o;
}

static grace_status check_node(const gr_json *value, const char *where, int32_t node, const grace_token_saves *v) {
    grace_status st = GRACE_OK;
    const char *text;
    size_t n;
    GR_CHECK(gr_json_is_string(value, &text, &n), GRACE_ERR_FORMAT, "%s: 'saved' of node %d: expected a string, found %s", where, node,
             gr_json_kind_name(value));
    GR_CHECK(n == 2 * (size_t)v->vocab && strspn(text, digits) == n, GRACE_ERR_FORMAT,
             "%s: 'saved' of node %d: expected %zu hex digits, found %zu bytes, %zu of them hex digits at the start", where, node, 2 * (size_t)v->vocab, n,
             strspn(text, digits));
done:
    return st;
}

static void read_node(const gr_json *value, int32_t node, grace_token_saves *v) {
    const char *text = "";
    gr_json_is_string(value, &text, NULL);
    for (int32_t id = 0; id < v->vocab; id++) {
        int byte = (int)((strchr(digits, text[2 * id]) - digits) * 16 + (strchr(digits, text[2 * id + 1]) - digits));
        v->saved[(size_t)id * (size_t)v->n_nodes + (size_t)node] = (int8_t)(byte < 128 ? byte : byte - 256);
    }
}

grace_status gr_token_saves_read(const gr_json *root, const char *plan_where, grace_plan *plan) {
    grace_status st = GRACE_OK;
    const gr_json *object = gr_json_get(root, "token_saves"), *nodes;
    grace_token_saves v = {.n_nodes = plan->cluster.n_nodes};
    char where[320];
    int64_t vocab;
    double scale;
    if (!object) return st;
    snprintf(where, sizeof where, "%.256s: token_saves", plan_where);
    GR_TRY(gr_json_object_in(root, plan_where, "token_saves", &object));
    GR_TRY(gr_json_int(object, where, "vocab", 1, 1 << 24, &vocab));
    GR_TRY(gr_json_real(object, where, "scale", &scale));
    GR_CHECK(scale >= 0 && scale <= 1e9, GRACE_ERR_FORMAT, "%s: 'scale': expected 0 to 1e9, found %g", where, scale);
    GR_TRY(gr_json_array(object, where, "saved", &nodes));
    GR_CHECK(gr_json_length(nodes) == (size_t)v.n_nodes, GRACE_ERR_FORMAT, "%s: 'saved': expected a string for each of %d nodes, found %zu", where, v.n_nodes,
             gr_json_length(nodes));
    v.vocab = (int32_t)vocab, v.scale = (float)scale;
    for (int32_t node = 0; node < v.n_nodes; node++) GR_TRY(check_node(gr_json_at(nodes, (size_t)node), where, node, &v));    /* before memory is taken */
    GR_ARENA_ARRAY(plan->memory, v.saved, (size_t)v.vocab * (size_t)v.n_nodes);
    for (int32_t node = 0; node < v.n_nodes; node++) read_node(gr_json_at(nodes, (size_t)node), node, &v);
    plan->token_saves = v;
done:
    return st;
}
