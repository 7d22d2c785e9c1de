/* Token by token recordings (mode per_token) as traces. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "interop/follow.h"
#include "interop/sglang.h"
#include "plan/trace.h"

typedef struct reading {
    gr_recording r;
    gr_tensor *ids;             /* [passes] physical ids [layers, tokens, width], -1: none */
    bool *routed;               /* [layers] by any token of any pass */
    int32_t n_routed, top_k;
    int32_t vocab;              /* the highest token id + 1; 0: not every pass says its token ids */
    const gr_pickle_list *token_ids;    /* of the pass being read; NULL when vocab is 0 */
    gr_follow follow;
    grace_trace *t;
    unsigned char *row;         /* [routed layers, top_k] ids of a token, two bytes each */
    int64_t n_padded;
} reading;

/* A pass's list of at most n_max whole numbers under key; NULL when it is absent or None. */
static grace_status find_list(const reading *q, size_t pass, const char *key, int64_t n_max, const gr_pickle_list **out) {
    grace_status st = GRACE_OK;
    const gr_pickle_value *v = gr_pickle_get(&q->r.file.pickle, &q->r.records->items[pass], key);
    *out = NULL;
    if (!v || v->kind == GR_PICKLE_NONE) return st;
    GR_CHECK(v->kind == GR_PICKLE_LIST, GRACE_ERR_FORMAT, "%s: pass %zu: '%s': expected a list, found %s", q->r.where, pass, key,
             gr_pickle_kind_name(v->kind));
    const gr_pickle_list *list = gr_pickle_items(&q->r.file.pickle, v);
    GR_CHECK((int64_t)list->n <= n_max, GRACE_ERR_FORMAT, "%s: pass %zu: '%s' of %zu numbers, but %" PRId64 " tokens", q->r.where, pass, key, list->n,
             n_max);
    for (size_t i = 0; i < list->n; i++)
        GR_CHECK(list->items[i].kind == GR_PICKLE_INT && list->items[i].integer >= 0 && list->items[i].integer <= INT32_MAX, GRACE_ERR_FORMAT,
                 "%s: pass %zu: '%s': expected whole numbers from 0 to %d", q->r.where, pass, key, INT32_MAX);
    *out = list;
done:
    return st;
}

/* ---- first look: which layers have experts, how many a token chose ---- */

static int64_t id_at(const gr_tensor *t, int64_t layer, int64_t token, int64_t k) {
    return gr_tensor_int(t, t->offset + layer * t->stride[0] + token * t->stride[1] + k * t->stride[2]);
}

static int32_t count_ids(const gr_tensor *t, int64_t layer, int64_t token) {
    int32_t n = 0;
    for (int64_t k = 0; k < t->size[2]; k++) n += id_at(t, layer, token, k) != -1;
    return n;
}

static void look_at_pass(reading *q, const gr_tensor *t) {
    for (int32_t l = 0; l < q->r.n_layers; l++)
        for (int64_t token = 0; token < t->size[1]; token++) {
            int32_t n = count_ids(t, l, token);
            if (n > q->top_k) q->top_k = n;
            q->routed[l] |= n > 0;
        }
}

/* Token ids are optional; a trace has them when each of its passes does. */
static grace_status look_at_token_ids(reading *q) {
    grace_status st = GRACE_OK;
    int64_t most = -1;
    for (size_t pass = 0; pass < q->r.records->n; pass++) {
        const gr_pickle_list *ids = NULL;
        int64_t n_tokens = q->ids[pass].size[1];
        GR_TRY(find_list(q, pass, "input_ids", n_tokens, &ids));
        if (n_tokens > 0 && (!ids || (int64_t)ids->n != n_tokens)) goto done;
        for (size_t i = 0; ids && i < ids->n; i++) most = ids->items[i].integer > most ? ids->items[i].integer : most;
    }
    GR_CHECK(most < INT32_MAX, GRACE_ERR_FORMAT, "%s: expected token ids below %d, found %" PRId64, q->r.where, INT32_MAX, most);
    q->vocab = (int32_t)(most + 1);
done:
    return st;
}

