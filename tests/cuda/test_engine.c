/* The engine on a GPU (compute/cuda/backend.c, compute/cuda/load.c): what must hold whatever the model says. tiny-olmoe, which
 * the project carries, and prompts from a seed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "cuda/device.h"
#include "grace/engine.h"
#include "run/engine_internal.h"

#define DIR GRACE_SOURCE_DIR "/models/tiny-olmoe"

enum { REQUESTS = 11, GENERATE = 20, PROMPT_MAX = 90, VOCAB = 4096 };

typedef struct outcome { int32_t ids[REQUESTS][GENERATE]; uint64_t hash[REQUESTS]; } outcome;

static int32_t n_prompt(int i) { return 1 + i * 37 % PROMPT_MAX; }

static void watch(void *user, int32_t request, int32_t position, const float *logits) {
    (void)request, (void)position, (void)logits;
    ++*(int *)user;
}

static void submit(grace_engine *engine, int i, float temperature, int *watched) {
    gr_rng rng = gr_rng_seed(100 + (uint64_t)i);
    int32_t prompt[PROMPT_MAX];
    grace_request req = grace_request_defaults();
    for (int t = 0; t < n_prompt(i); t++) prompt[t] = (int32_t)gr_rng_below(&rng, VOCAB);
    req.prompt = prompt, req.n_prompt = n_prompt(i), req.n_generate = GENERATE, req.ignore_eos = true, req.temperature = temperature, req.seed = 7;
    if (watched) req.on_logits = watch, req.user = watched;
    assert_int_equal(grace_engine_submit(engine, &req), GRACE_OK);
}

/* Requests first to last in one engine; results in their places. */
static void run(grace_engine_options opt, int first, int last, float temperature, int *watched, outcome *out) {
    grace_model *model = NULL;
    grace_engine *engine = NULL;
    opt.device = "cuda";
    assert_int_equal(grace_model_open(DIR, &model), GRACE_OK);
    if (grace_engine_open(model, &opt, &engine)) fail_msg("%s", grace_last_error());
    for (int i = first; i < last; i++) submit(engine, i, temperature, watched);
    if (grace_engine_run(engine)) fail_msg("%s", grace_last_error());
    for (int i = first; i < last; i++) {
        const grace_result *r = grace_engine_result(engine, i - first);
        assert_int_equal(r->n_ids, GENERATE);
        memcpy(out->ids[i], r->ids, sizeof out->ids[i]);
        out->hash[i] = r->logits_hash;
    }
    grace_engine_close(engine);
    grace_model_close(model);
}

static grace_engine_options options(int32_t rows, bool exact) {
    grace_engine_options opt = grace_engine_defaults();
    opt.n_tokens_max = rows, opt.kv_tokens = 2048, opt.exact = exact;
    return opt;
}

static void the_same_run_gives_the_same_tokens(void **state) {
    outcome a = {0}, b = {0};
    (void)state;
    for (float temperature = 0; temperature < 1; temperature += 0.8f) {
        run(options(512, false), 0, REQUESTS, temperature, NULL, &a);
        run(options(512, false), 0, REQUESTS, temperature, NULL, &b);
        assert_memory_equal(&a, &b, sizeof a);
    }
}

/* The next step is under way when one returns, unless it was told not to be; an engine that is closed then waits for it. */
static void steps_launched_ahead_are_the_steps_themselves(void **state) {
    int32_t ids[2][REQUESTS][GENERATE];
    (void)state;
    for (int ahead = 0; ahead < 2; ahead++) {
        grace_model *model = NULL;
        grace_engine *engine = NULL;
        grace_engine_options opt = options(512, false);
        int32_t n_ahead = 0;
        opt.device = "cuda", opt.step_by_step = !ahead;
        assert_int_equal(grace_model_open(DIR, &model), GRACE_OK);
        if (grace_engine_open(model, &opt, &engine)) fail_msg("%s", grace_last_error());
        const gr_network *net = gr_engine_network(engine);
        for (int i = 0; i < REQUESTS; i++) submit(engine, i, 0.8f, NULL);
        for (bool more = true; more;) {
            if (grace_engine_step(engine, &more)) fail_msg("%s", grace_last_error());
            n_ahead += net->flight == &net->landed[1];
        }
        if (ahead ? n_ahead < GENERATE / 4 : n_ahead > 0) fail_msg("ahead %d: %d steps were", ahead, n_ahead);
        for (int i = 0; i < REQUESTS; i++) memcpy(ids[ahead][i], grace_engine_result(engine, i)->ids, sizeof ids[ahead][i]);
        submit(engine, 1, 0, NULL);
        for (int i = 0; i < 5; i++) {
            bool more;
            if (grace_engine_step(engine, &more)) fail_msg("%s", grace_last_error());
        }
        assert_int_equal(grace_engine_result(engine, REQUESTS)->n_ids, 5);
        grace_engine_close(engine);
        grace_model_close(model);
    }
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
}

