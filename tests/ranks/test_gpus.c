/* The engine over several ranks on GPUs (run/exchange_gpus.c) against one rank on a GPU: in exact mode the same bits for every plan, policy, exchange
 * and cut into nodes, replayed or not; in fast mode the same bits again, and rows whose experts are the same ones are near; rows, loads and idle
 * counted a second time from the run's own trace; thousands of steps. Single ranks of many nodes share GPUs where there are fewer; then what crosses
 * nodes goes through host memory. */
#include "ranks/skew.h"
#include "ranks/soak.h"

#include <cuda_runtime_api.h>

#include "base/clock.h"
#include "compute/cuda/backend.h"
#include "cuda/device.h"

static int32_t rank_of_world;
static int64_t n_near[2];       /* rows of fast runs with the experts of exact ones; of all that were looked at */

/* Ranks of a node wait for each other in kernels, so each has a GPU of its own; single ranks of many nodes may share one. */
static bool fits(int32_t n_ranks, int32_t n_nodes) {
    int n_gpus = 0;
    return cudaGetDeviceCount(&n_gpus) == cudaSuccess && n_ranks % n_nodes == 0 && (n_ranks <= n_gpus || n_ranks == n_nodes);
}

static grace_engine_options on_gpu(void) {
    grace_engine_options opt = world_options();
    opt.device = "cuda", opt.n_tokens_max = 24;
    return opt;
}

typedef struct answer { run_result result; routing routing; float *logits; } answer;     /* logits [request, position, vocab] of prompts */

static void answer_free(answer *a) {
    free(a->logits);
    free(a->routing.experts);
}

/* A run whose logits and routing are kept; the engine stays open. */
static grace_engine *run_seen(grace_engine_options opt, gr_random_requests *all, const char *trace, answer *a) {
    char path[128];
    trace_path(path, sizeof path, trace, opt.comm ? 0 : rank_of_world);
    opt.trace_path = path;
    a->logits = new_logits();
    watch_logits(all, a->logits);
    grace_engine *engine = run_requests(model, &opt, all, &a->result);
    watch_logits(all, NULL);
    grace_trace *t = open_trace(path);
    a->routing = routing_read(t);
    grace_trace_close(t);
    return engine;
}

/* ---- numbers ---- */

static void check_rows(const run_count *c, const grace_stats *s, const grace_model_info *m) {
    grace_link_count there[GRACE_N_STAGES][GRACE_N_LINKS] = {0}, back[GRACE_N_STAGES][GRACE_N_LINKS] = {0};
    const int32_t n = c->rows.n_ranks;
    naive_links(&c->rows, -1, m->hidden, there, back);
    for (int st = 0; st < GRACE_N_STAGES; st++)
        for (int l = 0; l < GRACE_N_LINKS; l++) {
            char what[64];
            snprintf(what, sizeof what, "rows of stage %d over links of kind %d", st, l);
            claim_number(there[st][l].rows, s->dispatch[st][l].rows, what);
            claim_number(back[st][l].rows, s->combine[st][l].rows, what);
            claim_number(there[st][l].rows * m->hidden * 2, s->dispatch[st][l].bytes_payload, what);
            claim_number(back[st][l].rows * m->hidden * 2, s->combine[st][l].bytes_payload, what);
        }
    for (int32_t i = 0; i < n * n; i++) claim_number(naive_pair_rows(&c->rows, i / n, i % n), s->pair_rows[i], "rows between two ranks");
    for (int32_t i = 0; i < n * c->n_layers; i++) claim_number(c->load[i], s->load[i], "pairs of a rank in a layer");
    claim_number(count_idle(c), s->idle_pairs, "idle pairs");
}

