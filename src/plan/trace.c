#include "plan/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/memory.h"
#include "plan/trace_format.h"

/* ---- growing ---- */

enum { NAME_BYTES = 64 };

/* The first n bytes of text, or fewer that fit and end with a whole UTF-8 character. */
static void set_name(char name[NAME_BYTES], const char *text, size_t n) {
    if (n > NAME_BYTES - 1) {
        n = NAME_BYTES - 1;
        while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
    }
    memset(name, 0, NAME_BYTES);
    memcpy(name, text, n);
}

void gr_trace_set_model(grace_trace_info *info, const char *name) { set_name(info->model, name, strlen(name)); }

void gr_trace_set_name(char name[NAME_BYTES], const char *path) {
    size_t end = strlen(path), start;
    while (end > 1 && path[end - 1] == '/') end--;
    for (start = end; start > 0 && path[start - 1] != '/';) start--;
    set_name(name, path + start, end - start);
}

grace_status gr_trace_new(const char *where, const grace_trace_info *info, grace_trace **out) {
    grace_status st = GRACE_OK;
    grace_trace *t = NULL;
    GR_TRY(gr_trace_check_info(where, info, GRACE_ERR_FORMAT));
    GR_CALLOC(t, 1);
    t->info = *info;
    t->last_step = INT32_MIN;
    GR_CALLOC(t->domains, GR_TRACE_DOMAINS_MAX);
    GR_CALLOC(t->seen, info->n_experts);
    if (info->vocab) GR_CALLOC(t->token_ids, 0);
    if (info->weights) GR_CALLOC(t->weights, 0);
    *out = t;
    t = NULL;
done:
    grace_trace_close(t);
    return st;
}

grace_status gr_trace_add_domain(const char *where, grace_trace *t, const char *name) {
    grace_status st = GRACE_OK;
    GR_CHECK(t->n_domains < GR_TRACE_DOMAINS_MAX, GRACE_ERR_FORMAT, "%s: more than %d domains", where, GR_TRACE_DOMAINS_MAX);
    char *copy = strdup(name);
    GR_CHECK(copy, GRACE_ERR_MEMORY, "no memory for a domain's name of %zu bytes", strlen(name));
    t->domains[t->n_domains++] = copy;
done:
    return st;
}

grace_status gr_trace_domain_index(const char *where, grace_trace *t, const char *name, int32_t *out) {
    /* Names come in runs: the last one is asked for most. */
    for (int32_t d = t->n_domains - 1; d >= 0; d--) {
        if (strcmp(t->domains[d], name) == 0) {
            *out = d;
            return GRACE_OK;
        }
    }
    grace_status st = gr_trace_add_domain(where, t, name);
    if (!st) *out = t->n_domains - 1;
    return st;
}

grace_status gr_trace_push_sequence(const char *where, grace_trace *t, grace_trace_sequence seq) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_trace_check_sequence(where, &t->info, t->n_domains, &seq, GRACE_ERR_FORMAT));
    GR_CHECK(t->n_sequences < INT32_MAX, GRACE_ERR_LIMIT, "%s: more than %d sequences", where, INT32_MAX);
    GR_RESERVE(t->sequences, t->n_sequences + 1, t->sequences_capacity);
    t->sequences[t->n_sequences++] = seq;
done:
    return st;
}

static bool continues(const grace_trace_segment *a, const grace_trace_segment *b) {
    return a->sequence == b->sequence && a->step == b->step && a->phase == b->phase && a->position + a->n_tokens == b->position;
}

grace_status gr_trace_push_segment(const char *where, grace_trace *t, grace_trace_segment seg) {
    grace_status st = GRACE_OK;
    grace_trace_segment *last = t->n_segments > 0 ? &t->segments[t->n_segments - 1] : NULL;
    GR_TRY(gr_trace_check_segment(where, &seg, t->first_segment + t->n_segments, t->n_sequences, t->last_step, GRACE_ERR_FORMAT));
    t->last_step = seg.step;
    if (last && continues(last, &seg)) {
        last->n_tokens += seg.n_tokens;
        return st;
    }
    GR_CHECK(t->n_segments < INT32_MAX, GRACE_ERR_LIMIT, "%s: more than %d segments", where, INT32_MAX);
    GR_RESERVE(t->segments, t->n_segments + 1, t->segments_capacity);
    t->segments[t->n_segments++] = seg;
done:
    return st;
}

static void widen_ids(const unsigned char *ids, int id_bytes, int64_t n, uint16_t *out) {
    if (id_bytes == 1)
        for (int64_t i = 0; i < n; i++) out[i] = ids[i];
    else
        for (int64_t i = 0; i < n; i++) out[i] = (uint16_t)(ids[2 * i] | ids[2 * i + 1] << 8);
}