static grace_status look(reading *q) {
    grace_status st = GRACE_OK;
    size_t used = 0;
    GR_CALLOC(q->ids, q->r.records->n);
    GR_CALLOC(q->routed, q->r.n_layers);
    for (size_t pass = 0; pass < q->r.records->n; pass++) {
        gr_tensor *t = &q->ids[pass];
        GR_TRY(gr_recording_tensor(&q->r, pass, "topk_ids_of_layer", 3, &used, t));
        GR_CHECK(t->size[2] >= 1 && t->size[2] <= GR_TRACE_TOP_K_MAX && t->size[1] <= INT32_MAX, GRACE_ERR_FORMAT,
                 "%s: pass %zu: expected room for 1 to %d experts a token, found %" PRId64, q->r.where, pass, GR_TRACE_TOP_K_MAX, t->size[2]);
        look_at_pass(q, t);
    }
    GR_TRY(look_at_token_ids(q));
    for (int32_t l = 0; l < q->r.n_layers; l++) q->n_routed += q->routed[l];
    GR_CHECK(q->n_routed > 0, GRACE_ERR_FORMAT, "%s: no token was routed in any layer", q->r.where);
done:
    return st;
}

/* ---- tokens ---- */

/* The token's ids into q->row; *padded when it was routed nowhere. Anything between all and nothing is damage. */
static grace_status read_token(reading *q, size_t pass, int64_t token, bool *padded) {
    grace_status st = GRACE_OK;
    const gr_tensor *t = &q->ids[pass];
    int32_t n_ids = 0, at = 0;
    for (int32_t l = 0; l < q->r.n_layers; l++) n_ids += q->routed[l] ? count_ids(t, l, token) : 0;
    *padded = n_ids == 0;
    if (*padded) return st;
    for (int32_t l = 0; l < q->r.n_layers; l++) {
        if (!q->routed[l]) continue;
        int32_t expert = 0, n = count_ids(t, l, token);
        GR_CHECK(n == q->top_k, GRACE_ERR_FORMAT, "%s: pass %zu, token %" PRId64 ", layer %d: expected %d experts, found %d", q->r.where, pass, token, l,
                 q->top_k, n);
        for (int64_t k = 0; k < t->size[2]; k++) {
            int64_t physical = id_at(t, l, token, k);
            if (physical == -1) continue;
            GR_TRY(gr_recording_expert(&q->r, pass, l, physical, &expert));
            q->row[at++] = (unsigned char)expert, q->row[at++] = (unsigned char)(expert >> 8);
        }
    }
done:
    return st;
}

/* Tokens first..first + n - 1 of a pass, at consecutive positions of one sequence. */
static grace_status add_run(reading *q, size_t pass, int64_t first, int32_t n, int64_t position, grace_phase phase) {
    grace_status st = GRACE_OK;
    int32_t sequence = 0;
    unsigned char id[4] = {0};
    gr_raw_tokens raw = {.experts = q->row, .expert_bytes = 2, .ids = id, .id_bytes = 4};
    GR_TRY(gr_follow_run(&q->follow, q->r.where, position, n, &sequence));
    if (sequence == grace_trace_n_sequences(q->t)) GR_TRY(gr_trace_push_sequence(q->r.where, q->t, (grace_trace_sequence){.id = sequence, .domain = -1}));
    for (int32_t i = 0; i < n; i++) {
        bool padded = false;
        GR_TRY(read_token(q, pass, first + i, &padded));
        q->n_padded += padded;
        if (padded) continue;
        grace_trace_segment seg = {.sequence = sequence, .position = (int32_t)position + i, .n_tokens = 1, .step = (int32_t)pass, .phase = phase};
        for (int b = 0; q->vocab && b < 4; b++) id[b] = (unsigned char)(q->token_ids->items[first + i].integer >> 8 * b);
        GR_TRY(gr_trace_push_tokens(q->r.where, q->t, &raw, 1));
        GR_TRY(gr_trace_push_segment(q->r.where, q->t, seg));
    }
done:
    return st;
}

/* A run without padded tokens at its end: those of a decode step have no request behind them, and would begin sequences. */
static grace_status trim_run(reading *q, size_t pass, int64_t first, int32_t *n) {
    grace_status st = GRACE_OK;
    for (; *n > 0; --*n) {
        bool padded = false;
        GR_TRY(read_token(q, pass, first + *n - 1, &padded));
        if (!padded) break;
        q->n_padded++;
    }
done:
    return st;
}