static void check_numbers(const grace_engine_options *opt, grace_engine *engine, const char *trace) {
    grace_stats stats;
    char path[128];
    assert_ok(grace_engine_stats(engine, &stats));
    trace_path(path, sizeof path, trace, 0);
    grace_trace *t = open_trace(path);
    run_count c = count_run(t, opt->plan, opt->route, opt->exchange, opt->exact, stats.n_steps);
    check_rows(&c, &stats, grace_model_describe(model));
    run_count_free(&c);
    grace_trace_close(t);
}

/* ---- fast ---- */

/* Partial sums rounded to bf16, once a hop: a row's stream then differs by roundings of 2^-9 at most, about 12 a layer that add up as a root; 4 of
 * those, relative to the largest logit. Rows count up to the first one of their request that chose other experts than in exact mode: of one case
 * that may be the first row of its one request, of all cases together most rows choose the same. */
static void check_near(gr_comm *comm, const gr_random_requests *all, const grace_engine *engine, const answer *expected, const answer *found) {
    const grace_model_info *m = grace_model_describe(model);
    const size_t row = (size_t)expected->routing.n_layers * (size_t)expected->routing.top_k;
    const double bound = 4 * sqrt(12.0 * m->n_layers) * 0x1p-9;
    int64_t n_checked = 0, n_all = 0;
    for (int32_t i = 0; i < all->n; i++) {
        bool same = grace_engine_result(engine, i)->home == rank_of_world;
        for (int32_t p = 0; same && p < all->requests[i].n_prompt; p++) {
            const size_t at = (size_t)i * WORLD_POSITIONS + (size_t)p;
            const float *e = expected->logits + at * WORLD_VOCAB, *f = found->logits + at * WORLD_VOCAB;
            double largest = 0, apart = 0;
            n_all++;
            same = !memcmp(expected->routing.experts + at * row, found->routing.experts + at * row, row * sizeof(uint16_t));
            for (int v = 0; same && v < WORLD_VOCAB; v++) largest = fmax(largest, fabs((double)e[v])), apart = fmax(apart, fabs((double)e[v] - (double)f[v]));
            if (same && !(apart <= bound * largest))
                fail_msg("%s: request %d position %d: %.4g apart, allowed %.4g of %.4g", case_name, i, p, apart, bound, largest);
            n_checked += same;
        }
    }
    int64_t rows[2] = {n_checked, n_all};
    assert_ok(gr_comm_allreduce(comm, rows, 2, GR_SUM));
    for (int i = 0; i < 2; i++) n_near[i] += rows[i];
}

/* ---- cases ---- */

typedef struct scene { uint64_t seed; gr_comm *comm; grace_plan *plan; gr_random_requests all; answer alone; grace_engine_options opt; } scene;

static void name_case(const gr_comm *comm, const grace_engine_options *opt, uint64_t seed) {
    static const char *const exchanges[] = {"per-expert", "flat", "hsc"}, *const routes[] = {"primary", "wrr", "tar", "tar-entry", "joint"};
    snprintf(case_name, sizeof case_name, "rank %d of %d, %d nodes, %s, %s, between nodes %s, turns from %d rows, seed %llu", comm->rank, comm->n_ranks,
             comm->n_nodes, exchanges[opt->exchange], routes[opt->route], opt->wire ? opt->wire : "auto", opt->turns_from, (unsigned long long)seed);
}

static bool own_gpus(int32_t n_ranks) {
    int n_gpus = 0;
    return cudaGetDeviceCount(&n_gpus) == cudaSuccess && n_ranks <= n_gpus;
}

/* Rows between nodes in one part, or steps of three rows and more in two, over each kind of wire. */
static void set_wires(grace_engine_options *opt, uint64_t round) {
    static const char *const wires[] = {"sockets", "nccl", "staged"};
    opt->turns_from = round % 2;
    opt->wire = own_gpus(opt->comm->n_ranks) ? wires[round / 2 % 3] : "auto";
}

