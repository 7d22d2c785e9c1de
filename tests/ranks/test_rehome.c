/* Requests that move to a second home after their first rows (run/rehome.c, run/move.c), against one process where nobody moves: in exact mode the same
 * bits, and numbers that a count of every token at the home it had then gives too. */
#include "ranks/engine_world.h"

#include "support/micro.h"

/* ---- one process: the answer, and what every token chose ---- */

typedef struct answer { run_result result; routing routing; } answer;

/* Rank 0 by itself; everyone gets the answer. */
static answer answer_new(gr_comm *comm, const grace_model *m, const gr_random_requests *all) {
    answer a;
    grace_engine_options opt = world_options();
    char path[128];
    bool truncated;
    grace_trace *t = NULL;
    snprintf(path, sizeof path, "%s/alone", world_dir);
    opt.exact = true, opt.n_tokens_max = 128, opt.trace_path = path;
    if (comm->rank == 0) grace_engine_close(run_requests(m, &opt, all, &a.result));
    from_first(comm, &a.result, sizeof a.result);
    assert_ok(grace_trace_open(path, &t, &truncated));
    a.routing = routing_read(t);
    grace_trace_close(t);
    assert_ok(grace_comm_agree(comm, GRACE_OK));        /* all have read it */
    return a;
}

static const uint16_t *chosen(const routing *r, int32_t request, int32_t position) {
    return r->experts + ((size_t)request * WORLD_POSITIONS + (size_t)position) * (size_t)(r->n_layers * r->top_k);
}

/* ---- numbers ---- */

/* Every token sends from the home it had when it was computed. */
static run_count count_tokens(const routing *r, grace_engine *engine, const grace_engine_options *opt, const grace_stats *stats) {
    const grace_plan *plan = opt->plan;
    run_count c = {naive_count_new(plan->cluster, opt->exchange, opt->exact), plan->n_layers, 1, NULL, NULL};
    c.load = calloc((size_t)(plan->n_layers * c.rows.n_ranks), sizeof *c.load);
    c.step_load = calloc((size_t)(plan->n_layers * c.rows.n_ranks), sizeof *c.step_load);
    assert_true(c.load && c.step_load);
    c.rows.calls = (int64_t)stats->n_steps * plan->n_layers;
    for (int32_t i = 0; i < grace_engine_n_requests(engine); i++) {
        const grace_result *result = grace_engine_result(engine, i);
        for (int32_t p = 0; p < WORLD_POSITIONS && *chosen(r, i, p); p++) {
            grace_trace_sequence seq = {i, p < result->n_first ? result->first_home : result->home, -1};
            uint16_t experts[64];
            for (int32_t j = 0; j < r->n_layers * r->top_k; j++) experts[j] = (uint16_t)(chosen(r, i, p)[j] - 1);
            count_token(&c, plan, opt->route, &seq, p, 0, experts);
        }
    }
    return c;
}

static void check_rows(const routing *r, grace_engine *engine, const grace_engine_options *opt, const grace_stats *s, int32_t hidden) {
    grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS] = {0}, combine[GRACE_N_STAGES][GRACE_N_LINKS] = {0};
    run_count c = count_tokens(r, engine, opt, s);
    const int32_t n = c.rows.n_ranks;
    naive_links(&c.rows, -1, hidden, dispatch, combine);
    claim(memcmp(s->dispatch, dispatch, sizeof dispatch) == 0);
    claim(memcmp(s->combine, combine, sizeof combine) == 0);
    for (int32_t i = 0; i < n * n; i++) claim(s->pair_rows[i] == naive_pair_rows(&c.rows, i / n, i % n));
    for (int32_t i = 0; i < n * c.n_layers; i++) claim(s->load[i] == c.load[i]);
    claim(s->n_tokens == r->n_tokens);
    run_count_free(&c);
}

