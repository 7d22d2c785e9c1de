/* Which rows a step has: admission, chunks, order, and pages that come back. No network: a "step" draws token 7 for whoever is due. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "run/batch.h"

enum { CONTEXT = 64, ROWS = 8 };

static gr_compute *compute;
static gr_kv kv;
static gr_batch batch;

static void start(int32_t rank, int32_t n_ranks, int32_t n_rows_max, int32_t kv_tokens) {
    const grace_model_info info = {.n_layers = 1, .n_kv_heads = 1, .head_dim = 2, .context_max = CONTEXT};
    assert_int_equal(gr_compute_cpu_open("portable", 1, &compute), GRACE_OK);
    assert_int_equal(gr_kv_init(&kv, compute, &info, kv_tokens, n_rows_max), GRACE_OK);
    assert_int_equal(gr_batch_init(&batch, rank, n_ranks, n_rows_max), GRACE_OK);
}

static int stop(void **state) {
    (void)state;
    gr_batch_free(&batch);
    gr_kv_free(&kv);
    compute->ops->free(compute);
    return 0;
}

static void add(int32_t n_prompt, int32_t n_generate) {
    int32_t prompt[CONTEXT];
    grace_request req = grace_request_defaults();
    for (int32_t i = 0; i < n_prompt; i++) prompt[i] = 100 * batch.n + i;
    req.prompt = prompt, req.n_prompt = n_prompt, req.n_generate = n_generate;
    assert_int_equal(gr_batch_add(&batch, &req), GRACE_OK);
}

/* What the engine does between fill and advance: a row that is the last known token gets its successor, or ends the request. */
static void draw(void) {
    for (int32_t row = 0; row < batch.fill->step.n_rows; row++) {
        gr_sequence *s = batch.sequences[batch.fill->request_of_row[row]];
        if (batch.fill->step.position[row] + 1 != gr_sequence_known(s)) continue;
        assert_true(batch.fill->wants_logits[row]);
        if (s->result.n_ids < s->request.n_generate) s->result.ids[s->result.n_ids++] = 7;
        s->finished = s->result.n_ids == s->request.n_generate;
    }
}

static int32_t step(void) {
    gr_batch_fill(&batch, &kv, NULL);
    draw();
    gr_batch_advance(&batch, &kv, batch.fill);
    return batch.fill->step.n_rows;
}

static int32_t rows_of(int32_t request) {
    int32_t n = 0;
    for (int32_t row = 0; row < batch.fill->step.n_rows; row++) n += batch.fill->request_of_row[row] == request;
    return n;
}

static void a_long_prompt_comes_in_chunks(void **state) {
    (void)state;
    start(0, 1, ROWS, CONTEXT);
    add(19, 0);
    for (int32_t from = 0; from < 19; from += ROWS) {
        gr_batch_fill(&batch, &kv, NULL);
        assert_int_equal(batch.fill->step.n_rows, from + ROWS < 19 ? ROWS : 19 - from);
        assert_int_equal(batch.fill->n_prefill, batch.fill->step.n_rows);
        for (int32_t row = 0; row < batch.fill->step.n_rows; row++) {
            assert_int_equal(batch.fill->step.id[row], from + row);
            assert_int_equal(batch.fill->step.position[row], from + row);
            assert_int_equal(batch.fill->wants_logits[row], from + row == 18);
        }
        draw();
        gr_batch_advance(&batch, &kv, batch.fill);
    }
    assert_int_equal(step(), 0);
    assert_int_equal(kv.n_free, kv.n_pages);
}

static void decode_rows_come_before_new_prompts(void **state) {
    (void)state;
    start(0, 1, ROWS, 4 * CONTEXT);
    add(2, 4);
    add(3, 4);
    assert_int_equal(step(), 5);
    add(20, 1);
    gr_batch_fill(&batch, &kv, NULL);
    assert_int_equal(batch.fill->n_decode, 2);
    assert_int_equal(batch.fill->n_prefill, ROWS - 2);
    assert_int_equal(batch.fill->request_of_row[0], 0);
    assert_int_equal(batch.fill->step.id[0], 7);
    assert_int_equal(batch.fill->step.position[0], 2);
    assert_int_equal(batch.fill->request_of_row[1], 1);
    for (int32_t row = 2; row < ROWS; row++) assert_int_equal(batch.fill->request_of_row[row], 2);
}

