/* grace pull (fetch/pull.c, fetch/http.c, fetch/place.c) against a hub that misbehaves: what is in the folder at the end is right, or there is one
 * sentence and nothing under a file's name. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/file.h"
#include "fetch/hub.h"
#include "fetch/pull.h"

#define BIG "sub dir/big.safetensors"

static char folder[] = "/tmp/test_pull.XXXXXX";
static char notes[4096];

static void keep_note(void *user, const char *sentence) {
    (void)user;
    size_t n = strlen(notes);
    snprintf(notes + n, sizeof notes - n, "%s\n", sentence);
}

static char *path_of(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/m/%s", folder, name);
    return path;
}

static void empty_folder(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s/m", folder);
    assert_int_equal(system(command), 0);
}

static int enter(void **state) { return !mkdtemp(folder) || hub_start(state); }

static int leave(void **state) {
    empty_folder();
    return rmdir(folder) || hub_end(state);
}

static gr_pull_options options(void) {
    static char dir[256];
    gr_pull_options opt = gr_pull_defaults();
    snprintf(dir, sizeof dir, "%s/m", folder);
    opt.repo = "m/x";
    opt.revision = "v/1";
    opt.endpoint = hub.url;
    opt.dir = dir;
    opt.n_tries = 3;
    opt.silence_s = 5;
    opt.on_note = keep_note;
    return opt;
}

static void behave(misbehaviour how) {
    hub.how = how;
    hub.siblings = NULL;
    hub.n_listings = hub.n_files = hub.n_ranges = 0;
    hub.token_seen_elsewhere = hub.token_seen_at_home = false;
    notes[0] = 0;
}

static bool is_there(const char *name) { return access(path_of(name), F_OK) == 0; }

static void has_content(const char *name, const void *bytes, size_t n) {
    gr_file file;
    assert_int_equal(gr_file_map(path_of(name), &file), GRACE_OK);
    assert_int_equal(file.n, n);
    assert_memory_equal(file.data, bytes, n);
    gr_file_unmap(&file);
}

static gr_pull_result succeeds(void) {
    gr_pull_options opt = options();
    gr_pull_result result;
    if (gr_pull(&opt, &result)) fail_msg("%s", grace_last_error());
    has_content("config.json", hub_config, strlen(hub_config));
    has_content(BIG, hub.big, BIG_BYTES);
    assert_false(is_there(BIG ".partial"));
    assert_int_equal(result.n_files, 2);
    assert_string_equal(result.commit, COMMIT);
    return result;
}

static void fails(grace_status status, const char *part) {
    gr_pull_options opt = options();
    opt.n_tries = 2;
    gr_pull_result result;
    grace_status st = gr_pull(&opt, &result);
    if (st != status || !strstr(grace_last_error(), part))
        fail_msg("expected %s '%s', found %s '%s'", grace_status_name(status), part, grace_status_name(st), grace_last_error());
    assert_false(is_there(BIG));
}

static void leave_partial(const void *bytes, size_t n) {
    mkdir(path_of(""), 0777);
    mkdir(path_of("sub dir"), 0777);
    assert_int_equal(gr_file_replace(path_of(BIG ".partial"), bytes, n), GRACE_OK);
}

/* ---- what goes well in the end ---- */

static void files_arrive_and_are_kept_the_second_time(void **state) {
    (void)state;
    behave(WELL);
    empty_folder();
    gr_pull_result first = succeeds();
    assert_int_equal(first.n_bytes, BIG_BYTES + strlen(hub_config));
    assert_int_equal(first.n_refused, 1);
    assert_non_null(strstr(notes, "pytorch_model.bin: pickled, refused"));
    assert_false(is_there("pytorch_model.bin"));
    gr_pull_result second = succeeds();
    assert_int_equal(second.n_kept, 2);
    assert_int_equal(second.n_bytes, 0);
}

static void a_changed_file_is_replaced(void **state) {
    (void)state;
    behave(WELL);
    empty_folder();
    succeeds();
    assert_int_equal(gr_file_replace(path_of("config.json"), "{\"model_type\": \"y\"}\n", strlen(hub_config)), GRACE_OK);
    assert_int_equal(succeeds().n_kept, 1);
}

static void cut_connections_go_on_where_they_ended(void **state) {
    (void)state;
    behave(CUT);
    empty_folder();
    assert_int_equal(succeeds().n_bytes, BIG_BYTES + strlen(hub_config));     /* no byte twice */
    assert_int_equal(hub.n_ranges, 2);
}

static void an_earlier_part_is_gone_on_from(void **state) {
    (void)state;
    behave(WELL);
    empty_folder();
    leave_partial(hub.big, 250000);
    assert_int_equal(succeeds().n_bytes, 50000 + strlen(hub_config));
    empty_folder();
    leave_partial(hub.big, BIG_BYTES);                                        /* whole, only the name was missing */
    assert_int_equal(succeeds().n_bytes, strlen(hub_config));
}