/* Returns how many moved. */
static int32_t check_moves(grace_engine *engine, const grace_engine_options *opt, const grace_stats *s, const grace_model_info *m) {
    int32_t held[WORLD_RANKS_MAX] = {0}, n = grace_engine_n_requests(engine), n_ranks = opt->comm->n_ranks, moved = 0;
    int64_t kv_rows = 0;
    for (int32_t i = 0; i < n; i++) {
        const grace_result *r = grace_engine_result(engine, i);
        claim(r->home >= 0 && r->home < n_ranks && r->n_first >= 0 && (r->home == r->first_home) == (r->n_first == 0));
        held[r->home]++;
        moved += r->home != r->first_home;
        kv_rows += (int64_t)r->n_first * m->n_layers;
    }
    for (int32_t r = 0; r < n_ranks; r++) claim(held[r] == n / n_ranks || held[r] == (n + n_ranks - 1) / n_ranks);
    claim(s->moved_requests == moved && s->moved_kv_rows == kv_rows && s->moved_kv_bytes == kv_rows * grace_model_kv_token_bytes(m) / m->n_layers);
    claim(opt->comm->n_nodes > 1 || moved == 0);
    claim((s->move_us > 0) == (opt->comm->n_nodes > 1));
    return moved;
}

/* ---- a small model, any plan ---- */

/* Half as much KV cache a token as the others' small model: a token's weighs one row. */
static int narrow_open(void **state) {
    world_kv_heads = 1;
    return world_open(state);
}

typedef struct scene { gr_comm *comm; grace_plan *plan; gr_random_requests all; grace_engine_options opt; int32_t n_early; bool rests; } scene;

static void give_token_saves(grace_plan *plan, gr_rng *rng) {
    int8_t *saved = gr_arena_alloc(plan->memory, (size_t)(WORLD_VOCAB * plan->cluster.n_nodes), 1);
    for (int32_t i = 0; i < WORLD_VOCAB * plan->cluster.n_nodes; i++) saved[i] = (int8_t)((int32_t)gr_rng_below(rng, 255) - 127);
    plan->token_saves = (grace_token_saves){WORLD_VOCAB, plan->cluster.n_nodes, 0.5f, saved};
}

/* Few rows a step make few rows of KV cache to move, and few sequences a rank may have; 48 tokens of cache hold one or two. */
static scene scene_new(gr_comm *comm, const grace_model_info *m, uint64_t seed) {
    static const int32_t rows[] = {1, 2, 5, 9, 20, 64};
    scene s = {.comm = comm, .opt = world_options(), .rests = seed % 4 == 3};
    gr_rng rng = gr_rng_seed(seed);
    gr_random_plan_options shape = {m->n_moe_layers, m->n_experts, m->top_k, grace_comm_cluster(comm), gr_rng_uniform(&rng) * 0.2, 0.7};
    s.plan = gr_random_plan(&shape, &rng);
    int32_t n = 3 + (int32_t)gr_rng_below(&rng, WORLD_REQUESTS_MAX - 3);
    s.all = gr_random_requests_new(&rng, n, m->vocab, WORLD_PROMPT_MAX, WORLD_POSITIONS - WORLD_PROMPT_MAX);
    if (gr_rng_below(&rng, 2) && m->vocab == WORLD_VOCAB) give_token_saves(s.plan, &rng);
    if (s.rests) gr_random_decode(s.plan, 0.5, &rng);
    s.n_early = (int32_t)gr_rng_below(&rng, (uint32_t)s.all.n + 1);
    s.opt.comm = comm, s.opt.plan = s.plan, s.opt.exact = true, s.opt.homes = GRACE_HOMES_HISTOGRAM;
    s.opt.exchange = (grace_exchange)(seed % 3), s.opt.route = (grace_route)(seed % GRACE_N_ROUTES);
    s.opt.n_tokens_max = rows[gr_rng_below(&rng, 6)], s.opt.kv_tokens = gr_rng_below(&rng, 2) ? 48 : 512;
    snprintf(case_name, sizeof case_name, "%s, rank %d of %d, %d nodes, %d rows a step, cache of %lld, seed %llu", m->family, comm->rank, comm->n_ranks,
             comm->n_nodes, s.opt.n_tokens_max, (long long)s.opt.kv_tokens, (unsigned long long)seed);
    return s;
}

