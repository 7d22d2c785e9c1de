#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char last_error[1024];

const char *grace_last_error(void) { return last_error; }

const char *grace_status_name(grace_status status) {
    static const char *const names[] = {"ok",       "bad argument", "i/o error", "format error", "unsupported",
                                        "mismatch", "over a limit", "no memory", "not a number", "communication error"};
    return (size_t)status < sizeof names / sizeof *names ? names[status] : "unknown status";
}

void gr_printable(char *text) {
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
}

/* A sentence quotes what files and servers say. */
static void remember(char *text) {
    gr_printable(text);
    memcpy(last_error, text, sizeof last_error);
}

grace_status (gr_fail)(grace_status status, const char *format, ...) {
    GR_ASSERT(status != GRACE_OK);
    char text[sizeof last_error];       /* the arguments may point into last_error */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    remember(text);
    return status;
}

grace_status gr_fail_in(grace_status status, const char *format, ...) {
    char prefix[256], text[sizeof last_error];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    snprintf(text, sizeof text, "%s: %.*s", prefix, (int)(sizeof text - sizeof prefix - 3), last_error);
    remember(text);
    return status;
}

void gr_assert_failed(const char *file, int line, const char *condition) {
    fprintf(stderr, "%s:%d: bug in grace: assertion failed: %s\n", file, line, condition);
    abort();
}
