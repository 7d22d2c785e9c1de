#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/hash.h"
#include "plan/test_trace_support.h"

/* Two layers, 8 experts, top-2: small enough to write by hand. */
static const grace_trace_info tiny = {.model = "tiny", .n_layers = 2, .n_experts = 8, .top_k = 2, .n_ranks = 4, .n_nodes = 2};
static const uint16_t one_token[] = {0, 1, 7, 3};

static grace_trace_writer *start(const char *path, const grace_trace_info *info) {
    grace_trace_writer *w = NULL;
    assert_int_equal(grace_trace_create(path, info, NULL, 0, &w), GRACE_OK);
    assert_int_equal(grace_trace_add_sequence(w, (grace_trace_sequence){.id = 9, .home = 3, .domain = -1}), GRACE_OK);
    return w;
}

static void what_is_written_is_read_back(void **state) {
    (void)state;
    static const int32_t shapes[][3] = {{1, 1, 1}, {2, 8, 2}, {3, 256, 8}, {3, 257, 8}, {1, 65536, 4}, {16, 64, 8}, {2, 8, 8}};
    static const int32_t vocabularies[] = {0, 1, 65536, 65537, INT32_MAX};
    char *folder = scratch_new();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (uint64_t seed = 1; seed <= 4; seed++) {
            print_message("shape %zu, seed %d\n", i, (int)seed);
            int32_t n_sequences = 1 + (int32_t)(seed * 13), n_tokens = (int32_t)(seed * seed * 50) - 50;
            world *w = world_random(seed * 100 + i, shapes[i][0], shapes[i][1], shapes[i][2], n_sequences, n_tokens);
            world_dress(w, seed * 100 + i, vocabularies[(i + seed) % 5], (grace_trace_weights)((i + 2 * seed) % GRACE_N_WEIGHTS));
            w->info.synthetic = i % 2;
            grace_trace *t = NULL;
            bool truncated = true;
            assert_int_equal(world_save(w, in(folder, "a.trace")), GRACE_OK);
            assert_int_equal(grace_trace_open(in(folder, "a.trace"), &t, &truncated), GRACE_OK);
            assert_false(truncated);
            assert_is_world(t, w);
            grace_trace_close(t);
            world_free(w);
        }
    }
    scratch_free(folder);
}

static void a_segment_over_several_blocks_comes_back_as_one(void **state) {
    (void)state;
    enum { N = 3 * 65536 + 17 };                    /* a block ends after 65536 tokens */
    char *folder = scratch_new();
    uint16_t *experts = calloc(N * 4, sizeof *experts);
    gr_rng rng = gr_rng_seed(1);
    for (int i = 0; i < 2 * N; i++) random_choice(&rng, experts + 2 * i, 2, 8);
    grace_trace_writer *w = start(in(folder, "long"), &tiny);
    assert_int_equal(grace_trace_append(w, (grace_trace_segment){0, 5, N, 1, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = experts}), GRACE_OK);
    assert_int_equal(grace_trace_finish(w), GRACE_OK);
    grace_trace *t = NULL;
    assert_int_equal(grace_trace_open(in(folder, "long"), &t, NULL), GRACE_OK);
    assert_int_equal(grace_trace_n_segments(t), 1);
    grace_trace_segment seg = grace_trace_segment_at(t, 0);
    assert_int_equal(seg.position, 5);
    assert_int_equal(seg.n_tokens, N);
    assert_memory_equal(grace_trace_experts(t), experts, N * 4 * sizeof *experts);
    grace_trace_close(t);
    free(experts);
    scratch_free(folder);
}

static void many_sequences_survive_the_block_of_sequences(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_trace_writer *w = start(in(folder, "many"), &tiny);
    for (int32_t s = 1; s < 10000; s++)
        assert_int_equal(grace_trace_add_sequence(w, (grace_trace_sequence){.id = -s, .home = s % 4, .domain = -1}), GRACE_OK);
    assert_int_equal(grace_trace_append(w, (grace_trace_segment){9999, 0, 1, 0, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token}), GRACE_OK);
    assert_int_equal(grace_trace_finish(w), GRACE_OK);
    grace_trace *t = NULL;
    assert_int_equal(grace_trace_open(in(folder, "many"), &t, NULL), GRACE_OK);
    assert_int_equal(grace_trace_n_sequences(t), 10000);
    for (int32_t s = 1; s < 10000; s++) {
        assert_int_equal(grace_trace_sequence_at(t, s).id, -s);
        assert_int_equal(grace_trace_sequence_at(t, s).home, s % 4);
    }
    grace_trace_close(t);
    scratch_free(folder);
}

