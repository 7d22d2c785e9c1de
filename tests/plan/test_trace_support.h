/* What the trace tests share: a random trace as plain arrays, a folder to write in, bytes that end at an unmapped page. */
#ifndef TEST_TRACE_SUPPORT_H
#define TEST_TRACE_SUPPORT_H
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "plan/trace.h"

/* A trace as a test thinks of it, token by token: who, where, when, which experts. */
typedef struct world {
    grace_trace_info info;
    const char *domains[3];
    int32_t n_domains, n_sequences, n_tokens;
    grace_trace_sequence sequences[64];
    int32_t sequence_of_token[4096], position_of_token[4096], step_of_token[4096];
    grace_phase phase_of_token[4096];
    uint16_t *experts;                              /* [n_tokens, n_layers, top_k] */
    int32_t *ids;                                   /* [n_tokens], NULL: the trace has none */
    float *weights;                                 /* [n_tokens, n_layers, top_k], values that are kept exactly; NULL: none */
} world;

static inline void random_choice(gr_rng *rng, uint16_t *ids, int32_t top_k, int32_t n_experts) {
    for (int32_t k = 0; k < top_k;) {
        bool twice = false;
        ids[k] = (uint16_t)gr_rng_below(rng, (uint32_t)n_experts);
        for (int32_t b = 0; b < k; b++) twice |= ids[b] == ids[k];
        if (!twice) k++;
    }
}

static inline world *world_new(uint64_t seed, int32_t n_layers, int32_t n_experts, int32_t top_k, int32_t n_sequences) {
    gr_rng rng = gr_rng_seed(seed);
    world *w = calloc(1, sizeof *w);
    w->info = (grace_trace_info){.model = "tiny w\xc3\xb6rld", .fingerprint = gr_rng_next(&rng), .n_layers = n_layers, .n_experts = n_experts,
                                 .top_k = top_k, .n_ranks = 4, .n_nodes = 2};
    w->domains[0] = "prose", w->domains[1] = "math \"quoted\"", w->domains[2] = "code";
    w->n_domains = 3;
    w->n_sequences = n_sequences;
    for (int32_t s = 0; s < n_sequences; s++)
        w->sequences[s] = (grace_trace_sequence){(int32_t)gr_rng_next(&rng), (int32_t)gr_rng_below(&rng, 4), (int32_t)gr_rng_below(&rng, 4) - 1};
    return w;
}

/* Steps as an engine makes them: in each one some sequences get a few tokens. */
static inline world *world_random(uint64_t seed, int32_t n_layers, int32_t n_experts, int32_t top_k, int32_t n_sequences, int32_t n_tokens) {
    world *w = world_new(seed, n_layers, n_experts, top_k, n_sequences);
    gr_rng rng = gr_rng_seed(seed ^ 0x5EED);
    int32_t next_position[64] = {0};
    int64_t values = (int64_t)n_layers * top_k;
    w->experts = calloc((size_t)(n_tokens * values + 1), sizeof *w->experts);
    for (int32_t step = -3; w->n_tokens < n_tokens; step += (int32_t)gr_rng_below(&rng, 3)) {
        int32_t sequence = (int32_t)gr_rng_below(&rng, (uint32_t)n_sequences), n = 1 + (int32_t)gr_rng_below(&rng, 20);
        for (; n > 0 && w->n_tokens < n_tokens; n--, w->n_tokens++) {
            w->sequence_of_token[w->n_tokens] = sequence;
            w->position_of_token[w->n_tokens] = next_position[sequence]++;
            w->step_of_token[w->n_tokens] = step;
            w->phase_of_token[w->n_tokens] = (grace_phase)((uint32_t)(step + 9) % 3);
        }
    }
    for (int64_t i = 0; i < (int64_t)n_tokens * n_layers; i++) random_choice(&rng, w->experts + i * top_k, top_k, n_experts);
    return w;
}

