/* Traces in pieces, and whole ones made of them. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/memory.h"
#include "plan/trace.h"

#define PIECE_VALUES ((int64_t)8 << 20)

struct grace_trace_reader {
    char *path;
    const gr_trace_source *ops;     /* NULL: the trace is all there is */
    void *source;
    grace_trace *piece;
    int64_t piece_values;           /* it gathers blocks until it has as many expert ids */
    bool borrowed, given, told;     /* the trace is someone else's; it was given out; the file's missing end was told */
};

grace_status grace_trace_reader_open(const char *path, grace_trace_reader **out) {
    grace_status st = GRACE_OK;
    struct stat info;
    grace_trace_reader *r = NULL;
    GR_CALLOC(r, 1);
    r->piece_values = PIECE_VALUES;
    r->path = strdup(path);
    GR_CHECK(r->path, GRACE_ERR_MEMORY, "no memory for a path of %zu bytes", strlen(path));
    GR_CHECK(stat(path, &info) == 0, GRACE_ERR_IO, "%s: %s", path, strerror(errno));
    r->ops = S_ISDIR(info.st_mode) ? &gr_trace_folder_source : &gr_trace_file_source;
    GR_TRY((S_ISDIR(info.st_mode) ? gr_trace_folder_open : gr_trace_file_open)(path, &r->source, &r->piece));
    gr_trace_set_name(r->piece->name, path);
    *out = r, r = NULL;
done:
    grace_trace_reader_close(r);
    return st;
}

grace_status gr_trace_reader_of(const grace_trace *t, grace_trace_reader **out) {
    grace_status st = gr_trace_reader_take((grace_trace *)t, out);
    if (!st) (*out)->borrowed = true;
    return st;
}

grace_status gr_trace_reader_take(grace_trace *t, grace_trace_reader **out) {
    grace_status st = GRACE_OK;
    grace_trace_reader *r = NULL;
    GR_CALLOC(r, 1);
    r->piece = t;
    *out = r;
done:
    return st;
}

void gr_trace_reader_set_piece(grace_trace_reader *r, int64_t n_values) { r->piece_values = n_values; }

void grace_trace_reader_close(grace_trace_reader *r) {
    if (!r) return;
    if (r->ops) r->ops->close(r->source);
    if (!r->borrowed) grace_trace_close(r->piece);
    free(r->path);
    free(r);
}

static void tell_truncated(grace_trace_reader *r) {
    if (r->told || !r->ops->truncated(r->source)) return;
    gr_log(GR_WARN, "trace", "%s is cut short: no end mark after %" PRId64 " tokens, reading those", r->path, r->piece->first_token + r->piece->n_tokens);
    r->told = true;
}

/* What was read makes room for what follows. */
static void pass_on(grace_trace *t) {
    t->first_segment += t->n_segments;
    t->first_token += t->n_tokens;
    t->n_segments = t->n_tokens = 0;
}

static grace_status gather(grace_trace_reader *r, int64_t n_values) {
    grace_status st = GRACE_OK;
    bool more = true;
    while (more && r->piece->n_tokens * r->piece->info.n_layers * r->piece->info.top_k < n_values) GR_TRY(r->ops->next(r->source, r->piece, &more));
    if (!more) tell_truncated(r);
done:
    return st;
}

grace_status grace_trace_reader_next(grace_trace_reader *r, const grace_trace **piece) {
    grace_status st = GRACE_OK;
    if (r->ops) {
        pass_on(r->piece);
        GR_TRY(gather(r, r->piece_values));
    }
    *piece = r->piece->n_tokens > 0 && !r->given ? r->piece : NULL;
    if (!r->ops) r->given = true;
done:
    return st;
}

void grace_trace_reader_rewind(grace_trace_reader *r) {
    r->given = false;
    if (!r->ops) return;
    r->piece->n_segments = r->piece->n_tokens = r->piece->first_segment = r->piece->first_token = 0;
    r->piece->last_step = INT32_MIN;
    r->ops->rewind(r->source, r->piece);
}

const grace_trace *grace_trace_reader_head(const grace_trace_reader *r) { return r->piece; }
bool grace_trace_reader_truncated(const grace_trace_reader *r) { return r->ops && r->ops->truncated(r->source); }

grace_status gr_trace_reader_whole(grace_trace_reader *r, grace_trace **out, bool *truncated) {
    grace_status st = GRACE_OK;
    GR_ASSERT(!r->borrowed);
    if (r->ops) GR_TRY(gather(r, INT64_MAX));
    if (truncated) *truncated = grace_trace_reader_truncated(r);
    *out = r->piece, r->piece = NULL;
done:
    return st;
}

grace_status grace_trace_open(const char *path, grace_trace **out, bool *truncated) {
    grace_trace_reader *r = NULL;
    grace_status st = grace_trace_reader_open(path, &r);
    if (!st) st = gr_trace_reader_whole(r, out, truncated);
    grace_trace_reader_close(r);
    return st;
}

grace_status gr_trace_parse(const char *where, const void *bytes, size_t n, grace_trace **out, bool *truncated) {
    grace_trace_reader r = {.path = (char *)where, .ops = &gr_trace_file_source};
    grace_status st = gr_trace_bytes_open(where, bytes, n, &r.source, &r.piece);
    if (!st) st = gr_trace_reader_whole(&r, out, truncated);
    r.ops->close(r.source);
    grace_trace_close(r.piece);
    return st;
}
