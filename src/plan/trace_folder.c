/* Foreign traces: a folder with raw experts (topk.u8 or topk.u16), meta.json, and perhaps token ids (tokens.u16 or tokens.u32) and seqs.csv. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "plan/layer_ids.h"
#include "plan/trace.h"

enum { DOMAIN_BYTES = 256, READ_BYTES = 1 << 20 };

typedef struct folder {
    char *path;
    char meta[PATH_MAX], experts[PATH_MAX], ids[PATH_MAX], sequences[PATH_MAX];    /* meta.json, topk.*, tokens.*, seqs.csv */
    int expert_bytes, id_bytes;     /* of topk.*, of tokens.*; 0: no token ids */
    int experts_fd, ids_fd;
    grace_phase phase;
    int64_t n_tokens;
    int64_t sequence_length;        /* 0: not given */
    gr_json *json;
    grace_trace *t;                 /* information, domains, sequences; the reader owns it once it is open */
    int64_t n_covered;              /* tokens that sequences were made for */
    int32_t *length;                /* [n_sequences] tokens */
    int64_t length_capacity;
    int64_t n_read;                 /* tokens given out, sequences whole, tokens of the next one */
    int32_t sequence, position;
    unsigned char *experts_read, *ids_read;     /* of n_read_max tokens */
    int64_t n_read_max;
} folder;

/* ---- meta.json ---- */

/* The first word counts: "prefill (teacher-forced)". */
static grace_phase phase_of(const char *text) {
    return strncmp(text, "prefill", 7) == 0 ? GRACE_PHASE_PREFILL : strncmp(text, "decode", 6) == 0 ? GRACE_PHASE_DECODE : GRACE_PHASE_UNKNOWN;
}

static grace_status read_meta(folder *f) {
    grace_status st = GRACE_OK;
    grace_trace_info info = {.n_ranks = 1, .n_nodes = 1};
    const char *model = NULL, *phase = NULL;
    int64_t layers = 0, experts = 0, top_k = 0, vocab = 0;
    GR_TRY(gr_json_load(f->meta, &f->json));
    GR_TRY(gr_json_string_or(f->json, f->meta, "model", "", &model));
    GR_TRY(gr_json_int(f->json, f->meta, "layers", 1, GR_TRACE_LAYERS_MAX, &layers));
    GR_TRY(gr_json_int(f->json, f->meta, "experts", 1, GR_TRACE_EXPERTS_MAX, &experts));
    GR_TRY(gr_json_int(f->json, f->meta, "top_k", 1, GR_TRACE_TOP_K_MAX, &top_k));
    GR_TRY(gr_json_int(f->json, f->meta, "tokens", 0, GR_TRACE_TOKENS_MAX, &f->n_tokens));
    GR_TRY(gr_json_int_or(f->json, f->meta, "sequence_length", 1, INT32_MAX, 0, &f->sequence_length));
    GR_TRY(gr_json_int_or(f->json, f->meta, "vocab", 1, INT32_MAX, f->id_bytes == 2 ? 65536 : INT32_MAX, &vocab));
    GR_TRY(gr_json_bool_or(f->json, f->meta, "synthetic", false, &info.synthetic));
    GR_TRY(gr_json_string_or(f->json, f->meta, "phase", "", &phase));
    f->phase = phase_of(phase);
    gr_trace_set_model(&info, model);
    info.n_layers = (int32_t)layers;
    info.n_experts = (int32_t)experts;
    info.top_k = (int32_t)top_k;
    if (f->id_bytes) info.vocab = (int32_t)vocab;
    GR_TRY(gr_layer_ids_read_meta(f->json, f->meta, &info));
    GR_TRY(gr_trace_new(f->meta, &info, &f->t));
done:
    return st;
}

/* ---- experts and token ids ---- */

/* A file that cannot be looked at is not one that is not there. */
static grace_status look(const char *path, bool *found) {
    grace_status st = GRACE_OK;
    *found = access(path, F_OK) == 0;
    GR_CHECK(*found || errno == ENOENT, GRACE_ERR_IO, "%s: %s", path, strerror(errno));
done:
    return st;
}

