#include "sim/schedule.h"

#include <stdlib.h>

#include "base/memory.h"

enum { ROWS_MAX = 1 << 28 };

static grace_status schedule_alloc(int32_t n_ranks, int64_t n_rows, int32_t n_steps, gr_schedule *s) {
    grace_status st = GRACE_OK;
    *s = (gr_schedule){.n_ranks = n_ranks};
    GR_CHECK(n_rows <= ROWS_MAX, GRACE_ERR_LIMIT, "%lld rows to replay, the limit is %d", (long long)n_rows, ROWS_MAX);
    GR_CHECK((int64_t)n_steps * n_ranks <= ROWS_MAX, GRACE_ERR_LIMIT, "%d steps of %d ranks, the limit is %d together", n_steps, n_ranks, ROWS_MAX);
    GR_CALLOC(s->home, n_rows);
    GR_CALLOC(s->sequence, n_rows);
    GR_CALLOC(s->position, n_rows);
    GR_CALLOC(s->token, n_rows);
    GR_CALLOC(s->steps, n_steps);
done:
    return st;
}

void gr_schedule_free(gr_schedule *s) {
    for (int32_t i = 0; s->steps && i < s->n_steps; i++) free(s->steps[i].batches);
    free(s->steps), free(s->home), free(s->sequence), free(s->position), free(s->token);
    *s = (gr_schedule){0};
}

static void add_row(gr_schedule *s, int32_t home, int32_t sequence, int32_t position, int64_t token) {
    s->home[s->n_rows] = home;
    s->sequence[s->n_rows] = sequence;
    s->position[s->n_rows] = position;
    s->token[s->n_rows++] = token;
}

/* What each rank computes outside the experts. A row ends its sequence's part of the step when the next row is another sequence's. */
static grace_status close_step(gr_schedule *s, int64_t first, bool decode) {
    grace_status st = GRACE_OK;
    gr_sim_step *step = &s->steps[s->n_steps];
    *step = (gr_sim_step){.first = first, .end = s->n_rows, .decode = decode};
    GR_CALLOC(step->batches, s->n_ranks);
    s->n_steps++;
    for (int64_t i = first; i < s->n_rows; i++) {
        grace_batch *b = &step->batches[s->home[i]];
        b->tokens++;
        b->context += s->position[i] + 1;
        b->sequences += i + 1 == s->n_rows || s->sequence[i + 1] != s->sequence[i] || s->home[i + 1] != s->home[i];
    }
    for (int32_t r = 0; r < s->n_ranks; r++) {
        grace_batch *b = &step->batches[r];
        if (b->tokens > 0) b->context /= b->tokens;
        b->logits = b->sequences;
    }
done:
    return st;
}

/* ---- sequences dealt out ---- */

/* Prompt rows [from, to) of a rank's share, sequence after sequence. */
static void add_prompts(gr_schedule *s, const grace_routing *r, const grace_workload *w, int32_t rank, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
        int32_t sequence = (int32_t)(i / w->prefill) * s->n_ranks + rank, position = (int32_t)(i % w->prefill);
        if (sequence < w->sequences) add_row(s, rank, sequence, position, gr_routing_token(r, sequence, position, w->prefill + w->decode));
    }
}

static grace_status check_workload(const grace_workload *w) {
    grace_status st = GRACE_OK;
    GR_CHECK(w->sequences >= 1 && w->prefill >= 0 && w->decode >= 0 && w->prefill + w->decode >= 1 && w->chunk >= 0, GRACE_ERR_ARG,
             "workload: expected at least one sequence with a token to compute, found %d of %d + %d", w->sequences, w->prefill, w->decode);
    GR_CHECK(w->prefill < 1 << 19 && w->decode < 1 << 19, GRACE_ERR_LIMIT, "workload: %d + %d tokens a sequence, the limit is %d each",
             w->prefill, w->decode, 1 << 19);
done:
    return st;
}

