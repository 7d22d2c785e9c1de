/* Routing replayed (sim/routing.c, sim/schedule.c, sim/replay.c by run/ways.c, sim/sim.c) against counts from first
 * principles, on clusters no test machine has. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "sim/routing.h"
#include "sim/schedule.h"
#include "support/naive_count.h"
#include "support/naive_route.h"
#include "support/random_plan.h"

enum { LAYERS = 2, N = 9, K = 3, SEQUENCES = 5 };
#define claim(condition, seed)                                                                         \
    do {                                                                                               \
        if (!(condition)) fail_msg("seed %llu: %s", (unsigned long long)(seed), #condition);           \
    } while (0)

static grace_rates rates;

/* ---- a trace of five sequences, 4 to 8 tokens each, whose experts say which token they are ---- */

static void random_choice(gr_rng *rng, uint16_t *experts) {
    for (int32_t l = 0; l < LAYERS; l++)
        for (int32_t e = 0, j = 0; e < N && j < K; e++)
            if ((int32_t)gr_rng_below(rng, (uint32_t)(N - e)) < K - j) experts[l * K + j++] = (uint16_t)e;
}

static grace_trace *make_trace(gr_rng *rng) {
    char path[] = "/tmp/grace-sim-XXXXXX";
    int fd = mkstemp(path);
    grace_trace_info info = {.model = "made for a test", .n_layers = LAYERS, .n_experts = N, .top_k = K, .n_ranks = 1, .n_nodes = 1};
    grace_trace_writer *w = NULL;
    grace_trace *t = NULL;
    bool truncated;
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(grace_trace_create(path, &info, NULL, 0, &w), GRACE_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) {
        uint16_t experts[8 * LAYERS * K];
        int32_t n = 4 + s;
        for (int32_t i = 0; i < n; i++) random_choice(rng, experts + i * LAYERS * K);
        assert_int_equal(grace_trace_add_sequence(w, (grace_trace_sequence){.id = s, .home = 0, .domain = -1}), GRACE_OK);
        assert_int_equal(grace_trace_append(w, (grace_trace_segment){.sequence = s, .n_tokens = n}, (grace_trace_tokens){.experts = experts}), GRACE_OK);
    }
    assert_int_equal(grace_trace_finish(w), GRACE_OK);
    assert_int_equal(grace_trace_open(path, &t, &truncated), GRACE_OK);
    unlink(path);
    return t;
}

/* Experts of a request's token by the words of grace_workload, walking over the trace. */
static const uint16_t *token_of(const grace_trace *t, int32_t request, int32_t position, int32_t span) {
    int32_t s = request % SEQUENCES, n = 4 + s, first = 0;
    for (int32_t i = 0; i < s; i++) first += 4 + i;
    return grace_trace_experts(t) + (first + (request / SEQUENCES * span + position) % n) * LAYERS * K;
}

/* ---- the same counts, one token at a time ---- */

static void count_all(naive_count *c, const grace_trace *t, const grace_plan *plan, grace_route route, const grace_workload *w, int64_t *load) {
    grace_plan awake = naive_decode_plan(plan);
    for (int32_t i = 0; i < w->sequences; i++)
        for (int32_t p = 0; p < w->prefill + w->decode; p++)
            for (int32_t l = 0; l < LAYERS; l++) {
                const uint16_t *experts = token_of(t, i, p, w->prefill + w->decode) + l * K;
                int32_t ranks[K], home = i % c->n_ranks;
                for (int32_t j = 0; j < K; j++) {
                    ranks[j] = plan->layers[l].rank_of_slot[naive_slot(p < w->prefill ? plan : &awake, l, experts[j], home, route, naive_turn(i, l,
                            experts[j], p))];
                    load[l * c->n_ranks + ranks[j]]++;
                }
                naive_count_token(c, home, ranks, K);
            }
    naive_decode_free(&awake);
}

