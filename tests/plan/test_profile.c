#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/json.h"
#include "plan/test_trace_support.h"

static grace_trace *trace_of(const world *w) {
    char *folder = scratch_new();
    grace_trace *t = NULL;
    assert_int_equal(world_save(w, in(folder, "t")), GRACE_OK);
    assert_int_equal(grace_trace_open(in(folder, "t"), &t, NULL), GRACE_OK);
    scratch_free(folder);
    return t;
}

static bool chosen(const world *w, int32_t token, int32_t layer, int32_t expert) {
    const uint16_t *ids = w->experts + ((int64_t)token * w->info.n_layers + layer) * w->info.top_k;
    for (int32_t k = 0; k < w->info.top_k; k++)
        if (ids[k] == expert) return true;
    return false;
}

static bool wanted(const world *w, int32_t token, int32_t domain, int32_t parity) {
    int32_t s = w->sequence_of_token[token];
    return (domain < 0 || w->sequences[s].domain == domain) && (parity < 0 || (s & 1) == parity);
}

/* The definition, read aloud: A[i][j] tokens that chose both, w[i] tokens that chose i. */
static void assert_is_definition(const grace_profile *p, const world *w, int32_t domain, int32_t parity) {
    int32_t n = w->info.n_experts;
    for (int32_t layer = 0; layer < w->info.n_layers; layer++) {
        for (int32_t i = 0; i < n; i++) {
            for (int32_t j = 0; j < n; j++) {
                int count = 0;
                for (int32_t t = 0; t < w->n_tokens; t++)
                    count += wanted(w, t, domain, parity) && chosen(w, t, layer, i) && chosen(w, t, layer, j);
                double found = i == j ? p->load[layer * n + i] : p->affinity[((int64_t)layer * n + i) * n + j];
                if (found != count) fail_msg("layer %d, experts %d and %d: expected %d, found %g", layer, i, j, count, found);
            }
        }
    }
}

static void a_profile_is_the_brute_force_count(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        print_message("seed %d\n", (int)seed);
        world *w = world_random(seed, 2, 6 + (int32_t)seed, 3, 9, 120);
        grace_trace *t = trace_of(w);
        for (int32_t domain = -1; domain < 3; domain++) {
            for (int32_t parity = -1; parity <= 1; parity++) {
                grace_profile *p = NULL;
                grace_selection which = {.sequences = (grace_sequences)(parity + 1)};
                if (domain >= 0) snprintf(which.domains, sizeof which.domains, "%s", w->domains[domain]);
                assert_int_equal(grace_profile_build(t, &which, &p), GRACE_OK);
                assert_same_info(&p->info, &w->info);
                assert_is_definition(p, w, domain, parity);
                grace_profile_free(p);
            }
        }
        grace_trace_close(t);
        world_free(w);
    }
}

/* Each token adds k loads, and k - 1 partners to each expert it chose. */
static void assert_sums(const grace_profile *p) {
    int32_t n = p->info.n_experts, k = p->info.top_k;
    for (int32_t layer = 0; layer < p->info.n_layers; layer++) {
        double total = 0;
        for (int32_t i = 0; i < n; i++) {
            const double *row = p->affinity + ((int64_t)layer * n + i) * n;
            double sum = 0, load = p->load[layer * n + i];
            for (int32_t j = 0; j < n; j++) {
                sum += row[j];
                assert_true(row[j] == p->affinity[((int64_t)layer * n + j) * n + i]);
            }
            assert_true(row[i] == 0);
            assert_true(sum == (k - 1) * load);
            total += load;
        }
        assert_true(total == (double)p->n_tokens * k);
    }
}

static void sums_hold_for_every_shape_and_parts_add_up(void **state) {
    (void)state;
    static const int32_t shapes[][3] = {{1, 1, 1}, {3, 8, 2}, {2, 8, 8}, {2, 300, 5}, {1, 64, 8}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        world *w = world_random(500 + i, shapes[i][0], shapes[i][1], shapes[i][2], 12, 1000);
        grace_trace *t = trace_of(w);
        grace_profile *all = NULL, *even = NULL, *odd = NULL;
        assert_int_equal(grace_profile_build(t, NULL, &all), GRACE_OK);
        assert_int_equal(grace_profile_build(t, &(grace_selection){GRACE_SEQUENCES_EVEN, ""}, &even), GRACE_OK);
        assert_int_equal(grace_profile_build(t, &(grace_selection){GRACE_SEQUENCES_ODD, ""}, &odd), GRACE_OK);
        assert_sums(all), assert_sums(even), assert_sums(odd);
        assert_int_equal(all->n_tokens, w->n_tokens);
        assert_int_equal(even->n_tokens + odd->n_tokens, w->n_tokens);
        for (int64_t e = 0; e < (int64_t)shapes[i][0] * shapes[i][1] * shapes[i][1]; e++)
            assert_true(even->affinity[e] + odd->affinity[e] == all->affinity[e]);
        grace_profile_free(all), grace_profile_free(even), grace_profile_free(odd);
        grace_trace_close(t);
        world_free(w);
    }
}

static void a_selection_without_tokens_is_all_zeros(void **state) {
    (void)state;
    world *w = world_random(3, 2, 8, 2, 1, 50);     /* one sequence: nothing odd */
    grace_trace *t = trace_of(w);
    grace_profile *p = NULL;
    assert_int_equal(grace_profile_build(t, &(grace_selection){GRACE_SEQUENCES_ODD, ""}, &p), GRACE_OK);
    assert_int_equal(p->n_tokens, 0);
    assert_sums(p);
    grace_profile_free(p);
    grace_trace_close(t);
    world_free(w);
}

