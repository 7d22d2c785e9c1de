/* Calls that must succeed, and calls that must fail with a code and a sentence that has a part. */
#ifndef GR_TESTS_ASSERTS_H
#define GR_TESTS_ASSERTS_H

#define assert_ok(call)                                                                   \
    do {                                                                                  \
        if ((call) != GRACE_OK) fail_msg("%s: %s", #call, grace_last_error());            \
    } while (0)
#define assert_fails(call, code, part)                                                                                   \
    do {                                                                                                                 \
        assert_int_equal(call, code);                                                                                    \
        if (!strstr(grace_last_error(), part)) fail_msg("expected '%s' in '%s'", part, grace_last_error());              \
    } while (0)

#endif
