/* Reading a trace file block by block: prefix, JSON header, blocks until the end mark. Every size is checked before it is believed. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "plan/layer_ids.h"
#include "plan/trace.h"
#include "plan/trace_format.h"

typedef struct room { unsigned char *data; size_t capacity; } room;

typedef struct reader {
    char *where;
    const unsigned char *memory;    /* [n] the file, or NULL: it is read from fd */
    int fd;
    size_t n, at;                   /* the size when it was opened: what is appended later is not seen */
    size_t first_block;             /* where the blocks begin, and the checksum that starts their chain */
    uint64_t first_chain, chain;    /* the last header checksum */
    uint32_t version;
    bool ended, cut;                /* the end mark was read; the file ended without it */
    int64_t n_blocks;
    room taken, raw;                /* what was read last from fd; a block after decompression */
    ZSTD_DCtx *zstd;
} reader;

static grace_status reserve(room *b, size_t n) {
    grace_status st = GRACE_OK;
    if (b->data && n <= b->capacity) return st;
    free(b->data);
    b->capacity = 0;
    GR_CALLOC(b->data, n);
    b->capacity = n;
done:
    return st;
}

/* *p: n bytes from `at` on, which are there; valid until the next call. */
static grace_status take(reader *r, size_t at, size_t n, const unsigned char **p) {
    grace_status st = GRACE_OK;
    *p = r->memory ? r->memory + at : NULL;
    if (r->memory) return st;
    GR_TRY(reserve(&r->taken, n));
    GR_TRY(gr_file_read_at(r->where, r->fd, at, r->taken.data, n));
    *p = r->taken.data;
done:
    return st;
}

/* ---- header ---- */

static grace_status read_hex(const char *where, const gr_json *header, const char *key, uint64_t *out) {
    grace_status st = GRACE_OK;
    const char *text = NULL;
    GR_TRY(gr_json_string(header, where, key, &text));
    GR_CHECK(strlen(text) == 16 && strspn(text, "0123456789abcdef") == 16, GRACE_ERR_FORMAT, "%s: '%s': expected 16 hex digits, found '%.40s'",
             where, key, text);
    *out = strtoull(text, NULL, 16);
done:
    return st;
}

static grace_status read_count(const char *where, const gr_json *header, const char *key, int64_t max, int32_t *out) {
    int64_t value = 0;
    grace_status st = gr_json_int(header, where, key, 1, max, &value);
    if (!st) *out = (int32_t)value;
    return st;
}

static grace_status read_weights(const char *where, const gr_json *header, grace_trace_weights *out) {
    grace_status st = GRACE_OK;
    const char *text = NULL;
    int kind = 0;
    GR_TRY(gr_json_string(header, where, "weights", &text));
    while (kind < GRACE_N_WEIGHTS && strcmp(text, gr_trace_weights_names[kind]) != 0) kind++;
    GR_CHECK(kind < GRACE_N_WEIGHTS, GRACE_ERR_UNSUPPORTED, "%s: 'weights': expected none, u8 or f16, found '%.40s'", where, text);
    *out = (grace_trace_weights)kind;
done:
    return st;
}

static grace_status read_info(const char *where, uint32_t version, const gr_json *header, grace_trace_info *info) {
    grace_status st = GRACE_OK;
    int64_t vocab = 0;
    const char *model = NULL;
    GR_TRY(gr_json_string(header, where, "model", &model));
    gr_trace_set_model(info, model);
    GR_TRY(read_hex(where, header, "fingerprint", &info->fingerprint));
    GR_TRY(read_count(where, header, "layers", GR_TRACE_LAYERS_MAX, &info->n_layers));
    GR_TRY(read_count(where, header, "experts", GR_TRACE_EXPERTS_MAX, &info->n_experts));
    GR_TRY(read_count(where, header, "top_k", GR_TRACE_TOP_K_MAX, &info->top_k));
    GR_TRY(read_count(where, header, "ranks", GR_TRACE_RANKS_MAX, &info->n_ranks));
    GR_TRY(read_count(where, header, "nodes", GR_TRACE_RANKS_MAX, &info->n_nodes));
    GR_TRY(gr_layer_ids_read(header, where, info->n_layers, info->layer_ids, &info->layer_ids_known));
    if (version == 1) goto done;
    GR_TRY(gr_json_int(header, where, "vocab", 0, INT32_MAX, &vocab));
    info->vocab = (int32_t)vocab;
    GR_TRY(read_weights(where, header, &info->weights));
    GR_TRY(gr_json_bool_or(header, where, "synthetic", false, &info->synthetic));
done:
    return st;
}

