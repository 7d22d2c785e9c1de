/* Digests against published values. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fetch/digest.h"

#define ZEROS40 "0000000000000000000000000000000000000000"
#define ZEROS64 ZEROS40 "000000000000000000000000"

static void digests_are_the_published_ones(void **state) {
    (void)state;
    char out[GR_DIGEST_MAX];
    int fd = memfd_create("digest", 0);
    assert_true(fd >= 0);
    assert_int_equal(gr_digest_file(fd, ZEROS40, out), GRACE_OK);
    assert_string_equal(out, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");                              /* git's empty blob */
    assert_int_equal(write(fd, "abc", 3), 3);
    assert_int_equal(gr_digest_file(fd, ZEROS64, out), GRACE_OK);
    assert_string_equal(out, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");      /* FIPS 180-4 */
    close(fd);
}

static void a_file_that_cannot_be_read_is_an_error(void **state) {
    (void)state;
    char out[GR_DIGEST_MAX];
    assert_int_equal(gr_digest_file(-1, ZEROS64, out), GRACE_ERR_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(digests_are_the_published_ones), cmocka_unit_test(a_file_that_cannot_be_read_is_an_error)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