static scene scene_new(gr_comm *comm, grace_exchange kind, uint64_t seed) {
    scene s = {.seed = seed, .comm = comm, .opt = on_gpu()};
    gr_rng rng = gr_rng_seed(seed);
    gr_random_plan_options shape = {2, 12, 3, grace_comm_cluster(comm), gr_rng_uniform(&rng) * 0.6, gr_rng_below(&rng, 2) ? 0.35 : 0};
    s.plan = gr_random_plan(&shape, &rng);
    s.all = gr_random_requests_new(&rng, 1 + (int32_t)gr_rng_below(&rng, (uint32_t)(2 * comm->n_ranks)), WORLD_VOCAB, WORLD_PROMPT_MAX, 5);
    gr_random_decode(s.plan, 0.5, &rng);
    s.opt.exact = true;
    snprintf(case_name, sizeof case_name, "rank %d by itself, seed %llu", comm->rank, (unsigned long long)seed);
    grace_engine_close(run_seen(s.opt, &s.all, "alone", &s.alone));
    s.opt.comm = comm, s.opt.plan = s.plan, s.opt.exchange = kind, s.opt.route = (grace_route)(seed % GRACE_N_ROUTES);
    return s;
}

static void scene_free(scene *s) {
    answer_free(&s->alone);
    gr_random_requests_free(&s->all);
    grace_plan_free(s->plan);
}

/* The same requests once more, in an engine that has done them, or in a new one: where nobody looks at logits, steps of generated tokens are replayed. Only ids
 * tell. */
static void check_replayed(scene *s, grace_engine *engine, const run_result *expected, const char *run) {
    const int32_t first = grace_engine_n_requests(engine);
    gr_engine_drop_hashes(engine);
    for (int32_t i = 0; i < s->all.n; i++) {
        grace_request r = s->all.requests[i];
        r.score = false;
        assert_ok(grace_engine_submit(engine, &r));
    }
    assert_ok(grace_engine_run(engine));
    assert_ok(grace_engine_collect(engine));
    for (int32_t i = 0; i < s->all.n; i++) {
        const grace_result *r = grace_engine_result(engine, first + i);
        check_same_ids(expected->ids[i], expected->n_ids[i], r->ids, r->n_ids, i, run);
    }
}

static void check_exact(scene *s) {
    answer seen;
    s->opt.exact = true;
    grace_engine *engine = run_seen(s->opt, &s->all, "world", &seen);
    check_same_result(&s->alone.result, &seen.result, s->all.n, "exact");
    check_numbers(&s->opt, engine, "world");
    check_replayed(s, engine, &s->alone.result, "exact, replayed");
    grace_engine_close(engine);
    answer_free(&seen);
}

/* Placement is by a request's number too, so a second run that may differ in no bit is of a new engine. */
static void check_fast(scene *s, bool replays) {
    answer once, again;
    s->opt.exact = false;
    grace_engine *engine = run_seen(s->opt, &s->all, "world", &once);
    check_near(s->comm, &s->all, engine, &s->alone, &once);
    check_numbers(&s->opt, engine, "world");
    grace_engine_close(engine);
    if (replays) {
        assert_ok(grace_engine_open(model, &s->opt, &engine));
        check_replayed(s, engine, &once.result, "fast, replayed");
    } else {
        engine = run_seen(s->opt, &s->all, "world", &again);
        check_same_result(&once.result, &again.result, s->all.n, "fast, again");
        answer_free(&again);
    }
    grace_engine_close(engine);
    answer_free(&once);
}