/* Token ids below vocab (0: none) and weights that survive the given kind as they are. */
static inline void world_dress(world *w, uint64_t seed, int32_t vocab, grace_trace_weights weights) {
    gr_rng rng = gr_rng_seed(seed ^ 0xD2E55);
    int64_t n_values = (int64_t)w->n_tokens * w->info.n_layers * w->info.top_k;
    w->info.vocab = vocab, w->info.weights = weights;
    if (vocab) w->ids = calloc((size_t)w->n_tokens + 1, sizeof *w->ids);
    if (weights) w->weights = calloc((size_t)n_values + 1, sizeof *w->weights);
    for (int32_t t = 0; vocab && t < w->n_tokens; t++) w->ids[t] = t == 0 ? vocab - 1 : (int32_t)gr_rng_below(&rng, (uint32_t)vocab);
    for (int64_t i = 0; weights && i < n_values; i++)
        w->weights[i] = weights == GRACE_WEIGHTS_U8 ? (float)gr_rng_below(&rng, 256) / 255 : (float)gr_rng_below(&rng, 2048) / 1024 - 0.5f;
}

static inline void world_free(world *w) {
    if (w) free(w->experts), free(w->ids), free(w->weights);
    free(w);
}

/* Token `first` and those after it that belong to the same segment. */
static inline grace_trace_segment world_segment(const world *w, int32_t first) {
    grace_trace_segment seg = {w->sequence_of_token[first], w->position_of_token[first], 1, w->step_of_token[first], w->phase_of_token[first]};
    for (int32_t t = first + 1; t < w->n_tokens; t++, seg.n_tokens++)
        if (w->sequence_of_token[t] != seg.sequence || w->step_of_token[t] != seg.step) break;
    return seg;
}

static inline grace_trace_tokens world_tokens(const world *w, int32_t first) {
    int64_t value = (int64_t)first * w->info.n_layers * w->info.top_k;
    return (grace_trace_tokens){w->experts + value, w->ids ? w->ids + first : NULL, w->weights ? w->weights + value : NULL};
}

/* Writes the world, each sequence announced just before its first token, the unused ones last. */
static inline grace_status world_record(const world *w, grace_trace_writer *out) {
    int32_t announced = 0;
    grace_status st = GRACE_OK;
    for (int32_t t = 0; t < w->n_tokens && !st;) {
        grace_trace_segment seg = world_segment(w, t);
        for (; announced <= seg.sequence && !st; announced++) st = grace_trace_add_sequence(out, w->sequences[announced]);
        if (!st) st = grace_trace_append(out, seg, world_tokens(w, t));
        t += seg.n_tokens;
    }
    for (; announced < w->n_sequences && !st; announced++) st = grace_trace_add_sequence(out, w->sequences[announced]);
    return st;
}

static inline grace_status world_save(const world *w, const char *path) {
    grace_trace_writer *out = NULL;
    grace_status st = grace_trace_create(path, &w->info, w->domains, w->n_domains, &out);
    if (!st) st = world_record(w, out);
    if (!st) return grace_trace_finish(out);
    grace_trace_abandon(out);
    return st;
}

static inline void assert_same_info(const grace_trace_info *a, const grace_trace_info *b) {
    assert_string_equal(a->model, b->model);
    assert_true(a->fingerprint == b->fingerprint && a->n_layers == b->n_layers && a->n_experts == b->n_experts && a->top_k == b->top_k);
    assert_true(a->n_ranks == b->n_ranks && a->n_nodes == b->n_nodes && a->vocab == b->vocab && a->weights == b->weights);
    assert_int_equal(a->synthetic, b->synthetic);
}

