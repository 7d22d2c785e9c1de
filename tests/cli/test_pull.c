/* grace pull against a hub that misbehaves: what a user sees, and what lies in the folder. The hub is a thread of this test. */
#include "program.h"

#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include "fetch/hub.h"

#define PULL "pull", "m/x", "--revision", "v/1", "--endpoint", hub.url
#define BIG "x/sub dir/big.safetensors"

static int enter(void **state) {
    unsetenv("HF_TOKEN");
    return folder_enter(state) || hub_start(state);
}

static int leave(void **state) { return hub_end(state) || folder_leave(state); }

static int begin(void **state) {
    (void)state;
    hub.how = WELL;
    hub.siblings = NULL;
    hub.n_listings = hub.n_files = hub.n_ranges = 0;
    return system("rm -rf x");
}

static void big_is_whole(void) {
    size_t n;
    char *text = read_file(BIG, &n);
    assert_int_equal(n, BIG_BYTES);
    assert_memory_equal(text, hub.big, BIG_BYTES);
    free(text);
    assert_int_equal(access(BIG ".partial", F_OK), -1);
}

static double pulled(const char *key) {
    gr_json *o = printed_json();
    double value = number_of(o, key);
    gr_json_free(o);
    return value;
}

static void a_repository_arrives_and_is_kept(void **state) {
    (void)state;
    hub.how = CUT;
    GRACE(0, PULL, "--json");
    says("pytorch_model.bin: pickled, refused");
    assert_true(pulled("files") == 2 && pulled("files_kept") == 0 && pulled("files_refused") == 1);
    assert_true(pulled("bytes_downloaded") == (double)(BIG_BYTES + strlen(hub_config)));
    big_is_whole();
    GRACE(0, PULL);
    assert_string_equal(last.out, "x: 2 files of m/x at " COMMIT " (2 were there), 0.0 MB downloaded\n");
}

static off_t size_of(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 ? info.st_size : 0;
}

static void an_interrupted_pull_goes_on(void **state) {
    (void)state;
    hub.how = STALL;
    pid_t pid = start(WORDS(GRACE_PROGRAM, PULL));
    for (int i = 0; size_of(BIG ".partial") < 100000 && i < 4000; i++) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    kill(pid, SIGINT);
    finish(pid, 128 + SIGINT);
    assert_int_equal(access(BIG, F_OK), -1);                /* no name before it is whole */
    assert_int_equal(size_of(BIG ".partial"), 100000);
    hub.how = WELL;
    GRACE(0, PULL, "--json");
    assert_true(pulled("bytes_downloaded") == BIG_BYTES - 100000 && pulled("files_kept") == 1);
    assert_int_equal(hub.n_ranges, 1);
    big_is_whole();
}

static void a_hostile_name_stops_it(void **state) {
    (void)state;
    hub.siblings = "[{\"rfilename\": \"../escaped\", \"size\": 2, \"blobId\": \"" COMMIT "\"}]";
    GRACE(1, PULL);
    complains("m/x: '../escaped': a file name that leaves its folder");
    hub.siblings = "[{\"rfilename\": \"a\\u001b[2Jb\", \"size\": 2, \"blobId\": \"" COMMIT "\"}]";
    GRACE(1, PULL);
    says("a file name with a character that is refused");
    assert_null(strchr(last.err, 0x1b));                    /* nor does it reach the terminal */
    assert_true(n_files("escaped") + n_files("x/*") == 0 && hub.n_files == 0);
}

static void a_closed_repository_needs_the_token(void **state) {
    (void)state;
    hub.how = CLOSED;
    GRACE(1, PULL);
    complains("m/x: the server says 401: it needs a token in HF_TOKEN");
    setenv("HF_TOKEN", "secret", 1);
    GRACE(0, PULL, "-o", "named");
    unsetenv("HF_TOKEN");
    assert_int_equal(n_files("named/*"), 2);
}

static void patterns_leave_files_out(void **state) {
    (void)state;
    GRACE(0, PULL, "--include", "*.json", "--include", "*.bin", "--exclude", "py*", "--json");
    assert_true(pulled("files") == 1 && pulled("files_left_out") == 2 && pulled("files_refused") == 0);
    assert_int_equal(n_files("x/*"), 1);
    GRACE(1, PULL, "--include", "nothing*");
    complains("m/x: none of its 3 files has a name that is wanted");
}

static void what_cannot_be_asked_for_is_refused(void **state) {
    (void)state;
    GRACE(64, "pull");
    complains_of_usage("expected ORG/NAME");
    GRACE(1, "pull", "nothing", "--endpoint", hub.url);
    complains("'nothing': expected ORG/NAME");
    GRACE(1, "pull", "m/y", "--endpoint", hub.url);
    complains("m/y: the server says 404: there is no such repository, revision or file");
    assert_int_equal(hub.n_listings, 0);
}

#define PULLED(test) cmocka_unit_test_setup(test, begin)

int main(void) {
    const struct CMUnitTest tests[] = {
        PULLED(a_repository_arrives_and_is_kept), PULLED(an_interrupted_pull_goes_on),
        PULLED(a_hostile_name_stops_it),          PULLED(a_closed_repository_needs_the_token),
        PULLED(patterns_leave_files_out),         PULLED(what_cannot_be_asked_for_is_refused),
    };
    return cmocka_run_group_tests(tests, enter, leave);
}