static void any_plan_policy_exchange_and_cut_gives_one_gpu_s_bits_and_the_counted_rows(void **state) {
    (void)state;
    const int32_t n_ranks = ranks_comm(1)->n_ranks;
    for (int32_t n_nodes = 1; n_nodes <= n_ranks; n_nodes++)
        for (int kind = GRACE_EXCHANGE_PER_EXPERT; kind <= GRACE_EXCHANGE_HSC; kind++)
            for (uint64_t round = 0; round < (n_nodes > 1 ? 6 : 2) && fits(n_ranks, n_nodes); round++) {
                const double start = gr_now_us();
                scene s = scene_new(ranks_comm(n_nodes), (grace_exchange)kind, (uint64_t)(n_ranks * 1000 + n_nodes * 100 + kind * 9) + round);
                set_wires(&s.opt, round);
                name_case(s.comm, &s.opt, s.seed);
                check_exact(&s);
                check_fast(&s, round % 2 == round / 2 % 2);       /* each with turns and without */
                scene_free(&s);
                print_message("%s: %.1f s\n", case_name, 1e-6 * (gr_now_us() - start));
            }
    print_message("fast: %lld of %lld rows with the experts of exact\n", (long long)n_near[0], (long long)n_near[1]);
    claim(2 * n_near[0] >= n_near[1]);
}

static void skew_to_the_extreme_gives_one_gpu_s_bits(void **state) {
    (void)state;
    const int32_t n_ranks = ranks_comm(1)->n_ranks;
    for (int32_t n_nodes = 1; n_nodes <= n_ranks; n_nodes++)
        for (int kind = GRACE_EXCHANGE_PER_EXPERT; kind <= GRACE_EXCHANGE_HSC && fits(n_ranks, n_nodes); kind++)
            for (int how = 0; how < N_SKEWS; how++) {
                grace_engine_options opt = on_gpu();
                opt.route = kind % 2 ? GRACE_ROUTE_JOINT : GRACE_ROUTE_TAR;
                skew_check(ranks_comm(n_nodes), opt, (grace_exchange)kind, (skew)how);
            }
}

/* Steps of generated tokens are replayed, those with prompts are not. Over NCCL, where a prompt is long, its step's rows do not go as whole blocks, so
 * the hosts tell each other sizes: all of that in turns. Through host memory (ranks that share a GPU) the hosts take part in every step, by lines in none. */
static void soak_over(gr_comm *comm, const char *wire, bool hosts_take_part) {
    const int32_t n_ranks = comm->n_ranks, n_nodes = comm->n_nodes;
    const soak_options o = {.n_steps = n_ranks > 2 && n_nodes == n_ranks ? 800 : 3000, .burst_max = 10, .prompt_max = 24, .generate_max = 60,
                            .long_every = 64, .long_prompt = 1100};
    gr_rng rng = gr_rng_seed((uint64_t)(70 + n_nodes));
    gr_random_plan_options shape = {2, 12, 3, grace_comm_cluster(comm), 0.4, 0.2};
    grace_plan *plan = gr_random_plan(&shape, &rng);
    gr_random_decode(plan, 0.5, &rng);
    soak_work work = soak_work_new(&o, &rng);
    grace_engine_options opt = on_gpu();
    grace_engine *engine = NULL;
    const double start = gr_now_us();
    opt.exact = true, opt.n_tokens_max = 1200, opt.kv_tokens = 16384;
    if (n_nodes == 1) opt.turns_from = 64;      /* long prompts in two halves, on streams of their own */
    snprintf(case_name, sizeof case_name, "soak, rank %d of %d, %d nodes, %s", comm->rank, n_ranks, n_nodes, wire);
    int32_t *expected = soak_alone(comm, &work, &o, &opt);
    opt.comm = comm, opt.plan = plan, opt.wire = wire, opt.route = n_nodes > 1 ? GRACE_ROUTE_JOINT : GRACE_ROUTE_TAR;
    assert_ok(grace_engine_open(model, &opt, &engine));
    gr_engine_drop_hashes(engine);
    const gr_cuda *cuda = gr_cuda_of(gr_engine_network(engine)->compute);
    const int64_t recorded = cuda->n_replayed;
    const soak_seen seen = soak_run(engine, &work, comm->rank);
    soak_check_ids(engine, &work, &o, expected);
    soak_check_seen(comm, &o, &seen);
    const int64_t replayed = cuda->n_replayed - recorded;
    print_message("%lld steps replayed, in %d the hosts took part, %.1f s\n", (long long)replayed, seen.n_waits, 1e-6 * (gr_now_us() - start));
    claim(seen.n_waits == seen.n_steps ? replayed == 0 : replayed > seen.n_steps / 4);
    claim(hosts_take_part ? seen.n_waits > 0 : seen.n_waits == 0);
    claim(hosts_take_part ? seen.n_ahead == 0 : seen.n_ahead > seen.n_steps / 8);
    grace_engine_close(engine);
    free(expected);
    soak_work_free(&work);
    grace_plan_free(plan);
}

