/* Recording a trace: tokens gather in one block in memory, whole blocks go to a file with a temporary name, finish renames it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "base/file.h"
#include "base/half.h"
#include "base/json.h"
#include "base/memory.h"
#include "plan/trace.h"
#include "plan/trace_format.h"

enum {
    BLOCK_TOKENS = 64 * 1024,       /* a block is written when it holds this many tokens */
    BLOCK_TOKEN_BYTES = 1 << 20,    /* ... or this many bytes of them */
    BLOCK_SEQUENCES = 4096,
    LEVEL = 3,                      /* of zstd; ids are close to random, higher levels gain a percent */
};

struct grace_trace_writer {
    char *path, *temporary;
    int fd;
    grace_status broken;            /* a write failed: the file cannot go on */
    grace_trace_info info;
    int32_t n_domains, last_step;
    int64_t n_sequences, n_segments, n_tokens;
    int32_t block_tokens;           /* tokens of a full block */
    size_t n_values, token_bytes;   /* of a token: layers x top_k; experts, id and weights as written */
    int32_t held_sequences, held_segments, held_tokens;
    unsigned char *sequences;       /* [BLOCK_SEQUENCES] encoded, not yet written */
    unsigned char *segments;        /* [block_tokens] encoded: a segment has at least one token */
    unsigned char *experts, *ids, *weights;     /* [block_tokens] tokens of each, encoded */
    unsigned char *raw, *stored;    /* a block before compression; header and payload after */
    size_t stored_capacity;
    ZSTD_CCtx *zstd;
    uint64_t chain;                 /* the last header checksum */
    uint64_t *seen, n_seen;         /* gr_trace_check_experts() */
};

/* What gr_trace_leave() may look at: of the recording opened last, each a single store. */
static const char *volatile open_name;
static volatile sig_atomic_t open_has_tokens;

bool gr_trace_leave(const char **kept) {
    const char *name = open_name;
    if (!name) return false;
    open_name = NULL;
    *kept = open_has_tokens ? name : NULL;
    if (!*kept) unlink(name);
    return true;
}

static void set_open(const char *name) {
    open_has_tokens = 0;
    open_name = name;
}

/* ---- bytes to the file ---- */

static grace_status write_bytes(grace_trace_writer *w, const void *bytes, size_t n) { return gr_file_write(w->temporary, w->fd, bytes, n); }

static grace_status write_block(grace_trace_writer *w, char type, const void *raw, size_t raw_bytes, int32_t n_items) {
    grace_status st = GRACE_OK;
    size_t n = ZSTD_compressCCtx(w->zstd, w->stored + GR_TRACE_BLOCK_BYTES, w->stored_capacity - GR_TRACE_BLOCK_BYTES, raw, raw_bytes, LEVEL);
    GR_CHECK(!ZSTD_isError(n), GRACE_ERR_MEMORY, "%s: cannot compress a block: %s", w->path, ZSTD_getErrorName(n));
    gr_trace_block b = {.type = type, .raw_bytes = (uint32_t)raw_bytes, .stored_bytes = (uint32_t)n, .n_items = (uint32_t)n_items};
    gr_trace_put_block(w->stored, &b, w->chain);
    GR_TRY(write_bytes(w, w->stored, GR_TRACE_BLOCK_BYTES + n));
    w->chain = b.header_check;
done:
    return st;
}

static grace_status flush_sequences(grace_trace_writer *w) {
    grace_status st = GRACE_OK;
    if (w->held_sequences == 0) return st;
    GR_TRY(write_block(w, 'S', w->sequences, (size_t)w->held_sequences * GR_TRACE_SEQUENCE_BYTES, w->held_sequences));
    w->held_sequences = 0;
done:
    return st;
}

static unsigned char *put_bytes(unsigned char *to, const unsigned char *from, size_t n) {
    memcpy(to, from, n);
    return to + n;
}

