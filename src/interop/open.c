/* What lies at a path, found out by looking. */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/status.h"
#include "interop/interop.h"
#include "interop/sglang.h"
#include "plan/trace.h"

static bool ends_with(const char *path, const char *tail) {
    size_t n = strlen(path), tail_n = strlen(tail);
    return n >= tail_n && strcmp(path + n - tail_n, tail) == 0;
}

static grace_status find_in(const char *folder, const char *name, char *path, size_t size, bool *found) {
    grace_status st = gr_path_join(path, size, folder, name);
    *found = !st && access(path, F_OK) == 0;
    return st;
}

static grace_status open_synthetic(const char *path, const gr_foreign_options *opt, grace_trace_reader **trace) {
    grace_status st = GRACE_OK;
    grace_trace *whole = NULL;
    GR_TRY(gr_coact_load(path, opt->seed, opt->n_tokens, &whole, NULL));
    gr_trace_set_name(whole->name, path);
    GR_TRY(gr_trace_reader_take(whole, trace));
    whole = NULL;
done:
    grace_trace_close(whole);
    return st;
}

static grace_status open_folder(const char *path, const gr_foreign_options *opt, grace_trace_reader **trace, grace_profile **profile) {
    grace_status st = GRACE_OK;
    char file[PATH_MAX];
    bool found = false;
    GR_TRY(find_in(path, "coact.csv", file, sizeof file, &found));
    if (found) return open_synthetic(path, opt, trace);
    GR_TRY(find_in(path, "load.csv", file, sizeof file, &found));
    if (found) return gr_load_csv_load(file, opt->top_k, profile);
    GR_TRY(grace_trace_reader_open(path, trace));
done:
    return st;
}

static grace_status open_recording(const char *path, const gr_foreign_options *opt, grace_trace_reader **trace, grace_profile **profile) {
    grace_status st = GRACE_OK;
    gr_file map = {0};
    gr_torch file = {0};
    grace_trace *whole = NULL;
    GR_TRY(gr_file_map(path, &map));
    GR_TRY(gr_torch_open(path, map.data, map.n, &file));
    if (gr_sglang_has_tokens(&file)) {
        GR_TRY(gr_sglang_parse_trace(path, map.data, map.n, &whole));
        gr_trace_set_name(whole->name, path);
        GR_TRY(gr_trace_reader_take(whole, trace));
        whole = NULL;
    } else GR_TRY(gr_sglang_parse_profile(path, map.data, map.n, opt->top_k, profile));
done:
    grace_trace_close(whole);
    gr_torch_close(&file);
    gr_file_unmap(&map);
    return st;
}

/* What is said of a file that says it itself must be true of it. */
static grace_status check_top_k(const char *path, const gr_foreign_options *opt, const grace_trace_reader *trace) {
    grace_status st = GRACE_OK;
    const int32_t top_k = grace_trace_describe(grace_trace_reader_head(trace))->top_k;
    GR_CHECK(!opt->top_k || opt->top_k == top_k, GRACE_ERR_MISMATCH, "%s: expected top_k %d, as its tokens have it, found %d asked for", path, top_k,
             opt->top_k);
done:
    return st;
}

grace_status gr_foreign_open(const char *path, const gr_foreign_options *opt, grace_trace_reader **trace, grace_profile **profile) {
    grace_status st = GRACE_OK;
    struct stat info;
    *trace = NULL, *profile = NULL;
    GR_CHECK(stat(path, &info) == 0, GRACE_ERR_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) GR_TRY(open_folder(path, opt, trace, profile));
    else if (ends_with(path, ".csv")) GR_TRY(gr_load_csv_load(path, opt->top_k, profile));
    else if (ends_with(path, ".json")) GR_TRY(gr_eplb_load(path, opt->top_k, profile));
    else if (ends_with(path, ".pt")) GR_TRY(open_recording(path, opt, trace, profile));
    else GR_TRY(grace_trace_reader_open(path, trace));
    if (*profile) gr_trace_set_name((*profile)->origin.file, path);
    if (*trace) GR_TRY(check_top_k(path, opt, *trace));
done:
    if (st) grace_trace_reader_close(*trace), *trace = NULL;
    return st;
}

grace_status gr_foreign_tokens(const char *path, const gr_foreign_options *opt, grace_trace_reader **trace) {
    grace_status st = GRACE_OK;
    grace_profile *loads = NULL;
    GR_TRY(gr_foreign_open(path, opt, trace, &loads));
    GR_CHECK(*trace, GRACE_ERR_ARG, "%s has loads only: expected a trace of tokens (of SGLang's recordings those in mode per_token)", path);
done:
    grace_profile_free(loads);
    return st;
}

grace_status gr_foreign_trace(const char *path, const gr_foreign_options *opt, grace_trace **out) {
    grace_trace_reader *reader = NULL;
    grace_status st = gr_foreign_tokens(path, opt, &reader);
    if (!st) st = gr_trace_reader_whole(reader, out, NULL);
    grace_trace_reader_close(reader);
    return st;
}
