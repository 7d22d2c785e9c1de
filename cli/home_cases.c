#include "home_cases.h"

#include <string.h>

#include "base/memory.h"
#include "plan/homes.h"

const char *const gr_homing_names[GR_N_HOMINGS] = {"random", "vocab", "histogram", "engine", "oracle"};
static const grace_selection train = {.sequences = GRACE_SEQUENCES_EVEN}, test = {.sequences = GRACE_SEQUENCES_ODD};

grace_status gr_homes_align_on(grace_plan *plan, grace_trace_reader *r, bool *changed) {
    grace_status st = GRACE_OK;
    gr_sends s = {0};
    GR_TRY(gr_sends_build(plan, r, &train, (gr_home_limits){0}, &s));
    GR_TRY(gr_homes_align(plan, &s, changed));
done:
    gr_sends_free(&s);
    return st;
}

/* One plan's test half. */
typedef struct measuring {
    const grace_plan *plan;
    grace_trace_reader *r;
    gr_sends s;                     /* all tokens */
    double *total, *cost;           /* [n, n_nodes] rows; what a predictor thinks of them */
    double *chunk;                  /* [n, n_nodes] rows of the first chunks */
    int32_t n_chunk;                /* tokens of a first chunk at most */
    double moved_rows;
    int32_t *homes;                 /* [n] */
    int32_t *place;                 /* [sequences of the trace] in s, -1 */
} measuring;

static int32_t node_of(const measuring *m, int32_t rank) { return rank / m->plan->cluster.gpus_per_node; }
static int32_t first_home(const measuring *m, int32_t i) { return i % grace_cluster_ranks(m->plan->cluster); }

static grace_status measuring_open(const grace_plan *plan, grace_trace_reader *r, int32_t chunk, double moved_rows, measuring *m) {
    grace_status st = GRACE_OK;
    const grace_trace *head = grace_trace_reader_head(r);
    gr_sends first = {0};
    *m = (measuring){.plan = plan, .r = r, .n_chunk = chunk, .moved_rows = moved_rows};
    GR_TRY(gr_sends_build(plan, r, &test, (gr_home_limits){0}, &m->s));
    GR_TRY(gr_sends_build(plan, r, &test, (gr_home_limits){.of_each = chunk}, &first));
    GR_CALLOC(m->total, (size_t)m->s.n * (size_t)m->s.n_nodes);
    GR_CALLOC(m->cost, (size_t)m->s.n * (size_t)m->s.n_nodes);
    GR_CALLOC(m->chunk, (size_t)m->s.n * (size_t)m->s.n_nodes);
    GR_CALLOC(m->homes, m->s.n);
    GR_CALLOC(m->place, grace_trace_n_sequences(head));
    for (int32_t i = 0; i < grace_trace_n_sequences(head); i++) m->place[i] = -1;
    for (int32_t i = 0; i < m->s.n; i++) m->place[m->s.index[i]] = i;
    gr_sends_total(&m->s, m->total);
    gr_sends_total(&first, m->chunk);
done:
    gr_sends_free(&first);
    return st;
}

static void measuring_close(measuring *m) {
    gr_sends_free(&m->s);
    free(m->total), free(m->cost), free(m->chunk), free(m->homes), free(m->place);
}

/* ---- what predictors think ---- */

static grace_status ask_vocab(measuring *m) {
    grace_status st = GRACE_OK;
    grace_token_saves v = {0};
    const grace_trace *piece = NULL;
    GR_TRY(gr_token_saves_learn(m->plan, m->r, &train, GR_HOMES_TOKENS, &v));
    memset(m->cost, 0, (size_t)m->s.n * (size_t)m->s.n_nodes * sizeof *m->cost);
    grace_trace_reader_rewind(m->r);
    for (;;) {
        GR_TRY(grace_trace_reader_next(m->r, &piece));
        if (!piece) break;
        const int32_t *ids = grace_trace_token_ids(piece);
        for (int32_t i = 0; i < grace_trace_n_segments(piece); i++) {
            grace_trace_segment seg = grace_trace_segment_at(piece, i);
            int32_t place = m->place[seg.sequence];
            if (place >= 0) gr_token_saves_add(&v, ids, seg.n_tokens, m->cost + (size_t)place * (size_t)m->s.n_nodes);
            ids += seg.n_tokens;
        }
    }
done:
    gr_token_saves_free(&v);
    return st;
}

