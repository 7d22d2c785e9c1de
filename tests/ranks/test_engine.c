/* The engine over several ranks against one process: in exact mode the same bits for every plan, policy, exchange and world size; in fast mode
 * within a bound and the same bits again; and every number of a run against a count from its own trace. */
#include "ranks/skew.h"

#include <sys/stat.h>

#include "run/engine_internal.h"

/* ---- one process: the answer ---- */

typedef struct answer { run_result result; routing routing; float *logits; } answer;     /* logits [request, position, vocab] of prompts */

static void answer_free(answer *a) {
    free(a->logits);
    free(a->routing.experts);
}

/* Each rank by itself, in chunks of another size. */
static answer answer_new(gr_random_requests *all, int32_t rank) {
    answer a = {.logits = new_logits()};
    grace_engine_options opt = world_options();
    char path[128];
    trace_path(path, sizeof path, "self", rank);
    opt.exact = true, opt.n_tokens_max = 64, opt.trace_path = path;
    watch_logits(all, a.logits);
    grace_engine_close(run_requests(model, &opt, all, &a.result));
    watch_logits(all, NULL);
    grace_trace *t = open_trace(path);
    a.routing = routing_read(t);
    grace_trace_close(t);
    return a;
}

/* ---- one case ---- */

typedef struct scene { gr_comm *comm; grace_plan *plan; gr_random_requests all; answer answer; grace_engine_options opt; } scene;
static char world_path[128];       /* of the trace of a run over all ranks */

/* Any: homes only have to be somewhere. */
static void give_token_saves(grace_plan *plan, gr_rng *rng) {
    int8_t *saved = gr_arena_alloc(plan->memory, (size_t)(WORLD_VOCAB * plan->cluster.n_nodes), 1);
    for (int32_t i = 0; i < WORLD_VOCAB * plan->cluster.n_nodes; i++) saved[i] = (int8_t)((int32_t)gr_rng_below(rng, 255) - 127);
    plan->token_saves = (grace_token_saves){WORLD_VOCAB, plan->cluster.n_nodes, 0.5f, saved};
}

static scene scene_new(gr_comm *comm, grace_exchange kind, uint64_t seed) {
    scene s = {.comm = comm, .opt = world_options()};
    gr_rng rng = gr_rng_seed(seed);
    gr_random_plan_options shape = {2, 12, 3, grace_comm_cluster(comm), gr_rng_uniform(&rng) * 0.6, gr_rng_below(&rng, 2) ? 0.35 : 0};
    s.plan = gr_random_plan(&shape, &rng);
    int32_t n = 1 + (int32_t)gr_rng_below(&rng, (uint32_t)(2 * comm->n_ranks));        /* often fewer requests than ranks */
    s.all = gr_random_requests_new(&rng, n, WORLD_VOCAB, WORLD_PROMPT_MAX, 5);
    s.answer = answer_new(&s.all, ranks_comm(1)->rank);
    s.opt.comm = comm, s.opt.plan = s.plan, s.opt.exchange = kind, s.opt.route = (grace_route)(seed % GRACE_N_ROUTES);
    s.opt.homes = (grace_homes)(seed / 4 % 2);
    give_token_saves(s.plan, &rng);
    gr_random_decode(s.plan, 0.5, &rng);
    trace_path(world_path, sizeof world_path, "world", 0);
    s.opt.trace_path = world_path;
    snprintf(case_name, sizeof case_name, "rank %d of %d, %d nodes, exchange %d, route %d, seed %llu", comm->rank, comm->n_ranks, comm->n_nodes, (int)kind,
             (int)s.opt.route, (unsigned long long)seed);
    return s;
}

static void scene_free(scene *s) {
    answer_free(&s->answer);
    gr_random_requests_free(&s->all);
    grace_plan_free(s->plan);
}

