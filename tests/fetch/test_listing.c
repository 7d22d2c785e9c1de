/* Listings of a hub. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "fetch/listing.h"

#define SHA "0123456789abcdef0123456789abcdef01234567"
#define FILE_OF(name) "{\"rfilename\": \"" name "\", \"size\": 1, \"blobId\": \"" SHA "\"}"
#define LISTING(siblings) "{\"sha\": \"" SHA "\", \"siblings\": [" siblings "]}"

static void refuses(const char *json, const char *part) {
    gr_listing list = {0};
    assert_int_equal(gr_listing_parse("hub", json, strlen(json), &list), GRACE_ERR_FORMAT);
    if (!strstr(grace_last_error(), part)) fail_msg("expected '%s', found '%s'", part, grace_last_error());
}

static void files_come_in_order_with_their_checksums(void **state) {
    (void)state;
    static const char json[] = LISTING(FILE_OF("b.json") ", " FILE_OF("a-b") ", " FILE_OF("a/b.PTH")
                                ", {\"rfilename\": \"a/c\", \"size\": 7, \"blobId\": \"" SHA
                                       "\", \"lfs\": {\"sha256\": \"" SHA "012345670123456701234567\"}}");
    gr_listing list = {0};
    assert_int_equal(gr_listing_parse("hub", json, sizeof json - 1, &list), GRACE_OK);
    assert_string_equal(list.commit, SHA);
    assert_int_equal(list.n_files, 4);
    assert_string_equal(list.files[0].name, "a-b");
    assert_string_equal(list.files[1].name, "a/b.PTH");
    assert_true(list.files[1].pickled && !list.files[2].pickled);
    assert_string_equal(list.files[0].digest, SHA);
    assert_string_equal(list.files[2].digest, SHA "012345670123456701234567");
    assert_int_equal(list.files[2].size, 7);
    gr_listing_free(&list);
}

static void a_listing_that_is_none_is_refused(void **state) {
    (void)state;
    refuses("<html>", "hub: no valid JSON");
    refuses("{}", "hub: 'sha': expected a string, found nothing");
    refuses("{\"sha\": \"main\", \"siblings\": []}", "'sha': expected 40 hexadecimal digits, found 'main'");
    refuses("{\"sha\": \"" SHA "\"}", "'siblings': expected an array");
    refuses(LISTING("3"), "'rfilename'");
    refuses(LISTING("{\"rfilename\": \"a\", \"blobId\": \"" SHA "\"}"), "'size': expected an integer, found nothing");
    refuses(LISTING("{\"rfilename\": \"a\", \"size\": -1, \"blobId\": \"" SHA "\"}"), "'size': expected 0 to");
    refuses(LISTING("{\"rfilename\": \"a\", \"size\": 1, \"blobId\": \"x\"}"), "'a': expected a checksum of 40 hexadecimal digits, found 'x'");
    refuses(LISTING("{\"rfilename\": \"a\", \"size\": 1, \"lfs\": {\"sha256\": \"" SHA "\"}}"), "'a': expected a checksum of 64 hexadecimal digits");
}

static void a_name_stands_for_one_file(void **state) {
    (void)state;
    refuses(LISTING(FILE_OF("a") ", " FILE_OF("b") ", " FILE_OF("a")), "'a' is listed twice");
    refuses(LISTING(FILE_OF("a") ", " FILE_OF("a-b") ", " FILE_OF("a/b")), "'a' is a file and a folder");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(files_come_in_order_with_their_checksums), cmocka_unit_test(a_listing_that_is_none_is_refused),
                                       cmocka_unit_test(a_name_stands_for_one_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