/* From its turn's home, all at once, with room everywhere. */
static grace_status choose_again(const measuring *m, int32_t *homes) {
    grace_status st = GRACE_OK;
    const int32_t n_ranks = grace_cluster_ranks(m->plan->cluster);
    gr_settled *s = NULL;
    gr_room *room = NULL;
    int32_t *held = NULL;
    GR_CALLOC(s, m->s.n);
    GR_CALLOC(room, n_ranks);
    GR_CALLOC(held, n_ranks);
    for (int32_t i = 0; i < m->s.n; i++) {
        int32_t n = (int32_t)m->s.n_tokens[i], done = n < m->n_chunk ? n : m->n_chunk;
        s[i] = (gr_settled){first_home(m, i), done, n - done, 0};
        held[s[i].home]++;
    }
    for (int32_t r = 0; r < n_ranks; r++) room[r].sequences = m->s.n;
    GR_TRY(gr_homes_move(s, m->chunk, m->s.n, m->moved_rows, m->plan->cluster, room, held, homes));
done:
    free(s), free(room), free(held);
    return st;
}

static double rows_at_homes(const measuring *m, bool first_chunk_elsewhere) {
    double rows = 0, tokens = 0;
    for (int32_t i = 0; i < m->s.n; i++) {
        size_t at = (size_t)i * (size_t)m->s.n_nodes, home = at + (size_t)node_of(m, m->homes[i]), first = at + (size_t)node_of(m, first_home(m, i));
        rows += m->total[home] + (first_chunk_elsewhere ? m->chunk[first] - m->chunk[home] : 0);
        tokens += (double)m->s.n_tokens[i];
    }
    return rows / (tokens * m->s.n_layers);
}

static double rows_anywhere(const measuring *m) {
    double rows = 0, tokens = 0;
    for (int32_t i = 0; i < m->s.n; i++) {
        for (int32_t node = 0; node < m->s.n_nodes; node++) rows += m->total[i * m->s.n_nodes + node] / m->s.n_nodes;
        tokens += (double)m->s.n_tokens[i];
    }
    return rows / (tokens * m->s.n_layers);
}

/* ---- loads ---- */

/* pairs [n_layers, n_ranks homes, n_experts] of the test half at its homes. */
static void count_pairs(const measuring *m, const grace_trace *t, double *pairs) {
    const uint16_t *experts = grace_trace_experts(t);
    size_t n_ranks = (size_t)grace_cluster_ranks(m->plan->cluster), n = (size_t)m->plan->n_experts;
    for (int32_t i = 0; i < grace_trace_n_segments(t); i++) {
        grace_trace_segment seg = grace_trace_segment_at(t, i);
        int32_t place = m->place[seg.sequence];
        for (int32_t j = 0; j < seg.n_tokens; j++)
            for (int32_t l = 0; l < m->plan->n_layers; l++, experts += m->plan->top_k)
                for (int32_t c = 0; place >= 0 && c < m->plan->top_k; c++) pairs[((size_t)l * n_ranks + (size_t)m->homes[place]) * n + experts[c]]++;
    }
}

/* Everyone's pairs, at every home alike. */
static void spread_pairs(const grace_plan *plan, double *pairs) {
    int32_t n_ranks = grace_cluster_ranks(plan->cluster), n = plan->n_experts;
    for (int32_t l = 0; l < plan->n_layers; l++)
        for (int32_t e = 0; e < n; e++) {
            double sum = 0;
            for (int32_t r = 0; r < n_ranks; r++) sum += pairs[(l * n_ranks + r) * n + e];
            for (int32_t r = 0; r < n_ranks; r++) pairs[(l * n_ranks + r) * n + e] = sum / n_ranks;
        }
}