static void nobody_overtakes_a_request_that_waits_for_memory(void **state) {
    (void)state;
    start(0, 1, ROWS, 2 * GR_KV_PAGE);
    add(3, 2);                              /* one page */
    add(GR_KV_PAGE, 1);                     /* two pages: waits */
    add(1, 1);                              /* would fit */
    assert_int_equal(step(), 3);
    assert_int_equal(rows_of(0), 3);
    assert_int_equal(step(), 1);            /* the last token of request 0; it ends and gives its page back */
    assert_int_equal(kv.n_free, 2);
    assert_int_equal(step(), ROWS);
    assert_int_equal(rows_of(1), ROWS);
    assert_int_equal(step(), ROWS);         /* the last of 16; request 2 must wait for its end */
    assert_int_equal(rows_of(2), 0);
    assert_int_equal(step(), 1);
    assert_int_equal(rows_of(2), 1);
}

static void one_that_came_running_goes_on_behind_one_that_waits_for_memory(void **state) {
    (void)state;
    start(0, 1, ROWS, 2 * GR_KV_PAGE);
    add(GR_KV_PAGE, 1);                     /* two pages: waits */
    add(5, 1);
    batch.sequences[1]->kv = gr_kv_take(&kv, 6), batch.sequences[1]->n_computed = 2;
    assert_int_equal(step(), 3);            /* the rest of request 1, which ends */
    assert_int_equal(rows_of(1), 3);
    assert_int_equal(batch.fill->n_started, 0);
    assert_int_equal(step(), ROWS);
    assert_int_equal(rows_of(0), ROWS);
    assert_int_equal(batch.fill->n_started, 1);
    assert_int_equal(step(), ROWS);
    assert_int_equal(batch.fill->n_started, 0);
}

static void a_rank_computes_only_its_own_requests(void **state) {
    (void)state;
    start(1, 3, 64, 8 * CONTEXT);
    for (int32_t i = 0; i < 8; i++) add(2, 1);
    gr_batch_fill(&batch, &kv, NULL);
    assert_int_equal(batch.fill->step.n_rows, 6);
    for (int32_t row = 0; row < 6; row++) assert_int_equal(batch.fill->request_of_row[row], 1 + 3 * (row / 2));
    for (int32_t i = 0; i < 8; i++) assert_int_equal(batch.sequences[i]->result.home, i % 3);
}

static void a_scored_prompt_wants_every_row(void **state) {
    (void)state;
    start(0, 1, ROWS, CONTEXT);
    int32_t prompt[] = {1, 2, 3};
    grace_request req = grace_request_defaults();
    req.prompt = prompt, req.n_prompt = 3, req.n_generate = 0, req.score = true;
    assert_int_equal(gr_batch_add(&batch, &req), GRACE_OK);
    prompt[0] = 9;                          /* the prompt was copied */
    gr_batch_fill(&batch, &kv, NULL);
    assert_int_equal(batch.fill->step.id[0], 1);
    for (int32_t row = 0; row < 3; row++) assert_true(batch.fill->wants_logits[row]);
}

static void a_step_is_filled_before_the_ids_of_the_one_before_are_known(void **state) {
    (void)state;
    start(0, 1, ROWS, 4 * CONTEXT);
    add(1, 3);
    add(1, 9);
    step();                                 /* both prompts: one id each */
    gr_batch_fill(&batch, &kv, NULL);
    const gr_fill *now = batch.fill;
    assert_int_equal(now->step.n_rows, 2);
    gr_batch_fill(&batch, &kv, now);
    const gr_fill *next = batch.fill;
    assert_ptr_not_equal(now, next);
    assert_int_equal(now->step.id[0], 7);   /* the other is as it was */
    assert_int_equal(next->step.n_rows, 2);
    for (int32_t row = 0; row < 2; row++) {
        assert_int_equal(next->step.id[row], -1 - row);
        assert_int_equal(next->step.position[row], 2);
        assert_int_equal(next->step.kv_sequence[row], batch.sequences[row]->kv);
        assert_true(next->wants_logits[row]);
    }
    for (int32_t row = 0; row < 2; row++) batch.sequences[row]->result.ids[batch.sequences[row]->result.n_ids++] = 7;     /* `now` lands */
    gr_batch_advance(&batch, &kv, now);
    gr_batch_fill(&batch, &kv, next);       /* the first request is at its length when `next` lands */
    assert_int_equal(batch.fill->step.n_rows, 1);
    assert_int_equal(batch.fill->request_of_row[0], 1);
    assert_int_equal(batch.fill->step.id[0], -2);
    assert_int_equal(batch.fill->step.position[0], 3);
}

