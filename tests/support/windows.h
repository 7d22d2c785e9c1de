/* Perplexity over a trained model's held-out text: WINDOWS windows of WINDOW tokens of a domain (docs/goldens.md), where each window's last token
 * predicts the next window's first. */
#ifndef GR_TESTS_WINDOWS_H
#define GR_TESTS_WINDOWS_H
#include "base/file.h"
#include "support/goldens.h"

enum { WINDOW = 512, WINDOWS = 40 };

static inline int32_t gr_window_token(const gr_file *file, int64_t i) {
    const uint8_t *two = (const uint8_t *)file->data + 2 * i;
    return two[0] | two[1] << 8;
}

static inline void gr_windows_submit(grace_engine *engine, const gr_file *tokens, int32_t n_windows) {
    for (int32_t w = 0; w < n_windows; w++) {
        int32_t ids[WINDOW];
        grace_request req = grace_request_defaults();
        for (int32_t i = 0; i < WINDOW; i++) ids[i] = gr_window_token(tokens, (int64_t)w * WINDOW + i);
        req.prompt = ids, req.n_prompt = WINDOW, req.n_generate = 0, req.score = true;
        req.score_next = w + 1 < WINDOWS ? gr_window_token(tokens, (int64_t)(w + 1) * WINDOW) : -1;
        gr_assert_ok(grace_engine_submit(engine, &req));
    }
}

static inline double gr_windows_perplexity(grace_engine *engine, int32_t n_windows) {
    double nll = 0;
    int64_t n = 0;
    for (int32_t w = 0; w < n_windows; w++) {
        nll += grace_engine_result(engine, w)->nll;
        n += grace_engine_result(engine, w)->n_scored;
    }
    assert_int_equal(n, (int64_t)n_windows * WINDOW - (n_windows == WINDOWS));
    return exp(nll / (double)n);
}

static inline double gr_windows_reference(const char *dump, const char *domain) {
    char path[512];
    gr_json *stats = NULL;
    const gr_json *domains, *one;
    double value;
    snprintf(path, sizeof path, "%s/stats.json", dump);
    gr_assert_ok(gr_json_load(path, &stats));
    gr_assert_ok(gr_json_object_in(stats, "stats.json", "domains", &domains));
    gr_assert_ok(gr_json_object_in(domains, "stats.json", domain, &one));
    gr_assert_ok(gr_json_real(one, "stats.json", "perplexity", &value));
    gr_json_free(stats);
    return value;
}

static inline void gr_windows_map(const char *dump, const char *domain, const char *name, gr_file *file) {
    char path[512];
    snprintf(path, sizeof path, "%s/traces/%s/%s", dump, domain, name);
    gr_assert_ok(gr_file_map(path, file));
}

#endif
