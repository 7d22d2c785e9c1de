/* Scratch files and the checks that most tests of formats need. */
#ifndef GR_TESTS_INTEROP_FILES_H
#define GR_TESTS_INTEROP_FILES_H
#include "plan/test_trace_support.h"

#define DATA GRACE_SOURCE_DIR "/tests/interop/data/"
#define SHARED_TRACES GRACE_SOURCE_DIR "/../shared/traces/"

static inline void put_text(const char *path, const char *text) { assert_int_equal(gr_file_replace(path, text, strlen(text)), GRACE_OK); }

static inline void assert_failed(grace_status found, grace_status expected, const char *part) {
    if (found != expected || !strstr(grace_last_error(), part)) fail_msg("expected %s with '%s', found %s: %s", grace_status_name(expected), part,
                                                                          grace_status_name(found), grace_last_error());
}

static inline void assert_ok(grace_status found) {
    if (found) fail_msg("%s: %s", grace_status_name(found), grace_last_error());
}

#endif