/* Which of NAME.ONE and NAME.TWO there is: its path and bytes an element, 0: neither. */
static grace_status find_file(const folder *f, const char *name, int bytes, char *path, int *found) {
    grace_status st = GRACE_OK;
    char wide[PATH_MAX], narrow_name[16], wide_name[16];
    bool is_narrow = false, is_wide = false;
    snprintf(narrow_name, sizeof narrow_name, "%s.u%d", name, 8 * bytes);
    snprintf(wide_name, sizeof wide_name, "%s.u%d", name, 16 * bytes);
    GR_TRY(gr_path_join(path, PATH_MAX, f->path, narrow_name));
    GR_TRY(gr_path_join(wide, sizeof wide, f->path, wide_name));
    GR_TRY(look(path, &is_narrow));
    GR_TRY(look(wide, &is_wide));
    GR_CHECK(!(is_narrow && is_wide), GRACE_ERR_FORMAT, "%s: expected %s or %s in the folder, found both", f->path, narrow_name, wide_name);
    *found = is_narrow ? bytes : is_wide ? 2 * bytes : 0;
    if (is_wide) memcpy(path, wide, sizeof wide);
done:
    return st;
}

static grace_status find_files(folder *f) {
    grace_status st = GRACE_OK;
    GR_TRY(find_file(f, "topk", 1, f->experts, &f->expert_bytes));
    GR_CHECK(f->expert_bytes, GRACE_ERR_IO, "%s: expected topk.u8 or topk.u16 in the folder, found neither", f->path);
    GR_TRY(find_file(f, "tokens", 2, f->ids, &f->id_bytes));
done:
    return st;
}

static grace_status open_file(const folder *f, const char *path, int64_t token_bytes, int *fd) {
    grace_status st = GRACE_OK;
    size_t n = 0;
    GR_TRY(gr_file_open(path, fd, &n));
    GR_CHECK((int64_t)n == f->n_tokens * token_bytes, GRACE_ERR_FORMAT,
             "%s: %" PRId64 " tokens of %" PRId64 " byte(s) take %" PRId64 " bytes, the file has %zu", path, f->n_tokens, token_bytes,
             f->n_tokens * token_bytes, n);
done:
    return st;
}

static int64_t expert_row_bytes(const folder *f) { return (int64_t)f->t->info.n_layers * f->t->info.top_k * f->expert_bytes; }

static grace_status open_tokens(folder *f) {
    grace_status st = GRACE_OK;
    int64_t row = expert_row_bytes(f);
    GR_CHECK(f->expert_bytes == 2 || f->t->info.n_experts <= 256, GRACE_ERR_FORMAT, "%s: one byte an id, but meta.json says %d experts", f->experts,
             f->t->info.n_experts);
    GR_TRY(open_file(f, f->experts, row, &f->experts_fd));
    if (f->id_bytes) GR_TRY(open_file(f, f->ids, f->id_bytes, &f->ids_fd));
    f->n_read_max = row < READ_BYTES ? READ_BYTES / row : 1;
    GR_CALLOC(f->experts_read, f->n_read_max * row);
    GR_CALLOC(f->ids_read, f->n_read_max * f->id_bytes);
done:
    return st;
}

/* ---- sequences: a run of tokens of one domain, whole or cut into pieces of sequence_length ---- */

static grace_status add_sequence(folder *f, const char *where, int64_t n_tokens, int32_t domain) {
    grace_status st = GRACE_OK;
    int32_t index = grace_trace_n_sequences(f->t);
    GR_CHECK(n_tokens <= INT32_MAX, GRACE_ERR_LIMIT, "%s: a sequence of %" PRId64 " tokens, at most %d are allowed", where, n_tokens, INT32_MAX);
    GR_TRY(gr_trace_push_sequence(where, f->t, (grace_trace_sequence){.id = index, .domain = domain}));
    GR_RESERVE(f->length, (int64_t)index + 1, f->length_capacity);
    f->length[index] = (int32_t)n_tokens;
    f->n_covered += n_tokens;
done:
    return st;
}