static grace_status read_domains(reader *r, const gr_json *header, grace_trace *t) {
    grace_status st = GRACE_OK;
    const gr_json *names = NULL;
    GR_TRY(gr_json_array(header, r->where, "domains", &names));
    for (size_t i = 0; i < gr_json_length(names); i++) {
        const char *name = NULL;
        GR_CHECK(gr_json_is_string(gr_json_at(names, i), &name, NULL), GRACE_ERR_FORMAT, "%s: 'domains': entry %zu: expected a string, found %s",
                 r->where, i, gr_json_kind_name(gr_json_at(names, i)));
        GR_TRY(gr_trace_add_domain(r->where, t, name));
    }
done:
    return st;
}

static grace_status read_header_text(reader *r, const char *text, size_t n, grace_trace **out) {
    grace_status st = GRACE_OK;
    gr_json *header = NULL;
    grace_trace *t = NULL;
    grace_trace_info info = {0};
    GR_TRY(gr_json_parse(r->where, text, n, &header));
    GR_TRY(read_info(r->where, r->version, header, &info));
    GR_TRY(gr_trace_new(r->where, &info, &t));
    GR_TRY(read_domains(r, header, t));
    *out = t, t = NULL;
done:
    grace_trace_close(t);
    gr_json_free(header);
    return st;
}

static grace_status read_header(reader *r, grace_trace **t) {
    grace_status st = GRACE_OK;
    const unsigned char *p = NULL;
    unsigned char prefix[GR_TRACE_PREFIX_BYTES] = {0};
    if (r->n >= sizeof prefix) GR_TRY(take(r, 0, sizeof prefix, &p));
    if (p) memcpy(prefix, p, sizeof prefix);
    GR_CHECK(memcmp(prefix, GR_TRACE_MAGIC, 8) == 0, GRACE_ERR_FORMAT, "%s: is not a trace file", r->where);
    r->version = gr_get_u32(prefix + 8);
    GR_CHECK(r->version >= 1 && r->version <= GR_TRACE_VERSION, GRACE_ERR_UNSUPPORTED, "%s: trace format: expected version 1 to %d, found %" PRIu32,
             r->where, GR_TRACE_VERSION, r->version);
    uint32_t n = gr_get_u32(prefix + 12);
    GR_CHECK(n <= GR_TRACE_HEADER_MAX && n <= r->n - sizeof prefix, GRACE_ERR_FORMAT,
             "%s: the header claims %" PRIu32 " bytes, %zu are left in the file", r->where, n, r->n - sizeof prefix);
    GR_TRY(take(r, sizeof prefix, n, &p));
    r->first_block = r->at = sizeof prefix + n;
    r->first_chain = r->chain = gr_get_u64(prefix + 16);
    GR_CHECK(r->chain == gr_trace_header_check(prefix, p, n), GRACE_ERR_FORMAT, "%s: the header does not match its checksum", r->where);
    GR_TRY(read_header_text(r, (const char *)p, n, t));
done:
    return st;
}

/* ---- payloads: raw.data holds b->raw_bytes ---- */

static int32_t get_i32(const unsigned char *p) { return (int32_t)gr_get_u32(p); }

static grace_status read_sequences(reader *r, const gr_trace_block *b, grace_trace *t) {
    grace_status st = GRACE_OK;
    uint64_t expected = (uint64_t)b->n_items * GR_TRACE_SEQUENCE_BYTES;
    GR_CHECK(b->raw_bytes == expected, GRACE_ERR_FORMAT, "%s: block %" PRId64 ": %" PRIu32 " sequences take %" PRIu64 " bytes, found %" PRIu32,
             r->where, r->n_blocks, b->n_items, expected, b->raw_bytes);
    for (uint32_t i = 0; i < b->n_items; i++) {
        const unsigned char *p = r->raw.data + (size_t)i * GR_TRACE_SEQUENCE_BYTES;
        grace_trace_sequence seq = {.id = get_i32(p), .home = get_i32(p + 4), .domain = get_i32(p + 8)};
        GR_TRY(gr_trace_push_sequence(r->where, t, seq));
    }
done:
    return st;
}

static grace_trace_segment get_segment(const unsigned char *p, uint32_t version) {
    return (grace_trace_segment){.sequence = get_i32(p), .position = get_i32(p + 4), .n_tokens = get_i32(p + 8), .step = get_i32(p + 12),
                                 .phase = version == 1 ? GRACE_PHASE_UNKNOWN : (grace_phase)get_i32(p + 16)};
}

/* Where experts, ids and weights of a block lie. */
static gr_raw_tokens lay_out(const grace_trace_info *info, const unsigned char *p, uint64_t n_tokens) {
    gr_raw_tokens raw = {.experts = p, .expert_bytes = gr_trace_expert_bytes(info->n_experts), .id_bytes = gr_trace_id_bytes(info->vocab)};
    raw.ids = p + n_tokens * (uint64_t)info->n_layers * (uint64_t)info->top_k * (uint64_t)raw.expert_bytes;
    raw.weights = raw.ids + n_tokens * (uint64_t)raw.id_bytes;
    return raw;
}

