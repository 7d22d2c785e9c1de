#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "plan/bundle.h"
#include "plan/plan_json.h"
#include "plan/test_trace_support.h"

static grace_trace_reader *open_reader(const char *path, int64_t piece_values) {
    grace_trace_reader *r = NULL;
    if (grace_trace_reader_open(path, &r)) fail_msg("%s", grace_last_error());
    gr_trace_reader_set_piece(r, piece_values);
    return r;
}

/* The pieces' tokens are those of the whole trace, one after another. Returns the number of pieces. */
static int assert_pieces(grace_trace_reader *r, const grace_trace *whole) {
    int64_t token = 0, width = (int64_t)whole->info.n_layers * whole->info.top_k, segment = 0, into = 0;
    const grace_trace *piece = NULL;
    int n_pieces = 0;
    for (;; n_pieces++) {
        assert_int_equal(grace_trace_reader_next(r, &piece), GRACE_OK);
        if (!piece) break;
        assert_same_info(grace_trace_describe(piece), &whole->info);
        assert_memory_equal(piece->experts, whole->experts + token * width, (size_t)(piece->n_tokens * width) * sizeof(uint16_t));
        if (whole->token_ids) assert_memory_equal(piece->token_ids, whole->token_ids + token, (size_t)piece->n_tokens * sizeof(int32_t));
        if (whole->weights) assert_memory_equal(piece->weights, whole->weights + token * width, (size_t)(piece->n_tokens * width) * sizeof(float));
        for (int64_t s = 0; s < piece->n_segments; s++) {
            grace_trace_segment found = piece->segments[s], expected = whole->segments[segment];
            assert_true(found.sequence == expected.sequence && found.step == expected.step && found.phase == expected.phase);
            assert_int_equal(found.position, expected.position + into);
            into += found.n_tokens;
            if (into == expected.n_tokens) segment++, into = 0;
        }
        token += piece->n_tokens;
    }
    assert_true(token == whole->n_tokens && segment == whole->n_segments);
    assert_int_equal(grace_trace_n_sequences(grace_trace_reader_head(r)), whole->n_sequences);
    return n_pieces;
}

/* 2 layers x 2 of 8 experts, several blocks of 65536 tokens, sequences of 1000. */
static void save_long(const char *path, int32_t n_tokens) {
    grace_trace_info info = {.model = "long", .n_layers = 2, .n_experts = 8, .top_k = 2, .n_ranks = 1, .n_nodes = 1, .vocab = 100};
    grace_trace_writer *w = NULL;
    gr_rng rng = gr_rng_seed(4);
    static uint16_t experts[4000];
    static int32_t ids[1000];
    const char *const names[] = {"a", "b", "c"};
    assert_int_equal(grace_trace_create(path, &info, names, 3, &w), GRACE_OK);
    for (int32_t s = 0; n_tokens > 0; s++, n_tokens -= 1000) {
        int32_t n = n_tokens < 1000 ? n_tokens : 1000;
        for (int32_t i = 0; i < n; i++) ids[i] = (int32_t)gr_rng_below(&rng, 100);
        for (int32_t i = 0; i < 2 * n; i++) random_choice(&rng, experts + 2 * i, 2, 8);
        assert_int_equal(grace_trace_add_sequence(w, (grace_trace_sequence){s, 0, s % 3}), GRACE_OK);
        assert_int_equal(grace_trace_append(w, (grace_trace_segment){s, 0, n, s, GRACE_PHASE_PREFILL}, (grace_trace_tokens){experts, ids, NULL}), GRACE_OK);
    }
    assert_int_equal(grace_trace_finish(w), GRACE_OK);
}

static void pieces_are_the_whole_trace_in_order_and_again_after_rewind(void **state) {
    (void)state;
    char *folder = scratch_new();
    const char *path = in(folder, "long.trace");
    grace_trace *whole = NULL;
    save_long(path, 5 * 65536 + 77);
    assert_int_equal(grace_trace_open(path, &whole, NULL), GRACE_OK);
    grace_trace_reader *r = open_reader(path, 1);
    assert_int_equal(assert_pieces(r, whole), 6);
    grace_trace_reader_rewind(r);
    assert_int_equal(assert_pieces(r, whole), 6);
    gr_trace_reader_set_piece(r, 2 * 65536 * 4);
    const grace_trace *piece = NULL;
    grace_trace_reader_rewind(r);
    assert_int_equal(grace_trace_reader_next(r, &piece), GRACE_OK);         /* from the middle too */
    grace_trace_reader_rewind(r);
    assert_int_equal(assert_pieces(r, whole), 3);
    assert_false(grace_trace_reader_truncated(r));
    grace_trace_reader_close(r);
    grace_trace_reader_close(NULL);
    grace_trace_close(whole);
    scratch_free(folder);
}

