/* Every family over several ranks against one process, in exact mode: the same bits for every plan, policy, exchange, cut, step size, batch,
 * instruction set and number of threads. The models are those of tests/golden/micro, which tests/run/test_micro.c compares with the reference. */
#include "ranks/engine_world.h"

#include "compute/compute.h"
#include "support/micro.h"

enum { PROMPT_MAX = 40, REQUESTS = 5 };     /* over two KV pages and over every sliding window */

/* Another instruction set and number of threads on every rank and case: none of them may show. */
static void vary(grace_engine_options *opt, gr_rng *rng) {
    static const char *const levels[] = {"portable", "avx2", "avx512", "auto"};
    gr_compute *c = NULL;
    opt->simd = levels[gr_rng_below(rng, 4)];
    if (gr_compute_cpu_open(opt->simd, 1, &c)) opt->simd = "auto";      /* this machine lacks it */
    if (c) c->ops->free(c);
    opt->n_threads = 1 + (int32_t)gr_rng_below(rng, 2);
}

/* Rank 0 by itself, all requests in one batch, in large steps; everyone gets the answer. */
static run_result answer_of(gr_comm *comm, const grace_model *m, const gr_random_requests *all) {
    run_result r;
    grace_engine_options opt = world_options();
    opt.exact = true, opt.n_tokens_max = 128;
    if (comm->rank == 0) grace_engine_close(run_requests(m, &opt, all, &r));
    from_first(comm, &r, sizeof r);
    return r;
}

static void check_alone(const grace_model *m, const gr_random_requests *all, const run_result *expected) {
    for (int32_t i = 0; i < all->n; i++) {
        const gr_random_requests one = {1, &all->requests[i]};
        run_result r;
        grace_engine_options opt = world_options();
        opt.exact = true;
        grace_engine_close(run_requests(m, &opt, &one, &r));
        claim(r.hashes[0] == expected->hashes[i] && r.nll[0] == expected->nll[i]);
    }
}

/* A trace holds the model's MoE layers, and a rank computed the pairs that the trace and the plan give it. */
static void check_trace(const grace_model *m, grace_engine *engine, const grace_engine_options *opt) {
    bool truncated;
    grace_trace *t = NULL;
    grace_stats stats;
    assert_ok(grace_trace_open(opt->trace_path, &t, &truncated));
    claim(!truncated && grace_trace_describe(t)->n_layers == grace_model_describe(m)->n_moe_layers);
    assert_ok(grace_engine_stats(engine, &stats));
    run_count c = count_run(t, opt->plan, opt->route, opt->exchange, opt->exact, stats.n_steps);
    for (int32_t i = 0; i < c.n_layers * c.rows.n_ranks; i++) claim(stats.load[i] == c.load[i]);
    run_count_free(&c);
    grace_trace_close(t);
}

static void check_case(gr_comm *comm, const grace_model *m, grace_exchange kind, gr_rng *rng, const gr_random_requests *all, const run_result *expected) {
    const grace_model_info *info = grace_model_describe(m);
    grace_engine_options opt = world_options();
    run_result found;
    gr_random_plan_options shape = {info->n_moe_layers, info->n_experts, info->top_k, grace_comm_cluster(comm), 0.4, 0.3};
    grace_plan *plan = gr_random_plan(&shape, rng);
    gr_rng own = gr_rng_seed(gr_rng_next(rng) + (uint64_t)comm->rank);
    opt.comm = comm, opt.plan = plan, opt.exchange = kind, opt.route = (grace_route)gr_rng_below(rng, 3);
    opt.exact = true, opt.n_tokens_max = 3 + (int32_t)gr_rng_below(rng, 30), opt.trace_path = world_dir;
    vary(&opt, &own);
    snprintf(case_name, sizeof case_name, "%s, rank %d of %d, %d nodes, exchange %d, route %d, %d rows a step, %s", info->family, comm->rank,
             comm->n_ranks, comm->n_nodes, (int)kind, (int)opt.route, opt.n_tokens_max, opt.simd);
    grace_engine *engine = run_requests(m, &opt, all, &found);
    claim(memcmp(&found, expected, sizeof found) == 0);
    check_trace(m, engine, &opt);
    grace_engine_close(engine);
    grace_plan_free(plan);
}

static gr_comm *some_cut(gr_rng *rng) {
    int32_t n_ranks = ranks_comm(1)->n_ranks, n_nodes;
    do n_nodes = 1 + (int32_t)gr_rng_below(rng, (uint32_t)n_ranks);
    while (n_ranks % n_nodes);
    return ranks_comm(n_nodes);
}

static void gives_one_process_bits_whatever_the_plan_exchange_cut_and_steps(void **state) {
    const char *name = *state;
    grace_model *m = NULL;
    gr_comm *world = ranks_comm(1);
    assert_ok(grace_comm_agree(world, grace_model_open(gr_micro_dir(name), &m)));
    gr_rng rng = gr_rng_seed(7 + (uint64_t)world->n_ranks);
    gr_random_requests all = gr_random_requests_new(&rng, REQUESTS, grace_model_describe(m)->vocab, PROMPT_MAX, 4);
    run_result expected = answer_of(world, m, &all);
    snprintf(case_name, sizeof case_name, "%s alone", name);
    if (world->n_ranks == 1) check_alone(m, &all, &expected);
    for (int kind = GRACE_EXCHANGE_PER_EXPERT; kind <= GRACE_EXCHANGE_HSC; kind++) check_case(some_cut(&rng), m, (grace_exchange)kind, &rng, &all, &expected);
    gr_random_requests_free(&all);
    grace_model_close(m);
}

static void make_trace_path(gr_comm *world) {
    int file = -1;
    strcpy(world_dir, "/tmp/grace-trace-XXXXXX");
    if (world->rank == 0) file = mkstemp(world_dir);
    if (file >= 0) close(file);
    from_first(world, world_dir, sizeof world_dir);
}

int main(void) {
    static struct CMUnitTest tests[GR_MICRO_MAX];
    size_t n = gr_micro_tests(gives_one_process_bits_whatever_the_plan_exchange_cut_and_steps, tests);
    make_trace_path(ranks_comm(1));
    int status = ranks_main("families", tests, n);
    unlink(world_dir);
    return status;
}
