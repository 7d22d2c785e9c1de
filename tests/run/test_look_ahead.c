/* Steps that are launched before the one before was read (run/engine.c, run/batch.c), on the CPU, which queues nothing: what counts is the order of things.
 * tests/ranks/test_engine.c has several ranks, tests/cuda/test_engine.c and tests/ranks/test_gpus.c have GPUs. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "run/engine_internal.h"
#include "support/one_engine.h"

/* Some stop at the end of text, some go on; some are scored, which must be seen step by step. */
static gr_random_requests mixed_requests(gr_rng *rng, int32_t n, int32_t scored_of_8, bool ends) {
    gr_random_requests all = gr_random_requests_new(rng, n, 8, 40, 24);
    for (int32_t i = 0; i < n; i++) {
        all.requests[i].score = (int32_t)gr_rng_below(rng, 8) < scored_of_8;
        all.requests[i].ignore_eos = !ends || gr_rng_below(rng, 2);
    }
    return all;
}

typedef struct numbers { grace_stats stats; int64_t load[8]; } numbers;     /* by layer, of one rank */

/* Submits half, runs some steps, submits the others. Whether a step was launched ahead is seen by the flight that the network works for. */
static bool run_in_halves(const grace_engine_options *opt, const gr_random_requests *all, bool ahead, int32_t n_steps, outcome *out, numbers *n) {
    grace_engine *engine = open_engine(opt);
    const gr_network *net = gr_engine_network(engine);
    bool more, was_ahead = false;
    memset(out, 0, sizeof *out);
    gr_engine_drop_hashes(engine);
    gr_engine_look_ahead(engine, ahead);
    for (int32_t i = 0; i < all->n; i++) {
        if (i == all->n / 2)
            for (int32_t step = 0; step < n_steps; step++) assert_ok(grace_engine_step(engine, &more));
        assert_ok(grace_engine_submit(engine, &all->requests[i]));
    }
    do {
        assert_ok(grace_engine_step(engine, &more));
        was_ahead = was_ahead || net->flight == &net->landed[1];
    } while (more);
    for (int32_t i = 0; i < all->n; i++) take_result(engine, i, out, i);
    memset(out->hash, 0, sizeof out->hash);     /* of the rows that happened to be drawn with scored ones */
    assert_ok(grace_engine_stats(engine, &n->stats));
    memset(n->load, 0, sizeof n->load);
    for (int32_t l = 0; l < n->stats.n_layers; l++) n->load[l] = n->stats.load[l];
    grace_engine_close(engine);
    return was_ahead;
}

static void steps_launched_ahead_give_the_same_ids(void **state) {
    (void)state;
    gr_tiny_model_options shape = gr_tiny_model_defaults();
    shape.vocab = 8;                    /* the end of text is met soon */
    open_model(&shape);
    int32_t n_ahead = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        const bool ends = seed % 2;
        gr_random_requests all = mixed_requests(&rng, 2 + (int32_t)gr_rng_below(&rng, 14), seed % 4 < 2 ? 0 : 1, ends);
        grace_engine_options opt = small();
        outcome plain, ahead;
        numbers counts, counts_ahead;
        opt.n_tokens_max = 4 + (int32_t)gr_rng_below(&rng, 60);
        opt.kv_tokens = gr_rng_below(&rng, 2) ? 1024 : 128;     /* often requests wait for memory */
        const int32_t n_steps = (int32_t)gr_rng_below(&rng, 9);
        assert_false(run_in_halves(&opt, &all, false, n_steps, &plain, &counts));
        n_ahead += run_in_halves(&opt, &all, true, n_steps, &ahead, &counts_ahead);
        if (memcmp(&plain, &ahead, sizeof plain) != 0) fail_msg("seed %llu: other ids", (unsigned long long)seed);
        assert_int_equal(counts.stats.n_prefill, counts_ahead.stats.n_prefill);
        if (!ends) assert_int_equal(counts.stats.n_decode, counts_ahead.stats.n_decode);
        /* at most a row behind each end of text */
        assert_in_range(counts_ahead.stats.n_decode - counts.stats.n_decode, 0, all.n);
        gr_random_requests_free(&all);
    }
    assert_in_range(n_ahead, 20, 40);
}

/* Without an end of text no row is computed in vain: rows and loads are those of one step after the other. */
static void steps_launched_ahead_count_as_they_would_one_by_one(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(77);
    gr_random_requests all = mixed_requests(&rng, 9, 0, false);
    grace_engine_options opt = small();
    outcome plain, ahead;
    numbers a, b;
    assert_false(run_in_halves(&opt, &all, false, 0, &plain, &a));
    assert_true(run_in_halves(&opt, &all, true, 0, &ahead, &b));
    assert_same(&plain, &ahead);
    assert_int_equal(a.stats.n_steps, b.stats.n_steps);
    assert_int_equal(a.stats.n_tokens, b.stats.n_tokens);
    assert_memory_equal(a.load, b.load, sizeof a.load);
    assert_true(a.load[0] > 0);
    assert_memory_equal(a.stats.dispatch, b.stats.dispatch, sizeof a.stats.dispatch);
    assert_memory_equal(a.stats.combine, b.stats.combine, sizeof a.stats.combine);
    gr_random_requests_free(&all);
}

static void an_engine_is_closed_and_asked_while_a_step_is_under_way(void **state) {
    (void)state;
    static const int32_t prompt[] = {3, 1};
    grace_engine_options opt = small();
    grace_engine *engine = open_engine(&opt);
    const gr_network *net = gr_engine_network(engine);
    grace_request req = grace_request_defaults();
    grace_stats stats;
    bool more;
    req.prompt = prompt, req.n_prompt = 2, req.n_generate = 20, req.ignore_eos = true;
    gr_engine_drop_hashes(engine);
    gr_engine_look_ahead(engine, true);
    assert_ok(grace_engine_submit(engine, &req));
    for (int i = 0; i < 4; i++) assert_ok(grace_engine_step(engine, &more));
    assert_ptr_equal(net->flight, &net->landed[1]);
    assert_ok(grace_engine_stats(engine, &stats));
    assert_int_equal(stats.n_steps, 4);
    assert_int_equal(stats.n_decode, 3);
    assert_int_equal(grace_engine_n_rows(engine), 5);
    assert_int_equal(grace_engine_result(engine, 0)->n_ids, 4);
    grace_engine_close(engine);
}

/* The recorder looks at every gate. */
static void what_is_recorded_goes_step_by_step(void **state) {
    (void)state;
    static const int32_t prompt[] = {3, 1};
    grace_engine_options opt = small();
    char path[96];
    snprintf(path, sizeof path, "%s/ahead.trace", dir);
    opt.trace_path = path;
    grace_engine *engine = open_engine(&opt);
    const gr_network *net = gr_engine_network(engine);
    grace_request req = grace_request_defaults();
    req.prompt = prompt, req.n_prompt = 2, req.n_generate = 20, req.ignore_eos = true;
    gr_engine_drop_hashes(engine);
    gr_engine_look_ahead(engine, true);
    assert_ok(grace_engine_submit(engine, &req));
    for (bool more = true; more;) {
        assert_ok(grace_engine_step(engine, &more));
        assert_ptr_equal(net->flight, net->landed);
    }
    grace_engine_close(engine);
    remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(steps_launched_ahead_give_the_same_ids, close_model),
        with_model(steps_launched_ahead_count_as_they_would_one_by_one),
        with_model(an_engine_is_closed_and_asked_while_a_step_is_under_way),
        with_model(what_is_recorded_goes_step_by_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
