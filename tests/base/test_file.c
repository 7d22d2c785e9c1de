#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <dirent.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* Each test runs in its own empty directory, which is the working directory. */
static char dir[PATH_MAX];

static int enter(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/grace-file-XXXXXX");
    return !mkdtemp(dir) || chdir(dir);
}

static int leave(void **state) {
    (void)state;
    DIR *d = opendir(".");
    for (struct dirent *e; d && (e = readdir(d));) remove(e->d_name);
    if (d) closedir(d);
    return chdir("/") || rmdir(dir);
}

static int n_files(void) {
    int n = 0;
    DIR *d = opendir(".");
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void assert_holds(const char *path, const char *text) {
    gr_file file;
    assert_int_equal(gr_file_map(path, &file), GRACE_OK);
    assert_int_equal(file.n, strlen(text));
    assert_memory_equal(file.data, text, file.n);
    gr_file_unmap(&file);
}

static mode_t mode_of(const char *path) {
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_mode & 07777;
}

/* ---- mapping ---- */

static void what_was_replaced_is_mapped(void **state) {
    (void)state;
    assert_int_equal(gr_file_replace("f", "one", 3), GRACE_OK);
    assert_holds("f", "one");
    assert_int_equal(gr_file_replace("f", "twice", 5), GRACE_OK);
    assert_holds("f", "twice");
    assert_int_equal(n_files(), 1);
}

static void an_empty_file_maps_to_an_empty_string(void **state) {
    (void)state;
    gr_file file = {0};
    assert_int_equal(gr_file_replace("f", "", 0), GRACE_OK);
    assert_int_equal(gr_file_map("f", &file), GRACE_OK);
    assert_int_equal(file.n, 0);
    assert_string_equal(file.data, "");
    gr_file_unmap(&file);
    gr_file_unmap(&file);
}

static void only_regular_files_are_mapped(void **state) {
    (void)state;
    gr_file file = {"untouched", 9};
    assert_int_equal(gr_file_map("absent", &file), GRACE_ERR_IO);
    assert_string_equal(grace_last_error(), "absent: No such file or directory");
    assert_int_equal(gr_file_map(".", &file), GRACE_ERR_IO);
    assert_string_equal(grace_last_error(), ".: expected a regular file");
    assert_string_equal(file.data, "untouched");
}

static void a_named_pipe_is_refused_without_waiting_for_a_writer(void **state) {
    (void)state;
    gr_file file;
    assert_int_equal(mkfifo("pipe", 0600), 0);
    alarm(20);
    assert_int_equal(gr_file_map("pipe", &file), GRACE_ERR_IO);
    alarm(0);
    assert_string_equal(grace_last_error(), "pipe: expected a regular file");
}

/* ---- replacing ---- */

static void a_write_that_fails_halfway_leaves_the_old_bytes_and_nothing_else(void **state) {
    (void)state;
    static char big[100000];
    struct rlimit before, small;
    assert_int_equal(gr_file_replace("f", "old", 3), GRACE_OK);
    getrlimit(RLIMIT_FSIZE, &before);
    small = (struct rlimit){50000, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    grace_status st = gr_file_replace("f", big, sizeof big), st_new = gr_file_replace("g", big, sizeof big);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(st, GRACE_ERR_IO);
    assert_int_equal(st_new, GRACE_ERR_IO);
    assert_string_equal(grace_last_error(), "g: cannot write: File too large");
    assert_holds("f", "old");
    assert_int_equal(n_files(), 1);
}

static void readers_of_the_old_file_keep_it(void **state) {
    (void)state;
    gr_file old;
    assert_int_equal(gr_file_replace("f", "old", 3), GRACE_OK);
    assert_int_equal(gr_file_map("f", &old), GRACE_OK);
    assert_int_equal(gr_file_replace("f", "new", 3), GRACE_OK);
    assert_memory_equal(old.data, "old", 3);
    gr_file_unmap(&old);
    assert_holds("f", "new");
}

static void a_new_file_obeys_the_mask_and_an_old_one_keeps_its_permissions(void **state) {
    (void)state;
    mode_t before = umask(027);
    assert_int_equal(gr_file_replace("f", "1", 1), GRACE_OK);
    assert_int_equal(mode_of("f"), 0640);
    assert_int_equal(umask(before), 027);
    assert_int_equal(chmod("f", 0600), 0);
    assert_int_equal(gr_file_replace("f", "2", 1), GRACE_OK);
    assert_int_equal(mode_of("f"), 0600);
}

static void a_link_stays_a_link_to_the_new_bytes(void **state) {
    (void)state;
    char target[16] = "";
    assert_int_equal(gr_file_replace("f", "old", 3), GRACE_OK);
    assert_int_equal(symlink("f", "link"), 0);
    assert_int_equal(gr_file_replace("link", "new", 3), GRACE_OK);
    assert_holds("f", "new");
    assert_int_equal(readlink("link", target, sizeof target - 1), 1);
    assert_string_equal(target, "f");
}

static void devices_and_pipes_are_written_not_replaced(void **state) {
    (void)state;
    struct stat info;
    char text[8] = "";
    assert_int_equal(mkfifo("pipe", 0600), 0);
    int reader = open("pipe", O_RDONLY | O_NONBLOCK);
    assert_int_equal(gr_file_replace("pipe", "bytes", 5), GRACE_OK);
    assert_int_equal(read(reader, text, sizeof text), 5);
    assert_string_equal(text, "bytes");
    close(reader);
    assert_int_equal(gr_file_replace("/dev/null", "x", 1), GRACE_OK);
    assert_true(stat("/dev/null", &info) == 0 && S_ISCHR(info.st_mode));
    assert_int_equal(n_files(), 1);
}

static void places_that_cannot_hold_a_file_are_named_in_the_message(void **state) {
    (void)state;
    char path[PATH_MAX + 10];
    assert_int_equal(gr_file_replace("absent/f", "x", 1), GRACE_ERR_IO);
    assert_string_equal(grace_last_error(), "absent/f: cannot create: No such file or directory");
    assert_int_equal(mkdir("d", 0700), 0);
    assert_int_equal(gr_file_replace("d", "x", 1), GRACE_ERR_IO);
    assert_string_equal(grace_last_error(), "d: cannot write: Is a directory");
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = 0;
    assert_int_equal(gr_file_replace(path, "x", 1), GRACE_ERR_LIMIT);
    assert_int_equal(n_files(), 1);
}

/* ---- paths ---- */

static void paths_are_joined_whole_or_not_at_all(void **state) {
    (void)state;
    char path[8];
    assert_int_equal(gr_path_join(path, sizeof path, "abc", "def"), GRACE_OK);
    assert_string_equal(path, "abc/def");
    assert_int_equal(gr_path_join(path, sizeof path, "abcd", "def"), GRACE_ERR_LIMIT);
    assert_string_equal(grace_last_error(), "abcd/def: path is longer than 8 bytes");
}

#define in_own_directory(test) cmocka_unit_test_setup_teardown(test, enter, leave)

int main(void) {
    const struct CMUnitTest tests[] = {
        in_own_directory(what_was_replaced_is_mapped),
        in_own_directory(an_empty_file_maps_to_an_empty_string),
        in_own_directory(only_regular_files_are_mapped),
        in_own_directory(a_named_pipe_is_refused_without_waiting_for_a_writer),
        in_own_directory(a_write_that_fails_halfway_leaves_the_old_bytes_and_nothing_else),
        in_own_directory(readers_of_the_old_file_keep_it),
        in_own_directory(a_new_file_obeys_the_mask_and_an_old_one_keeps_its_permissions),
        in_own_directory(a_link_stays_a_link_to_the_new_bytes),
        in_own_directory(devices_and_pipes_are_written_not_replaced),
        in_own_directory(places_that_cannot_hold_a_file_are_named_in_the_message),
        cmocka_unit_test(paths_are_joined_whole_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