static void check_one(const grace_trace *t, const grace_routing *routing, uint64_t seed) {
    gr_rng rng = gr_rng_seed(seed);
    grace_cluster cluster = {1 + (int32_t)gr_rng_below(&rng, 4), 1 + (int32_t)gr_rng_below(&rng, 3)};
    gr_random_plan_options how = {.n_layers = LAYERS, .n_experts = N, .top_k = K, .cluster = cluster, .copies = 0.3, .empty = 0.2};
    grace_plan *plan = gr_random_plan(&how, &rng);
    grace_workload w = {1 + (int32_t)gr_rng_below(&rng, 20), (int32_t)gr_rng_below(&rng, 9), 1 + (int32_t)gr_rng_below(&rng, 3),
                        (int32_t)gr_rng_below(&rng, 6)};
    grace_shape shape = grace_shape_assumed(LAYERS, N, K);
    grace_sim_options opt = {.plan = plan, .route = (grace_route)gr_rng_below(&rng, 3), .exchange = (grace_exchange)gr_rng_below(&rng, 3),
                             .exact = gr_rng_below(&rng, 2) != 0, .workload = &w, .shape = &shape, .rates = &rates};
    int32_t n_ranks = grace_cluster_ranks(cluster);
    naive_count c = naive_count_new(cluster, opt.exchange, opt.exact);
    int64_t *load = calloc((size_t)(LAYERS * n_ranks), sizeof *load), tokens = (int64_t)w.sequences * (w.prefill + w.decode);
    grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS] = {0}, combine[GRACE_N_STAGES][GRACE_N_LINKS] = {0};
    grace_sim *sim = NULL;
    gr_random_decode(plan, 0.5, &rng);
    claim(load && grace_sim_run(routing, &opt, &sim) == GRACE_OK, seed);
    count_all(&c, t, plan, opt.route, &w, load);
    c.calls = (int64_t)LAYERS * (sim->n_steps_prefill + sim->n_steps_decode);
    naive_links(&c, -1, shape.hidden / 2, dispatch, combine);      /* which counts 4 bytes a value, where the rates say 2 */
    claim(memcmp(sim->dispatch, dispatch, sizeof dispatch) == 0 && memcmp(sim->combine, combine, sizeof combine) == 0, seed);
    for (int32_t i = 0; i < n_ranks * n_ranks; i++) claim(sim->pair_rows[i] == naive_pair_rows(&c, i / n_ranks, i % n_ranks), seed);
    for (int32_t i = 0; i < LAYERS * n_ranks; i++) claim(sim->load[i] == load[i], seed);
    claim(sim->n_prefill + sim->n_decode == tokens && sim->n_decode == (int64_t)w.sequences * w.decode && sim->n_steps_decode == w.decode, seed);
    free(load);
    naive_count_free(&c);
    grace_sim_free(sim);
    grace_plan_free(plan);
}

static void rows_bytes_and_loads_are_those_of_a_walk_over_all_tokens(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(1);
    grace_trace *t = make_trace(&rng);
    grace_routing *routing = NULL;
    assert_int_equal(grace_routing_of_trace(t, NULL, &routing), GRACE_OK);
    for (uint64_t seed = 1; seed <= 150; seed++) check_one(t, routing, seed);
    grace_routing_free(routing);
    grace_trace_close(t);
}

static void a_selection_deals_out_only_its_sequences(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(2);
    grace_trace *t = make_trace(&rng);
    grace_selection odd = {.sequences = GRACE_SEQUENCES_ODD}, none = {.domains = "prose"};
    grace_routing *routing = NULL;
    assert_int_equal(grace_routing_of_trace(t, &odd, &routing), GRACE_OK);
    assert_int_equal(routing->n_sequences, 2);
    assert_int_equal(gr_routing_token(routing, 0, 0, 4), 4);                /* of sequence 1, after the four of sequence 0 */
    assert_int_equal(gr_routing_token(routing, 1, 6, 4), 4 + 5 + 6 + 6);    /* the last of sequence 3 */
    assert_int_equal(gr_routing_token(routing, 1, 7, 4), 4 + 5 + 6);        /* and from its start again */
    assert_int_equal(gr_routing_token(routing, 2, 0, 4), 4 + 4);            /* sequence 1 again, further on */
    grace_routing_free(routing);
    assert_int_equal(grace_routing_of_trace(t, &none, &routing), GRACE_ERR_ARG);
    grace_trace_close(t);
}