static void an_empty_recording_is_a_valid_trace(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_trace_writer *w = NULL;
    grace_trace *t = NULL;
    bool truncated = true;
    assert_int_equal(grace_trace_create(in(folder, "empty"), &tiny, NULL, 0, &w), GRACE_OK);
    assert_int_equal(grace_trace_finish(w), GRACE_OK);
    assert_int_equal(grace_trace_open(in(folder, "empty"), &t, &truncated), GRACE_OK);
    assert_false(truncated);
    assert_int_equal(grace_trace_n_tokens(t) + grace_trace_n_sequences(t) + grace_trace_n_segments(t) + grace_trace_n_domains(t), 0);
    grace_trace_close(t);
    scratch_free(folder);
}

/* It holds what people asked the model. */
static void a_recording_is_as_private_as_the_umask_says(void **state) {
    (void)state;
    char *folder = scratch_new();
    struct stat info;
    grace_trace_writer *w = NULL;
    const mode_t before = umask(077);
    assert_int_equal(grace_trace_create(in(folder, "t"), &tiny, NULL, 0, &w), GRACE_OK);
    assert_int_equal(grace_trace_finish(w), GRACE_OK);
    umask(before);
    assert_int_equal(stat(in(folder, "t"), &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    scratch_free(folder);
}

static void path_is_untouched_until_finish_and_after_abandon(void **state) {
    (void)state;
    char *folder = scratch_new();
    const char *path = in(folder, "kept");
    assert_int_equal(gr_file_replace(path, "old", 3), GRACE_OK);
    grace_trace_writer *w = start(path, &tiny);
    assert_int_equal(scratch_count(folder), 2);
    assert_int_equal(grace_trace_append(w, (grace_trace_segment){0, 0, 1, 0, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token}), GRACE_OK);
    grace_trace_abandon(w);
    size_t n = 0;
    unsigned char *bytes = read_bytes(path, &n);
    assert_int_equal(n, 3);
    assert_memory_equal(bytes, "old", 3);
    free(bytes);
    assert_int_equal(scratch_count(folder), 1);
    w = start(path, &tiny);
    assert_int_equal(grace_trace_finish(w), GRACE_OK);
    assert_int_equal(scratch_count(folder), 1);
    grace_trace *t = NULL;
    assert_int_equal(grace_trace_open(path, &t, NULL), GRACE_OK);
    grace_trace_close(t);
    grace_trace_abandon(NULL);
    scratch_free(folder);
}

/* The one file of the folder. */
static void only_file(const char *folder, char *path, size_t size) {
    DIR *dir = opendir(folder);
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.') snprintf(path, size, "%s/%s", folder, e->d_name);
    closedir(dir);
}

static void a_process_that_dies_leaves_its_whole_blocks(void **state) {
    (void)state;
    enum { N = 65536 + 9 };
    char *folder = scratch_new(), path[1024] = "";
    uint16_t *experts = calloc(N * 4, sizeof *experts);
    for (int i = 0; i < N; i++) memcpy(experts + 4 * i, one_token, sizeof one_token);
    pid_t child = fork();
    if (child == 0) {
        grace_trace_writer *w = NULL;
        grace_trace_create(in(folder, "crash"), &tiny, NULL, 0, &w);
        grace_trace_add_sequence(w, (grace_trace_sequence){.id = 9, .domain = -1});
        grace_trace_append(w, (grace_trace_segment){0, 0, N, 0, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = experts});
        kill(getpid(), SIGKILL);
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how));
    only_file(folder, path, sizeof path);
    assert_int_equal(strcmp(path + strlen(path) - 8, ".partial"), 0);
    grace_trace *t = NULL;
    bool truncated = false;
    assert_int_equal(grace_trace_open(path, &t, &truncated), GRACE_OK);
    assert_true(truncated);
    assert_int_equal(grace_trace_n_tokens(t), 65536);
    assert_memory_equal(grace_trace_experts(t), experts, 65536 * 4 * sizeof *experts);
    grace_trace_close(t);
    free(experts);
    scratch_free(folder);
}

/* A file-size limit plays the full disk. */
static void a_write_that_fails_is_told_and_leaves_no_file(void **state) {
    (void)state;
    enum { N = 65536 };
    char *folder = scratch_new();
    uint16_t *experts = calloc(N * 4, sizeof *experts);
    gr_rng rng = gr_rng_seed(2);
    for (int i = 0; i < 2 * N; i++) random_choice(&rng, experts + 2 * i, 2, 8);
    grace_trace_writer *w = start(in(folder, "full"), &tiny);
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = (struct rlimit){4096, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    grace_status st = grace_trace_append(w, (grace_trace_segment){0, 0, N, 0, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = experts});
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(st, GRACE_ERR_IO);
    assert_int_equal(grace_trace_append(w, (grace_trace_segment){0, N, 1, 0, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token}), GRACE_ERR_IO);
    assert_int_equal(grace_trace_add_sequence(w, (grace_trace_sequence){.domain = -1}), GRACE_ERR_IO);
    assert_int_equal(grace_trace_finish(w), GRACE_ERR_IO);
    assert_non_null(strstr(grace_last_error(), "an earlier write failed"));
    assert_int_equal(scratch_count(folder), 0);
    free(experts);
    scratch_free(folder);
}

static void expect_refused(grace_trace_writer *w, grace_trace_segment seg, grace_trace_tokens tokens, const char *part) {
    assert_int_equal(grace_trace_append(w, seg, tokens), GRACE_ERR_ARG);
    if (!strstr(grace_last_error(), part)) fail_msg("'%s' is not in '%s'", part, grace_last_error());
}

static void append_refuses_what_no_gate_chooses_and_goes_on(void **state) {
    (void)state;
    static const uint16_t twice[] = {0, 1, 7, 3, 0, 1, 5, 5}, outside[] = {0, 1, 7, 3, 0, 8, 5, 4};
    char *folder = scratch_new();
    grace_trace_writer *w = start(in(folder, "good"), &tiny);
    assert_int_equal(grace_trace_append(w, (grace_trace_segment){0, 0, 1, 4, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token}), GRACE_OK);
    expect_refused(w, (grace_trace_segment){0, 1, 2, 4, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = twice},
                   "token 2, layer 1: expert 5 is chosen twice");
    expect_refused(w, (grace_trace_segment){0, 1, 2, 4, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = outside},
                   "token 2, layer 0: expected experts 0 to 7, found 8");
    expect_refused(w, (grace_trace_segment){1, 1, 1, 4, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token},
                   "refers to sequence 1, the trace has 1 so far");
    expect_refused(w, (grace_trace_segment){-1, 1, 1, 4, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token}, "refers to sequence -1");
    expect_refused(w, (grace_trace_segment){0, 1, 1, 3, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token}, "expected 4 or later, found 3");
    expect_refused(w, (grace_trace_segment){0, -1, 1, 4, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token}, "position -1");
    expect_refused(w, (grace_trace_segment){0, INT32_MAX, 1, 4, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token}, "position 2147483647");
    expect_refused(w, (grace_trace_segment){0, 1, -1, 4, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token},
                   "expected at least 1 token, found -1");
    expect_refused(w, (grace_trace_segment){0, 1, 1, 4, GRACE_N_PHASES}, (grace_trace_tokens){.experts = one_token}, "expected phase 0 to 2, found 3");
    assert_int_equal(grace_trace_append(w, (grace_trace_segment){0, 1, 0, 4, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = NULL}), GRACE_OK);
    assert_int_equal(grace_trace_add_sequence(w, (grace_trace_sequence){.home = 4, .domain = -1}), GRACE_ERR_ARG);
    assert_int_equal(grace_trace_add_sequence(w, (grace_trace_sequence){.home = 0, .domain = 0}), GRACE_ERR_ARG);
    assert_int_equal(grace_trace_append(w, (grace_trace_segment){0, 1, 1, 5, GRACE_PHASE_UNKNOWN}, (grace_trace_tokens){.experts = one_token}), GRACE_OK);
    assert_int_equal(grace_trace_finish(w), GRACE_OK);
    grace_trace *t = NULL;
    assert_int_equal(grace_trace_open(in(folder, "good"), &t, NULL), GRACE_OK);
    assert_int_equal(grace_trace_n_tokens(t), 2);
    assert_int_equal(grace_trace_n_segments(t), 2);     /* two steps: not joined */
    assert_int_equal(grace_trace_n_sequences(t), 1);
    grace_trace_close(t);
    scratch_free(folder);
}

/* What a trace keeps beside experts is settled by its header; a byte keeps 0 to 1, a half what it can. */
static void ids_and_weights_are_as_the_header_says_or_refused(void **state) {
    (void)state;
    static const int32_t good[] = {9}, bad[] = {10};
    static const float byte[] = {0, 1, 0.3f, 0.5f}, above[] = {0, 1, 1.01f, 0.5f}, wild[] = {0, 1, 2, INFINITY}, nan[] = {0, NAN, 2, 1};
    const grace_trace_segment seg = {.n_tokens = 1};
    char *folder = scratch_new();
    grace_trace_info info = tiny;
    info.vocab = 10, info.weights = GRACE_WEIGHTS_U8;
    grace_trace_writer *w = start(in(folder, "u8"), &info);
    expect_refused(w, seg, (grace_trace_tokens){one_token, NULL, byte}, "expected token ids");
    expect_refused(w, seg, (grace_trace_tokens){one_token, good, NULL}, "expected gate weights");
    expect_refused(w, seg, (grace_trace_tokens){one_token, bad, byte}, "token 0: expected an id from 0 to 9, found 10");
    expect_refused(w, seg, (grace_trace_tokens){one_token, good, above}, "token 0, layer 1: expected a weight from 0 to 1, found 1.01");
    assert_int_equal(grace_trace_append(w, seg, (grace_trace_tokens){one_token, good, byte}), GRACE_OK);
    assert_int_equal(grace_trace_finish(w), GRACE_OK);
    grace_trace *t = NULL;
    assert_int_equal(grace_trace_open(in(folder, "u8"), &t, NULL), GRACE_OK);
    for (int i = 0; i < 4; i++) assert_true(fabsf(grace_trace_gate_weights(t)[i] - byte[i]) <= 0.5f / 255 + 1e-7f);
    grace_trace_close(t);
    info.vocab = 0, info.weights = GRACE_WEIGHTS_F16;
    w = start(in(folder, "f16"), &info);
    expect_refused(w, seg, (grace_trace_tokens){one_token, good, byte}, "expected no token ids");
    expect_refused(w, seg, (grace_trace_tokens){one_token, NULL, wild}, "token 0, layer 1: expected a weight from -65504 to 65504, found inf");
    expect_refused(w, seg, (grace_trace_tokens){one_token, NULL, nan}, "token 0, layer 0: expected a weight");
    grace_trace_abandon(w);
    scratch_free(folder);
}

static void expect_no_writer(const char *path, grace_trace_info info, const char *domain, grace_status expected) {
    grace_trace_writer *w = NULL;
    assert_int_equal(grace_trace_create(path, &info, &domain, domain != NULL, &w), expected);
    assert_null(w);
}

static void create_refuses_impossible_sizes_names_and_places(void **state) {
    (void)state;
    char *folder = scratch_new();
    const char *path = in(folder, "no");
    grace_trace_info info = tiny;
    expect_no_writer(path, (info.n_layers = 0, info), NULL, GRACE_ERR_ARG);
    expect_no_writer(path, (info = tiny, info.top_k = 9, info), NULL, GRACE_ERR_ARG);
    expect_no_writer(path, (info = tiny, info.n_experts = 65537, info), NULL, GRACE_ERR_ARG);
    expect_no_writer(path, (info = tiny, info.n_nodes = 5, info), NULL, GRACE_ERR_ARG);
    expect_no_writer(path, (info = tiny, info.vocab = -1, info), NULL, GRACE_ERR_ARG);
    expect_no_writer(path, (info = tiny, info.weights = GRACE_N_WEIGHTS, info), NULL, GRACE_ERR_ARG);
    expect_no_writer(path, (info = tiny, memset(info.model, 'a', sizeof info.model), info), NULL, GRACE_ERR_ARG);
    expect_no_writer(path, (info = tiny, memcpy(info.model, "\xff", 2), info), NULL, GRACE_ERR_ARG);
    expect_no_writer(path, tiny, "\xc3", GRACE_ERR_ARG);
    expect_no_writer(folder, tiny, NULL, GRACE_ERR_ARG);
    expect_no_writer(in(folder, "missing/file"), tiny, NULL, GRACE_ERR_IO);
    assert_int_equal(scratch_count(folder), 0);
    scratch_free(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(a_segment_over_several_blocks_comes_back_as_one),
        cmocka_unit_test(many_sequences_survive_the_block_of_sequences),
        cmocka_unit_test(an_empty_recording_is_a_valid_trace),
        cmocka_unit_test(a_recording_is_as_private_as_the_umask_says),
        cmocka_unit_test(path_is_untouched_until_finish_and_after_abandon),
        cmocka_unit_test(a_process_that_dies_leaves_its_whole_blocks),
        cmocka_unit_test(a_write_that_fails_is_told_and_leaves_no_file),
        cmocka_unit_test(append_refuses_what_no_gate_chooses_and_goes_on),
        cmocka_unit_test(ids_and_weights_are_as_the_header_says_or_refused),
        cmocka_unit_test(create_refuses_impossible_sizes_names_and_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