/* Runs follow each other without gaps and end within the file. */
static grace_status check_run(const folder *f, const char *where, const char *what, int64_t number, int64_t start, int64_t n_tokens) {
    grace_status st = GRACE_OK;
    GR_CHECK(start == f->n_covered, GRACE_ERR_FORMAT, "%s: %s %" PRId64 ": expected start %" PRId64 ", found %" PRId64, where, what, number,
             f->n_covered, start);
    GR_CHECK(n_tokens >= 1 && n_tokens <= f->n_tokens - start, GRACE_ERR_FORMAT,
             "%s: %s %" PRId64 ": expected 1 to %" PRId64 " tokens, found %" PRId64, where, what, number, f->n_tokens - start, n_tokens);
done:
    return st;
}

static grace_status add_run(folder *f, int64_t n_tokens, int32_t domain) {
    grace_status st = GRACE_OK;
    int64_t piece = f->sequence_length > 0 ? f->sequence_length : n_tokens;
    for (int64_t left = n_tokens; left > 0; left -= piece) GR_TRY(add_sequence(f, f->meta, left < piece ? left : piece, domain));
done:
    return st;
}

static grace_status read_segments(folder *f, const gr_json *segments) {
    grace_status st = GRACE_OK;
    for (size_t i = 0; i < gr_json_length(segments); i++) {
        const gr_json *entry = gr_json_at(segments, i);
        const char *name = NULL;
        int64_t start = 0, n_tokens = 0;
        int32_t domain = -1;
        GR_TRY(gr_json_string_or(entry, f->meta, "domain", NULL, &name));
        GR_TRY(gr_json_int(entry, f->meta, "start", 0, f->n_tokens, &start));
        GR_TRY(gr_json_int(entry, f->meta, "tokens", 1, f->n_tokens, &n_tokens));
        GR_TRY(check_run(f, f->meta, "segment", (int64_t)i, start, n_tokens));
        if (name) GR_TRY(gr_trace_domain_index(f->meta, f->t, name, &domain));
        GR_TRY(add_run(f, n_tokens, domain));
    }
done:
    return st;
}

static grace_status read_meta_sequences(folder *f) {
    grace_status st = GRACE_OK;
    const gr_json *segments = NULL;
    const char *name = NULL;
    int32_t domain = -1;
    if (gr_json_kind_of(gr_json_get(f->json, "segments")) != GR_JSON_NULL) {
        GR_TRY(gr_json_array(f->json, f->meta, "segments", &segments));
        GR_TRY(read_segments(f, segments));
    } else {
        GR_TRY(gr_json_string_or(f->json, f->meta, "domain", NULL, &name));
        if (name) GR_TRY(gr_trace_domain_index(f->meta, f->t, name, &domain));
        GR_TRY(add_run(f, f->n_tokens, domain));
    }
done:
    return st;
}

/* ---- seqs.csv: start and tokens are needed, domain is used, other columns are ignored ---- */

static grace_status read_row(folder *f, const gr_csv *csv, const double values[2], int32_t domain_column) {
    grace_status st = GRACE_OK;
    char name[DOMAIN_BYTES] = "";
    int64_t start = 0, n_tokens = 0;
    int32_t domain = -1;
    GR_TRY(gr_csv_whole(csv, "start", values[0], GR_TRACE_TOKENS_MAX, &start));
    GR_TRY(gr_csv_whole(csv, "tokens", values[1], GR_TRACE_TOKENS_MAX, &n_tokens));
    GR_TRY(check_run(f, f->sequences, "line", csv->line, start, n_tokens));
    if (domain_column >= 0) GR_TRY(gr_csv_text(csv, domain_column, name, sizeof name));
    if (name[0]) GR_TRY(gr_trace_domain_index(f->sequences, f->t, name, &domain));
    GR_TRY(add_sequence(f, f->sequences, n_tokens, domain));
done:
    return st;
}

static grace_status read_table(folder *f) {
    static const char *const names[] = {"start", "tokens"};
    grace_status st = GRACE_OK;
    gr_file file = {0};
    gr_csv csv;
    double values[2];
    bool more = true;
    GR_TRY(gr_file_map(f->sequences, &file));
    GR_TRY(gr_csv_open(f->sequences, file.data, file.n, names, 2, &csv));
    for (;;) {
        GR_TRY(gr_csv_next(&csv, values, &more));
        if (!more) break;
        GR_TRY(read_row(f, &csv, values, gr_csv_column(&csv, "domain")));
    }
done:
    gr_file_unmap(&file);
    return st;
}