/* The sequences first: tokens refer to them. */
static grace_status flush(grace_trace_writer *w) {
    grace_status st = GRACE_OK;
    size_t n_values = (size_t)w->held_tokens * w->n_values;
    unsigned char *end = w->raw;
    GR_TRY(flush_sequences(w));
    if (w->held_tokens == 0) return st;
    end = put_bytes(end, w->segments, (size_t)w->held_segments * GR_TRACE_SEGMENT_BYTES);
    end = put_bytes(end, w->experts, n_values * (size_t)gr_trace_expert_bytes(w->info.n_experts));
    end = put_bytes(end, w->ids, (size_t)w->held_tokens * (size_t)gr_trace_id_bytes(w->info.vocab));
    end = put_bytes(end, w->weights, n_values * (size_t)gr_trace_weight_bytes(w->info.weights));
    GR_TRY(write_block(w, 'T', w->raw, (size_t)(end - w->raw), w->held_segments));
    w->held_segments = w->held_tokens = 0;
    if (open_name == w->temporary) open_has_tokens = 1;
done:
    return st;
}

static grace_status write_totals(grace_trace_writer *w) {
    unsigned char totals[GR_TRACE_TOTALS_BYTES];
    gr_put_u64(totals, (uint64_t)w->n_tokens);
    gr_put_u64(totals + 8, (uint64_t)w->n_sequences);
    return write_block(w, 'E', totals, sizeof totals, 0);
}

/* ---- header ---- */

/* The builder changes text that is not UTF-8; a trace keeps its names. */
static grace_status check_text(const char *path, const char *what, const char *text, const gr_json *value) {
    const char *kept = NULL;
    if (gr_json_is_string(value, &kept, NULL) && strcmp(kept, text) == 0) return GRACE_OK;
    return gr_fail(GRACE_ERR_ARG, "%s: %s is not UTF-8 text", path, what);
}

static grace_status header_text(const char *path, const grace_trace_info *info, const char *const *domains, int32_t n_domains, char **text,
                                size_t *n) {
    grace_status st = GRACE_OK;
    gr_json *header = gr_json_new_object(), *names = gr_json_new_array();
    gr_json_set_string(header, "model", info->model);
    gr_json_set_hex(header, "fingerprint", info->fingerprint);
    gr_json_set_int(header, "layers", info->n_layers);
    gr_json_set_int(header, "experts", info->n_experts);
    gr_json_set_int(header, "top_k", info->top_k);
    gr_json_set_int(header, "ranks", info->n_ranks);
    gr_json_set_int(header, "nodes", info->n_nodes);
    gr_json_set_int(header, "vocab", info->vocab);
    gr_json_set_string(header, "weights", gr_trace_weights_names[info->weights]);
    gr_json_set_bool(header, "synthetic", info->synthetic);
    if (info->layer_ids_known) gr_json_set_ints(header, "layer_ids", info->layer_ids, (size_t)info->n_layers);
    for (int32_t d = 0; d < n_domains; d++) gr_json_push_string(names, domains[d]);
    gr_json_set(header, "domains", names);
    GR_TRY(gr_json_write(header, 0, text, n));
    GR_TRY(check_text(path, "the model's name", info->model, gr_json_get(header, "model")));
    for (int32_t d = 0; d < n_domains; d++) GR_TRY(check_text(path, "a domain's name", domains[d], gr_json_at(names, (size_t)d)));
    GR_CHECK(*n <= GR_TRACE_HEADER_MAX, GRACE_ERR_LIMIT, "%s: the header has %zu bytes, at most %d are allowed", path, *n, GR_TRACE_HEADER_MAX);
done:
    gr_json_free(header);
    return st;
}

static grace_status write_header(grace_trace_writer *w, const char *const *domains) {
    grace_status st = GRACE_OK;
    unsigned char prefix[GR_TRACE_PREFIX_BYTES];
    char *text = NULL;
    size_t n = 0;
    GR_TRY(header_text(w->path, &w->info, domains, w->n_domains, &text, &n));
    memcpy(prefix, GR_TRACE_MAGIC, 8);
    gr_put_u32(prefix + 8, GR_TRACE_VERSION);
    gr_put_u32(prefix + 12, (uint32_t)n);
    w->chain = gr_trace_header_check(prefix, text, n);
    gr_put_u64(prefix + 16, w->chain);
    GR_TRY(write_bytes(w, prefix, sizeof prefix));
    GR_TRY(write_bytes(w, text, n));
done:
    free(text);
    return st;
}