static grace_status read_tokens(reader *r, const gr_trace_block *b, grace_trace *t) {
    grace_status st = GRACE_OK;
    const grace_trace_info *info = &t->info;
    size_t segment_bytes = r->version == 1 ? GR_TRACE_SEGMENT_BYTES_V1 : GR_TRACE_SEGMENT_BYTES;
    uint64_t n_segments = (uint64_t)b->n_items * segment_bytes, token_bytes = gr_trace_token_bytes(info);
    GR_CHECK(n_segments <= b->raw_bytes, GRACE_ERR_FORMAT,
             "%s: block %" PRId64 ": %" PRIu32 " segments take %" PRIu64 " bytes, the block has %" PRIu32, r->where, r->n_blocks, b->n_items,
             n_segments, b->raw_bytes);
    uint64_t n_rest = b->raw_bytes - n_segments, n_tokens = 0;
    for (uint32_t i = 0; i < b->n_items; i++) {
        grace_trace_segment seg = get_segment(r->raw.data + (size_t)i * segment_bytes, r->version);
        GR_TRY(gr_trace_push_segment(r->where, t, seg));
        n_tokens += (uint64_t)seg.n_tokens;
    }
    GR_CHECK(n_rest % token_bytes == 0 && n_rest / token_bytes == n_tokens, GRACE_ERR_FORMAT,
             "%s: block %" PRId64 ": the segments have %" PRIu64 " tokens of %" PRIu64 " bytes, the tokens take %" PRIu64 " bytes", r->where,
             r->n_blocks, n_tokens, token_bytes, n_rest);
    gr_raw_tokens raw = lay_out(info, r->raw.data + n_segments, n_tokens);
    GR_TRY(gr_trace_push_tokens(r->where, t, &raw, (int64_t)n_tokens));
done:
    return st;
}

static grace_status read_end(reader *r, const gr_trace_block *b, grace_trace *t) {
    grace_status st = GRACE_OK;
    GR_CHECK(b->raw_bytes == GR_TRACE_TOTALS_BYTES && b->n_items == 0, GRACE_ERR_FORMAT, "%s: the end mark has %" PRIu32 " bytes, expected %d",
             r->where, b->raw_bytes, GR_TRACE_TOTALS_BYTES);
    uint64_t n_tokens = gr_get_u64(r->raw.data), n_sequences = gr_get_u64(r->raw.data + 8), found = (uint64_t)(t->first_token + t->n_tokens);
    GR_CHECK(n_tokens == found && n_sequences == (uint64_t)t->n_sequences, GRACE_ERR_FORMAT,
             "%s: the end mark counts %" PRIu64 " tokens of %" PRIu64 " sequences, found %" PRIu64 " of %" PRId64, r->where, n_tokens, n_sequences,
             found, t->n_sequences);
    GR_CHECK(r->at == r->n, GRACE_ERR_FORMAT, "%s: %zu bytes after the end mark", r->where, r->n - r->at);
    r->ended = true;
done:
    return st;
}

/* ---- blocks ---- */

static grace_status check_block(const reader *r, const gr_trace_block *b, const unsigned char *header) {
    grace_status st = GRACE_OK;
    GR_CHECK(b->header_check == gr_hash64(header, 24, r->chain), GRACE_ERR_FORMAT,
             "%s: block %" PRId64 " at byte %zu: the header does not match its checksum", r->where, r->n_blocks, r->at);
    GR_CHECK(memcmp(header + 1, "\0\0\0", 3) == 0 && (b->type == 'S' || b->type == 'T' || b->type == 'E'), GRACE_ERR_FORMAT,
             "%s: block %" PRId64 " at byte %zu: unknown type %d", r->where, r->n_blocks, r->at, b->type);
    GR_CHECK(b->raw_bytes <= GR_TRACE_RAW_MAX, GRACE_ERR_FORMAT, "%s: block %" PRId64 " claims %" PRIu32 " bytes, at most %d are allowed", r->where,
             r->n_blocks, b->raw_bytes, GR_TRACE_RAW_MAX);
    GR_CHECK(b->stored_bytes <= ZSTD_compressBound(b->raw_bytes), GRACE_ERR_FORMAT,
             "%s: block %" PRId64 " claims %" PRIu32 " bytes for a content of %" PRIu32, r->where, r->n_blocks, b->stored_bytes, b->raw_bytes);
done:
    return st;
}