static void small_worlds_are_read_in_pieces_too(void **state) {
    (void)state;
    char *folder = scratch_new();
    const char *path = in(folder, "w.trace");
    for (uint64_t seed = 1; seed <= 6; seed++) {
        world *w = world_random(seed, 2, 8, 2, 9, (int32_t)seed * 40 - 40);
        world_dress(w, seed, 70000, GRACE_WEIGHTS_F16);
        grace_trace *whole = NULL;
        assert_int_equal(world_save(w, path), GRACE_OK);
        assert_int_equal(grace_trace_open(path, &whole, NULL), GRACE_OK);
        grace_trace_reader *r = open_reader(path, 1);
        assert_int_equal(assert_pieces(r, whole), w->n_tokens > 0);
        grace_trace_reader_close(r);
        grace_trace_close(whole);
        world_free(w);
    }
    scratch_free(folder);
}

/* Raw ids with sequences that cross the ends of what is read at once. */
static void save_folder(const char *folder, int32_t n_tokens) {
    unsigned char *experts = malloc((size_t)n_tokens * 4), *ids = calloc((size_t)n_tokens, 2);
    char meta[256];
    gr_rng rng = gr_rng_seed(5);
    for (int32_t i = 0; i < 2 * n_tokens; i++) {
        uint16_t two[2];
        random_choice(&rng, two, 2, 8);
        experts[2 * i] = (unsigned char)two[0], experts[2 * i + 1] = (unsigned char)two[1];
    }
    for (int32_t i = 0; i < n_tokens; i++) ids[2 * i] = (unsigned char)gr_rng_below(&rng, 200);
    snprintf(meta, sizeof meta, "{\"layers\":2,\"experts\":8,\"top_k\":2,\"tokens\":%d,\"sequence_length\":777,\"vocab\":200,\"domain\":\"d\"}", n_tokens);
    assert_int_equal(gr_file_replace(in(folder, "topk.u8"), experts, (size_t)n_tokens * 4), GRACE_OK);
    assert_int_equal(gr_file_replace(in(folder, "tokens.u16"), ids, (size_t)n_tokens * 2), GRACE_OK);
    assert_int_equal(gr_file_replace(in(folder, "meta.json"), meta, strlen(meta)), GRACE_OK);
    free(experts), free(ids);
}

static void folders_are_read_in_pieces(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_trace *whole = NULL;
    save_folder(folder, 3 * (1 << 18) + 5);         /* 2^18 tokens of 4 bytes are read at once */
    assert_int_equal(grace_trace_open(folder, &whole, NULL), GRACE_OK);
    assert_int_equal(whole->n_segments, whole->n_sequences);
    grace_trace_reader *r = open_reader(folder, 1);
    assert_int_equal(assert_pieces(r, whole), 4);
    grace_trace_reader_rewind(r);
    assert_int_equal(assert_pieces(r, whole), 4);
    grace_trace_reader_close(r);
    grace_trace_close(whole);
    scratch_free(folder);
}

static void assert_same_bundles(const grace_bundles *a, const grace_bundles *b) {
    for (int32_t l = 0; l < a->n_layers; l++) {
        size_t n = (size_t)a->layers[l].n;
        assert_int_equal(a->layers[l].n, b->layers[l].n);
        assert_int_equal(a->layers[l].n_tokens, b->layers[l].n_tokens);
        assert_memory_equal(a->layers[l].experts, b->layers[l].experts, n * (size_t)a->top_k * sizeof(uint16_t));
        assert_memory_equal(a->layers[l].count, b->layers[l].count, n * sizeof(int32_t));
    }
}

/* A plan's bytes, made by the search from this profile and these bundles. */
static gr_buf plan_of(const grace_profile *profile, const grace_bundles *bundles) {
    grace_plan *plan = NULL;
    gr_buf text = {0};
    grace_plan_options opt = grace_plan_defaults();
    opt.planner = GRACE_PLANNER_AUTO, opt.bundles = bundles;
    if (grace_plan_build(profile, (grace_cluster){2, 2}, &opt, &plan) || gr_plan_print(plan, &text)) fail_msg("%s", grace_last_error());
    grace_plan_free(plan);
    return text;
}

static void plans_from_a_stream_have_the_bytes_of_plans_from_memory(void **state) {
    (void)state;
    static const grace_selection selections[] = {{GRACE_SEQUENCES_ALL, ""}, {GRACE_SEQUENCES_ODD, ""}, {GRACE_SEQUENCES_EVEN, "c,a"}};
    char *folder = scratch_new();
    const char *path = in(folder, "long.trace");
    grace_trace *whole = NULL;
    save_long(path, 3 * 65536 + 77);
    assert_int_equal(grace_trace_open(path, &whole, NULL), GRACE_OK);
    grace_trace_reader *r = open_reader(path, 1);
    for (size_t i = 0; i < sizeof selections / sizeof *selections; i++) {
        int32_t n_max = i == 1 ? 20 : GRACE_BUNDLES_DEFAULT;        /* 28 sets there are: with 20 tokens are sampled, until few are left */
        grace_profile *p[2] = {0};
        grace_bundles *b[2] = {0};
        assert_int_equal(grace_profile_build(whole, &selections[i], &p[0]), GRACE_OK);
        assert_int_equal(grace_profile_stream(r, &selections[i], &p[1]), GRACE_OK);
        assert_int_equal(p[0]->n_tokens, p[1]->n_tokens);
        assert_memory_equal(p[0]->load, p[1]->load, 2 * 8 * sizeof(double));
        assert_memory_equal(p[0]->affinity, p[1]->affinity, 2 * 8 * 8 * sizeof(double));
        assert_int_equal(grace_bundles_build(whole, &selections[i], false, n_max, &b[0]), GRACE_OK);
        assert_int_equal(grace_bundles_stream(r, &selections[i], false, n_max, &b[1]), GRACE_OK);
        assert_same_bundles(b[0], b[1]);
        assert_in_range(b[0]->layers[1].n, 1, n_max);
        gr_buf text[2] = {plan_of(p[0], b[0]), plan_of(p[1], b[1])};
        assert_string_equal(text[0].data, text[1].data);
        for (int k = 0; k < 2; k++) grace_profile_free(p[k]), grace_bundles_free(b[k]), gr_buf_free(&text[k]);
    }
    grace_trace_reader_close(r);
    grace_trace_close(whole);
    scratch_free(folder);
}

