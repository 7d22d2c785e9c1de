/* Engines of one process over a small random model, and what a run gave: what tests of the engine share. */
#ifndef GR_TESTS_ONE_ENGINE_H
#define GR_TESTS_ONE_ENGINE_H
#include <stdlib.h>
#include <string.h>

#include "grace/engine.h"
#include "support/asserts.h"
#include "support/random_requests.h"
#include "support/tiny_model.h"

static char dir[64];
static grace_model *model;

static inline void open_model(const gr_tiny_model_options *opt) {
    strcpy(dir, "/tmp/grace-engine-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(gr_tiny_model_write(dir, opt), 0);
    assert_ok(grace_model_open(dir, &model));
}

static inline int close_model(void **state) {
    (void)state;
    grace_model_close(model);
    model = NULL;
    gr_tiny_model_remove(dir);
    return 0;
}

static inline int open_default(void **state) {
    (void)state;
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    open_model(&opt);
    return 0;
}

static inline grace_engine_options small(void) {
    grace_engine_options opt = grace_engine_defaults();
    opt.kv_tokens = 1024, opt.n_threads = 1;
    return opt;
}

static inline grace_engine *open_engine(const grace_engine_options *opt) {
    grace_engine *engine = NULL;
    assert_ok(grace_engine_open(model, opt, &engine));
    return engine;
}

/* ---- what a run gave ---- */

typedef struct outcome { uint64_t hash[16]; int32_t n_ids[16], ids[16][64]; } outcome;

static inline void take_result(const grace_engine *engine, int32_t request, outcome *out, int32_t at) {
    const grace_result *r = grace_engine_result(engine, request);
    out->hash[at] = r->logits_hash;
    out->n_ids[at] = r->n_ids;
    memcpy(out->ids[at], r->ids, (size_t)r->n_ids * sizeof(int32_t));
}

static inline void assert_same(const outcome *a, const outcome *b) { assert_memory_equal(a, b, sizeof *a); }

#define with_model(f) cmocka_unit_test_setup_teardown(f, open_default, close_model)

#endif