/* The first n tokens of the world, n = those of the trace, are in the trace exactly; tokens are compared one by one. */
static inline void assert_prefix_of_world(const grace_trace *t, const world *w) {
    int64_t token = 0, values = (int64_t)w->info.n_layers * w->info.top_k;
    assert_same_info(grace_trace_describe(t), &w->info);
    assert_int_equal(grace_trace_n_domains(t), w->n_domains);
    for (int32_t d = 0; d < w->n_domains; d++) assert_string_equal(grace_trace_domain(t, d), w->domains[d]);
    assert_true(grace_trace_n_sequences(t) <= w->n_sequences);
    for (int32_t s = 0; s < grace_trace_n_sequences(t); s++) {
        grace_trace_sequence seq = grace_trace_sequence_at(t, s);
        assert_memory_equal(&seq, &w->sequences[s], sizeof seq);
    }
    assert_true(grace_trace_n_tokens(t) <= w->n_tokens);
    for (int32_t s = 0; s < grace_trace_n_segments(t); s++) {
        grace_trace_segment seg = grace_trace_segment_at(t, s);
        for (int32_t i = 0; i < seg.n_tokens; i++, token++) {
            assert_int_equal(seg.sequence, w->sequence_of_token[token]);
            assert_int_equal(seg.position + i, w->position_of_token[token]);
            assert_int_equal(seg.step, w->step_of_token[token]);
            assert_int_equal(seg.phase, w->phase_of_token[token]);
        }
    }
    assert_int_equal(token, grace_trace_n_tokens(t));
    if (token) assert_memory_equal(grace_trace_experts(t), w->experts, (size_t)(token * values) * sizeof(uint16_t));
    assert_true((grace_trace_token_ids(t) != NULL) == (w->ids != NULL) && (grace_trace_gate_weights(t) != NULL) == (w->weights != NULL));
    if (token && w->ids) assert_memory_equal(grace_trace_token_ids(t), w->ids, (size_t)token * sizeof(int32_t));
    if (token && w->weights) assert_memory_equal(grace_trace_gate_weights(t), w->weights, (size_t)(token * values) * sizeof(float));
}

static inline void assert_is_world(const grace_trace *t, const world *w) {
    assert_prefix_of_world(t, w);
    assert_int_equal(grace_trace_n_tokens(t), w->n_tokens);
    assert_int_equal(grace_trace_n_sequences(t), w->n_sequences);
}

/* ---- files ---- */

static inline char *scratch_new(void) {
    char *path = strdup(GRACE_BINARY_DIR "/trace-test-XXXXXX");
    assert_non_null(mkdtemp(path));
    return path;
}

static inline int scratch_count(const char *folder) {
    int n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e; (e = readdir(dir));) n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static inline void scratch_empty(const char *folder) {
    char path[1024];
    DIR *dir = opendir(folder);
    for (struct dirent *e; (e = readdir(dir));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) unlink(path);
    }
    closedir(dir);
}

static inline void scratch_free(char *folder) {
    scratch_empty(folder);
    rmdir(folder);
    free(folder);
}

static inline const char *in(const char *folder, const char *name) {
    static char paths[4][1024];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static inline unsigned char *read_bytes(const char *path, size_t *n) {
    gr_file file = {0};
    assert_int_equal(gr_file_map(path, &file), GRACE_OK);
    unsigned char *bytes = malloc(file.n + 1);
    memcpy(bytes, file.data, file.n);
    *n = file.n;
    gr_file_unmap(&file);
    return bytes;
}

/* A window whose end is the end of the world: reading past [n] crashes, also without a sanitizer. */
typedef struct guard { unsigned char *memory; size_t capacity, size; } guard;

static inline guard guard_new(size_t capacity) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (capacity + page - 1) / page * page;
    unsigned char *memory = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    assert_int_equal(mprotect(memory + size, page, PROT_NONE), 0);
    return (guard){memory, size, size + page};
}

static inline const unsigned char *guard_copy(const guard *g, const void *bytes, size_t n) {
    assert_true(n <= g->capacity);
    return memcpy(g->memory + g->capacity - n, bytes, n);
}

static inline void guard_free(guard *g) { munmap(g->memory, g->size); }

#endif