static grace_status push_ids(const char *where, grace_trace *t, const unsigned char *raw, int id_bytes, int64_t n_tokens) {
    grace_status st = GRACE_OK;
    GR_RESERVE(t->token_ids, t->n_tokens + n_tokens, t->ids_capacity);
    int32_t *ids = t->token_ids + t->n_tokens;
    for (int64_t i = 0; i < n_tokens; i++) ids[i] = id_bytes == 2 ? raw[2 * i] | raw[2 * i + 1] << 8 : (int32_t)gr_get_u32(raw + 4 * i);
    GR_TRY(gr_trace_check_ids(where, &t->info, ids, n_tokens, t->first_token + t->n_tokens, GRACE_ERR_FORMAT));
done:
    return st;
}

static grace_status push_weights(const char *where, grace_trace *t, const unsigned char *raw, int64_t n_tokens) {
    grace_status st = GRACE_OK;
    int64_t token_values = (int64_t)t->info.n_layers * t->info.top_k, n = n_tokens * token_values;
    GR_RESERVE(t->weights, t->n_tokens * token_values + n, t->weights_capacity);
    float *weights = t->weights + t->n_tokens * token_values;
    if (t->info.weights == GRACE_WEIGHTS_U8)
        for (int64_t i = 0; i < n; i++) weights[i] = (float)raw[i] / 255;
    else
        for (int64_t i = 0; i < n; i++) weights[i] = gr_float_of_half((uint16_t)(raw[2 * i] | raw[2 * i + 1] << 8));
    GR_TRY(gr_trace_check_weights(where, &t->info, weights, n_tokens, t->first_token + t->n_tokens, GRACE_ERR_FORMAT));
done:
    return st;
}

grace_status gr_trace_push_tokens(const char *where, grace_trace *t, const gr_raw_tokens *raw, int64_t n_tokens) {
    grace_status st = GRACE_OK;
    int64_t token_values = (int64_t)t->info.n_layers * t->info.top_k, total = t->n_tokens + n_tokens;
    GR_TRY(gr_trace_check_room(where, &t->info, t->first_token, total));
    GR_RESERVE(t->experts, total * token_values, t->values_capacity);
    uint16_t *experts = t->experts + t->n_tokens * token_values;
    widen_ids(raw->experts, raw->expert_bytes, n_tokens * token_values, experts);
    GR_TRY(gr_trace_check_experts(where, &t->info, experts, n_tokens, t->first_token + t->n_tokens, t->seen, &t->n_seen, GRACE_ERR_FORMAT));
    if (t->info.vocab) GR_TRY(push_ids(where, t, raw->ids, raw->id_bytes, n_tokens));
    if (t->info.weights) GR_TRY(push_weights(where, t, raw->weights, n_tokens));
    t->n_tokens = total;
done:
    return st;
}

/* ---- public ---- */

void grace_trace_close(grace_trace *t) {
    if (!t) return;
    for (int32_t d = 0; d < t->n_domains; d++) free(t->domains[d]);
    free(t->domains);
    free(t->sequences);
    free(t->segments);
    free(t->experts);
    free(t->token_ids);
    free(t->weights);
    free(t->seen);
    free(t);
}

const grace_trace_info *grace_trace_describe(const grace_trace *t) { return &t->info; }
int64_t grace_trace_n_tokens(const grace_trace *t) { return t->n_tokens; }
int32_t grace_trace_n_sequences(const grace_trace *t) { return (int32_t)t->n_sequences; }
int32_t grace_trace_n_segments(const grace_trace *t) { return (int32_t)t->n_segments; }
int32_t grace_trace_n_domains(const grace_trace *t) { return t->n_domains; }
const uint16_t *grace_trace_experts(const grace_trace *t) { return t->experts; }
const int32_t *grace_trace_token_ids(const grace_trace *t) { return t->token_ids; }
const float *grace_trace_gate_weights(const grace_trace *t) { return t->weights; }

const char *grace_trace_domain(const grace_trace *t, int32_t domain) {
    GR_ASSERT(domain >= 0 && domain < t->n_domains);
    return t->domains[domain];
}

grace_trace_sequence grace_trace_sequence_at(const grace_trace *t, int32_t index) {
    GR_ASSERT(index >= 0 && index < t->n_sequences);
    return t->sequences[index];
}

grace_trace_segment grace_trace_segment_at(const grace_trace *t, int32_t index) {
    GR_ASSERT(index >= 0 && index < t->n_segments);
    return t->segments[index];
}