/* Runs of a pass: those of a prefill are as long as extend_seq_lens says; other tokens are alone, generated. */
static grace_status read_pass(reading *q, size_t pass) {
    grace_status st = GRACE_OK;
    const gr_pickle_list *positions = NULL, *lengths = NULL;
    int64_t n_tokens = q->ids[pass].size[1], first = 0;
    if (n_tokens == 0) return st;
    GR_TRY(find_list(q, pass, "positions", n_tokens, &positions));
    GR_TRY(find_list(q, pass, "extend_seq_lens", n_tokens, &lengths));
    if (q->vocab) GR_TRY(find_list(q, pass, "input_ids", n_tokens, &q->token_ids));
    GR_CHECK(positions && (int64_t)positions->n == n_tokens, GRACE_ERR_FORMAT, "%s: pass %zu: %zu positions of %" PRId64 " tokens", q->r.where, pass,
             positions ? positions->n : 0, n_tokens);
    for (size_t i = 0; first < n_tokens; i++) {
        bool prefill = lengths && i < lengths->n;
        int64_t n = prefill ? lengths->items[i].integer : 1, position = positions->items[first].integer;
        GR_CHECK(n <= n_tokens - first, GRACE_ERR_FORMAT, "%s: pass %zu: sequences of more than its %" PRId64 " tokens", q->r.where, pass, n_tokens);
        for (int64_t j = 1; j < n; j++)
            GR_CHECK(positions->items[first + j].integer == position + j, GRACE_ERR_FORMAT,
                     "%s: pass %zu, token %" PRId64 ": expected position %" PRId64 ", found %" PRId64, q->r.where, pass, first + j, position + j,
                     positions->items[first + j].integer);
        int32_t kept = (int32_t)n;
        GR_TRY(trim_run(q, pass, first, &kept));
        if (kept > 0) GR_TRY(add_run(q, pass, first, kept, position, prefill ? GRACE_PHASE_PREFILL : GRACE_PHASE_DECODE));
        first += n;
    }
    gr_follow_end_pass(&q->follow);
done:
    return st;
}

/* ---- all of it ---- */

static grace_status start_trace(reading *q) {
    grace_status st = GRACE_OK;
    grace_trace_info info = {.n_layers = q->n_routed, .n_experts = q->r.n_experts, .top_k = q->top_k, .n_ranks = 1, .n_nodes = 1,
                              .vocab = q->vocab, .layer_ids_known = true};
    for (int32_t l = 0, n = 0; l < q->r.n_layers; l++)
        if (q->routed[l]) info.layer_ids[n++] = l;
    gr_trace_set_model(&info, GR_SGLANG_MODEL);
    GR_TRY(gr_trace_new(q->r.where, &info, &q->t));
    GR_CALLOC(q->row, (size_t)q->n_routed * (size_t)q->top_k * 2);
done:
    return st;
}

static void tell(const reading *q) {
    gr_log(GR_INFO, "trace", "%s: %" PRId64 " tokens of %d sequences in %zu passes, %d of %d layers have experts, %" PRId64 " padded tokens left out",
           q->r.where, grace_trace_n_tokens(q->t), grace_trace_n_sequences(q->t), q->r.records->n, q->n_routed, q->r.n_layers, q->n_padded);
}

grace_status gr_sglang_parse_trace(const char *where, const void *bytes, size_t n, grace_trace **out) {
    grace_status st = GRACE_OK;
    reading q = {0};
    GR_TRY(gr_recording_open(where, bytes, n, &q.r));
    GR_CHECK(gr_sglang_has_tokens(&q.r.file), GRACE_ERR_FORMAT, "%s: a recording in mode per_pass has loads, not tokens", where);
    GR_CHECK(q.r.records->n <= INT32_MAX, GRACE_ERR_LIMIT, "%s: more than %d passes", where, INT32_MAX);
    GR_TRY(look(&q));
    GR_TRY(start_trace(&q));
    for (size_t pass = 0; pass < q.r.records->n; pass++) GR_TRY(read_pass(&q, pass));
    tell(&q);
    *out = q.t, q.t = NULL;
done:
    grace_trace_close(q.t);
    gr_follow_free(&q.follow);
    free(q.ids), free(q.routed), free(q.row);
    gr_recording_close(&q.r);
    return st;
}
