/* What the tests of the engine over several ranks share: a small model on disk for all of them, requests, runs, and a second count of
 * everything a run reports, made from the trace of that very run. */
#ifndef GR_TESTS_RANKS_ENGINE_WORLD_H
#define GR_TESTS_RANKS_ENGINE_WORLD_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grace/sim.h"
#include "grace/trace.h"
#include "ranks/support.h"
#include "support/naive_count.h"
#include "support/naive_route.h"
#include "support/random_plan.h"
#include "support/random_requests.h"
#include "support/tiny_model.h"

enum { WORLD_RANKS_MAX = 8, WORLD_REQUESTS_MAX = 20, WORLD_PROMPT_MAX = 14, WORLD_VOCAB = 64, WORLD_POSITIONS = 32 };

static char world_dir[64];          /* the same on every rank; rank 0 made it */
static grace_model *model;
static int world_kv_heads = 2;      /* of 2 heads */
static int world_hidden = 16, world_context = 128;

static inline gr_tiny_model_options world_shape(void) {
    gr_tiny_model_options shape = gr_tiny_model_defaults();
    shape.n_experts = 12, shape.top_k = 3, shape.vocab = WORLD_VOCAB, shape.n_kv_heads = world_kv_heads;
    shape.hidden = world_hidden, shape.context = world_context;
    return shape;
}

/* Rank 0's bytes on every rank. */
static inline void from_first(gr_comm *comm, void *bytes, size_t n) {
    char *all = malloc(n * (size_t)comm->n_ranks);
    assert_non_null(all);
    assert_ok(gr_comm_allgather(comm, bytes, n, all));
    memcpy(bytes, all, n);
    free(all);
}

static inline int world_open(void **state) {
    gr_comm *comm = ranks_comm(1);
    gr_tiny_model_options shape = world_shape();
    (void)state;
    if (comm->rank == 0) {
        strcpy(world_dir, "/tmp/grace-ranks-XXXXXX");
        assert_non_null(mkdtemp(world_dir));
        assert_int_equal(gr_tiny_model_write(world_dir, &shape), 0);
    }
    from_first(comm, world_dir, sizeof world_dir);
    assert_ok(grace_comm_agree(comm, grace_model_open(world_dir, &model)));
    return 0;
}

static inline int world_close(void **state) {
    gr_comm *comm = ranks_comm(1);
    (void)state;
    grace_model_close(model);
    assert_ok(grace_comm_agree(comm, GRACE_OK));        /* nobody reads it any more */
    if (comm->rank == 0) gr_tiny_model_remove(world_dir);
    return 0;
}

/* ---- a run ---- */

typedef struct run_result {
    uint64_t hash, hashes[WORLD_REQUESTS_MAX];
    int32_t n_ids[WORLD_REQUESTS_MAX], finish[WORLD_REQUESTS_MAX], ids[WORLD_REQUESTS_MAX][WORLD_POSITIONS];
    double nll[WORLD_REQUESTS_MAX];
} run_result;

static inline grace_engine_options world_options(void) {
    grace_engine_options opt = grace_engine_defaults();
    opt.n_tokens_max = 9, opt.kv_tokens = 512, opt.n_threads = 1;
    return opt;
}

/* What was submitted, to its end. */
static inline void finish_run(grace_engine *engine, const gr_random_requests *all, run_result *out) {
    assert_ok(grace_engine_run(engine));
    assert_ok(grace_engine_collect(engine));
    memset(out, 0, sizeof *out);
    out->hash = grace_engine_logits_hash(engine);
    for (int32_t i = 0; i < all->n; i++) {
        const grace_result *r = grace_engine_result(engine, i);
        out->hashes[i] = r->logits_hash;
        out->n_ids[i] = r->n_ids;
        out->finish[i] = (int32_t)r->finish;
        out->nll[i] = r->nll;
        memcpy(out->ids[i], r->ids, (size_t)r->n_ids * sizeof(int32_t));
    }
}