/* ---- opening and closing ---- */

static void release(grace_trace_writer *w) {
    if (!w) return;
    if (w->temporary && open_name == w->temporary) set_open(NULL);
    if (w->fd >= 0) close(w->fd);
    ZSTD_freeCCtx(w->zstd);
    free(w->path);
    free(w->temporary);
    free(w->sequences);
    free(w->segments);
    free(w->experts);
    free(w->ids);
    free(w->weights);
    free(w->raw);
    free(w->stored);
    free(w->seen);
    free(w);
}

/* Sized once: recording a step allocates nothing. */
static grace_status allocate_blocks(grace_trace_writer *w) {
    grace_status st = GRACE_OK;
    w->n_values = (size_t)w->info.n_layers * (size_t)w->info.top_k;
    w->token_bytes = gr_trace_token_bytes(&w->info);
    size_t fit = BLOCK_TOKEN_BYTES / w->token_bytes;
    w->block_tokens = fit < 1 ? 1 : fit > BLOCK_TOKENS ? BLOCK_TOKENS : (int32_t)fit;
    size_t n_raw = (size_t)w->block_tokens * (GR_TRACE_SEGMENT_BYTES + w->token_bytes), n_sequences = BLOCK_SEQUENCES * GR_TRACE_SEQUENCE_BYTES;
    w->stored_capacity = GR_TRACE_BLOCK_BYTES + ZSTD_compressBound(n_raw > n_sequences ? n_raw : n_sequences);
    GR_CALLOC(w->sequences, n_sequences);
    GR_CALLOC(w->segments, (size_t)w->block_tokens * GR_TRACE_SEGMENT_BYTES);
    GR_CALLOC(w->experts, (size_t)w->block_tokens * w->n_values * (size_t)gr_trace_expert_bytes(w->info.n_experts));
    GR_CALLOC(w->ids, (size_t)w->block_tokens * (size_t)gr_trace_id_bytes(w->info.vocab));
    GR_CALLOC(w->weights, (size_t)w->block_tokens * w->n_values * (size_t)gr_trace_weight_bytes(w->info.weights));
    GR_CALLOC(w->raw, n_raw);
    GR_CALLOC(w->stored, w->stored_capacity);
    GR_CALLOC(w->seen, w->info.n_experts);
    w->zstd = ZSTD_createCCtx();
    GR_CHECK(w->zstd, GRACE_ERR_MEMORY, "%s: no memory to compress", w->path);
done:
    return st;
}

/* A name of its own beside PATH: two recordings do not meet, and what a crash left is not overwritten. */
static grace_status open_temporary(grace_trace_writer *w) {
    static const char suffix[] = ".partial";
    grace_status st = GRACE_OK;
    struct stat info;
    GR_CHECK(stat(w->path, &info) != 0 || S_ISREG(info.st_mode), GRACE_ERR_ARG, "%s: exists and is not a regular file", w->path);
    size_t size = strlen(w->path) + sizeof ".XXXXXX" + sizeof suffix;
    GR_CALLOC(w->temporary, size);
    snprintf(w->temporary, size, "%s.XXXXXX%s", w->path, suffix);
    w->fd = mkostemps(w->temporary, (int)strlen(suffix), O_CLOEXEC);
    GR_CHECK(w->fd >= 0, GRACE_ERR_IO, "%s: cannot create: %s", w->path, strerror(errno));
    set_open(w->temporary);
    GR_CHECK(fchmod(w->fd, gr_file_new_mode()) == 0, GRACE_ERR_IO, "%s: cannot set its mode: %s", w->temporary, strerror(errno));
done:
    return st;
}

