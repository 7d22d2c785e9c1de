/* Thousands of steps of one engine over several ranks: requests come in bursts and go, batches grow, shrink and run dry, ranks are without rows for
 * a while; then every id must be the one that a rank by itself draws. A wait that never ends becomes a failure by the job's deadline, which names
 * the place. */
#ifndef GR_TESTS_RANKS_SOAK_H
#define GR_TESTS_RANKS_SOAK_H
#include "ranks/engine_world.h"
#include "run/engine_internal.h"

enum { SOAK_SIZES = 64 };

typedef struct soak_options {
    int32_t n_steps;                /* at least */
    int32_t burst_max, prompt_max, generate_max;
    int32_t long_every, long_prompt;    /* about every so many requests one has a prompt of that length; 0: none */
} soak_options;

/* What comes, and after how many steps of the engine: the same on every rank. */
typedef struct soak_work { gr_random_requests all; int32_t *at_step; } soak_work;

/* What a run met, on this rank. */
typedef struct soak_seen {
    int32_t n_steps, n_dry;         /* times that all requests were done before the next came */
    int32_t n_idle;                 /* steps in which others had rows and this rank had no request */
    int32_t n_waits;                /* steps in which the host took part between the calls of a layer */
    int32_t n_ahead;                /* steps after which the next was under way already, in the network's other flight */
    int32_t n_sizes;                /* different numbers of rows of a step, of all ranks */
    bool sizes[SOAK_SIZES];
} soak_seen;

/* ---- what comes ---- */

static inline int32_t soak_between(gr_rng *rng, int32_t low, int32_t high) { return low + (int32_t)gr_rng_below(rng, (uint32_t)(high - low) + 1); }

static inline void soak_request(const soak_options *o, gr_rng *rng, grace_request *r) {
    const bool is_long = o->long_every && gr_rng_below(rng, (uint32_t)o->long_every) == 0;
    const int32_t n = is_long ? o->long_prompt : soak_between(rng, 1, o->prompt_max);
    int32_t *prompt = calloc((size_t)n, sizeof *prompt);
    assert_non_null(prompt);
    for (int32_t i = 0; i < n; i++) prompt[i] = soak_between(rng, 0, WORLD_VOCAB - 1);
    *r = grace_request_defaults();
    r->prompt = prompt, r->n_prompt = n, r->n_generate = soak_between(rng, 1, o->generate_max), r->ignore_eos = true;
    r->temperature = gr_rng_below(rng, 2) ? 0.8f : 0;
    r->seed = gr_rng_next(rng);
}

/* Bursts, of one request half of the time; now and then nothing comes for so long that all ranks run dry, which takes no steps: so for a quarter
 * more of them. */
static inline soak_work soak_work_new(const soak_options *o, gr_rng *rng) {
    const int32_t n_steps = o->n_steps + o->n_steps / 4, most = (n_steps + 1) * o->burst_max;
    soak_work w = {{0, calloc((size_t)most, sizeof(grace_request))}, calloc((size_t)most, sizeof(int32_t))};
    assert_true(w.all.requests && w.at_step);
    for (int32_t step = 0; step < n_steps;) {
        const int32_t n = gr_rng_below(rng, 2) ? 1 : soak_between(rng, 1, o->burst_max);
        for (int32_t i = 0; i < n; i++) {
            w.at_step[w.all.n] = step;
            soak_request(o, rng, &w.all.requests[w.all.n++]);
        }
        step += gr_rng_below(rng, 32) ? soak_between(rng, 1, o->generate_max / 3) : 2 * o->generate_max;
    }
    return w;
}

static inline void soak_work_free(soak_work *w) {
    gr_random_requests_free(&w->all);
    free(w->at_step);
}

/* ---- a run ---- */

/* All that come at this time; where nothing is left to do, the next at once. */
static inline int32_t soak_submit(grace_engine *engine, const soak_work *w, int32_t next, bool dry, int32_t now) {
    const int32_t until = dry && next < w->all.n && w->at_step[next] > now ? w->at_step[next] : now;
    for (; next < w->all.n && w->at_step[next] <= until; next++) assert_ok(grace_engine_submit(engine, &w->all.requests[next]));
    return next;
}

