#include "run/batch.h"

#include <string.h>

#include "base/memory.h"

static grace_status open_fill(gr_fill *f, int32_t flight, int32_t n_rows_max) {
    grace_status st = GRACE_OK;
    f->step.flight = flight;
    GR_CALLOC(f->step.id, n_rows_max);
    GR_CALLOC(f->step.sequence, n_rows_max);
    GR_CALLOC(f->step.position, n_rows_max);
    GR_CALLOC(f->step.kv_sequence, n_rows_max);
    GR_CALLOC(f->request_of_row, n_rows_max);
    GR_CALLOC(f->wants_logits, n_rows_max);
done:
    return st;
}

static void close_fill(gr_fill *f) {
    void *const all[] = {f->step.id, f->step.sequence, f->step.position, f->step.kv_sequence, f->request_of_row, f->wants_logits};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

grace_status gr_batch_init(gr_batch *b, int32_t rank, int32_t n_ranks, int32_t n_rows_max) {
    grace_status st = GRACE_OK;
    *b = (gr_batch){.rank = rank, .n_ranks = n_ranks, .n_rows_max = n_rows_max};
    b->fill = b->fills;
    for (int32_t i = 0; i < GR_FLIGHTS; i++) GR_TRY(open_fill(&b->fills[i], i, n_rows_max));
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
    for (int32_t i = 0; i < GR_FLIGHTS; i++) close_fill(&b->fills[i]);
    *b = (gr_batch){0};
}

grace_status gr_batch_add(gr_batch *b, const grace_request *req) {
    grace_status st = GRACE_OK;
    gr_sequence *s = NULL;
    GR_RESERVE(b->sequences, b->n + 1, b->capacity);
    GR_CALLOC(s, 1);
    s->request = *req;
    s->kv = s->row_ahead = -1;
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
static bool wants_logits(const gr_sequence *s, int32_t position, int32_t n_known) {
    if (s->request.score || s->request.on_logits) return true;
    return position + 1 == n_known && (s->request.n_generate > 0 || position + 1 == s->request.n_prompt);
}

static void add_rows(gr_batch *b, int32_t index, int32_t n) {
    const gr_sequence *s = b->sequences[index];
    const bool ahead = s->row_ahead >= 0;       /* of a row that is under way, n == 1 */
    gr_fill *f = b->fill;
    for (int32_t i = 0; i < n; i++) {
        int32_t row = f->step.n_rows++, position = s->n_computed + ahead + i;
        f->step.id[row] = ahead ? -1 - s->row_ahead : gr_sequence_token(s, position);
        f->step.sequence[row] = index;
        f->step.position[row] = position;
        f->step.kv_sequence[row] = s->kv;
        f->request_of_row[row] = index;
        f->wants_logits[row] = wants_logits(s, position, gr_sequence_known(s) + ahead);
    }
}

static bool is_decoding(const gr_sequence *s) { return s->n_computed >= s->request.n_prompt; }
/* Its row under way draws the last token it may. */
static bool is_at_length(const gr_sequence *s) { return s->row_ahead >= 0 && s->result.n_ids + 1 >= s->request.n_generate; }

static int32_t min32(int32_t a, int32_t b) { return a < b ? a : b; }

static void add_decoding(gr_batch *b) {
    gr_fill *f = b->fill;
    for (int32_t i = b->first_open; i < b->n && f->step.n_rows < b->n_rows_max; i++) {
        const gr_sequence *s = b->sequences[i];
        if (s->finished || s->kv < 0 || !is_decoding(s) || is_at_length(s)) continue;
        add_rows(b, i, 1);
        f->step.n_decode = ++f->n_decode;
    }
}

static void add_prompts(gr_batch *b, gr_kv *kv) {
    gr_fill *f = b->fill;
    bool waiting = false;
    for (int32_t i = b->first_open; i < b->n && f->step.n_rows < b->n_rows_max; i++) {
        gr_sequence *s = b->sequences[i];
        if (s->finished || s->result.home != b->rank || (s->kv >= 0 && is_decoding(s))) continue;
        if (s->kv < 0 && !waiting) s->kv = gr_kv_take(kv, s->request.n_prompt + s->request.n_generate);
        waiting = waiting || s->kv < 0;
        if (s->kv < 0) continue;        /* none begins before a request that waits for memory; one that came running goes on */
        int32_t n = min32(s->request.n_prompt - s->n_computed, b->n_rows_max - f->step.n_rows);
        add_rows(b, i, n);
        f->n_prefill += n;
        f->n_started += s->n_computed == 0;
    }
}

/* Every row's own number, or -1. */
static void mark_ahead(const gr_batch *b, const gr_fill *under_way, bool on) {
    for (int32_t row = 0; under_way && row < under_way->step.n_rows; row++) b->sequences[under_way->request_of_row[row]]->row_ahead = on ? row : -1;
}

void gr_batch_fill(gr_batch *b, gr_kv *kv, const gr_fill *under_way) {
    gr_fill *f = b->fill = &b->fills[under_way == b->fills];
    f->step.n_rows = f->step.n_decode = f->n_prefill = f->n_decode = f->n_started = 0;
    while (b->first_open < b->n && (b->sequences[b->first_open]->finished || b->sequences[b->first_open]->result.home != b->rank)) b->first_open++;
    mark_ahead(b, under_way, true);
    add_decoding(b);
    add_prompts(b, kv);
    mark_ahead(b, under_way, false);
}

void gr_batch_advance(gr_batch *b, gr_kv *kv, const gr_fill *done) {
    for (int32_t row = 0; row < done->step.n_rows; row++) {
        gr_sequence *s = b->sequences[done->request_of_row[row]];
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