/* Numbers against the trace. Also: every token's home is its request's. */
static void check_numbers(const scene *s, grace_engine *engine, const grace_trace *t) {
    grace_stats stats;
    assert_ok(grace_engine_stats(engine, &stats));
    for (int32_t i = 0; i < grace_trace_n_sequences(t); i++) {
        grace_trace_sequence seq = grace_trace_sequence_at(t, i);
        claim(seq.id == i && grace_engine_result(engine, i)->home == seq.home);
        claim(s->opt.homes == GRACE_HOMES_VOCAB || seq.home == i % s->comm->n_ranks);
    }
    run_count c = count_run(t, s->plan, s->opt.route, s->opt.exchange, s->opt.exact, stats.n_steps);
    check_stats(&c, &stats, s->plan, grace_model_describe(model), grace_trace_n_tokens(t));
    check_sim(t, s->plan, &s->opt, &stats);
    run_count_free(&c);
}

static void check_exact(scene *s) {
    run_result found;
    s->opt.exact = true;
    grace_engine *engine = run_requests(model, &s->opt, &s->all, &found);
    claim(memcmp(&found, &s->answer.result, sizeof found) == 0);
    grace_trace *t = open_trace(world_path);
    routing r = routing_read(t);
    claim(r.n_tokens == s->answer.routing.n_tokens);
    claim(memcmp(r.experts, s->answer.routing.experts, sizeof *r.experts * WORLD_REQUESTS_MAX * WORLD_POSITIONS * (size_t)(r.n_layers * r.top_k)) == 0);
    check_numbers(s, engine, t);
    free(r.experts);
    grace_trace_close(t);
    grace_engine_close(engine);
}

/* Fast adds the same top_k terms in another order, once a layer: top_k * u each, and what is computed from the other sums rounds otherwise: two
 * sides of 6 sums of sqrt(hidden) * u a layer, then norm and head (test_golden.c). Relative to the largest logit; u = 2^-24. */
static double fast_bound(double largest) {
    const grace_model_info *m = grace_model_describe(model);
    return (m->n_layers * m->top_k + 2 * (6 * m->n_layers + 2) * sqrt(m->hidden)) * 0x1p-24 * largest;
}

static double check_prompt_row(const float *expected, const float *found) {
    double largest = 0, apart = 0;
    for (int i = 0; i < WORLD_VOCAB; i++) {
        largest = fmax(largest, fabs((double)expected[i]));
        apart = fmax(apart, fabs((double)expected[i] - (double)found[i]));
    }
    claim(apart <= fast_bound(largest));
    return apart;
}

/* Rows of prompts only: after them a drawn token may differ. */
static double check_bound(const scene *s, const grace_engine *engine, const float *logits) {
    double apart = 0;
    for (int32_t i = 0; i < s->all.n; i++)
        for (int32_t p = 0; p < s->all.requests[i].n_prompt && grace_engine_result(engine, i)->home == s->comm->rank; p++) {
            int64_t at = ((int64_t)i * WORLD_POSITIONS + p) * WORLD_VOCAB;
            apart = fmax(apart, check_prompt_row(s->answer.logits + at, logits + at));
        }
    return apart;
}

static double check_fast(scene *s) {
    run_result once, again;
    float *logits = new_logits();
    s->opt.exact = false;
    watch_logits(&s->all, logits);
    grace_engine *engine = run_requests(model, &s->opt, &s->all, &once);
    double apart = check_bound(s, engine, logits);
    grace_trace *t = open_trace(world_path);
    check_numbers(s, engine, t);
    grace_trace_close(t);
    grace_engine_close(engine);
    grace_engine_close(run_requests(model, &s->opt, &s->all, &again));
    claim(memcmp(&once, &again, sizeof once) == 0);
    free(logits);
    return apart;
}

