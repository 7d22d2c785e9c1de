/* Jobs of several ranks that cannot go on: they end within seconds, with a failure, the reason once, and nothing left behind. */
#include "program.h"

#include <errno.h>
#include <glob.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum { SOON_S = 60 };                   /* on a machine busy with other tests; by itself it takes one or two seconds */
enum { BLOCK_BYTES_MOST = 1250000 };     /* of a recording: a mebibyte of choices, places of its tokens, what compression may add */

static void wait_until(bool (*ready)(void)) {
    for (int i = 0; i < 6000 && !ready(); i++) nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_true(ready());
}

static bool nobody_left(void) { return n_running(NULL, NULL) == 0; }

static void ended_soon_for(const char *reason) {
    if (count(last.err, reason) != 1) fail_msg("expected '%s' once in:\n%s", reason, last.err);
    if (strstr(last.err, "--------")) fail_msg("mpirun printed a banner:\n%s", last.err);
    assert_string_equal(last.out, "");
    assert_true(last.seconds < SOON_S);
    assert_int_equal(n_running(NULL, NULL), 0);         /* also what mpirun did not wait for */
}

static void a_plan_for_more_ranks_is_refused_once(void **state) {
    (void)state;
    GRACE(0, "plan", PROFILED, "--cluster", "2x2", "-o", "plan.json");
    GRACE(1, "run", "-m", MODEL, "-p", "hello", "-n", "2", "--ranks", "1x2", "--plan", "plan.json", "--json");
    ended_soon_for("plan is for cluster node:2 gpu:2, this run has node:1 gpu:2");
    complains("grace: ");
}

static void a_model_that_is_not_there_is_reported_once(void **state) {
    (void)state;
    GRACE(1, "run", "-m", "nothing", "-p", "hello", "--ranks", "2x2");
    ended_soon_for("nothing/config.json: No such file or directory");
    complains("grace: ");
}

static void a_ladder_of_another_models_trace_is_refused_once(void **state) {
    (void)state;
    assert_int_equal(mkdir("half", 0777), 0);
    assert_int_equal(symlink(PROFILED "/topk.u8", "half/topk.u8"), 0);
    write_text("half/meta.json", "{\"model\": \"half\", \"layers\": 4, \"moe_layers\": [0, 1, 2, 3], \"experts\": 64, \"top_k\": 8,"
                                 " \"tokens\": 40960, \"sequence_length\": 512}");
    GRACE(1, "bench", "ladder", "-m", MODEL, "--trace", "half", SAMPLES "/prose.txt", "--sequences", "4", "--prefill", "8", "--decode", "1",
          "--ranks", "1x2", "-o", "never.json");
    ended_soon_for("plan is for 4 MoE layers of 64 experts, top-8; the model has 8 of 64, top-8");
    complains("grace: ");
    assert_int_equal(n_files("never.json*"), 0);
}

/* Three ranks are well and wait; the fourth is in another folder. */
static void one_rank_that_fails_to_load_ends_the_job(void **state) {
    (void)state;
    ends_with(1, WORDS(GRACE_MPIRUN, "-q", "-np", "3", GRACE_PROGRAM, "run", "-m", MODEL, "-p", "hello", "--nodes", "2",
                       ":", "-np", "1", GRACE_PROGRAM, "run", "-m", "nothing", "-p", "hello", "--nodes", "2"));
    wait_until(nobody_left);                            /* mpirun by hand may end before a rank is gone */
    ended_soon_for("rank 3: nothing/config.json: No such file or directory");
    complains("grace: ");
}

static void a_request_that_no_rank_can_run_is_reported_once(void **state) {
    (void)state;
    GRACE(1, "run", "-m", MODEL, "-p", "hello", "-n", "5000", "--ranks", "1x2", "--trace", "never.trace");
    ended_soon_for("to generate: the model's context is 2048");
    complains("grace: ");
    assert_int_equal(n_files("never.trace*"), 0);
}

static void homes_that_change_are_not_recorded(void **state) {
    (void)state;
    GRACE(1, "run", "-m", MODEL, "-p", "hello", "-n", "2", "--ranks", "1x2", "--homes", "histogram", "--trace", "moving.trace");
    ended_soon_for("a trace keeps one home for a sequence: routing is recorded with homes round-robin or vocab, not with histogram");
    assert_int_equal(n_files("moving.trace*"), 0);
}

static void a_nan_on_one_rank_ends_the_job(void **state) {
    (void)state;
    model_link();
    model_poke("model-00001-of-00003.safetensors", "model.layers.0.mlp.gate.weight", (const uint16_t[]){0x7FC0}, 2);
    GRACE(1, "run", "-m", "m", "-p", "hello", "-n", "2", "--ranks", "2x2", "--trace", "nan.trace");      /* one request: rank 0's */
    ended_soon_for("grace: rank 0: layer 0: router logit of row 0, expert 0 is nan, expected a finite number");
    assert_int_equal(n_files("nan.trace"), 0);
}

