/* In exact mode no number of ranks, cut into nodes, exchange, policy or plan changes a bit; in fast mode text and counts hold. */
#include "program.h"

#include <unistd.h>

static char hash_alone[32];

static int write_prompts(void **state) {
    if (folder_enter(state)) return -1;
    write_text("prompts.txt",
               "{\"prompt\": \"The old captain walked slowly along the shore\", \"n\": 4}\n"
               "{\"prompt\": \"Q: Solve 4*u - 22 = 38 for u.\\nA:\", \"n\": 5, \"temperature\": 0.8, \"seed\": 11}\n"
               "{\"prompt\": \"def read_lines(path):\\n\", \"n\": 3}\n");      /* three requests: with four ranks one has none */
    GRACE(0, "run", "-m", MODEL, "--prompts", "prompts.txt", "--exact", "--json");
    gr_json *o = printed_json();
    snprintf(hash_alone, sizeof hash_alone, "%s", text_of(o, "logits_hash"));
    gr_json_free(o);
    GRACE(0, "plan", PROFILED, "--cluster", "2x2", "-o", "plan.json");
    return 0;
}

/* Runs the same requests over ranks; the result's counters, owned by *o. */
static const gr_json *same_bits_over(gr_json **o, const char *const *words) {
    ends_with(0, words);
    assert_string_equal(last.err, "");
    *o = printed_json();
    assert_string_equal(text_of(*o, "logits_hash"), hash_alone);
    return member(*o, "stats");
}
#define SAME_BITS_OVER(o, ...)                                                                                                                  \
    same_bits_over(o, WORDS(GRACE_PROGRAM, "run", "-m", MODEL, "--prompts", "prompts.txt", "--exact", "--json", __VA_ARGS__))

static void on_two_nodes_with_a_plan_by_hsc_and_tar(void **state) {
    (void)state;
    gr_json *o;
    const gr_json *stats = SAME_BITS_OVER(&o, "--ranks", "2x2", "--plan", "plan.json");
    assert_string_equal(text_of(o, "exchange"), "hsc");
    assert_string_equal(text_of(o, "route"), "tar");
    assert_true(number_of(stats, "ranks") == 4 && number_of(stats, "nodes") == 2);
    assert_true(number_of(stats, "rows_cross_node") > 0 && number_of(stats, "rows_intra_node") > 0);
    assert_true(number_of(stats, "load_max_over_mean") > 1);
    assert_true(number_of(stats, "bytes_cross_node") == 192 * 4 * number_of(stats, "rows_cross_node"));     /* hidden floats a row */
    gr_json_free(o);
}

static void on_two_nodes_with_a_plan_by_flat_and_wrr(void **state) {
    (void)state;
    gr_json *o;
    const gr_json *stats = SAME_BITS_OVER(&o, "--ranks=2x2", "--plan=plan.json", "--exchange=flat", "--route=wrr");
    assert_true(number_of(stats, "rows_cross_node") > 0);
    gr_json_free(o);
}

/* Two network namespaces joined at 100 Mbit/s: root, and a machine that lets us make them. */
static void over_a_real_slow_link(void **state) {
    (void)state;
    if (geteuid() != 0 || system(GRACE_SOURCE_DIR "/tools/wire.sh up --rate 100mbit cli$$ >/dev/null 2>&1; s=$?; "
                                 GRACE_SOURCE_DIR "/tools/wire.sh down cli$$ >/dev/null 2>&1; exit $s") != 0) {
        puts("skipped: no network namespaces here");
        skip();
    }
    GRACE(0, "run", "-m", MODEL, "--prompts", "prompts.txt", "--exact", "--json", "--ranks", "2x2", "--wire", "100mbit", "--plan", "plan.json");
    gr_json *o = printed_json();
    assert_string_equal(text_of(o, "logits_hash"), hash_alone);
    assert_true(number_of(member(o, "stats"), "nodes") == 2);
    gr_json_free(o);
}

static void on_two_nodes_without_a_plan_by_plain_expert_parallelism(void **state) {
    (void)state;
    gr_json *o;
    SAME_BITS_OVER(&o, "--ranks", "2x2", "--exchange", "per-expert", "--route", "primary");
    gr_json_free(o);
}

static void on_one_node_nothing_crosses(void **state) {
    (void)state;
    static const char *const shapes[] = {"1x2", "4"};
    for (size_t i = 0; i < 2; i++) {
        gr_json *o;
        const gr_json *stats = SAME_BITS_OVER(&o, "--ranks", shapes[i]);
        assert_true(number_of(stats, "nodes") == 1);
        assert_true(number_of(stats, "rows_cross_node") == 0 && number_of(stats, "rows_intra_node") > 0);
        gr_json_free(o);
    }
}

/* mpirun by hand, and a stream: what arrives on stdout is the text and nothing else. */
static void under_mpirun_in_fast_mode_the_text_is_the_same(void **state) {
    (void)state;
    GRACE(0, "run", "-m", MODEL, "-p", "The old captain walked slowly along the shore, thinking of", "-n", "8");
    char *alone = strdup(last.out);
    ends_with(0, WORDS(GRACE_MPIRUN, "-np", "2", GRACE_PROGRAM, "run", "-m", MODEL, "--nodes", "2", "-n", "8", "-p",
                       "The old captain walked slowly along the shore, thinking of"));
    assert_string_equal(last.out, alone);
    free(alone);
}

static void hash_of_run(char out[32], const char *const *words) {
    ends_with(0, words);
    assert_string_equal(last.err, "");
    gr_json *o = printed_json();
    snprintf(out, 32, "%s", text_of(o, "logits_hash"));
    gr_json_free(o);
}
#define HASH_OF_RUN(out, ...) hash_of_run(out, WORDS(__VA_ARGS__, GRACE_PROGRAM, "run", "-m", MODEL, "--prompts", "prompts.txt", "--json", "--nodes", "2"))

/* Without mpirun: also the order in which partial sums meet is the transport's business no more than the plan's. */
static void over_tcp_fast_mode_has_the_bits_it_has_over_mpi(void **state) {
    (void)state;
    static const char *const n_ranks[] = {"2", "4"};
    for (size_t i = 0; i < 2; i++) {
        char mpi[32], tcp[32];
        HASH_OF_RUN(mpi, GRACE_MPIRUN, "-np", n_ranks[i]);
        HASH_OF_RUN(tcp, GRACE_SPAWN, n_ranks[i]);
        assert_string_equal(tcp, mpi);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_two_nodes_with_a_plan_by_hsc_and_tar),
        cmocka_unit_test(on_two_nodes_with_a_plan_by_flat_and_wrr),
        cmocka_unit_test(over_a_real_slow_link),
        cmocka_unit_test(on_two_nodes_without_a_plan_by_plain_expert_parallelism),
        cmocka_unit_test(on_one_node_nothing_crosses),
        cmocka_unit_test(under_mpirun_in_fast_mode_the_text_is_the_same),
        cmocka_unit_test(over_tcp_fast_mode_has_the_bits_it_has_over_mpi),
    };
    return cmocka_run_group_tests(tests, write_prompts, folder_leave);
}