static void selections_that_cannot_be_are_refused(void **state) {
    (void)state;
    world *w = world_random(3, 2, 8, 2, 1, 5);
    grace_trace *t = trace_of(w);
    grace_profile *p = NULL;
    assert_int_equal(grace_profile_build(t, &(grace_selection){.domains = "prose,poetry"}, &p), GRACE_ERR_ARG);
    assert_non_null(strstr(grace_last_error(), "the trace has no domain 'poetry'; it has "));
    assert_non_null(strstr(grace_last_error(), "prose"));
    assert_int_equal(grace_profile_build(t, &(grace_selection){.sequences = (grace_sequences)3}, &p), GRACE_ERR_ARG);
    assert_null(p);
    grace_profile_free(NULL);
    grace_trace_close(t);
    world_free(w);
}

static void an_affinity_that_cannot_be_held_is_a_limit(void **state) {
    (void)state;
    world *w = world_random(3, 1, 65536, 2, 1, 5);
    grace_trace *t = trace_of(w);
    grace_profile *p = NULL;
    assert_int_equal(grace_profile_build(t, NULL, &p), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "34359738368 bytes"));
    grace_trace_close(t);
    world_free(w);
}

/* The loads that the reference implementation counted while it made the trace. */
static void loads_of_the_golden_traces_match_the_reference(void **state) {
    (void)state;
    static const char *const names[] = {"prose", "math", "code"};
    const char *stats_path = GRACE_SOURCE_DIR "/tests/golden/tiny-olmoe/stats.json";
    gr_json *stats = NULL;
    assert_int_equal(gr_json_load(stats_path, &stats), GRACE_OK);
    for (size_t i = 0; i < 3; i++) {
        grace_trace *t = NULL;
        grace_profile *p = NULL;
        const gr_json *load = gr_json_get(gr_json_get(gr_json_get(stats, "domains"), names[i]), "load");
        assert_int_equal(gr_json_length(load), 8);
        assert_int_equal(grace_trace_open(in(GRACE_SOURCE_DIR "/tests/golden/tiny-olmoe/traces", names[i]), &t, NULL), GRACE_OK);
        assert_int_equal(grace_trace_n_tokens(t), 20480);
        assert_int_equal(grace_trace_n_sequences(t), 40);
        assert_int_equal(grace_profile_build(t, NULL, &p), GRACE_OK);
        assert_sums(p);
        for (int32_t v = 0; v < 8 * 64; v++) {
            int64_t expected = -1;
            assert_int_equal(gr_json_int_at(gr_json_at(load, (size_t)v / 64), stats_path, (size_t)v % 64, 0, INT64_MAX, &expected), GRACE_OK);
            assert_true(p->load[v] == (double)expected);
        }
        grace_profile_free(p);
        grace_trace_close(t);
    }
    gr_json_free(stats);
}

/* Sketch: 20k tokens x 26 layers x 28 pairs = 14.6 M increments in a 16 KiB table, about 1 ns each. */
static void counting_is_fast(void **state) {
    (void)state;
    enum { N = 20000, LAYERS = 26, K = 8 };
    grace_trace_info info = {.model = "big", .n_layers = LAYERS, .n_experts = 64, .top_k = K, .n_ranks = 1, .n_nodes = 1};
    unsigned char *bytes = malloc((size_t)N * LAYERS * K);
    gr_rng rng = gr_rng_seed(5);
    for (size_t i = 0; i < (size_t)N * LAYERS * K; i += K) {
        uint32_t first = gr_rng_below(&rng, 64), stride = 1 + 2 * gr_rng_below(&rng, 32);
        for (uint32_t k = 0; k < K; k++) bytes[i + k] = (unsigned char)((first + k * stride) % 64);
    }
    grace_trace *t = NULL;
    grace_profile *p = NULL;
    assert_int_equal(gr_trace_new("big", &info, &t), GRACE_OK);
    double start = gr_now_us();
    assert_int_equal(gr_trace_push_tokens("big", t, &(gr_raw_tokens){.experts = bytes, .expert_bytes = 1}, N), GRACE_OK);
    double read = gr_now_us();
    assert_int_equal(gr_trace_push_sequence("big", t, (grace_trace_sequence){.domain = -1}), GRACE_OK);
    assert_int_equal(gr_trace_push_segment("big", t, (grace_trace_segment){.n_tokens = N}), GRACE_OK);
    double built = gr_now_us();
    assert_int_equal(grace_profile_build(t, NULL, &p), GRACE_OK);
    double end = gr_now_us();
    print_message("20k tokens x 26 layers, top-8 of 64: %.1f ms to check, %.1f ms to count\n", (read - start) / 1e3, (end - built) / 1e3);
    assert_sums(p);
    assert_true(end - built < 5e6);     /* generous: sanitizers and a busy machine */
    grace_profile_free(p);
    grace_trace_close(t);
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_profile_is_the_brute_force_count),
        cmocka_unit_test(sums_hold_for_every_shape_and_parts_add_up),
        cmocka_unit_test(a_selection_without_tokens_is_all_zeros),
        cmocka_unit_test(selections_that_cannot_be_are_refused),
        cmocka_unit_test(an_affinity_that_cannot_be_held_is_a_limit),
        cmocka_unit_test(loads_of_the_golden_traces_match_the_reference),
        cmocka_unit_test(counting_is_fast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