/* Submits some, runs a few steps, asks for numbers, submits the others, runs, collects. The engine stays open for its numbers. */
static inline grace_engine *run_in_parts(const grace_model *m, const grace_engine_options *opt, const gr_random_requests *all, int32_t n_early, int32_t n_steps,
                                         run_result *out) {
    grace_engine *engine = NULL;
    grace_stats between;
    bool more;
    assert_ok(grace_engine_open(m, opt, &engine));
    for (int32_t i = 0; i < n_early; i++) assert_ok(grace_engine_submit(engine, &all->requests[i]));
    for (int32_t i = 0; i < n_steps; i++) assert_ok(grace_engine_step(engine, &more));
    if (n_steps > 0) assert_ok(grace_engine_stats(engine, &between));
    for (int32_t i = n_early; i < all->n; i++) assert_ok(grace_engine_submit(engine, &all->requests[i]));
    finish_run(engine, all, out);
    return engine;
}

static inline grace_engine *run_requests(const grace_model *m, const grace_engine_options *opt, const gr_random_requests *all, run_result *out) {
    return run_in_parts(m, opt, all, all->n, 0, out);
}

static inline void check_same_ids(const int32_t *expected, int32_t n_expected, const int32_t *found, int32_t n_found, int32_t request, const char *run) {
    if (n_expected != n_found) fail_msg("%s: %s: request %d: expected %d ids, found %d", case_name, run, request, n_expected, n_found);
    for (int32_t j = 0; j < n_found; j++)
        if (expected[j] != found[j])
            fail_msg("%s: %s: request %d, id %d of %d: expected %d, found %d", case_name, run, request, j, n_found, expected[j], found[j]);
}

/* The first difference between two runs' answers. */
static inline void check_same_result(const run_result *expected, const run_result *found, int32_t n, const char *run) {
    for (int32_t i = 0; i < n; i++) {
        check_same_ids(expected->ids[i], expected->n_ids[i], found->ids[i], found->n_ids[i], i, run);
        if (expected->hashes[i] != found->hashes[i] || expected->nll[i] != found->nll[i])
            fail_msg("%s: %s: request %d: the same ids, but expected logits %016llx and score %.17g, found %016llx and %.17g", case_name, run, i,
                     (unsigned long long)expected->hashes[i], expected->nll[i], (unsigned long long)found->hashes[i], found->nll[i]);
    }
    claim(memcmp(expected, found, sizeof *expected) == 0);
}

/* ---- the trace of a run, and everything counted from it ---- */

typedef struct routing { int32_t n_layers, top_k; int64_t n_tokens; uint16_t *experts; } routing;   /* [request, position, layer, k], 0: none */

static inline routing routing_read(const grace_trace *t) {
    const grace_trace_info *info = grace_trace_describe(t);
    routing r = {info->n_layers, info->top_k, grace_trace_n_tokens(t), NULL};
    size_t row = (size_t)info->n_layers * (size_t)info->top_k;
    r.experts = calloc(WORLD_REQUESTS_MAX * WORLD_POSITIONS * row, sizeof *r.experts);
    assert_non_null(r.experts);
    const uint16_t *experts = grace_trace_experts(t);
    for (int32_t i = 0; i < grace_trace_n_segments(t); i++) {
        grace_trace_segment s = grace_trace_segment_at(t, i);
        int32_t id = grace_trace_sequence_at(t, s.sequence).id;
        for (size_t j = 0; j < (size_t)s.n_tokens * row; j++)
            r.experts[((size_t)id * WORLD_POSITIONS + (size_t)s.position) * row + j] = (uint16_t)(1 + *experts++);
    }
    return r;
}

/* ---- what is seen of a run: logits [request, position, vocab] of prompts, a trace ---- */

static inline void keep_logits(void *user, int32_t request, int32_t position, const float *logits) {
    memcpy((float *)user + ((int64_t)request * WORLD_POSITIONS + position) * WORLD_VOCAB, logits, WORLD_VOCAB * sizeof(float));
}

static inline void watch_logits(gr_random_requests *all, float *logits) {
    for (int32_t i = 0; i < all->n; i++) {
        all->requests[i].user = logits;
        all->requests[i].on_logits = logits ? keep_logits : NULL;
    }
}

static inline float *new_logits(void) {
    float *logits = calloc((size_t)WORLD_REQUESTS_MAX * WORLD_POSITIONS * WORLD_VOCAB, sizeof *logits);
    assert_non_null(logits);
    return logits;
}

static inline void trace_path(char *path, size_t size, const char *name, int32_t rank) { snprintf(path, size, "%s/%s.%d", world_dir, name, rank); }