grace_status grace_trace_create(const char *path, const grace_trace_info *info, const char *const *domains, int32_t n_domains,
                                grace_trace_writer **out) {
    grace_status st = GRACE_OK;
    grace_trace_writer *w = NULL;
    GR_TRY(gr_trace_check_info(path, info, GRACE_ERR_ARG));
    GR_CHECK(n_domains >= 0 && n_domains <= GR_TRACE_DOMAINS_MAX, GRACE_ERR_ARG, "%s: expected 0 to %d domains, found %d", path,
             GR_TRACE_DOMAINS_MAX, n_domains);
    GR_CALLOC(w, 1);
    w->fd = -1;
    w->info = *info;
    w->n_domains = n_domains;
    w->last_step = INT32_MIN;
    w->path = strdup(path);
    GR_CHECK(w->path, GRACE_ERR_MEMORY, "no memory for a path of %zu bytes", strlen(path));
    GR_TRY(allocate_blocks(w));
    GR_TRY(open_temporary(w));
    GR_TRY(write_header(w, domains));
    *out = w;
    w = NULL;
done:
    grace_trace_abandon(w);
    return st;
}

void grace_trace_abandon(grace_trace_writer *w) {
    if (w && w->fd >= 0) unlink(w->temporary);
    release(w);
}

static grace_status publish(grace_trace_writer *w) {
    grace_status st = GRACE_OK;
    GR_CHECK(fsync(w->fd) == 0, GRACE_ERR_IO, "%s: cannot write: %s", w->temporary, strerror(errno));
    if (open_name == w->temporary) set_open(NULL);      /* a name that is about to go is none to tell */
    GR_CHECK(rename(w->temporary, w->path) == 0, GRACE_ERR_IO, "%s: cannot replace: %s", w->path, strerror(errno));
done:
    return st;
}

/* ---- recording ---- */

static grace_status check_whole(const grace_trace_writer *w) {
    if (!w->broken) return GRACE_OK;
    return gr_fail(w->broken, "%s: an earlier write failed, the trace cannot go on", w->path);
}

grace_status grace_trace_add_sequence(grace_trace_writer *w, grace_trace_sequence seq) {
    grace_status st = GRACE_OK;
    GR_TRY(check_whole(w));
    GR_TRY(gr_trace_check_sequence(w->path, &w->info, w->n_domains, &seq, GRACE_ERR_ARG));
    GR_CHECK(w->n_sequences < INT32_MAX, GRACE_ERR_LIMIT, "%s: more than %d sequences", w->path, INT32_MAX);
    if (w->held_sequences == BLOCK_SEQUENCES) GR_TRY(w->broken = flush_sequences(w));
    unsigned char *p = w->sequences + (size_t)w->held_sequences++ * GR_TRACE_SEQUENCE_BYTES;
    gr_put_u32(p, (uint32_t)seq.id);
    gr_put_u32(p + 4, (uint32_t)seq.home);
    gr_put_u32(p + 8, (uint32_t)seq.domain);
    w->n_sequences++;
done:
    return st;
}

static void hold_segment(grace_trace_writer *w, const grace_trace_segment *seg, int32_t n_tokens) {
    unsigned char *p = w->segments + (size_t)w->held_segments++ * GR_TRACE_SEGMENT_BYTES;
    gr_put_u32(p, (uint32_t)seg->sequence);
    gr_put_u32(p + 4, (uint32_t)seg->position);
    gr_put_u32(p + 8, (uint32_t)n_tokens);
    gr_put_u32(p + 12, (uint32_t)seg->step);
    gr_put_u32(p + 16, (uint32_t)seg->phase);
}

static void put_number(unsigned char *p, uint32_t value, int n_bytes) {
    for (int i = 0; i < n_bytes; i++) p[i] = (unsigned char)(value >> 8 * i);
}