static void scene_free(scene *s) {
    gr_random_requests_free(&s->all);
    grace_plan_free(s->plan);
}

/* The same bits; with every copy serving all steps, the rows and loads of every token's home; moves as they are told. */
static int32_t check_scene(scene *s, const grace_model *m) {
    const grace_model_info *info = grace_model_describe(m);
    answer a = answer_new(s->comm, m, &s->all);
    run_result found;
    grace_stats stats;
    grace_engine *engine = run_in_parts(m, &s->opt, &s->all, s->n_early, 1 + s->all.n % 3, &found);
    claim(memcmp(&found, &a.result, sizeof found) == 0);
    assert_ok(grace_engine_stats(engine, &stats));
    int32_t moved = check_moves(engine, &s->opt, &stats, info);
    if (!s->rests) check_rows(&a.routing, engine, &s->opt, &stats, info->hidden);
    grace_engine_close(engine);
    free(a.routing.experts);
    return moved;
}

/* ---- where all experts live on one node ---- */

/* Of every layer on the last node, by turns of its ranks. */
static grace_plan *plan_on_last_node(const grace_model_info *m, grace_cluster c) {
    gr_rng rng = gr_rng_seed(1);
    gr_random_plan_options shape = {m->n_moe_layers, m->n_experts, m->top_k, c, 0, 0};
    grace_plan *plan = gr_random_plan(&shape, &rng);
    int32_t n_ranks = grace_cluster_ranks(c), *hosted = calloc((size_t)(m->n_experts * n_ranks), sizeof *hosted);
    assert_non_null(hosted);
    for (int32_t e = 0; e < m->n_experts; e++) hosted[e * n_ranks + n_ranks - 1 - e % c.gpus_per_node] = 2;
    for (int32_t l = 0; l < m->n_moe_layers; l++) {
        plan->layers[l] = (grace_plan_layer){0};
        gr_random_layer(&rng, plan, &plan->layers[l], hosted);
    }
    free(hosted);
    return plan;
}

/* All experts on one node: of short prompts that begin together, those with most to come move there, whatever a token's cache weighs. */
static scene scene_wanting(gr_comm *comm, const grace_model_info *m, uint64_t seed) {
    scene s = scene_new(comm, m, seed);
    gr_rng rng = gr_rng_seed(seed);
    scene_free(&s);
    s.plan = plan_on_last_node(m, grace_comm_cluster(comm));
    s.all = gr_random_requests_new(&rng, WORLD_REQUESTS_MAX - 1, m->vocab, 3, WORLD_POSITIONS - 3);
    s.n_early = s.all.n, s.rests = false;
    s.opt.plan = s.plan, s.opt.n_tokens_max = 32, s.opt.kv_tokens = 512;
    return s;
}

static void requests_that_move_give_one_process_bits_and_the_counted_numbers(void **state) {
    int32_t n_ranks = ranks_comm(1)->n_ranks;
    (void)state;
    for (int32_t n_nodes = 1; n_nodes <= 4; n_nodes++) {
        int32_t moved = 0, n = 0;
        for (uint64_t round = 0; round < 6 && n_ranks % n_nodes == 0; round++) {
            const uint64_t seed = (uint64_t)(n_ranks * 1000 + n_nodes * 100) + round;
            scene s = (round % 3 == 2 ? scene_wanting : scene_new)(ranks_comm(n_nodes), grace_model_describe(model), seed);
            moved += check_scene(&s, model);
            n += s.all.n;
            scene_free(&s);
        }
        if (n > 0) print_message("%d nodes x %d: %d of %d requests moved\n", n_nodes, n_ranks / n_nodes, moved, n);
        claim(n == 0 || n_nodes == 1 || moved >= 5);
    }
}

static void submit(grace_engine *engine, int32_t n_prompt, int32_t n_generate) {
    static const int32_t prompt[] = {5, 6, 7, 8, 9, 10, 11, 12, 13};
    grace_request req = grace_request_defaults();
    req.prompt = prompt, req.n_prompt = n_prompt, req.n_generate = n_generate, req.ignore_eos = true;
    assert_ok(grace_engine_submit(engine, &req));
}

