/* Loads as uneven as they can be: every token chooses the same experts, or one rank hosts all of them, or every rank does and nothing has to leave. On
 * every cut and exchange the answers of a rank by itself, and the loads that follow. */
#ifndef GR_TESTS_RANKS_SKEW_H
#define GR_TESTS_RANKS_SKEW_H
#include "ranks/engine_world.h"

typedef enum skew { SKEW_SAME_EXPERTS, SKEW_ONE_HOST, SKEW_ALL_HOST, N_SKEWS } skew;

/* Every token's experts are 5, 2 and 9, in every layer. Written by rank 0. */
static inline grace_trace *skew_trace(gr_comm *comm) {
    static const uint16_t experts[] = {5, 2, 9, 5, 2, 9};
    const grace_trace_info info = {.model = "skewed", .n_layers = 2, .n_experts = 12, .top_k = 3, .n_ranks = 1, .n_nodes = 1};
    grace_trace_writer *w = NULL;
    char path[128];
    trace_path(path, sizeof path, "skew", 0);
    if (comm->rank == 0) {
        assert_ok(grace_trace_create(path, &info, NULL, 0, &w));
        assert_ok(grace_trace_add_sequence(w, (grace_trace_sequence){0, 0, -1}));
        assert_ok(grace_trace_append(w, (grace_trace_segment){0, 0, 1, 0, GRACE_PHASE_PREFILL}, (grace_trace_tokens){.experts = experts}));
        assert_ok(grace_trace_finish(w));
    }
    assert_ok(grace_comm_agree(comm, GRACE_OK));
    return open_trace(path);
}

static inline grace_plan *skew_plan(const gr_comm *comm, skew how, gr_rng *rng) {
    const gr_random_plan_options shape = {2, 12, 3, grace_comm_cluster(comm), how == SKEW_ALL_HOST, how == SKEW_ONE_HOST};
    return gr_random_plan(&shape, rng);
}

/* Pairs of a layer are computed where experts are, and all of them somewhere. */
static inline void skew_check_loads(const grace_stats *s, const grace_plan *plan, skew how) {
    for (int32_t l = 0; l < s->n_layers; l++) {
        const grace_plan_layer *pl = &plan->layers[l];
        int64_t sum = 0;
        for (int32_t r = 0; r < s->n_ranks; r++) {
            const int64_t load = s->load[l * s->n_ranks + r];
            const bool hosts = pl->first_slot[r + 1] > pl->first_slot[r];
            sum += load;
            claim(hosts || load == 0);
            if (how == SKEW_ONE_HOST && hosts) claim_number(3 * s->n_tokens, load, "pairs of the one host");
        }
        claim_number(3 * s->n_tokens, sum, "pairs of a layer");
    }
    int64_t moved = 0;
    for (int32_t i = 0; i < s->n_ranks * s->n_ranks; i++) moved += i / s->n_ranks != i % s->n_ranks ? s->pair_rows[i] : 0;
    if (how == SKEW_ALL_HOST) claim_number(0, moved, "rows that left their rank");
}

static inline void skew_check(gr_comm *comm, grace_engine_options opt, grace_exchange kind, skew how) {
    static const char *const names[] = {"the same experts", "one host", "all host"};
    gr_rng rng = gr_rng_seed((uint64_t)(kind * 10 + how));
    grace_plan *plan = skew_plan(comm, how, &rng);
    grace_trace *trace = how == SKEW_SAME_EXPERTS ? skew_trace(comm) : NULL;
    gr_random_requests all = gr_random_requests_new(&rng, 9, WORLD_VOCAB, WORLD_PROMPT_MAX, 5);
    run_result expected, found;
    grace_stats stats;
    opt.exact = true, opt.route_trace = trace;
    snprintf(case_name, sizeof case_name, "rank %d of %d, %d nodes, exchange %d, %s", comm->rank, comm->n_ranks, comm->n_nodes, (int)kind, names[how]);
    if (comm->rank == 0) grace_engine_close(run_requests(model, &opt, &all, &expected));
    from_first(comm, &expected, sizeof expected);
    opt.comm = comm, opt.plan = plan, opt.exchange = kind;
    grace_engine *engine = run_requests(model, &opt, &all, &found);
    check_same_result(&expected, &found, all.n, "exact");
    assert_ok(grace_engine_stats(engine, &stats));
    skew_check_loads(&stats, plan, how);
    grace_engine_close(engine);
    gr_random_requests_free(&all);
    grace_trace_close(trace);
    grace_plan_free(plan);
}

#endif