grace_status gr_schedule_workload(const grace_routing *r, const grace_workload *w, int32_t n_ranks, gr_schedule *s) {
    grace_status st = GRACE_OK;
    *s = (gr_schedule){0};
    GR_TRY(check_workload(w));
    int64_t most = ((int64_t)w->sequences + n_ranks - 1) / n_ranks * w->prefill, chunk = w->chunk ? w->chunk : most ? most : 1;
    GR_TRY(schedule_alloc(n_ranks, (int64_t)w->sequences * (w->prefill + w->decode), (int32_t)((most + chunk - 1) / chunk) + w->decode, s));
    for (int64_t from = 0, first = 0; from < most; from += chunk, first = s->n_rows) {
        for (int32_t rank = 0; rank < n_ranks; rank++) add_prompts(s, r, w, rank, from, from + chunk < most ? from + chunk : most);
        GR_TRY(close_step(s, first, false));
    }
    for (int32_t d = 0; d < w->decode; d++) {
        int64_t first = s->n_rows;
        for (int32_t rank = 0; rank < n_ranks; rank++)
            for (int32_t sequence = rank; sequence < w->sequences; sequence += n_ranks)
                add_row(s, rank, sequence, w->prefill + d, gr_routing_token(r, sequence, w->prefill + d, w->prefill + w->decode));
        GR_TRY(close_step(s, first, true));
    }
done:
    return st;
}

/* ---- as recorded ---- */

typedef struct piece { grace_trace_segment segment; int32_t home, id; int64_t row; } piece;

static int by_step_then_home(const void *a, const void *b) {
    const piece *x = a, *y = b;
    if (x->segment.step != y->segment.step) return x->segment.step < y->segment.step ? -1 : 1;
    if (x->home != y->home) return x->home < y->home ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Segments with their homes: the recorded ones on a cluster like the recording's, rank i mod D elsewhere. */
static grace_status list_pieces(const grace_routing *r, grace_cluster cluster, piece **out, int32_t *n_out) {
    grace_status st = GRACE_OK;
    piece *pieces = NULL;
    int32_t n_ranks = grace_cluster_ranks(cluster), n = 0;
    bool alike = r->info.n_ranks == n_ranks && r->info.n_nodes == cluster.n_nodes;
    int64_t row = 0;
    GR_CALLOC(pieces, grace_trace_n_segments(r->trace));
    for (int32_t i = 0; i < grace_trace_n_segments(r->trace); i++) {
        grace_trace_segment s = grace_trace_segment_at(r->trace, i);
        grace_trace_sequence q = grace_trace_sequence_at(r->trace, s.sequence);
        GR_CHECK(!alike || (q.home >= 0 && q.home < n_ranks), GRACE_ERR_FORMAT, "the trace has a sequence at home on rank %d of %d", q.home, n_ranks);
        if (r->wanted[s.sequence]) pieces[n++] = (piece){s, alike ? q.home : s.sequence % n_ranks, q.id, row};
        row += s.n_tokens;
    }
    qsort(pieces, (size_t)n, sizeof *pieces, by_step_then_home);
    *out = pieces, pieces = NULL;
    *n_out = n;
done:
    free(pieces);
    return st;
}

/* Where the trace does not say it: one token that comes after others. */
static bool generated(const grace_trace_segment *s) {
    return s->phase == GRACE_PHASE_UNKNOWN ? s->n_tokens == 1 && s->position > 0 : s->phase == GRACE_PHASE_DECODE;
}

grace_status gr_schedule_recorded(const grace_routing *r, grace_cluster cluster, gr_schedule *s) {
    grace_status st = GRACE_OK;
    piece *pieces = NULL;
    int32_t n, n_steps = 1;
    bool decode = true;
    *s = (gr_schedule){0};
    GR_CHECK(r->trace, GRACE_ERR_ARG, "made-up routing has no steps of its own: expected a workload");
    GR_TRY(list_pieces(r, cluster, &pieces, &n));
    for (int32_t i = 1; i < n; i++) n_steps += pieces[i].segment.step != pieces[i - 1].segment.step;
    GR_TRY(schedule_alloc(grace_cluster_ranks(cluster), r->n_tokens, n_steps, s));
    for (int32_t i = 0; i < n; i++) {
        const piece *p = &pieces[i];
        for (int32_t t = 0; t < p->segment.n_tokens; t++) add_row(s, p->home, p->id, p->segment.position + t, p->row + t);
        decode = decode && generated(&p->segment);
        if (i + 1 < n && pieces[i + 1].segment.step == p->segment.step) continue;
        GR_TRY(close_step(s, s->n_steps ? s->steps[s->n_steps - 1].end : 0, decode));
        decode = true;
    }
done:
    free(pieces);
    return st;
}