/* Someone who looks at logits takes steps out of the recorded graphs; the tokens stay. */
static void replayed_steps_are_the_steps_themselves(void **state) {
    outcome a = {0}, b = {0};
    int watched = 0, rows = 0;
    (void)state;
    run(options(512, false), 0, REQUESTS, 0, NULL, &a);
    run(options(512, false), 0, REQUESTS, 0, &watched, &b);
    for (int i = 0; i < REQUESTS; i++) rows += n_prompt(i) + GENERATE - 1;
    assert_int_equal(watched, rows);
    assert_memory_equal(a.ids, b.ids, sizeof a.ids);
}

/* exact: alone, together, in other chunks: the same logits, bit for bit. */
static void exact_results_do_not_depend_on_the_batch(void **state) {
    outcome together = {0}, chunks = {0}, alone = {0};
    (void)state;
    run(options(512, true), 0, REQUESTS, 0, NULL, &together);
    run(options(48, true), 0, REQUESTS, 0, NULL, &chunks);
    for (int i = 0; i < REQUESTS; i++) run(options(512, true), i, i + 1, 0, NULL, &alone);
    for (int i = 0; i < REQUESTS; i++) assert_true(together.hash[i] != 0);
    assert_memory_equal(&together, &alone, sizeof alone);
    assert_memory_equal(&together, &chunks, sizeof chunks);
}

/* A prompt of many steps, none of which draws: more marks than are kept. */
static void times_of_stages_fit_into_the_steps_and_change_no_token(void **state) {
    enum { LONG = 7 };
    grace_model *model = NULL;
    grace_engine *engine = NULL;
    grace_engine_options opt = options(1, false);
    grace_stats untimed, timed;
    double sum = 0;
    (void)state;
    opt.device = "cuda";
    assert_int_equal(grace_model_open(DIR, &model), GRACE_OK);
    if (grace_engine_open(model, &opt, &engine)) fail_msg("%s", grace_last_error());
    for (int timing = 0; timing < 2; timing++) {
        grace_engine_time_stages(engine, timing);
        submit(engine, LONG, 0, NULL);
        if (grace_engine_run(engine)) fail_msg("%s", grace_last_error());
        assert_int_equal(grace_engine_stats(engine, timing ? &timed : &untimed), GRACE_OK);
    }
    assert_memory_equal(grace_engine_result(engine, 0)->ids, grace_engine_result(engine, 1)->ids, GENERATE * sizeof(int32_t));
    for (int i = 0; i < GRACE_N_TIMES; i++) {
        if (untimed.time_us[i] != 0 || timed.time_us[i] < 0 || (i != GRACE_TIME_ROUTE && timed.time_us[i] == 0))
            fail_msg("stage %d: expected 0 us before, then some; found %g and %g", i, untimed.time_us[i], timed.time_us[i]);
        sum += timed.time_us[i];
    }
    const double wall = timed.prefill_us + timed.decode_us - untimed.prefill_us - untimed.decode_us;
    if (sum > wall) fail_msg("stages of %g us in steps of %g us", sum, wall);
    grace_engine_close(engine);
    grace_model_close(model);
}

/* Without a GPU's memory for it, opening says what was needed. */
static void too_much_is_refused_with_numbers(void **state) {
    grace_model *model = NULL;
    grace_engine *engine = NULL;
    grace_engine_options opt = options(512, false);
    (void)state;
    opt.device = "cuda", opt.kv_tokens = INT64_C(1) << 30;
    assert_int_equal(grace_model_open(DIR, &model), GRACE_OK);
    assert_int_equal(grace_engine_open(model, &opt, &engine), GRACE_ERR_MEMORY);
    assert_non_null(strstr(grace_last_error(), "--kv-tokens"));
    opt.kv_tokens = 2048, opt.kernels = "fast";
    assert_int_equal(grace_engine_open(model, &opt, &engine), GRACE_ERR_ARG);
    grace_model_close(model);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_run_gives_the_same_tokens), cmocka_unit_test(replayed_steps_are_the_steps_themselves),
        cmocka_unit_test(steps_launched_ahead_are_the_steps_themselves), cmocka_unit_test(too_much_is_refused_with_numbers),
        cmocka_unit_test(exact_results_do_not_depend_on_the_batch),
        cmocka_unit_test(times_of_stages_fit_into_the_steps_and_change_no_token),
    };
    const bool small = argc > 1 && !strcmp(argv[1], "small");
    if (no_gpu("the engine on a GPU")) return SKIPPED;
    return _cmocka_run_group_tests("the engine on a GPU", tests, small ? 3 : sizeof tests / sizeof *tests, NULL, NULL);
}