static void a_part_of_something_else_is_thrown_away(void **state) {
    (void)state;
    char *zeros = calloc(1, BIG_BYTES + 5);
    behave(WELL);
    empty_folder();
    leave_partial(zeros, 200000);
    assert_int_equal(succeeds().n_bytes, 100000 + BIG_BYTES + strlen(hub_config));
    assert_non_null(strstr(notes, "what was there before does not belong to it"));
    empty_folder();
    leave_partial(zeros, BIG_BYTES + 5);                                      /* longer than the file */
    succeeds();
    free(zeros);
}

static void a_server_without_ranges_sends_it_all_again(void **state) {
    (void)state;
    behave(NO_RANGES);
    empty_folder();
    leave_partial(hub.big, 250000);
    succeeds();
    behave(RANGE_REFUSED);
    empty_folder();
    leave_partial(hub.big, 250000);
    succeeds();
}

static void a_busy_server_is_asked_again(void **state) {
    (void)state;
    behave(BUSY);
    empty_folder();
    succeeds();
    assert_non_null(strstr(notes, "config.json: the server says 429, again in 0.05 s"));
    assert_non_null(strstr(notes, "config.json: the server says 503, again in 1 s"));
    behave(BUSY_A_SECOND);
    empty_folder();
    succeeds();
    assert_non_null(strstr(notes, "the server says 503, again in 1 s"));
}

static void redirects_are_followed_without_the_token(void **state) {
    (void)state;
    gr_pull_options opt = options();
    gr_pull_result result;
    behave(REDIRECT);
    empty_folder();
    opt.token = "secret";
    assert_int_equal(gr_pull(&opt, &result), GRACE_OK);
    has_content(BIG, hub.big, BIG_BYTES);
    assert_true(hub.token_seen_at_home);
    assert_false(hub.token_seen_elsewhere);
}

static void the_token_opens_a_closed_repository(void **state) {
    (void)state;
    gr_pull_options opt = options();
    gr_pull_result result;
    behave(CLOSED);
    empty_folder();
    fails(GRACE_ERR_MISMATCH, "m/x: the server says 401: it needs a token in HF_TOKEN");
    opt.token = "secret";
    assert_int_equal(gr_pull(&opt, &result), GRACE_OK);
    opt.token = "wrong";
    assert_int_equal(gr_pull(&opt, &result), GRACE_ERR_MISMATCH);
    opt.token = "new\nline";
    assert_int_equal(gr_pull(&opt, &result), GRACE_ERR_ARG);
}

/* ---- what cannot ---- */

static void a_server_that_never_delivers_is_given_up(void **state) {
    (void)state;
    static const struct { misbehaviour how; grace_status status; const char *part; } all[] = {
        {CUT_AT_ONCE, GRACE_ERR_COMM, "2 times without progress"}, {CUT_NO_RANGES, GRACE_ERR_COMM, "2 times without progress"},
        {SHORT, GRACE_ERR_COMM, "of the 300000 bytes it lists"},
        {LONG, GRACE_ERR_FORMAT, "more than the 300000 bytes it lists"}, {BUSY_FOREVER, GRACE_ERR_COMM, "the server says 503, 2 times without progress"},
        {BUSY_FOR_DAYS, GRACE_ERR_COMM, "asks to wait 200000 s, at most 300 are waited"},
        {REDIRECT_LOOP, GRACE_ERR_UNSUPPORTED, "redirected more than 8 times"},
        {REDIRECT_TO_FILE, GRACE_ERR_UNSUPPORTED, "redirected to 'file:///etc/passwd': expected https"},
        {WRONG_BYTE, GRACE_ERR_FORMAT, "the checksum is not the listed one"},
        {MISSING, GRACE_ERR_MISMATCH, "config.json: the server says 404: there is no such"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        behave(all[i].how);
        empty_folder();
        fails(all[i].status, all[i].part);
    }
    behave(WRONG_RANGE);
    empty_folder();
    leave_partial(hub.big, 1000);
    fails(GRACE_ERR_FORMAT, "asked for bytes from 1000, got them from 1001");
}

static void two_downloads_do_not_write_one_file(void **state) {
    (void)state;
    behave(WELL);
    empty_folder();
    leave_partial(hub.big, 1000);
    int fd = open(path_of(BIG ".partial"), O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    fails(GRACE_ERR_IO, "big.safetensors.partial: another process is downloading it");
    has_content(BIG ".partial", hub.big, 1000);
    close(fd);
    succeeds();
}

static void names_that_leave_the_folder_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"../up", "/etc/x", "a/../b", "a//b", "", ".", "a/", "a\\\\b", "a\\nb", "x.partial"};
    char siblings[256];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        behave(WELL);
        snprintf(siblings, sizeof siblings, "[{\"rfilename\": \"%s\", \"size\": 1, \"blobId\": \"" COMMIT "\"}]", names[i]);
        hub.siblings = siblings;
        empty_folder();
        fails(GRACE_ERR_FORMAT, "m/x: '");
        assert_int_equal(hub.n_files, 0);
    }
}