/* An engine whose experts are all on the last node; the plan is the caller's, for as long. */
static grace_engine *engine_wanting(gr_comm *comm, int64_t kv_tokens, grace_plan **plan) {
    grace_engine_options opt = world_options();
    grace_engine *engine = NULL;
    opt.plan = *plan = plan_on_last_node(grace_model_describe(model), grace_comm_cluster(comm));
    opt.comm = comm, opt.homes = GRACE_HOMES_HISTOGRAM, opt.kv_tokens = kv_tokens;
    assert_ok(grace_engine_open(model, &opt, &engine));
    return engine;
}

/* n requests with prompts of 3 tokens, all begun in one step; numbers asked for between it and the move change nothing. */
static void run_prompts_of_three(gr_comm *comm, const int32_t *n_generate, int32_t n, int64_t kv_tokens, int32_t *homes, grace_stats *stats) {
    grace_plan *plan;
    grace_engine *engine = engine_wanting(comm, kv_tokens, &plan);
    bool more;
    snprintf(case_name, sizeof case_name, "rank %d of %d, %d requests", comm->rank, comm->n_ranks, n);
    for (int32_t i = 0; i < n; i++) submit(engine, 3, n_generate[i]);
    assert_ok(grace_engine_step(engine, &more));
    assert_ok(grace_engine_stats(engine, stats));
    claim(stats->moved_requests == 0);
    assert_ok(grace_engine_run(engine));
    assert_ok(grace_engine_stats(engine, stats));
    for (int32_t i = 0; i < n; i++) homes[i] = grace_engine_result(engine, i)->home;
    grace_engine_close(engine);
    grace_plan_free(plan);
}

/* A request sends 2 rows a token from the first node and none from the last; of 3 tokens it expects 6/7 a token, and moving them weighs 3 rows. */
static void of_requests_that_all_want_one_node_the_longest_go_there(void **state) {
    (void)state;
    int32_t n = ranks_comm(1)->n_ranks, homes[WORLD_RANKS_MAX], n_generate[WORLD_RANKS_MAX] = {0};
    grace_stats stats;
    if (n != 2 && n != 4) skip();
    for (int32_t i = 0; i < n; i++) n_generate[i] = i < n / 2 ? 20 - i : 2 + i;
    run_prompts_of_three(ranks_comm(2), n_generate, n, 512, homes, &stats);
    for (int32_t i = 0; i < n; i++) claim(homes[i] / (n / 2) == (i < n / 2));
    claim(stats.moved_requests == n && stats.moved_kv_rows == 3 * n * 2);
    for (int32_t i = 0; i < n; i++) n_generate[i] = 20;         /* nobody gains more than another loses */
    run_prompts_of_three(ranks_comm(2), n_generate, n, 512, homes, &stats);
    for (int32_t i = 0; i < n; i++) claim(homes[i] == i);
    claim(stats.moved_requests == 0 && stats.moved_kv_bytes == 0);
}

/* Ranks of 3 pages, all in use: request 0, of 2 pages, has no room beside request 3. */
static void a_request_without_room_at_its_second_home_stays_and_another_goes(void **state) {
    (void)state;
    static const int32_t n_generate[4] = {20, 2, 12, 20}, expected[4] = {0, 0, 1, 1}, with_room[4] = {1, 0, 0, 1};
    int32_t homes[4];
    grace_stats stats;
    if (ranks_comm(1)->n_ranks != 2) skip();
    run_prompts_of_three(ranks_comm(2), n_generate, 4, 48, homes, &stats);
    claim(memcmp(homes, expected, sizeof homes) == 0 && stats.moved_requests == 2);
    run_prompts_of_three(ranks_comm(2), n_generate, 4, 64, homes, &stats);
    claim(memcmp(homes, with_room, sizeof homes) == 0 && stats.moved_requests == 2);
}