/* In a folder bin, for the PATH of who starts grace. */
static void put_mpirun(const char *script) {
    assert_true(mkdir("bin", 0777) == 0 || errno == EEXIST);
    write_text("bin/mpirun", script);
    assert_int_equal(chmod("bin/mpirun", 0777), 0);
}

#define HASTY "#!/bin/sh\nsleep 1 &\nexit 1\n"       /* its rank needs a second to go; it does not wait for it */

static void what_mpirun_leaves_is_waited_for(void **state) {
    (void)state;
    put_mpirun(HASTY);
    SHELL(1, "PATH=$PWD/bin:$PATH exec $G run -m $M -p hello -n 2 --ranks 2x2");
    assert_int_equal(n_running(NULL, NULL), 0);
}

/* `sleep` stands for what a script started before it became grace. */
static void children_of_before_are_nobodys_to_end(void **state) {
    (void)state;
    put_mpirun(HASTY);
    SHELL(1, "sleep 600 & echo $! >before; PATH=$PWD/bin:$PATH exec $G run -m $M -p hello -n 2 --ranks 2x2");
    SHELL(0, "kill $(cat before)");                     /* it is still there */
    wait_until(nobody_left);
}

/* mpirun gives a rank that it ends one second to say where it was and to remove its recording; here it may have less of that second than it needs. */
static int patient(void **state) {
    (void)state;
    return setenv("OMPI_MCA_odls_base_sigkill_timeout", "4", 1);
}

static int patient_no_more(void **state) {
    (void)state;
    return unsetenv("OMPI_MCA_odls_base_sigkill_timeout");
}

static bool recording(void) { return n_files("long.trace.*") > 0; }
/* All of one: what lies behind the most bytes that one can have is of the next. */
static bool a_block_is_there(void) {
    glob_t found;
    struct stat info;
    const bool there = glob("big.trace.*", 0, NULL, &found) == 0 && stat(found.gl_pathv[0], &info) == 0 && info.st_size > BLOCK_BYTES_MOST;
    globfree(&found);
    return there;
}

/* In the middle of 2000 tokens, which take several seconds at least. */
static void a_killed_rank_ends_the_job(void **state) {
    (void)state;
    pid_t victim = 0, job = start(WORDS(GRACE_PROGRAM, "run", "-m", MODEL, "-p", "hello", "-n", "2000", "--ignore-eos", "--ranks", "2x2", "--json",
                                        "--trace", "long.trace"));
    wait_until(recording);
    assert_int_equal(n_running("OMPI_COMM_WORLD_RANK=2", &victim), 1);
    assert_int_equal(kill(victim, SIGSTOP), 0);          /* so that the others come to wait for it, also on a busy machine */
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    double killed_us = gr_now_us();
    assert_int_equal(kill(victim, SIGKILL), 0);
    finish(job, 128 + SIGKILL);
    assert_true(gr_now_us() - killed_us < SOON_S * 1e6);
    ended_soon_for("grace: a rank was killed by signal 9 (Killed); the job was ended");
    says("waiting for rank 2");
    assert_int_equal(n_files("long.trace*"), 0);        /* no block was whole */
}

/* As where memory runs out. Its ranks notice and end, or are ended. */
static void a_killed_mpirun_ends_the_job(void **state) {
    (void)state;
    put_mpirun("#!/bin/sh\necho $$ >bin/pid\nexec " GRACE_MPIRUN " \"$@\"\n");
    pid_t job = start(WORDS("sh", "-c", "TMPDIR=$PWD/bin OMPI_MCA_btl=self,tcp PATH=$PWD/bin:$PATH "     /* what it cannot remove stays here */
                            "exec $G run -m $M -p hello -n 2000 --ignore-eos --ranks 1x2 --trace long.trace"));
    wait_until(recording);
    char *mpirun = read_file("bin/pid", &(size_t){0});
    assert_int_equal(kill((pid_t)atoi(mpirun), SIGKILL), 0);
    free(mpirun);
    finish(job, 128 + SIGKILL);
    assert_int_equal(n_running(NULL, NULL), 0);
    says("grace: mpirun was killed by signal 9 (Killed); the job was ended");
    SHELL(0, "rm -f long.trace.*");
}

/* Alive, and never answers. */
static void a_stopped_rank_is_named_after_the_deadline(void **state) {
    (void)state;
    pid_t victim = 0, job = start(WORDS(GRACE_PROGRAM, "run", "-m", MODEL, "-p", "hello", "-n", "2000", "--ignore-eos", "--ranks", "1x2", "--json",
                                        "--deadline", "4", "--trace", "long.trace"));
    wait_until(recording);
    assert_int_equal(n_running("OMPI_COMM_WORLD_RANK=1", &victim), 1);
    assert_int_equal(kill(victim, SIGSTOP), 0);
    finish(job, 1);
    ended_soon_for("grace: rank 0: ");          /* "dispatch of layer 5: 3 rows from rank 1 missing after 4 s", wherever it was */
    assert_int_equal(count(last.err, "rank 0: "), 1);
    says(" rank 1 ");
    says(" after 4 s");
    assert_int_equal(n_files("long.trace*"), 0);
}