/* The frame must say itself how much it holds before anything is allocated for it. */
static grace_status unpack(reader *r, const gr_trace_block *b, const unsigned char *payload) {
    grace_status st = GRACE_OK;
    GR_CHECK(b->payload_check == gr_hash64(payload, b->stored_bytes, r->chain), GRACE_ERR_FORMAT,
             "%s: block %" PRId64 " at byte %zu does not match its checksum", r->where, r->n_blocks, r->at);
    GR_CHECK(ZSTD_getFrameContentSize(payload, b->stored_bytes) == b->raw_bytes, GRACE_ERR_FORMAT,
             "%s: block %" PRId64 ": its compressed frame does not hold %" PRIu32 " bytes", r->where, r->n_blocks, b->raw_bytes);
    GR_TRY(reserve(&r->raw, b->raw_bytes));
    size_t n = ZSTD_decompressDCtx(r->zstd, r->raw.data, b->raw_bytes, payload, b->stored_bytes);
    GR_CHECK(!ZSTD_isError(n) && n == b->raw_bytes, GRACE_ERR_FORMAT, "%s: block %" PRId64 " cannot be decompressed: %s", r->where, r->n_blocks,
             ZSTD_isError(n) ? ZSTD_getErrorName(n) : "too few bytes");
done:
    return st;
}

static grace_status read_payload(reader *r, const gr_trace_block *b, grace_trace *t) {
    switch (b->type) {
    case 'S': return read_sequences(r, b, t);
    case 'T': return read_tokens(r, b, t);
    default: return read_end(r, b, t);
    }
}

/* A file that ends inside a block, or before it, is cut short. */
static grace_status read_block(reader *r, grace_trace *t) {
    grace_status st = GRACE_OK;
    const unsigned char *p = NULL;
    r->cut = r->n - r->at < GR_TRACE_BLOCK_BYTES;
    if (r->cut) return st;
    GR_TRY(take(r, r->at, GR_TRACE_BLOCK_BYTES, &p));
    gr_trace_block b = gr_trace_get_block(p);
    GR_TRY(check_block(r, &b, p));
    r->cut = b.stored_bytes > r->n - r->at - GR_TRACE_BLOCK_BYTES;
    if (r->cut) return st;
    GR_TRY(take(r, r->at + GR_TRACE_BLOCK_BYTES, b.stored_bytes, &p));
    GR_TRY(unpack(r, &b, p));
    r->at += GR_TRACE_BLOCK_BYTES + b.stored_bytes;
    r->chain = b.header_check;
    GR_TRY(read_payload(r, &b, t));
    r->n_blocks++;
done:
    return st;
}

/* ---- the source ---- */

static grace_status next(void *self, grace_trace *t, bool *more) {
    grace_status st = GRACE_OK;
    reader *r = self;
    int64_t n_before = t->n_tokens;
    while (!r->ended && !r->cut && t->n_tokens == n_before) GR_TRY(read_block(r, t));
    *more = t->n_tokens > n_before;
done:
    return st;
}

static void to_start(void *self, grace_trace *t) {
    reader *r = self;
    r->at = r->first_block;
    r->chain = r->first_chain;
    r->ended = r->cut = false;
    r->n_blocks = 0;
    t->n_sequences = 0;
}

static bool truncated(const void *self) { return ((const reader *)self)->cut; }

static void finish(void *self) {
    reader *r = self;
    if (!r) return;
    if (r->fd >= 0) close(r->fd);
    ZSTD_freeDCtx(r->zstd);
    free(r->where);
    free(r->taken.data);
    free(r->raw.data);
    free(r);
}

const gr_trace_source gr_trace_file_source = {next, to_start, truncated, finish};

static grace_status start(const char *where, reader **out) {
    grace_status st = GRACE_OK;
    reader *r = NULL;
    GR_CALLOC(r, 1);
    r->fd = -1;
    r->where = strdup(where);
    r->zstd = ZSTD_createDCtx();
    GR_CHECK(r->where && r->zstd, GRACE_ERR_MEMORY, "%s: no memory to decompress", where);
    *out = r, r = NULL;
done:
    finish(r);
    return st;
}

grace_status gr_trace_bytes_open(const char *where, const void *bytes, size_t n, void **self, grace_trace **t) {
    grace_status st = GRACE_OK;
    reader *r = NULL;
    GR_TRY(start(where, &r));
    r->memory = bytes;
    r->n = n;
    GR_TRY(read_header(r, t));
    *self = r, r = NULL;
done:
    finish(r);
    return st;
}

grace_status gr_trace_file_open(const char *path, void **self, grace_trace **t) {
    grace_status st = GRACE_OK;
    reader *r = NULL;
    GR_TRY(start(path, &r));
    GR_TRY(gr_file_open(path, &r->fd, &r->n));
    GR_TRY(read_header(r, t));
    *self = r, r = NULL;
done:
    finish(r);
    return st;
}
