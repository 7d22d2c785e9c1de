#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "plan/budget.h"
#include "plan/plan_claims.h"
#include "plan/quality.h"
#include "plan/trace_cases.h"

/* Tokens of yesterday and of today: two traces of one shape. */
typedef struct day { grace_trace *trace; grace_bundles *bundles; grace_profile *profile; } day;

static const trace_case BLOCKS = {4, 32, 4, 8, 150, 4, 0.25};

static day day_open(uint64_t seed) {
    gr_rng rng = gr_rng_seed(seed);
    trace_case c = BLOCKS;
    day d = {.trace = make_trace(&rng, &c)};
    claim(!grace_bundles_build(d.trace, NULL, false, GRACE_BUNDLES_DEFAULT, &d.bundles) && !grace_profile_build(d.trace, NULL, &d.profile), seed);
    return d;
}

static void day_close(day *d) { grace_bundles_free(d->bundles), grace_profile_free(d->profile), grace_trace_close(d->trace); }

static grace_status build(const day *d, grace_cluster cluster, const grace_plan *from, int32_t max_moves, double memory, grace_plan **plan) {
    grace_plan_options opt = grace_plan_defaults();
    opt.planner = GRACE_PLANNER_AUTO, opt.bundles = d->bundles, opt.from = from, opt.max_moves = max_moves, opt.memory = memory;
    return grace_plan_build(d->profile, cluster, &opt, plan);
}

static bool has_copy(const grace_plan_layer *pl, int32_t expert, int32_t rank) {
    for (int32_t i = pl->slots_first[expert]; i < pl->slots_first[expert + 1]; i++)
        if (pl->rank_of_slot[pl->slots_of_expert[i]] == rank) return true;
    return false;
}

static int32_t n_new_copies(const grace_plan *before, const grace_plan *after) {
    int32_t n = 0;
    for (int32_t l = 0; l < after->n_layers; l++)
        for (int32_t s = 0; s < after->layers[l].n_slots; s++)
            n += !has_copy(&before->layers[l], after->layers[l].expert_of_slot[s], after->layers[l].rank_of_slot[s]);
    return n;
}

static double rows_on(const grace_plan *plan, const day *d) {
    gr_quality q;
    assert_int_equal(gr_quality_measure(plan, GRACE_ROUTE_TAR, d->bundles, d->profile, &q), GRACE_OK);
    return q.rows.cross;
}

static void no_more_copies_move_than_told_and_memory_is_kept(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        grace_cluster cluster = seed % 2 ? (grace_cluster){2, 2} : (grace_cluster){4, 2};
        day yesterday = day_open(seed), today = day_open(seed + 100);
        grace_plan *before = NULL, *after = NULL;
        int32_t most = (int32_t)(seed * seed % 60);
        claim(!build(&yesterday, cluster, NULL, 0, 1.25, &before), seed);
        claim(!build(&today, cluster, before, most, 0, &after), seed);
        claim_plan(after, seed);
        claim(n_new_copies(before, after) <= most, seed);
        claim(gr_fullest_rank(after) <= gr_fullest_rank(before), seed);
        grace_plan_free(before), grace_plan_free(after), day_close(&yesterday), day_close(&today);
    }
}

static grace_plan *scattered(const day *d, uint64_t seed) {
    grace_plan_options opt = grace_plan_defaults();
    grace_plan *plan = NULL;
    opt.planner = GRACE_PLANNER_RANDOM, opt.seed = seed;
    claim(grace_plan_build(d->profile, (grace_cluster){2, 2}, &opt, &plan) == GRACE_OK, seed);
    return plan;
}

/* Experts dealt at random: without a free slot they change places, with some they get copies. */
static void moves_win_rows_and_more_moves_win_more(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        day d = day_open(seed);
        grace_plan *before = scattered(&d, seed);
        double memory = seed % 2 ? 0 : 1.25, first = rows_on(before, &d), last = first;
        for (int32_t most = 16; most <= 256; most *= 4) {
            grace_plan *after = NULL;
            claim(!build(&d, (grace_cluster){2, 2}, before, most, memory, &after), seed);
            claim(n_new_copies(before, after) <= most, seed);
            claim(rows_on(after, &d) <= last + 1e-9, seed);
            last = rows_on(after, &d);
            grace_plan_free(after);
        }
        claim(last < (memory > 0 ? 0.75 : 0.95) * first, seed);
        grace_plan_free(before), day_close(&d);
    }
}

static void without_moves_every_copy_stays_where_it_is(void **state) {
    (void)state;
    day yesterday = day_open(1), today = day_open(101);
    grace_plan *before = NULL, *after = NULL;
    assert_int_equal(build(&yesterday, (grace_cluster){2, 2}, NULL, 0, 1.25, &before), GRACE_OK);
    assert_int_equal(build(&today, (grace_cluster){2, 2}, before, 0, 0, &after), GRACE_OK);
    assert_int_equal(n_new_copies(before, after), 0);
    for (int32_t l = 0; l < after->n_layers; l++) assert_int_equal(after->layers[l].n_slots, before->layers[l].n_slots);
    grace_plan_free(before), grace_plan_free(after), day_close(&yesterday), day_close(&today);
}

static void without_time_every_copy_stays_where_it_is_too(void **state) {
    (void)state;
    day d = day_open(1);
    grace_plan *before = scattered(&d, 1), *after = NULL;
    grace_plan_options opt = grace_plan_defaults();
    opt.planner = GRACE_PLANNER_AUTO, opt.bundles = d.bundles, opt.from = before, opt.time_limit_s = 1e-9;
    assert_int_equal(grace_plan_build(d.profile, (grace_cluster){2, 2}, &opt, &after), GRACE_OK);
    assert_int_equal(n_new_copies(before, after), 0);
    grace_plan_free(before), grace_plan_free(after), day_close(&d);
}

static void plans_for_something_else_or_too_large_are_refused(void **state) {
    (void)state;
    day d = day_open(1);
    grace_plan *before = NULL, *after = NULL;
    assert_int_equal(build(&d, (grace_cluster){2, 2}, NULL, 0, 1.5, &before), GRACE_OK);
    assert_int_equal(build(&d, (grace_cluster){4, 1}, before, 8, 0, &after), GRACE_ERR_MISMATCH);
    assert_int_equal(build(&d, (grace_cluster){2, 2}, before, 8, 1.25, &after), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "48 slots on its fullest rank, the memory 40"));
    assert_int_equal(build(&d, (grace_cluster){2, 2}, before, -1, 0, &after), GRACE_ERR_ARG);
    assert_null(after);
    grace_plan_free(before), day_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_more_copies_move_than_told_and_memory_is_kept),
        cmocka_unit_test(moves_win_rows_and_more_moves_win_more),
        cmocka_unit_test(without_moves_every_copy_stays_where_it_is),
        cmocka_unit_test(without_time_every_copy_stays_where_it_is_too),
        cmocka_unit_test(plans_for_something_else_or_too_large_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
