/* What grace_rank_memory_of() and grace_kv_bytes() promise is what opening takes, for every model of tests/golden/micro: blocks with scales, fused
 * experts, latents, dense layers, shared experts, tied embeddings, copies. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "grace/engine.h"
#include "run/kv.h"
#include "run/weights.h"
#include "support/micro.h"
#include "support/random_plan.h"

static const gr_compute_ops *plain_ops;
static int64_t n_allocated;

static grace_status counting_alloc(gr_compute *compute, size_t n, void **out) {
    n_allocated += (int64_t)n;
    return plain_ops->alloc(compute, n, out);
}

/* What was said while weights came in. */
typedef struct loaded { int32_t n; bool rising; int64_t done, total; } loaded;

static void note(void *user, int64_t done, int64_t total) {
    loaded *seen = user;
    seen->rising = seen->n == 0 || (seen->rising && done > seen->done && total == seen->total);
    seen->n++, seen->done = done, seen->total = total;
}

static void check_rank(gr_compute *compute, const grace_model *model, const grace_plan *plan, int32_t rank) {
    loaded seen = {0};
    gr_weights w = {.on_load = note, .load_user = &seen};
    const grace_rank_memory told = grace_rank_memory_of(model, plan, rank);
    assert_int_equal(gr_weights_open(&w, compute, model, plan, rank), GRACE_OK);
    assert_int_equal(told.weights, w.bytes);
    assert_true(seen.rising && seen.n > 1 && seen.done == told.weights && seen.total == told.weights);
    assert_int_equal(told.replicas, w.replica_bytes);
    assert_true(told.replicas <= told.experts && told.experts < told.weights);
    gr_weights_close(&w);
}

static void check_kv(gr_compute *compute, const grace_model_info *info) {
    static const int64_t tokens[] = {1, GR_KV_PAGE, GR_KV_PAGE + 1, 1000};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        gr_kv kv;
        gr_compute_ops counting = *plain_ops;
        counting.alloc = counting_alloc;
        n_allocated = 0;
        compute->ops = &counting;
        assert_int_equal(gr_kv_init(&kv, compute, info, tokens[i], 2), GRACE_OK);
        compute->ops = plain_ops;
        n_allocated -= (int64_t)kv.n_sequences_max * kv.pages_max * (int64_t)sizeof *kv.page_table;     /* not the cache itself */
        assert_int_equal(grace_kv_bytes(info, tokens[i]), n_allocated);
        assert_int_equal(grace_kv_tokens(info, n_allocated), (int64_t)kv.n_pages * GR_KV_PAGE);
        assert_int_equal(grace_kv_tokens(info, n_allocated - 1), (int64_t)(kv.n_pages - 1) * GR_KV_PAGE);
        gr_kv_free(&kv);
    }
    assert_int_equal(grace_kv_tokens(info, -5), 0);
}

static void what_is_told_is_what_opening_takes(void **state) {
    const char *name = *state;
    grace_model *model = NULL;
    gr_compute *compute = NULL;
    gr_rng rng = gr_rng_seed(7);
    assert_int_equal(grace_model_open(gr_micro_dir(name), &model), GRACE_OK);
    assert_int_equal(gr_compute_cpu_open("portable", 1, &compute), GRACE_OK);
    const grace_model_info *m = grace_model_describe(model);
    gr_random_plan_options opt = {m->n_moe_layers, m->n_experts, m->top_k, {2, 2}, 0.3, 0.2};
    grace_plan *plan = gr_random_plan(&opt, &rng);
    plain_ops = compute->ops;
    for (int32_t rank = 0; rank < 4; rank++) check_rank(compute, model, plan, rank);
    check_kv(compute, m);
    grace_plan_free(plan);
    compute->ops->free(compute);
    grace_model_close(model);
}

/* Without copies every expert is somewhere once, and everything else everywhere. */
static void the_ranks_of_a_plan_without_copies_share_the_experts(void **state) {
    (void)state;
    grace_model *model = NULL;
    grace_plan *one = NULL, *four = NULL;
    assert_int_equal(grace_model_open(gr_micro_dir("deepseek-v3-fp8"), &model), GRACE_OK);
    const grace_model_info *m = grace_model_describe(model);
    assert_int_equal(grace_plan_contiguous(m->n_moe_layers, m->n_experts, m->top_k, (grace_cluster){1, 1}, &one), GRACE_OK);
    assert_int_equal(grace_plan_contiguous(m->n_moe_layers, m->n_experts, m->top_k, (grace_cluster){2, 2}, &four), GRACE_OK);
    const grace_rank_memory whole = grace_rank_memory_of(model, one, 0);
    int64_t experts = 0;
    for (int32_t rank = 0; rank < 4; rank++) {
        const grace_rank_memory part = grace_rank_memory_of(model, four, rank);
        assert_int_equal(part.weights - part.experts, whole.weights - whole.experts);
        assert_int_equal(part.replicas, 0);
        experts += part.experts;
    }
    assert_int_equal(experts, whole.experts);
    assert_true(whole.weights > m->n_bytes);            /* a byte a value in the file, two in memory */
    grace_plan_free(one);
    grace_plan_free(four);
    grace_model_close(model);
}

int main(void) {
    static struct CMUnitTest tests[GR_MICRO_MAX + 1];
    size_t n = gr_micro_tests(what_is_told_is_what_opening_takes, tests);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(the_ranks_of_a_plan_without_copies_share_the_experts);
    return _cmocka_run_group_tests("memory", tests, n, NULL, NULL);
}