static void any_plan_policy_exchange_and_cut_gives_one_process_bits_and_the_counted_numbers(void **state) {
    (void)state;
    double apart = 0;
    int32_t n_ranks = ranks_comm(1)->n_ranks;
    for (int32_t n_nodes = 1; n_nodes <= 4; n_nodes++)
        for (int kind = GRACE_EXCHANGE_PER_EXPERT; kind <= GRACE_EXCHANGE_HSC; kind++)
            for (uint64_t round = 0; round < 3 && n_ranks % n_nodes == 0; round++) {
                scene s = scene_new(ranks_comm(n_nodes), (grace_exchange)kind, (uint64_t)(n_ranks * 1000 + n_nodes * 100 + kind * 9) + round);
                check_exact(&s);
                apart = fmax(apart, check_fast(&s));
                scene_free(&s);
            }
    print_message("%d ranks: fast is at most %.2g away from exact\n", n_ranks, apart);
}

static void skew_to_the_extreme_gives_one_process_bits(void **state) {
    (void)state;
    for (int32_t n_nodes = 1; n_nodes <= 4; n_nodes++)
        for (int kind = GRACE_EXCHANGE_PER_EXPERT; kind <= GRACE_EXCHANGE_HSC && ranks_comm(1)->n_ranks % n_nodes == 0; kind++)
            for (int how = 0; how < N_SKEWS; how++) skew_check(ranks_comm(n_nodes), world_options(), (grace_exchange)kind, (skew)how);
}

/* ---- steps launched ahead ---- */

static int32_t n_ahead;    /* steps launched ahead in all runs */

static grace_engine *run_ahead(const scene *s, bool ahead, run_result *out) {
    grace_engine *engine = NULL;
    assert_ok(grace_engine_open(model, &s->opt, &engine));
    const gr_network *net = gr_engine_network(engine);
    gr_engine_drop_hashes(engine);
    gr_engine_look_ahead(engine, ahead);
    for (int32_t i = 0; i < s->all.n; i++) assert_ok(grace_engine_submit(engine, &s->all.requests[i]));
    for (bool more = true; more;) {
        assert_ok(grace_engine_step(engine, &more));
        n_ahead += net->flight == &net->landed[1];
        claim(ahead || net->flight == net->landed);
    }
    finish_run(engine, &s->all, out);
    return engine;
}

/* Rows behind an end of text are computed in vain, on the ranks that have some: ids are the same, numbers only where there are none. */
static void check_ahead(scene *s, bool ends) {
    run_result expected, found;
    grace_stats a, b;
    const size_t n_loads = (size_t)(s->plan->n_layers * s->comm->n_ranks);
    s->opt.trace_path = NULL, s->opt.exact = true;
    for (int32_t i = 0; i < s->all.n; i++) {
        grace_request *r = &s->all.requests[i];
        r->score = false, r->ignore_eos = !ends;
        r->n_generate += 8;
        if (ends) r->temperature = 50;      /* each of 64 ids is as likely */
    }
    grace_engine *plain = run_ahead(s, false, &expected), *ahead = run_ahead(s, true, &found);
    check_same_result(&expected, &found, s->all.n, "ahead");
    assert_ok(grace_engine_stats(plain, &a));
    assert_ok(grace_engine_stats(ahead, &b));
    claim(a.n_prefill == b.n_prefill && a.n_decode <= b.n_decode && b.n_decode <= a.n_decode + s->all.n);
    if (!ends) {
        claim(a.n_tokens == b.n_tokens && a.n_steps == b.n_steps && a.idle_pairs == b.idle_pairs);
        claim(memcmp(a.load, b.load, n_loads * sizeof *a.load) == 0);
        claim(memcmp(a.dispatch, b.dispatch, sizeof a.dispatch) == 0 && memcmp(a.combine, b.combine, sizeof a.combine) == 0);
    }
    grace_engine_close(plain);
    grace_engine_close(ahead);
}