static void links_in_the_folder_are_not_followed(void **state) {
    (void)state;
    behave(WELL);
    empty_folder();
    assert_int_equal(mkdir(path_of(""), 0777) || symlink("/tmp", path_of("sub dir")), 0);
    fails(GRACE_ERR_IO, "sub dir: expected a folder that is no link");
    empty_folder();
    assert_int_equal(mkdir(path_of(""), 0777) || symlink("/etc/passwd", path_of("config.json.partial")), 0);
    fails(GRACE_ERR_IO, "config.json.partial: a link lies there");
    empty_folder();
}

static void pickled_weights_alone_are_refused(void **state) {
    (void)state;
    behave(WELL);
    empty_folder();
    hub.siblings = "[{\"rfilename\": \"a/model.PT\", \"size\": 1, \"blobId\": \"" COMMIT "\"}, "
                   "{\"rfilename\": \"c.json\", \"size\": 1, \"blobId\": \"" COMMIT "\"}]";
    fails(GRACE_ERR_UNSUPPORTED, "only pickled weights such as a/model.PT");
    assert_int_equal(hub.n_files, 0);
}

static void patterns_choose_files(void **state) {
    (void)state;
    static const char *const big[] = {"*.safetensors", "x"}, *const pickles[] = {"*.bin"}, *const all[] = {"*"};
    gr_pull_options opt = options();
    gr_pull_result result;
    behave(WELL);
    empty_folder();
    opt.include = big;
    opt.n_include = 2;
    assert_int_equal(gr_pull(&opt, &result), GRACE_OK);
    assert_true(is_there(BIG) && !is_there("config.json"));                   /* '*' goes over '/' */
    assert_true(result.n_files == 1 && result.n_left_out == 2 && result.n_refused == 0 && result.n_bytes == BIG_BYTES);
    assert_string_equal(notes, "");                                           /* what is not wanted is not refused */
    empty_folder();
    opt = options();
    opt.exclude = big;
    opt.n_exclude = 1;
    assert_int_equal(gr_pull(&opt, &result), GRACE_OK);
    assert_true(!is_there(BIG) && is_there("config.json") && result.n_left_out == 1 && result.n_refused == 1);
    opt.include = pickles;
    opt.n_include = 1;
    assert_int_equal(gr_pull(&opt, &result), GRACE_OK);                       /* wanted and refused: there is another form of the weights */
    assert_true(result.n_files == 0 && result.n_refused == 1);
    opt.exclude = all;
    assert_int_equal(gr_pull(&opt, &result), GRACE_ERR_ARG);
    assert_non_null(strstr(grace_last_error(), "m/x: none of its 3 files has a name that is wanted"));
}

static void odd_repositories_are_not_asked_for(void **state) {
    (void)state;
    static const char *const repos[] = {"", "x", "/x", "a/", "a/b/c", "../x", "a/..", "a b/c", "a/b?c"};
    for (size_t i = 0; i < sizeof repos / sizeof *repos; i++) {
        gr_pull_options opt = options();
        gr_pull_result result;
        behave(WELL);
        opt.repo = repos[i];
        assert_int_equal(gr_pull(&opt, &result), GRACE_ERR_ARG);
        assert_int_equal(hub.n_listings, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_arrive_and_are_kept_the_second_time), cmocka_unit_test(a_changed_file_is_replaced),
        cmocka_unit_test(cut_connections_go_on_where_they_ended),    cmocka_unit_test(an_earlier_part_is_gone_on_from),
        cmocka_unit_test(a_part_of_something_else_is_thrown_away),   cmocka_unit_test(a_server_without_ranges_sends_it_all_again),
        cmocka_unit_test(a_busy_server_is_asked_again),              cmocka_unit_test(redirects_are_followed_without_the_token),
        cmocka_unit_test(the_token_opens_a_closed_repository),       cmocka_unit_test(a_server_that_never_delivers_is_given_up),
        cmocka_unit_test(names_that_leave_the_folder_are_refused),   cmocka_unit_test(links_in_the_folder_are_not_followed),
        cmocka_unit_test(patterns_choose_files),                     cmocka_unit_test(two_downloads_do_not_write_one_file),
        cmocka_unit_test(pickled_weights_alone_are_refused),         cmocka_unit_test(odd_repositories_are_not_asked_for),
    };
    return cmocka_run_group_tests(tests, enter, leave);
}