static inline grace_trace *open_trace(const char *path) {
    grace_trace *t = NULL;
    bool truncated;
    assert_ok(grace_trace_open(path, &t, &truncated));
    assert_false(truncated);
    return t;
}

typedef struct run_count { naive_count rows; int32_t n_layers, n_steps; int64_t *load, *step_load; } run_count;   /* [layer, rank], [step, layer, rank] */

static inline void count_token(run_count *c, const grace_plan *plan, grace_route route, const grace_trace_sequence *seq, int32_t position, int32_t step,
                               const uint16_t *experts) {
    for (int32_t l = 0; l < plan->n_layers; l++) {
        int32_t rank_of_choice[16], chosen[16], slots[16];
        for (int32_t j = 0; j < plan->top_k; j++) chosen[j] = experts[l * plan->top_k + j];
        naive_place(plan, l, seq->home, route, chosen, plan->top_k, seq->id, position, slots);
        for (int32_t j = 0; j < plan->top_k; j++) {
            rank_of_choice[j] = plan->layers[l].rank_of_slot[slots[j]];
            c->load[l * c->rows.n_ranks + rank_of_choice[j]]++;
            c->step_load[(step * c->n_layers + l) * c->rows.n_ranks + rank_of_choice[j]]++;
        }
        naive_count_token(&c->rows, seq->home, rank_of_choice, plan->top_k);
    }
}

static inline run_count count_run(const grace_trace *t, const grace_plan *plan, grace_route route, grace_exchange kind, bool exact, int32_t n_steps) {
    run_count c = {naive_count_new(plan->cluster, kind, exact), plan->n_layers, n_steps, NULL, NULL};
    size_t n = (size_t)plan->n_layers * (size_t)c.rows.n_ranks;
    const uint16_t *experts = grace_trace_experts(t);
    c.load = calloc(n, sizeof *c.load);
    c.step_load = calloc(n * (size_t)n_steps, sizeof *c.step_load);
    assert_true(c.load && c.step_load);
    c.rows.calls = (int64_t)n_steps * plan->n_layers;
    bool *prefill = calloc((size_t)n_steps, sizeof *prefill);
    grace_plan awake = naive_decode_plan(plan);
    assert_non_null(prefill);
    for (int32_t i = 0; i < grace_trace_n_segments(t); i++) {
        grace_trace_segment s = grace_trace_segment_at(t, i);
        claim(s.step >= 0 && s.step < n_steps);
        prefill[s.step] = prefill[s.step] || s.phase == GRACE_PHASE_PREFILL;
    }
    for (int32_t i = 0; i < grace_trace_n_segments(t); i++) {
        grace_trace_segment s = grace_trace_segment_at(t, i);
        grace_trace_sequence seq = grace_trace_sequence_at(t, s.sequence);
        for (int32_t j = 0; j < s.n_tokens; j++, experts += plan->n_layers * plan->top_k)
            count_token(&c, prefill[s.step] ? plan : &awake, route, &seq, s.position + j, s.step, experts);
    }
    naive_decode_free(&awake);
    free(prefill);
    return c;
}

static inline void run_count_free(run_count *c) {
    naive_count_free(&c->rows);
    free(c->load);
    free(c->step_load);
}

static inline int64_t count_idle(const run_count *c) {
    int64_t idle = 0;
    for (int32_t i = 0; i < c->n_steps * c->n_layers; i++) {
        const int64_t *load = c->step_load + (int64_t)i * c->rows.n_ranks;
        int64_t most = 0;
        for (int32_t r = 0; r < c->rows.n_ranks; r++) most = load[r] > most ? load[r] : most;
        for (int32_t r = 0; r < c->rows.n_ranks; r++) idle += most - load[r];
    }
    return idle;
}

static inline void check_spread(const run_count *c, const grace_stats *s) {
    double ratio = 0, deviation = 0;
    for (int32_t l = 0; l < c->n_layers; l++) {
        double sum = 0, most = 0, squares = 0;
        for (int32_t r = 0; r < c->rows.n_ranks; r++) {
            sum += (double)c->load[l * c->rows.n_ranks + r];
            most = fmax(most, (double)c->load[l * c->rows.n_ranks + r]);
        }
        for (int32_t r = 0; r < c->rows.n_ranks; r++) squares += pow((double)c->load[l * c->rows.n_ranks + r] - sum / c->rows.n_ranks, 2);
        ratio += most * c->rows.n_ranks / sum / c->n_layers;
        deviation += sqrt(squares / c->rows.n_ranks) / c->n_layers;
    }
    claim(fabs(ratio - s->load_max_over_mean) < 1e-9 * ratio);
    claim(fabs(deviation - s->load_std) < 1e-6 * (1 + deviation));
}