static void thousands_of_steps_replayed_and_not_give_one_gpu_s_ids(void **state) {
    (void)state;
    const int32_t n_ranks = ranks_comm(1)->n_ranks;
    for (int32_t n_nodes = 1; n_nodes <= n_ranks; n_nodes++) {
        if (!fits(n_ranks, n_nodes)) continue;
        gr_comm *comm = ranks_comm(n_nodes);
        if (n_nodes == 1 || !own_gpus(n_ranks)) {
            soak_over(comm, "auto", n_nodes > 1);
            continue;
        }
        soak_over(comm, "sockets", false);
        soak_over(comm, "nccl", true);
    }
}

static void tiny_olmoe_over_all_ranks_gives_one_gpu_s_bits(void **state) {
    (void)state;
    const int32_t n_ranks = ranks_comm(1)->n_ranks;
    grace_model *olmoe = NULL;
    assert_ok(grace_comm_agree(ranks_comm(1), grace_model_open(GRACE_SOURCE_DIR "/models/tiny-olmoe", &olmoe)));
    for (int32_t n_nodes = 1; n_nodes <= n_ranks; n_nodes++) {
        if (!fits(n_ranks, n_nodes)) continue;
        gr_comm *comm = ranks_comm(n_nodes);
        gr_rng rng = gr_rng_seed(99);
        gr_random_plan_options shape = {8, 64, 8, grace_comm_cluster(comm), 0.2, 0.2};
        grace_plan *plan = gr_random_plan(&shape, &rng);
        gr_random_requests all = gr_random_requests_new(&rng, 10, 4096, WORLD_PROMPT_MAX, 4);
        run_result expected, found;
        grace_engine_options opt = on_gpu();
        opt.exact = true;
        grace_engine_close(run_requests(olmoe, &opt, &all, &expected));
        opt.comm = comm, opt.plan = plan;
        snprintf(case_name, sizeof case_name, "tiny-olmoe, rank %d of %d, %d nodes", comm->rank, n_ranks, n_nodes);
        grace_engine_close(run_requests(olmoe, &opt, &all, &found));
        check_same_result(&expected, &found, all.n, "exact");
        gr_random_requests_free(&all);
        grace_plan_free(plan);
    }
    grace_model_close(olmoe);
}

static int open_world(void **state) {
    rank_of_world = ranks_comm(1)->rank;
    return world_open(state);
}

static int open_soak(void **state) {
    world_hidden = 64, world_context = 2048;        /* 128 KiB are 1024 rows */
    return open_world(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(any_plan_policy_exchange_and_cut_gives_one_gpu_s_bits_and_the_counted_rows, open_world, world_close),
        cmocka_unit_test_setup_teardown(skew_to_the_extreme_gives_one_gpu_s_bits, open_world, world_close),
        cmocka_unit_test(tiny_olmoe_over_all_ranks_gives_one_gpu_s_bits),
        cmocka_unit_test_setup_teardown(thousands_of_steps_replayed_and_not_give_one_gpu_s_ids, open_soak, world_close),
    };
    if (no_gpu("ranks on GPUs")) return 77;
    return ranks_main("ranks/gpus", tests, sizeof tests / sizeof *tests);
}