static void steps_launched_ahead_give_the_same_ids_and_numbers(void **state) {
    (void)state;
    n_ahead = 0;
    for (int32_t n_nodes = 1; n_nodes <= 4; n_nodes++)
        for (int kind = GRACE_EXCHANGE_PER_EXPERT; kind <= GRACE_EXCHANGE_HSC && ranks_comm(1)->n_ranks % n_nodes == 0; kind++)
            for (int ends = 0; ends < 2; ends++) {
                scene s = scene_new(ranks_comm(n_nodes), (grace_exchange)kind, (uint64_t)(7000 + n_nodes * 10 + kind));
                check_ahead(&s, ends);
                scene_free(&s);
            }
    claim(n_ahead >= 6);
}

/* ---- the real model ---- */

static void tiny_olmoe_over_all_ranks_gives_one_process_bits(void **state) {
    (void)state;
    int32_t n_ranks = ranks_comm(1)->n_ranks, n_nodes = n_ranks % 2 == 0 ? 2 : 1;
    gr_comm *comm = ranks_comm(n_nodes);
    grace_model *olmoe = NULL;
    assert_ok(grace_comm_agree(comm, grace_model_open(GRACE_SOURCE_DIR "/models/tiny-olmoe", &olmoe)));
    gr_rng rng = gr_rng_seed(99);
    gr_random_plan_options shape = {8, 64, 8, grace_comm_cluster(comm), 0.2, 0.2};
    grace_plan *plan = gr_random_plan(&shape, &rng);
    gr_random_requests all = gr_random_requests_new(&rng, 10, 4096, WORLD_PROMPT_MAX, 4);
    run_result expected, found;
    grace_engine_options opt = world_options();
    opt.exact = true;
    if (comm->rank == 0) grace_engine_close(run_requests(olmoe, &opt, &all, &expected));
    from_first(comm, &expected, sizeof expected);
    opt.comm = comm, opt.plan = plan;
    snprintf(case_name, sizeof case_name, "tiny-olmoe, rank %d of %d", comm->rank, n_ranks);
    grace_engine_close(run_requests(olmoe, &opt, &all, &found));
    claim(memcmp(&found, &expected, sizeof found) == 0);
    gr_random_requests_free(&all);
    grace_plan_free(plan);
    grace_model_close(olmoe);
}

/* ---- more ranks than experts ---- */

/* A model of 2 experts, written by rank 0 and opened by all. */
static grace_model *open_two_experts(gr_comm *comm, char path[96]) {
    gr_tiny_model_options shape = world_shape();
    grace_model *two = NULL;
    snprintf(path, 96, "%s-two", world_dir);
    shape.n_experts = shape.top_k = 2;
    if (comm->rank == 0) {
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(gr_tiny_model_write(path, &shape), 0);
    }
    assert_ok(grace_comm_agree(comm, GRACE_OK));
    assert_ok(grace_comm_agree(comm, grace_model_open(path, &two)));
    return two;
}

static int32_t n_empty(const grace_plan *plan) {
    int32_t n = 0;
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) n += plan->layers[0].first_slot[r] == plan->layers[0].first_slot[r + 1];
    return n;
}