/* Bytes of copies on the rank with most: three bf16 matrices each. */
static inline int64_t count_replica_bytes(const grace_plan *plan, const grace_model_info *m) {
    int64_t most = 0;
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
        int64_t n = 0;
        for (int32_t l = 0; l < plan->n_layers; l++)
            for (int32_t s = 0; s < plan->layers[l].n_slots; s++)
                n += plan->layers[l].rank_of_slot[s] == r && naive_primary(&plan->layers[l], plan->layers[l].expert_of_slot[s]) != s;
        most = n > most ? n : most;
    }
    return most * 3 * m->hidden * m->expert_width * 2;
}

static inline void check_stats(const run_count *c, const grace_stats *s, const grace_plan *plan, const grace_model_info *m, int64_t n_tokens) {
    grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS] = {0}, combine[GRACE_N_STAGES][GRACE_N_LINKS] = {0};
    int32_t n = c->rows.n_ranks;
    naive_links(&c->rows, -1, m->hidden, dispatch, combine);
    claim(memcmp(s->dispatch, dispatch, sizeof dispatch) == 0);
    claim(memcmp(s->combine, combine, sizeof combine) == 0);
    for (int32_t i = 0; i < n * n; i++) claim(s->pair_rows[i] == naive_pair_rows(&c->rows, i / n, i % n));
    for (int32_t i = 0; i < n * c->n_layers; i++) claim(s->load[i] == c->load[i]);
    claim(s->idle_pairs == count_idle(c));
    claim(s->n_tokens == n_tokens && s->n_prefill + s->n_decode == n_tokens);
    claim(s->replica_bytes_max == count_replica_bytes(plan, m));
    claim((s->idle_measured_us < 0) == (sysconf(_SC_NPROCESSORS_ONLN) < n));     /* with fewer cores it would measure the scheduler */
    claim(s->pair_us > 0 && s->moe_us > 0);
    check_spread(c, s);
}

/* The simulator on the trace of that very run: the same rows, bytes, pairs of ranks, loads and memory, to the last one. */
static inline void check_sim(const grace_trace *t, const grace_plan *plan, const grace_engine_options *opt, const grace_stats *s) {
    grace_routing *from = NULL;
    grace_sim *sim = NULL;
    grace_rates rates;
    const grace_model_info *info = grace_model_describe(model);
    grace_shape shape = grace_shape_of_model(info);
    int32_t n = s->n_ranks;
    shape.weight_bytes = 2;     /* of the experts; norms are fp32 */
    assert_ok(grace_rates_load("cpu", &rates));
    assert_ok(grace_routing_of_trace(t, NULL, &from));
    grace_sim_options how = {.plan = plan, .route = opt->route, .exchange = opt->exchange, .exact = opt->exact, .shape = &shape, .rates = &rates};
    assert_ok(grace_sim_run(from, &how, &sim));
    claim(memcmp(sim->dispatch, s->dispatch, sizeof s->dispatch) == 0);
    claim(memcmp(sim->combine, s->combine, sizeof s->combine) == 0);
    for (int32_t i = 0; i < n * n; i++) claim(sim->pair_rows[i] == s->pair_rows[i]);
    for (int32_t i = 0; i < n * s->n_layers; i++) claim(sim->load[i] == s->load[i]);
    claim(sim->idle_pairs == s->idle_pairs && sim->replica_bytes_max == s->replica_bytes_max && sim->kv_tokens_displaced == s->kv_tokens_displaced);
    claim(sim->n_steps_prefill + sim->n_steps_decode == s->n_steps && sim->n_prefill + sim->n_decode == s->n_tokens);
    claim(fabs(sim->load_max_over_mean - s->load_max_over_mean) < 1e-9 && fabs(sim->load_std - s->load_std) < 1e-9);
    grace_sim_free(sim);
    grace_routing_free(from);
}

#endif