static grace_status add_ratio(const grace_plan *plan, int32_t layer, const double *pairs, double *ratio) {
    grace_status st = GRACE_OK;
    double load[GRACE_RANKS_MAX] = {0};
    gr_shares s = {0};
    GR_TRY(gr_shares_build(plan, layer, &s));
    for (int32_t list = 0; list < s.n_ranks * s.n_experts; list++)
        for (int32_t i = s.first[list]; i < s.end[list]; i++) load[s.rank[i]] += pairs[list] * s.share[i];
    *ratio += gr_max_over_mean(load, s.n_ranks) / plan->n_layers;
done:
    gr_shares_free(&s);
    return st;
}

static grace_status measure_load(const measuring *m, bool anywhere, double *ratio) {
    grace_status st = GRACE_OK;
    const grace_trace *piece = NULL;
    size_t lists = (size_t)grace_cluster_ranks(m->plan->cluster) * (size_t)m->plan->n_experts;
    double *pairs = NULL;
    GR_CALLOC(pairs, (size_t)m->plan->n_layers * lists);
    grace_trace_reader_rewind(m->r);
    for (;;) {
        GR_TRY(grace_trace_reader_next(m->r, &piece));
        if (!piece) break;
        count_pairs(m, piece, pairs);
    }
    if (anywhere) spread_pairs(m->plan, pairs);
    *ratio = 0;
    for (int32_t l = 0; l < m->plan->n_layers; l++) GR_TRY(add_ratio(m->plan, l, pairs + (size_t)l * lists, ratio));
done:
    free(pairs);
    return st;
}

/* ---- a case ---- */

static double share_moved(const measuring *m) {
    int32_t moved = 0;
    for (int32_t i = 0; i < m->s.n; i++) moved += node_of(m, m->homes[i]) != node_of(m, first_home(m, i));
    return m->s.n > 0 ? (double)moved / m->s.n : 0;
}

static bool is_known(const measuring *m, gr_homing homing) {
    if (homing == GR_HOMES_VOCAB) return grace_trace_describe(grace_trace_reader_head(m->r))->vocab > 0;
    return homing != GR_HOMES_ENGINE || m->moved_rows > 0;
}

static grace_status measure_homing(measuring *m, gr_homing homing, gr_home_result *out) {
    grace_status st = GRACE_OK;
    const bool after_chunk = homing == GR_HOMES_HISTOGRAM || homing == GR_HOMES_ENGINE;
    const double *cost = homing == GR_HOMES_VOCAB ? m->cost : after_chunk ? m->chunk : m->total;
    out->rows[homing] = out->load[homing] = -1;
    if (!is_known(m, homing)) return st;
    if (homing == GR_HOMES_VOCAB) GR_TRY(ask_vocab(m));
    if (homing == GR_HOMES_ENGINE) GR_TRY(choose_again(m, m->homes));
    else if (homing != GR_HOMES_RANDOM) GR_TRY(gr_homes_assign(cost, m->s.n, m->plan->cluster, NULL, NULL, m->homes));
    out->rows[homing] = homing == GR_HOMES_RANDOM ? rows_anywhere(m) : rows_at_homes(m, after_chunk);
    GR_TRY(measure_load(m, homing == GR_HOMES_RANDOM, &out->load[homing]));
    if (after_chunk) *(homing == GR_HOMES_ENGINE ? &out->engine_moved : &out->moved) = share_moved(m);
done:
    return st;
}

grace_status gr_homes_measure(const grace_plan *plan, grace_trace_reader *r, int32_t chunk, double moved_rows, gr_home_result *out) {
    grace_status st = GRACE_OK;
    measuring m = {0};
    *out = (gr_home_result){0};
    GR_TRY(measuring_open(plan, r, chunk, moved_rows, &m));
    for (int h = 0; h < GR_N_HOMINGS; h++) GR_TRY(measure_homing(&m, (gr_homing)h, out));
done:
    measuring_close(&m);
    return st;
}
