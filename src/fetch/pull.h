/* A repository of a model hub to a folder: listed, downloaded, verified, file by file. */
#ifndef GR_FETCH_PULL_H
#define GR_FETCH_PULL_H
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct gr_pull_options {
    const char *repo;               /* "ORG/NAME" */
    const char *revision;           /* branch, tag or commit; "main" */
    const char *endpoint;           /* "https://huggingface.co" */
    const char *dir;                /* made when it is not there */
    const char *token;              /* or NULL; goes to the endpoint only */
    const char *const *include;     /* [n_include] shell patterns of the names that are wanted, '*' matches '/' too; none: all */
    const char *const *exclude;     /* [n_exclude] of names that are not, also when they are included */
    int32_t n_include, n_exclude;
    int32_t n_tries;                /* in a row without a byte of progress; 6 */
    double wait_max_s;              /* longest pause a server may ask for; 300 */
    double silence_s;               /* a transfer in which nothing arrives for that long is cut; 30 */
    void *user;                     /* for the callbacks */
    void (*on_note)(void *user, const char *sentence);                  /* what happens beside the downloading: refused files, pauses */
    void (*on_bytes)(void *user, int64_t n_done, int64_t n_total);      /* of all files, what was there before included */
} gr_pull_options;

typedef struct gr_pull_result {
    char commit[41];                /* what revision stands for */
    int32_t n_files, n_kept;        /* in the folder now; of them there before */
    int32_t n_refused;              /* pickled weights, not downloaded */
    int32_t n_left_out;             /* by the patterns */
    int64_t n_bytes;                /* downloaded */
} gr_pull_result;

gr_pull_options gr_pull_defaults(void);
/* Every file is written beside its place as NAME.partial, goes on from there when interrupted (also by a later call), and takes its name only
 * when its size and checksum are the listed ones. Fails with ARG (names, token, patterns that leave nothing), COMM (no whole reply after all tries),
 * UNSUPPORTED (only pickled
 * weights, redirects), FORMAT (listing, sizes, checksums), IO, MISMATCH (the server says no: the message has its status). */
grace_status gr_pull(const gr_pull_options *opt, gr_pull_result *out);

#endif