/* A prompt that ends in its first step with nothing to draw, or with its only token, has finished. */
static void a_request_that_ends_with_its_first_rows_stays(void **state) {
    (void)state;
    int32_t homes[2];
    grace_stats stats;
    if (ranks_comm(1)->n_ranks != 2) skip();
    for (int32_t last = 0; last <= 1; last++) {
        run_prompts_of_three(ranks_comm(2), (const int32_t[]){20, last}, 2, 512, homes, &stats);
        claim(homes[0] == 0 && homes[1] == 1 && stats.moved_requests == 0);
    }
}

/* Request 0 sends 18 rows from rank 0. Were they counted for request 2 too, it would go. */
static void what_earlier_requests_sent_is_forgotten(void **state) {
    (void)state;
    if (ranks_comm(1)->n_ranks != 2) skip();
    grace_plan *plan;
    grace_stats stats;
    grace_engine *engine = engine_wanting(ranks_comm(2), 512, &plan);
    submit(engine, 9, 0), submit(engine, 1, 0);
    assert_ok(grace_engine_run(engine));
    submit(engine, 3, 12), submit(engine, 3, 10);
    assert_ok(grace_engine_run(engine));
    assert_ok(grace_engine_stats(engine, &stats));
    claim(stats.moved_requests == 0);
    grace_engine_close(engine);
    grace_plan_free(plan);
}

/* ---- other models: heads with caches of their own, shared ones, windows, latents ---- */

static void check_model(const char *dir, uint64_t seed) {
    grace_model *m = NULL;
    int32_t moved = 0;
    assert_ok(grace_comm_agree(ranks_comm(1), grace_model_open(dir, &m)));
    for (uint64_t round = 0; round < 2; round++) {
        scene s = (round % 2 ? scene_wanting : scene_new)(ranks_comm(2), grace_model_describe(m), seed + round);
        moved += check_scene(&s, m);
        scene_free(&s);
    }
    print_message("%s: %d requests moved\n", grace_model_describe(m)->family, moved);
    claim(moved > 0);
    grace_model_close(m);
}

static void tiny_olmoe_gives_one_process_bits(void **state) {
    (void)state;
    if (ranks_comm(1)->n_ranks > 4) skip();
    check_model(GRACE_SOURCE_DIR "/models/tiny-olmoe", 60);
}

static void every_kind_of_cache_gives_one_process_bits(void **state) {
    static const char *const names[] = {"olmoe", "olmoe-gqa", "gpt-oss", "deepseek-v2-lite", "deepseek-v3"};
    (void)state;
    if (ranks_comm(1)->n_ranks > 4) skip();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_model(gr_micro_dir(names[i]), 70 + 10 * i);
}

/* ---- refused ---- */

static void recording_with_homes_that_change_is_refused_everywhere(void **state) {
    (void)state;
    grace_engine_options opt = world_options();
    grace_engine *engine = NULL;
    char path[128];
    snprintf(path, sizeof path, "%s/refused", world_dir);
    opt.comm = ranks_comm(1), opt.homes = GRACE_HOMES_HISTOGRAM, opt.trace_path = path;
    claim(grace_engine_open(model, &opt, &engine) == GRACE_ERR_ARG && !engine);
    claim(strstr(grace_last_error(), "a trace keeps one home for a sequence"));
    claim(access(path, F_OK) != 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(requests_that_move_give_one_process_bits_and_the_counted_numbers, narrow_open, world_close),
    cmocka_unit_test_setup_teardown(of_requests_that_all_want_one_node_the_longest_go_there, narrow_open, world_close),
    cmocka_unit_test_setup_teardown(a_request_without_room_at_its_second_home_stays_and_another_goes, narrow_open, world_close),
    cmocka_unit_test_setup_teardown(a_request_that_ends_with_its_first_rows_stays, narrow_open, world_close),
    cmocka_unit_test_setup_teardown(what_earlier_requests_sent_is_forgotten, narrow_open, world_close),
    cmocka_unit_test_setup_teardown(tiny_olmoe_gives_one_process_bits, world_open, world_close),
    cmocka_unit_test_setup_teardown(every_kind_of_cache_gives_one_process_bits, world_open, world_close),
    cmocka_unit_test_setup_teardown(recording_with_homes_that_change_is_refused_everywhere, world_open, world_close),
};

RANKS_MAIN("rehome", tests)