static long peak_kib(void) {
    struct rusage used;
    assert_int_equal(getrusage(RUSAGE_SELF, &used), 0);
    return used.ru_maxrss;
}

/* 2 M tokens take 24 MiB in memory (and are written by another process); a profile and bundles of them are made in less than half of it. */
static void counting_a_stream_takes_less_memory_than_the_trace(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip();                 /* freed memory is kept for a while: the peak says nothing */
#endif
    char *folder = scratch_new();
    const char *path = in(folder, "long.trace");
    int how = 0;
    pid_t child = fork();
    if (child == 0) {
        save_long(path, 2 << 20);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    grace_profile *profile = NULL;
    grace_bundles *bundles = NULL;
    grace_trace_reader *r = open_reader(path, 1);
    long before = peak_kib();
    assert_int_equal(grace_profile_stream(r, NULL, &profile), GRACE_OK);
    assert_int_equal(grace_bundles_stream(r, NULL, false, GRACE_BUNDLES_DEFAULT, &bundles), GRACE_OK);
    assert_int_equal(profile->n_tokens, 2 << 20);
    print_message("%ld KiB more at the peak\n", peak_kib() - before);
    assert_true(peak_kib() - before < 12 * 1024);
    grace_bundles_free(bundles);
    grace_profile_free(profile);
    grace_trace_reader_close(r);
    scratch_free(folder);
}

static int64_t count_tokens(grace_trace_reader *r) {
    const grace_trace *piece = NULL;
    int64_t n = 0;
    for (;;) {
        assert_int_equal(grace_trace_reader_next(r, &piece), GRACE_OK);
        if (!piece) return n;
        n += piece->n_tokens;
    }
}

/* A recording that goes on: a reader stays with what was there when it was opened, in every pass; another one sees more. */
static void a_file_that_grows_is_read_up_to_its_last_whole_block(void **state) {
    (void)state;
    char *folder = scratch_new();
    const char *path = in(folder, "grows.trace");
    size_t n = 0, half;
    save_long(in(folder, "long.trace"), 4 * 65536);
    unsigned char *bytes = read_bytes(in(folder, "long.trace"), &n);
    half = n / 2 + 1000;
    assert_int_equal(gr_file_replace(path, bytes, half), GRACE_OK);
    grace_trace_reader *r = open_reader(path, 1), *later = NULL;
    assert_int_equal(count_tokens(r), 2 * 65536);
    assert_true(grace_trace_reader_truncated(r));
    int fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, bytes + half, n - half), n - half);
    close(fd);
    grace_trace_reader_rewind(r);
    assert_int_equal(count_tokens(r), 2 * 65536);
    later = open_reader(path, 1);
    assert_int_equal(count_tokens(later), 4 * 65536);
    assert_false(grace_trace_reader_truncated(later));
    grace_trace_reader_close(r), grace_trace_reader_close(later);
    free(bytes);
    scratch_free(folder);
}

static void a_file_that_shrinks_under_the_reader_is_an_error(void **state) {
    (void)state;
    char *folder = scratch_new();
    const char *path = in(folder, "shrinks.trace");
    const grace_trace *piece = NULL;
    save_long(path, 3 * 65536);
    grace_trace_reader *r = open_reader(path, 1);
    assert_int_equal(grace_trace_reader_next(r, &piece), GRACE_OK);
    assert_int_equal(truncate(path, 1000), 0);
    assert_int_equal(grace_trace_reader_next(r, &piece), GRACE_ERR_IO);
    assert_non_null(strstr(grace_last_error(), "became shorter while it was read"));
    grace_trace_reader_close(r);
    scratch_free(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counting_a_stream_takes_less_memory_than_the_trace),       /* first: the peak is the process's */
        cmocka_unit_test(pieces_are_the_whole_trace_in_order_and_again_after_rewind),
        cmocka_unit_test(small_worlds_are_read_in_pieces_too),
        cmocka_unit_test(folders_are_read_in_pieces),
        cmocka_unit_test(plans_from_a_stream_have_the_bytes_of_plans_from_memory),
        cmocka_unit_test(a_file_that_grows_is_read_up_to_its_last_whole_block),
        cmocka_unit_test(a_file_that_shrinks_under_the_reader_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
