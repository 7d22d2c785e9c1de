/* The error idiom: GR_CHECK writes the sentence, GR_TRY passes it on, both leave through `done:` (STYLE "Errors"). */
#ifndef GR_BASE_STATUS_H
#define GR_BASE_STATUS_H
#include <stddef.h>

#include "grace/status.h"
#ifdef __cplusplus
extern "C" {
#define GR_NORETURN [[noreturn]]
#else
#define GR_NORETURN _Noreturn
#endif

/* Remember the sentence for grace_last_error() and return status. */
grace_status gr_fail(grace_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A failure is never GRACE_OK. The compiler is told, or its warnings follow paths where a failed call goes on. */
static inline grace_status gr_failed(grace_status status) {
    if (status == GRACE_OK) __builtin_unreachable();
    return status;
}
#define gr_fail(...) gr_failed(gr_fail(__VA_ARGS__))

/* Put "prefix: " before the last sentence, for callers that know more (a file name, a rank). */
grace_status gr_fail_in(grace_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Text of files and servers that is shown on a terminal stays one line and moves no cursor: control characters become '?'. */
void gr_printable(char *text);
GR_NORETURN void gr_assert_failed(const char *file, int line, const char *condition);
#ifdef __cplusplus
}
#endif

/* Both need a local `grace_status st` and a label `done`. */
#define GR_CHECK(condition, status, ...)            \
    do {                                            \
        if (!(condition)) {                         \
            st = gr_fail((status), __VA_ARGS__);    \
            goto done;                              \
        }                                           \
    } while (0)
#define GR_TRY(call)                                \
    do {                                            \
        if ((st = (call)) != GRACE_OK) goto done;   \
    } while (0)
/* Our own mistakes; stays on in release. */
#define GR_ASSERT(condition) ((condition) ? (void)0 : gr_assert_failed(__FILE__, __LINE__, #condition))

#endif