static grace_status read_sequences(folder *f) {
    grace_status st = GRACE_OK;
    bool has_table = false;
    GR_TRY(look(f->sequences, &has_table));
    if (has_table)
        GR_TRY(read_table(f));
    else
        GR_TRY(read_meta_sequences(f));
    GR_CHECK(f->n_covered == f->n_tokens, GRACE_ERR_FORMAT, "%s: the sequences cover %" PRId64 " tokens, meta.json says %" PRId64,
             has_table ? f->sequences : f->meta, f->n_covered, f->n_tokens);
done:
    return st;
}

/* ---- the source ---- */

/* The next n tokens' segments: what is left of a sequence, whole ones, the beginning of one. */
static grace_status cut_segments(folder *f, grace_trace *t, int64_t n) {
    grace_status st = GRACE_OK;
    while (n > 0) {
        int32_t left = f->length[f->sequence] - f->position, taken = n < left ? (int32_t)n : left;
        GR_TRY(gr_trace_push_segment(f->meta, t, (grace_trace_segment){f->sequence, f->position, taken, 0, f->phase}));
        n -= taken;
        f->position += taken;
        if (taken == left) f->sequence++, f->position = 0;
    }
done:
    return st;
}

static grace_status next(void *self, grace_trace *t, bool *more) {
    grace_status st = GRACE_OK;
    folder *f = self;
    int64_t left = f->n_tokens - f->n_read, n = left < f->n_read_max ? left : f->n_read_max, row = expert_row_bytes(f);
    gr_raw_tokens raw = {.experts = f->experts_read, .expert_bytes = f->expert_bytes, .ids = f->ids_read, .id_bytes = f->id_bytes};
    GR_TRY(gr_file_read_at(f->experts, f->experts_fd, (uint64_t)(f->n_read * row), f->experts_read, (size_t)(n * row)));
    if (f->id_bytes)
        GR_TRY(gr_file_read_at(f->ids, f->ids_fd, (uint64_t)f->n_read * (uint64_t)f->id_bytes, f->ids_read, (size_t)n * (size_t)f->id_bytes));
    GR_TRY(cut_segments(f, t, n));
    GR_TRY(gr_trace_push_tokens(f->path, t, &raw, n));
    f->n_read += n;
    *more = n > 0;
done:
    return st;
}

static void to_start(void *self, grace_trace *t) {
    folder *f = self;
    (void)t;
    f->n_read = 0;
    f->sequence = f->position = 0;
}

static bool truncated(const void *self) {
    (void)self;
    return false;
}

static void finish(void *self) {
    folder *f = self;
    if (!f) return;
    if (f->experts_fd >= 0) close(f->experts_fd);
    if (f->ids_fd >= 0) close(f->ids_fd);
    gr_json_free(f->json);
    free(f->path);
    free(f->length);
    free(f->experts_read);
    free(f->ids_read);
    free(f);
}

const gr_trace_source gr_trace_folder_source = {next, to_start, truncated, finish};

grace_status gr_trace_folder_open(const char *path, void **self, grace_trace **t) {
    grace_status st = GRACE_OK;
    folder *f = NULL;
    GR_CALLOC(f, 1);
    f->experts_fd = f->ids_fd = -1;
    f->path = strdup(path);
    GR_CHECK(f->path, GRACE_ERR_MEMORY, "no memory for a path of %zu bytes", strlen(path));
    GR_TRY(gr_path_join(f->meta, sizeof f->meta, path, "meta.json"));
    GR_TRY(gr_path_join(f->sequences, sizeof f->sequences, path, "seqs.csv"));
    GR_TRY(find_files(f));
    GR_TRY(read_meta(f));
    GR_TRY(open_tokens(f));
    GR_TRY(read_sequences(f));
    *t = f->t;
    *self = f, f = NULL;
done:
    if (f) grace_trace_close(f->t);
    finish(f);
    return st;
}