static void an_interrupted_job_ends_with_all_its_ranks(void **state) {
    (void)state;
    pid_t job = start(WORDS(GRACE_PROGRAM, "run", "-m", MODEL, "-p", "hello", "-n", "2000", "--ignore-eos", "--ranks", "1x2", "--json", "--trace",
                            "long.trace"));
    wait_until(recording);
    assert_int_equal(kill(job, SIGTERM), 0);
    finish(job, ANY_FAILURE);            /* 143, or what mpirun makes of it */
    assert_int_equal(n_running(NULL, NULL), 0);
    assert_string_equal(last.out, "");
    assert_int_equal(n_files("long.trace*"), 0);        /* what rank 0 says of it may be lost in mpirun's end */
}

static void an_interrupted_recording_of_nothing_leaves_nothing(void **state) {
    (void)state;
    pid_t job = start(WORDS(GRACE_PROGRAM, "run", "-m", MODEL, "-p", "hello", "-n", "2000", "--ignore-eos", "--trace", "long.trace"));
    wait_until(recording);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    assert_int_equal(kill(job, SIGTERM), 0);
    finish(job, 128 + SIGTERM);
    assert_string_equal(last.err, "grace: interrupted before a block was recorded, no trace is left\n");
    assert_int_equal(n_files("long.trace*"), 0);
}

/* As timeout(1) does: to the program, and to its whole group. mpirun would take two signals as impatience, and leave its session and shared memory. */
static void two_signals_at_once_are_one(void **state) {
    (void)state;
    SHELL(0, "mkdir session");
    pid_t job = start(WORDS("sh", "-c",
                            "TMPDIR=$PWD/session exec timeout -s INT 600 $G run -m $M -p hello -n 2000 --ignore-eos --ranks 1x2 --trace long.trace"));
    wait_until(recording);
    assert_int_equal(kill(job, SIGINT), 0);
    finish(job, ANY_FAILURE);
    assert_int_equal(n_running(NULL, NULL), 0);
    assert_int_equal(n_files("long.trace*"), 0);
    SHELL(0, "ls -A session && rmdir session");
}

/* A block is written when a mebibyte of choices is there: after 4096 tokens of this network, which would go on for 400000. */
static void an_interrupted_recording_is_named(void **state) {
    (void)state;
    assert_int_equal(mkdir("many", 0777), 0);
    write_text("many/config.json", "{\"model_type\": \"olmoe\", \"hidden_size\": 16, \"intermediate_size\": 8, \"num_attention_heads\": 2, "
                                   "\"num_experts\": 32, \"num_experts_per_tok\": 16, \"num_hidden_layers\": 16, \"vocab_size\": 64, "
                                   "\"max_position_embeddings\": 256, \"rms_norm_eps\": 1e-5}");
    pid_t job = start(WORDS(GRACE_PROGRAM, "run", "-m", "many", "--random-weights", "1", "--prompt-tokens", "200", "--requests", "2000", "-n", "0", "--trace",
                            "big.trace"));
    wait_until(a_block_is_there);
    assert_int_equal(kill(job, SIGINT), 0);
    finish(job, 128 + SIGINT);
    assert_int_equal(n_files("big.trace"), 0);
    says("grace: interrupted; recorded so far, up to the last whole block: big.trace.");
    SHELL(0, "$G inspect --json big.trace.*.partial && rm big.trace.*");
    gr_json *o = printed_json();
    assert_true(number_of(o, "tokens") > 0);
    gr_json_free(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_for_more_ranks_is_refused_once),
        cmocka_unit_test(a_model_that_is_not_there_is_reported_once),
        cmocka_unit_test(a_ladder_of_another_models_trace_is_refused_once),
        cmocka_unit_test(one_rank_that_fails_to_load_ends_the_job),
        cmocka_unit_test(a_request_that_no_rank_can_run_is_reported_once),
        cmocka_unit_test(homes_that_change_are_not_recorded),
        cmocka_unit_test(a_nan_on_one_rank_ends_the_job),
        cmocka_unit_test(what_mpirun_leaves_is_waited_for),
        cmocka_unit_test(children_of_before_are_nobodys_to_end),
        cmocka_unit_test_setup_teardown(a_killed_rank_ends_the_job, patient, patient_no_more),
        cmocka_unit_test(a_killed_mpirun_ends_the_job),
        cmocka_unit_test_setup_teardown(a_stopped_rank_is_named_after_the_deadline, patient, patient_no_more),
        cmocka_unit_test_setup_teardown(an_interrupted_job_ends_with_all_its_ranks, patient, patient_no_more),
        cmocka_unit_test_setup_teardown(two_signals_at_once_are_one, patient, patient_no_more),
        cmocka_unit_test(an_interrupted_recording_of_nothing_leaves_nothing),
        cmocka_unit_test(an_interrupted_recording_is_named),
    };
    return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
