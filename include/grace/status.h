/* What every call of libgrace returns, and the sentence that goes with a failure. */
#ifndef GRACE_STATUS_H
#define GRACE_STATUS_H
#ifdef __cplusplus
extern "C" {
#endif

typedef enum grace_status {
    GRACE_OK = 0,
    GRACE_ERR_ARG,          /* the caller asked for something that cannot be */
    GRACE_ERR_IO,           /* a file or directory could not be opened, read or written */
    GRACE_ERR_FORMAT,       /* a file or text is not what it claims to be */
    GRACE_ERR_UNSUPPORTED,  /* well formed, but this build cannot do it */
    GRACE_ERR_MISMATCH,     /* two inputs do not belong together (plan and model, plan and cluster) */
    GRACE_ERR_LIMIT,        /* a documented limit is exceeded; the message has both numbers */
    GRACE_ERR_MEMORY,       /* memory could not be had */
    GRACE_ERR_NUMERIC,      /* NaN or infinity where a number must be */
    GRACE_ERR_COMM,         /* a peer is missing, dead, late, or failed itself */
} grace_status;

/* A word for the code, e.g. "format error". Static storage. */
const char *grace_status_name(grace_status status);

/* The sentence written by the place that failed last on this thread: what was expected, what was found.
 * Borrowed until the next failing call on this thread. Empty string when nothing failed yet. */
const char *grace_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