static void ranks_without_experts_give_one_process_bits(void **state) {
    (void)state;
    static const grace_planner planners[] = {GRACE_PLANNER_CONTIGUOUS, GRACE_PLANNER_GRACE, GRACE_PLANNER_UNIFORM, GRACE_PLANNER_REPLICATE_NODE};
    int32_t n_ranks = ranks_comm(1)->n_ranks, n_nodes = n_ranks % 2 == 0 ? 2 : 1;
    if (n_ranks < 3) skip();
    gr_comm *comm = ranks_comm(n_nodes);
    double load[4] = {3, 1, 1, 2}, affinity[8] = {0};
    char path[96];
    grace_model *two = open_two_experts(comm, path);
    grace_profile profile = {.info = {.n_layers = 2, .n_experts = 2, .top_k = 2}, .n_tokens = 4, .load = load, .affinity = affinity};
    gr_rng rng = gr_rng_seed(98);
    gr_random_requests all = gr_random_requests_new(&rng, 10, WORLD_VOCAB, WORLD_PROMPT_MAX, 4);
    run_result expected, found;
    grace_engine_options alone = world_options();
    alone.exact = true;
    if (comm->rank == 0) grace_engine_close(run_requests(two, &alone, &all, &expected));
    from_first(comm, &expected, sizeof expected);
    for (size_t i = 0; i < sizeof planners / sizeof *planners; i++) {
        grace_engine_options opt = alone;
        grace_plan_options how = grace_plan_defaults();
        grace_plan *plan = NULL;
        how.planner = planners[i], how.empty_ranks = true, how.replication = GRACE_REPLICATION_NONE;
        assert_ok(grace_plan_build(&profile, grace_comm_cluster(comm), &how, &plan));
        snprintf(case_name, sizeof case_name, "%s, rank %d of %d", plan->planner, comm->rank, n_ranks);
        claim(planners[i] == GRACE_PLANNER_REPLICATE_NODE || n_empty(plan) == n_ranks - 2);
        opt.comm = comm, opt.plan = plan;
        grace_engine_close(run_requests(two, &opt, &all, &found));
        claim(memcmp(&found, &expected, sizeof found) == 0);
        grace_plan_free(plan);
    }
    gr_random_requests_free(&all);
    grace_model_close(two);
    assert_ok(grace_comm_agree(comm, GRACE_OK));
    if (comm->rank == 0) gr_tiny_model_remove(path);
}

/* ---- ranks that do not fit together ---- */

/* The last rank opens with `odd`, the others with `common`: the same refusal everywhere, and the job goes on. */
static void check_refused(const grace_model *m, const grace_engine_options *common, const grace_engine_options *odd, grace_status expected, const char *part) {
    gr_comm *comm = common->comm;
    grace_engine *engine = NULL;
    bool last = comm->rank == comm->n_ranks - 1;
    grace_status st = grace_engine_open(last ? m : model, last ? odd : common, &engine);
    if (st != expected || !strstr(grace_last_error(), part))
        fail_msg("rank %d: expected %s with '%s', found %s: %s", comm->rank, grace_status_name(expected), part, grace_status_name(st), grace_last_error());
    assert_null(engine);
    assert_ok(grace_comm_agree(comm, GRACE_OK));
}

static void ranks_that_opened_something_else_are_told_so_everywhere(void **state) {
    (void)state;
    gr_comm *comm = ranks_comm(1);
    if (comm->n_ranks == 1) skip();
    gr_rng rng = gr_rng_seed(5);
    gr_random_plan_options shape = {2, 12, 3, grace_comm_cluster(comm), 0.3, 0};
    grace_plan *plan = gr_random_plan(&shape, &rng), *other = gr_random_plan(&shape, &rng);
    grace_engine_options common = world_options(), odd;
    char path[128];
    trace_path(path, sizeof path, "refused", 0);
    common.comm = comm, common.plan = plan;
#define refused(change) (odd = common, change, (void)0); check_refused(model, &common, &odd, GRACE_ERR_MISMATCH, "not started with the same")
    refused(odd.plan = other);
    refused(odd.plan = NULL);
    refused(odd.exact = true);
    refused(odd.route = GRACE_ROUTE_WRR);
    refused(odd.exchange = GRACE_EXCHANGE_FLAT);
    refused(odd.n_tokens_max = 10);
    refused(odd.kv_tokens = 256);
    refused(odd.trace_path = path);
#undef refused
    grace_plan_free(plan);
    grace_plan_free(other);
}