static inline bool soak_has_open(const grace_engine *engine, int32_t n, int32_t rank, int32_t *first) {
    for (; *first < n; ++*first)
        if (grace_engine_result(engine, *first)->home == rank && grace_engine_result(engine, *first)->finish == GRACE_FINISH_NONE) return true;
    return false;
}

static inline soak_seen soak_run(grace_engine *engine, const soak_work *w, int32_t rank) {
    soak_seen seen = {0};
    int32_t next = 0, first = 0;
    for (bool more = true; more || next < w->all.n;) {
        next = soak_submit(engine, w, next, !more, seen.n_steps);
        seen.n_dry += !more;
        const int64_t rows = grace_engine_n_rows(engine);
        const bool idle = !soak_has_open(engine, next, rank, &first);
        assert_ok(grace_engine_step(engine, &more));
        if (!more) continue;
        const int64_t n = grace_engine_n_rows(engine) - rows;
        seen.n_steps++;
        seen.n_idle += idle;
        const gr_network *net = gr_engine_network(engine);
        seen.n_waits += gr_exchange_waits(net->exchange);
        seen.n_ahead += net->flight == &net->landed[1];
        if (n < SOAK_SIZES && !seen.sizes[n]) seen.sizes[n] = true, seen.n_sizes++;
    }
    assert_ok(grace_engine_collect(engine));
    return seen;
}

/* ---- the check ---- */

/* Every id of a rank by itself, [requests][generate_max]; of rank 0, for all. */
static inline int32_t *soak_alone(gr_comm *comm, const soak_work *w, const soak_options *o, const grace_engine_options *alone) {
    const size_t n = (size_t)w->all.n * (size_t)o->generate_max;
    int32_t *ids = calloc(n, sizeof *ids);
    assert_non_null(ids);
    grace_engine *engine = NULL;
    if (comm->rank == 0) {
        assert_ok(grace_engine_open(model, alone, &engine));
        gr_engine_drop_hashes(engine);
        for (int32_t i = 0; i < w->all.n; i++) assert_ok(grace_engine_submit(engine, &w->all.requests[i]));
        assert_ok(grace_engine_run(engine));
        for (int32_t i = 0; i < w->all.n; i++) {
            const grace_result *r = grace_engine_result(engine, i);
            memcpy(ids + (size_t)i * (size_t)o->generate_max, r->ids, (size_t)r->n_ids * sizeof *ids);
        }
        grace_engine_close(engine);
    }
    from_first(comm, ids, n * sizeof *ids);
    return ids;
}

static inline void soak_check_ids(const grace_engine *engine, const soak_work *w, const soak_options *o, const int32_t *expected) {
    for (int32_t i = 0; i < w->all.n; i++) {
        const grace_result *r = grace_engine_result(engine, i);
        char run[48];
        snprintf(run, sizeof run, "submitted at step %d", w->at_step[i]);
        check_same_ids(expected + (size_t)i * (size_t)o->generate_max, w->all.requests[i].n_generate, r->ids, r->n_ids, i, run);
    }
}

/* It was a soak: enough steps, of many sizes, with ranks that had nothing to do, and times when nobody had. */
static inline void soak_check_seen(gr_comm *comm, const soak_options *o, const soak_seen *seen) {
    int64_t n_idle = seen->n_idle;
    assert_ok(gr_comm_allreduce(comm, &n_idle, 1, GR_SUM));
    if (seen->n_steps < o->n_steps || seen->n_sizes < 8 || seen->n_dry < 3 || n_idle < o->n_steps / 20)
        fail_msg("%s: expected at least %d steps, 8 sizes, 3 times dry, ranks idle %d times; found %d, %d, %d, %lld", case_name, o->n_steps,
                 o->n_steps / 20, seen->n_steps, seen->n_sizes, seen->n_dry, (long long)n_idle);
    print_message("%s: %d steps, %d sizes, %d times dry, ranks idle %lld times\n", case_name, seen->n_steps, seen->n_sizes, seen->n_dry,
                  (long long)n_idle);
}

#endif