static void a_fill_that_is_dropped_is_filled_anew_with_what_is_known_now(void **state) {
    (void)state;
    start(0, 1, ROWS, 4 * CONTEXT);
    add(1, 9);
    step();
    gr_batch_fill(&batch, &kv, NULL);
    const gr_fill *now = batch.fill;
    add(2, 3);
    gr_batch_fill(&batch, &kv, now);        /* a prompt comes along */
    assert_int_equal(batch.fill->n_prefill, 2);
    assert_int_equal(batch.fill->n_started, 1);
    const int32_t pages = kv.n_free;
    batch.sequences[0]->result.ids[batch.sequences[0]->result.n_ids++] = 7;
    batch.sequences[0]->finished = true;    /* an end of text */
    gr_batch_advance(&batch, &kv, now);
    gr_batch_fill(&batch, &kv, NULL);
    assert_int_equal(kv.n_free, pages + 1); /* what ended gave back its page; the prompt has its own already */
    assert_int_equal(batch.fill->step.n_rows, 2);
    assert_int_equal(batch.fill->n_started, 1);
    for (int32_t row = 0; row < 2; row++) assert_int_equal(batch.fill->request_of_row[row], 1);
    assert_int_equal(batch.fill->step.id[0], 100);
}

/* What attention and the recorder rely on. */
static void check_step(uint64_t seed) {
    bool ended[64] = {false};
    assert_true(batch.fill->step.n_rows <= batch.n_rows_max && batch.fill->n_prefill + batch.fill->n_decode == batch.fill->step.n_rows);
    for (int32_t row = 0; row < batch.fill->step.n_rows; row++) {
        int32_t request = batch.fill->request_of_row[row];
        const gr_sequence *s = batch.sequences[request];
        bool first = row == 0 || batch.fill->request_of_row[row - 1] != request;
        if (first && ended[request]) fail_msg("seed %llu: rows of request %d are not consecutive", (unsigned long long)seed, request);
        ended[request] = true;
        assert_int_equal(batch.fill->step.position[row], first ? s->n_computed : batch.fill->step.position[row - 1] + 1);
        assert_int_equal(batch.fill->step.sequence[row], request);
        assert_int_equal(batch.fill->step.kv_sequence[row], s->kv);
        assert_int_equal(batch.fill->step.id[row], gr_sequence_token(s, batch.fill->step.position[row]));
        assert_true(kv.n_held[s->kv] * GR_KV_PAGE > batch.fill->step.position[row]);
    }
}

static void random_requests_all_finish_in_order_and_return_their_pages(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 30; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = 1 + (int32_t)gr_rng_below(&rng, 30), steps = 0, started = 0;
        start(0, 1, 1 + (int32_t)gr_rng_below(&rng, 20), CONTEXT + (int32_t)gr_rng_below(&rng, 4 * CONTEXT));
        for (int32_t i = 0; i < n; i++) add(1 + (int32_t)gr_rng_below(&rng, CONTEXT - 10), (int32_t)gr_rng_below(&rng, 10));
        for (;; steps++) {
            gr_batch_fill(&batch, &kv, NULL);
            check_step(seed);
            if (batch.fill->step.n_rows == 0) break;
            for (; started < n && (batch.sequences[started]->kv >= 0 || batch.sequences[started]->finished); started++) continue;
            for (int32_t i = started; i < n; i++) assert_true(batch.sequences[i]->kv < 0);      /* first come, first served */
            draw();
            gr_batch_advance(&batch, &kv, batch.fill);
            assert_true(steps < 10000);
        }
        for (int32_t i = 0; i < n; i++) {
            const gr_sequence *s = batch.sequences[i];
            assert_true(s->finished && s->result.n_ids == s->request.n_generate);
            assert_int_equal(s->n_computed, gr_sequence_known(s) - (s->request.n_generate > 0));    /* the last drawn token needs no row */
        }
        assert_int_equal(kv.n_free, kv.n_pages);
        if (seed + 1 < 30) stop(NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_long_prompt_comes_in_chunks, stop),
        cmocka_unit_test_teardown(decode_rows_come_before_new_prompts, stop),
        cmocka_unit_test_teardown(nobody_overtakes_a_request_that_waits_for_memory, stop),
        cmocka_unit_test_teardown(one_that_came_running_goes_on_behind_one_that_waits_for_memory, stop),
        cmocka_unit_test_teardown(a_rank_computes_only_its_own_requests, stop),
        cmocka_unit_test_teardown(a_scored_prompt_wants_every_row, stop),
        cmocka_unit_test_teardown(a_step_is_filled_before_the_ids_of_the_one_before_are_known, stop),
        cmocka_unit_test_teardown(a_fill_that_is_dropped_is_filled_anew_with_what_is_known_now, stop),
        cmocka_unit_test_teardown(random_requests_all_finish_in_order_and_return_their_pages, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
