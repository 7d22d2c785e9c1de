/* grace bench tokenizer: how fast a tokenizer loads and encodes, on one core. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/status.h"
#include "bench.h"
#include "cli.h"

enum { KEY_REPEAT = 0x200, KEY_JSON, REPEAT_MAX = 1000 };

static const struct argp_option options[] = {
    {"repeat", KEY_REPEAT, "N", 0, "times everything is done; medians are shown (default 5)", 0},
    {"json", KEY_JSON, 0, 0, "print one JSON object", 0},
    {0},
};

typedef struct arguments { const char *dir; char **files; int32_t n_files, repeat; bool json; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case KEY_REPEAT: a->repeat = (int32_t)gr_arg_int(state, "repeat", arg, 1, REPEAT_MAX); break;
    case KEY_JSON: a->json = true; break;
    case ARGP_KEY_ARG:
        if (a->dir) return ARGP_ERR_UNKNOWN;        /* all from here on: ARGP_KEY_ARGS */
        a->dir = arg;
        break;
    case ARGP_KEY_ARGS:
        a->files = state->argv + state->next;
        a->n_files = (int32_t)(state->argc - state->next);
        break;
    case ARGP_KEY_END:
        if (!a->n_files) argp_error(state, "expected a folder with tokenizer.json and at least one text file");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* CPU time: the machine may be shared. */
static double cpu_seconds(void) { return gr_cpu_us() * 1e-6; }

typedef struct measured { size_t n_bytes; int32_t n_ids; double seconds; uint64_t hash; } measured;

static grace_status measure_load(const arguments *a, double *seconds) {
    grace_status st = GRACE_OK;
    double times[REPEAT_MAX] = {0};
    for (int32_t i = 0; i < a->repeat; i++) {
        grace_tokenizer *tok = NULL;
        double start = cpu_seconds();
        GR_TRY(grace_tokenizer_open(a->dir, &tok));
        times[i] = cpu_seconds() - start;
        grace_tokenizer_close(tok);
    }
    *seconds = gr_bench_median(times, a->repeat);
done:
    return st;
}

static grace_status measure_file(const arguments *a, const grace_tokenizer *tok, const char *path, measured *m) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    double times[REPEAT_MAX] = {0};
    GR_TRY(gr_file_map(path, &file));
    for (int32_t i = 0; i < a->repeat; i++) {
        int32_t *ids;
        double start = cpu_seconds();
        st = grace_tokenizer_encode(tok, file.data, file.n, &ids, &m->n_ids);
        if (st) st = gr_fail_in(st, "%s", path);
        GR_TRY(st);
        times[i] = cpu_seconds() - start;
        m->hash = gr_hash64(ids, (size_t)m->n_ids * sizeof *ids, 0);
        free(ids);
    }
    m->n_bytes = file.n;
    m->seconds = gr_bench_median(times, a->repeat);
done:
    gr_file_unmap(&file);
    return st;
}

static double mbs_of(const measured *m) { return m->seconds > 0 ? (double)m->n_bytes / m->seconds * 1e-6 : 0; }

static void print_text(const arguments *a, const grace_tokenizer *tok, double load, const measured *m) {
    printf("%s: %d ids, loads in %.3f s\n", a->dir, (int)grace_tokenizer_vocab(tok), load);
    for (int32_t i = 0; i < a->n_files; i++)
        printf("%8.2f MB/s  %9zu bytes  %8d ids  %.2f bytes/id  ids %016llx  %s\n", mbs_of(&m[i]), m[i].n_bytes, (int)m[i].n_ids,
               m[i].n_ids ? (double)m[i].n_bytes / m[i].n_ids : 0.0, (unsigned long long)m[i].hash, a->files[i]);
}

static grace_status print_json(const arguments *a, const grace_tokenizer *tok, double load, const measured *m) {
    gr_json *o = gr_json_new_object(), *files = gr_json_new_array();
    for (int32_t i = 0; i < a->n_files; i++) {
        gr_json *f = gr_json_new_object();
        gr_json_set_string(f, "file", a->files[i]);
        gr_json_set_int(f, "bytes", (int64_t)m[i].n_bytes);
        gr_json_set_int(f, "ids", m[i].n_ids);
        gr_json_set_real(f, "cpu_seconds", m[i].seconds);
        gr_json_set_real(f, "mb_per_s", mbs_of(&m[i]));
        gr_json_set_hex(f, "ids_hash", m[i].hash);
        gr_json_push(files, f);
    }
    gr_json_set_string(o, "bench", "tokenizer");
    gr_json_set_string(o, "tokenizer", a->dir);
    gr_json_set_int(o, "vocabulary", grace_tokenizer_vocab(tok));
    gr_json_set_int(o, "repeat", a->repeat);
    gr_json_set_real(o, "load_cpu_seconds", load);
    gr_json_set(o, "files", files);
    return gr_print_json(o);
}

static grace_status bench(const arguments *a) {
    grace_status st = GRACE_OK;
    grace_tokenizer *tok = NULL;
    measured *m = NULL;
    double load;
    GR_CALLOC(m, a->n_files);
    GR_TRY(measure_load(a, &load));
    GR_TRY(grace_tokenizer_open(a->dir, &tok));
    for (int32_t i = 0; i < a->n_files; i++) GR_TRY(measure_file(a, tok, a->files[i], &m[i]));
    if (a->json) st = print_json(a, tok, load, m);
    else print_text(a, tok, load, m);
done:
    grace_tokenizer_close(tok);
    free(m);
    return st;
}

int gr_bench_tokenizer_main(int argc, char **argv) {
    static const struct argp argp = {options, parse, "DIR FILE...", "Load the tokenizer of DIR and encode each FILE as one text: CPU seconds of one "
                                                                    "core.", 0, 0, 0};
    arguments a = {.repeat = 5};
    gr_arg_parse(&argp, 3, argc, argv, &a);
    grace_status st = bench(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