static void a_rank_with_another_checkpoint_is_told_so_everywhere(void **state) {
    (void)state;
    gr_comm *comm = ranks_comm(1);
    if (comm->n_ranks == 1) skip();
    gr_tiny_model_options shape = world_shape();
    grace_engine_options opt = world_options();
    grace_model *other = NULL;
    char path[96];
    snprintf(path, sizeof path, "%s-%d", world_dir, comm->rank);
    shape.seed = 2;
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(gr_tiny_model_write(path, &shape), 0);
    assert_ok(grace_model_open(path, &other));
    opt.comm = comm;                        /* no plan: contiguous, which fits both */
    check_refused(other, &opt, &opt, GRACE_ERR_MISMATCH, "not started with the same model");
    grace_model_close(other);
    gr_tiny_model_remove(path);
}

static void what_fails_on_one_rank_fails_on_all_with_its_sentence(void **state) {
    (void)state;
    gr_comm *comm = ranks_comm(1);
    grace_engine_options common = world_options(), odd;
    grace_model *none = NULL;
    char culprit[64];
    int32_t last = comm->n_ranks - 1;
    common.comm = comm;
    snprintf(culprit, sizeof culprit, "rank %d: ", last);
    const char *of_last = comm->n_ranks > 1 ? culprit : "";
    odd = common, odd.n_tokens_max = 0;
    check_refused(model, &common, &odd, GRACE_ERR_ARG, of_last);
    check_refused(model, &common, &odd, GRACE_ERR_ARG, "rows a step: expected 1 to 1048576, found 0");
    odd = common, odd.simd = "mmx";
    check_refused(model, &common, &odd, GRACE_ERR_ARG, of_last);
    check_refused(model, &common, &odd, GRACE_ERR_ARG, "mmx");
    common.trace_path = "/nowhere/trace";   /* rank 0 writes it */
    odd = common;
    check_refused(model, &common, &odd, GRACE_ERR_IO, "/nowhere/trace");
    grace_status mine = grace_model_open(comm->rank == last ? "/nowhere/model" : world_dir, &none);
    assert_int_equal(grace_comm_agree(comm, mine), GRACE_ERR_IO);
    assert_non_null(strstr(grace_last_error(), "/nowhere/model"));
    grace_model_close(none);
}

static void a_plan_for_another_cut_is_refused_with_both_sides(void **state) {
    (void)state;
    gr_comm *comm = ranks_comm(1);
    char part[96];
    gr_rng rng = gr_rng_seed(5);
    gr_random_plan_options shape = {2, 12, 3, {comm->n_ranks + 1, 1}, 0, 0};
    grace_plan *plan = gr_random_plan(&shape, &rng);
    grace_engine_options opt = world_options();
    opt.comm = comm, opt.plan = plan;
    snprintf(part, sizeof part, "plan is for cluster node:%d gpu:1, this run has node:1 gpu:%d", comm->n_ranks + 1, comm->n_ranks);
    check_refused(model, &opt, &opt, GRACE_ERR_MISMATCH, part);
    grace_plan_free(plan);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(any_plan_policy_exchange_and_cut_gives_one_process_bits_and_the_counted_numbers, world_open, world_close),
    cmocka_unit_test_setup_teardown(skew_to_the_extreme_gives_one_process_bits, world_open, world_close),
    cmocka_unit_test_setup_teardown(steps_launched_ahead_give_the_same_ids_and_numbers, world_open, world_close),
    cmocka_unit_test(tiny_olmoe_over_all_ranks_gives_one_process_bits),
    cmocka_unit_test_setup_teardown(ranks_without_experts_give_one_process_bits, world_open, world_close),
    cmocka_unit_test_setup_teardown(ranks_that_opened_something_else_are_told_so_everywhere, world_open, world_close),
    cmocka_unit_test_setup_teardown(a_rank_with_another_checkpoint_is_told_so_everywhere, world_open, world_close),
    cmocka_unit_test_setup_teardown(what_fails_on_one_rank_fails_on_all_with_its_sentence, world_open, world_close),
    cmocka_unit_test_setup_teardown(a_plan_for_another_cut_is_refused_with_both_sides, world_open, world_close),
};

RANKS_MAIN("engine", tests)