static void hold_tokens(grace_trace_writer *w, grace_trace_tokens from, int32_t n_tokens) {
    size_t n = (size_t)n_tokens * w->n_values, first = (size_t)w->held_tokens * w->n_values;
    size_t size = (size_t)gr_trace_expert_bytes(w->info.n_experts), id_size = (size_t)gr_trace_id_bytes(w->info.vocab);
    for (size_t i = 0; i < n; i++) put_number(w->experts + (first + i) * size, from.experts[i], (int)size);
    for (size_t i = 0; from.ids && i < (size_t)n_tokens; i++)
        put_number(w->ids + ((size_t)w->held_tokens + i) * id_size, (uint32_t)from.ids[i], (int)id_size);
    if (w->info.weights == GRACE_WEIGHTS_U8)
        for (size_t i = 0; i < n; i++) w->weights[first + i] = (unsigned char)lrintf(from.weights[i] * 255);
    if (w->info.weights == GRACE_WEIGHTS_F16)
        for (size_t i = 0; i < n; i++) put_number(w->weights + 2 * (first + i), gr_half_of_float(from.weights[i]), 2);
    w->held_tokens += n_tokens;
}

/* A segment that crosses the end of a block is written in pieces; the reader joins them. */
static grace_status hold(grace_trace_writer *w, grace_trace_segment seg, grace_trace_tokens tokens) {
    grace_status st = GRACE_OK;
    while (seg.n_tokens > 0) {
        int32_t room = w->block_tokens - w->held_tokens, n = seg.n_tokens < room ? seg.n_tokens : room;
        hold_segment(w, &seg, n);
        hold_tokens(w, tokens, n);
        seg.position += n;
        seg.n_tokens -= n;
        tokens.experts += (size_t)n * w->n_values;
        if (tokens.ids) tokens.ids += n;
        if (tokens.weights) tokens.weights += (size_t)n * w->n_values;
        if (w->held_tokens == w->block_tokens) GR_TRY(w->broken = flush(w));
    }
done:
    return st;
}

static grace_status check_tokens(grace_trace_writer *w, int64_t n, grace_trace_tokens tokens) {
    grace_status st = GRACE_OK;
    GR_CHECK((tokens.ids != NULL) == (w->info.vocab != 0), GRACE_ERR_ARG, "%s: expected %s, as the trace's header says", w->path,
             tokens.ids ? "no token ids" : "token ids");
    GR_CHECK((tokens.weights != NULL) == (w->info.weights != GRACE_WEIGHTS_NONE), GRACE_ERR_ARG, "%s: expected %s, as the trace's header says",
             w->path, tokens.weights ? "no gate weights" : "gate weights");
    GR_TRY(gr_trace_check_experts(w->path, &w->info, tokens.experts, n, w->n_tokens, w->seen, &w->n_seen, GRACE_ERR_ARG));
    if (tokens.ids) GR_TRY(gr_trace_check_ids(w->path, &w->info, tokens.ids, n, w->n_tokens, GRACE_ERR_ARG));
    if (tokens.weights) GR_TRY(gr_trace_check_weights(w->path, &w->info, tokens.weights, n, w->n_tokens, GRACE_ERR_ARG));
done:
    return st;
}

grace_status grace_trace_append(grace_trace_writer *w, grace_trace_segment seg, grace_trace_tokens tokens) {
    grace_status st = GRACE_OK;
    GR_TRY(check_whole(w));
    if (seg.n_tokens == 0) return st;
    GR_TRY(gr_trace_check_segment(w->path, &seg, w->n_segments, w->n_sequences, w->last_step, GRACE_ERR_ARG));
    GR_TRY(gr_trace_check_room(w->path, &w->info, w->n_tokens, seg.n_tokens));
    GR_CHECK(w->n_segments < INT32_MAX, GRACE_ERR_LIMIT, "%s: more than %d segments", w->path, INT32_MAX);
    GR_TRY(check_tokens(w, seg.n_tokens, tokens));
    GR_TRY(hold(w, seg, tokens));
    w->n_segments++;
    w->n_tokens += seg.n_tokens;
    w->last_step = seg.step;
done:
    return st;
}

grace_status grace_trace_finish(grace_trace_writer *w) {
    grace_status st = GRACE_OK;
    GR_TRY(check_whole(w));
    GR_TRY(flush(w));
    GR_TRY(write_totals(w));
    GR_TRY(publish(w));
    release(w);
    return st;
done:
    grace_trace_abandon(w);
    return st;
}