static void chunks_and_decode_steps_follow_one_another(void **state) {
    (void)state;
    grace_synthetic how = {.n_layers = 1, .n_experts = N, .top_k = K};
    grace_routing *routing = NULL;
    grace_workload w = {.sequences = 3, .prefill = 4, .decode = 2, .chunk = 3};
    gr_schedule s;
    assert_int_equal(grace_routing_made_up(&how, &routing), GRACE_OK);
    assert_int_equal(gr_schedule_workload(routing, &w, 2, &s), GRACE_OK);
    /* rank 0 has sequences 0 and 2: 8 prompt rows in chunks of 3; rank 1 has 4 */
    static const int32_t expected[] = {6, 4, 2, 3, 3};
    assert_int_equal(s.n_steps, 5);
    for (int32_t i = 0; i < 5; i++) {
        assert_int_equal(s.steps[i].end - s.steps[i].first, expected[i]);
        assert_int_equal(s.steps[i].decode, i >= 3);
    }
    assert_true(s.steps[1].batches[0].tokens == 3 && s.steps[1].batches[0].sequences == 2 && s.steps[1].batches[1].tokens == 1);
    assert_true(s.steps[3].batches[0].tokens == 2 && s.steps[3].batches[0].context == 5 && s.steps[4].batches[1].context == 6);
    gr_schedule_free(&s);
    grace_routing_free(routing);
}

static void made_up_routing_is_the_same_for_a_seed_and_as_skewed_as_asked(void **state) {
    (void)state;
    enum { TOKENS = 20000, EXPERTS = 64 };
    grace_synthetic how = {.n_layers = 2, .n_experts = EXPERTS, .top_k = 1, .zipf = 1, .seed = 7};
    grace_routing *a = NULL, *b = NULL;
    int32_t count[EXPERTS] = {0}, one, other, most = 0;
    double harmonic = 0;
    assert_int_equal(grace_routing_made_up(&how, &a), GRACE_OK);
    assert_int_equal(grace_routing_made_up(&how, &b), GRACE_OK);
    for (int32_t i = 0; i < TOKENS; i++) {
        int64_t token = gr_routing_token(a, i, 3, 10);
        gr_routing_experts(a, token, 1, &one);
        gr_routing_experts(b, token, 1, &other);
        assert_true(one == other && one >= 0 && one < EXPERTS);
        if (++count[one] > most) most = count[one];
    }
    for (int e = 1; e <= EXPERTS; e++) harmonic += 1.0 / e;
    assert_true(fabs(most - TOKENS / harmonic) < 5 * sqrt(TOKENS / harmonic));
    grace_routing_free(a);
    grace_routing_free(b);
    how.top_k = EXPERTS;
    assert_int_equal(grace_routing_made_up(&how, &a), GRACE_ERR_ARG);
}

static void what_does_not_fit_together_is_refused(void **state) {
    (void)state;
    grace_synthetic how = {.n_layers = 1, .n_experts = N, .top_k = K};
    grace_routing *routing = NULL;
    grace_plan *plan = NULL;
    grace_sim *sim = NULL;
    grace_shape shape = grace_shape_assumed(1, N, K);
    grace_workload w = {4, 0, 0, 0};
    assert_int_equal(grace_routing_made_up(&how, &routing), GRACE_OK);
    assert_int_equal(grace_plan_contiguous(2, N, K, (grace_cluster){2, 1}, &plan), GRACE_OK);
    grace_sim_options opt = {.plan = plan, .workload = &w, .shape = &shape, .rates = &rates};
    assert_int_equal(grace_sim_run(routing, &opt, &sim), GRACE_ERR_MISMATCH);
    grace_plan_free(plan);
    assert_int_equal(grace_plan_contiguous(1, N, K, (grace_cluster){2, 1}, &plan), GRACE_OK);
    opt.plan = plan;
    assert_int_equal(grace_sim_run(routing, &opt, &sim), GRACE_ERR_ARG);         /* no tokens in the workload */
    opt.workload = NULL;
    assert_int_equal(grace_sim_run(routing, &opt, &sim), GRACE_ERR_ARG);         /* nor steps in made-up routing */
    w.prefill = 1 << 20, opt.workload = &w;
    assert_int_equal(grace_sim_run(routing, &opt, &sim), GRACE_ERR_LIMIT);
    w.sequences = INT32_MAX, w.prefill = 1;
    assert_int_equal(grace_sim_run(routing, &opt, &sim), GRACE_ERR_LIMIT);
    assert_null(sim);
    grace_plan_free(plan);
    grace_routing_free(routing);
}

static int load_rates(void **state) {
    (void)state;
    return grace_rates_load("h200-25g", &rates);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_bytes_and_loads_are_those_of_a_walk_over_all_tokens),
        cmocka_unit_test(a_selection_deals_out_only_its_sequences),
        cmocka_unit_test(chunks_and_decode_steps_follow_one_another),
        cmocka_unit_test(made_up_routing_is_the_same_for_a_seed_and_as_skewed_as_asked),
        cmocka_unit_test(what_does_not_fit_together_is_refused),
    };
    return cmocka_run_group_tests(tests, load_rates, NULL);
}
