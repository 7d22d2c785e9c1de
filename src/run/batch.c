#include "run/batch.h"

#include <string.h>

#include "base/memory.h"

grace_status gr_batch_init(gr_batch *b, int32_t rank, int32_t n_ranks, int32_t n_rows_max) {
    grace_status st = GRACE_OK;
    *b = (gr_batch){.rank = rank, .n_ranks = n_ranks, .n_rows_max = n_rows_max};
    GR_CALLOC(b->step.id, n_rows_max);
    GR_CALLOC(b->step.sequence, n_rows_max);
    GR_CALLOC(b->step.position, n_rows_max);
    GR_CALLOC(b->step.kv_sequence, n_rows_max);
    GR_CALLOC(b->request_of_row, n_rows_max);
    GR_CALLOC(b->wants_logits, n_rows_max);
done:
    return st;
}

static void sequence_free(gr_sequence *s) {
    if (!s) return;
    free(s->prompt);
    free(s->result.ids);
    free(s);
}

void gr_batch_free(gr_batch *b) {
    for (int32_t i = 0; i < b->n; i++) sequence_free(b->sequences[i]);
    free(b->sequences);
    free(b->step.id);
    free(b->step.sequence);
    free(b->step.position);
    free(b->step.kv_sequence);
    free(b->request_of_row);
    free(b->wants_logits);
    *b = (gr_batch){0};
}

grace_status gr_batch_add(gr_batch *b, const grace_request *req) {
    grace_status st = GRACE_OK;
    gr_sequence *s = NULL;
    GR_RESERVE(b->sequences, b->n + 1, b->capacity);
    GR_CALLOC(s, 1);
    s->request = *req;
    s->kv = -1;
    s->result.home = s->result.first_home = b->n % b->n_ranks;
    GR_CALLOC(s->prompt, req->n_prompt);
    GR_CALLOC(s->result.ids, req->n_generate);
    memcpy(s->prompt, req->prompt, (size_t)req->n_prompt * sizeof(int32_t));
    s->request.prompt = s->prompt;
    b->sequences[b->n++] = s;
    s = NULL;
done:
    sequence_free(s);
    return st;
}

int32_t gr_sequence_token(const gr_sequence *s, int32_t position) {
    return position < s->request.n_prompt ? s->prompt[position] : s->result.ids[position - s->request.n_prompt];
}

/* Logits are needed where a token is drawn, scored or shown. */
static bool wants_logits(const gr_sequence *s, int32_t position) {
    if (s->request.score || s->request.on_logits) return true;
    return position + 1 == gr_sequence_known(s) && (s->request.n_generate > 0 || position + 1 == s->request.n_prompt);
}

static void add_rows(gr_batch *b, int32_t index, int32_t n) {
    gr_sequence *s = b->sequences[index];
    for (int32_t i = 0; i < n; i++) {
        int32_t row = b->step.n_rows++, position = s->n_computed + i;
        b->step.id[row] = gr_sequence_token(s, position);
        b->step.sequence[row] = index;
        b->step.position[row] = position;
        b->step.kv_sequence[row] = s->kv;
        b->request_of_row[row] = index;
        b->wants_logits[row] = wants_logits(s, position);
    }
}

static bool is_decoding(const gr_sequence *s) { return s->n_computed >= s->request.n_prompt; }

static int32_t min32(int32_t a, int32_t b) { return a < b ? a : b; }

void gr_batch_fill(gr_batch *b, gr_kv *kv) {
    b->step.n_rows = b->step.n_decode = b->n_prefill = b->n_decode = b->n_started = 0;
    while (b->first_open < b->n && (b->sequences[b->first_open]->finished || b->sequences[b->first_open]->result.home != b->rank)) b->first_open++;
    for (int32_t i = b->first_open; i < b->n && b->step.n_rows < b->n_rows_max; i++) {
        gr_sequence *s = b->sequences[i];
        if (s->finished || s->kv < 0 || !is_decoding(s)) continue;
        add_rows(b, i, 1);
        b->step.n_decode = ++b->n_decode;
    }
    bool waiting = false;
    for (int32_t i = b->first_open; i < b->n && b->step.n_rows < b->n_rows_max; i++) {
        gr_sequence *s = b->sequences[i];
        if (s->finished || s->result.home != b->rank || (s->kv >= 0 && is_decoding(s))) continue;
        if (s->kv < 0 && !waiting) s->kv = gr_kv_take(kv, s->request.n_prompt + s->request.n_generate);
        waiting = waiting || s->kv < 0;
        if (s->kv < 0) continue;        /* none begins before a request that waits for memory; one that came running goes on */
        int32_t n = min32(s->request.n_prompt - s->n_computed, b->n_rows_max - b->step.n_rows);
        add_rows(b, i, n);
        b->n_prefill += n;
        b->n_started += s->n_computed == 0;
    }
}

void gr_batch_advance(gr_batch *b, gr_kv *kv) {
    for (int32_t row = 0; row < b->step.n_rows; row++) {
        gr_sequence *s = b->sequences[b->request_of_row[row]];
        s->n_computed++;
        if (!s->finished || s->kv < 0) continue;
        gr_kv_give(kv, s->kv);
        s->kv = -1;
    }
}

/* ---- results on the wire ---- */

/* Its ids follow. */
typedef struct head { int32_t request, n_ids, finish, n_scored; uint64_t logits_hash; double nll, ttft_us, total_us; } head;

size_t gr_result_bytes(int32_t n_ids) { return sizeof(head) + (size_t)n_ids * sizeof(int32_t); }

char *gr_result_pack(const gr_batch *b, int32_t request, char *to) {
    const grace_result *r = &b->sequences[request]->result;
    head h = {request, r->n_ids, (int32_t)r->finish, r->n_scored, r->logits_hash, r->nll, r->ttft_us, r->total_us};
    memcpy(to, &h, sizeof h);
    memcpy(to + sizeof h, r->ids, (size_t)r->n_ids * sizeof(int32_t));
    return to + gr_result_bytes(h.n_ids);
}

const char *gr_result_unpack(gr_batch *b, const char *at) {
    head h;
    memcpy(&h, at, sizeof h);
    grace_result *r = &b->sequences[h.request]->result;
    r->n_ids = h.n_ids;
    r->finish = (grace_finish)h.finish;
    r->n_scored = h.n_scored;
    r->logits_hash = h.logits_hash;
    r->nll = h.nll;
    r->ttft_us = h.ttft_us;
    r->total_us = h.total_us;
    memcpy(r->ids, at + sizeof h, (size_t)h.n_ids * sizeof(int32_t));
    return at + gr_result_bytes(h.n_ids);
}
