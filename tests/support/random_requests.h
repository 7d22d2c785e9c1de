/* Requests with random prompts of different lengths; some sample, some score their prompt. The same for the same generator. */
#ifndef GR_TESTS_RANDOM_REQUESTS_H
#define GR_TESTS_RANDOM_REQUESTS_H
#include <stdlib.h>

#include "base/rng.h"
#include "base/status.h"
#include "grace/engine.h"

typedef struct gr_random_requests { int32_t n; grace_request *requests; } gr_random_requests;

/* Prompts of 1 to prompt_max ids below vocab, 0 to generate_max tokens to generate; every prompt row's logits are hashed. */
static inline gr_random_requests gr_random_requests_new(gr_rng *rng, int32_t n, int32_t vocab, int32_t prompt_max, int32_t generate_max) {
    gr_random_requests all = {n, calloc((size_t)n, sizeof(grace_request))};
    GR_ASSERT(all.requests);
    for (int32_t i = 0; i < n; i++) {
        grace_request *r = &all.requests[i];
        int32_t n_prompt = 1 + (int32_t)gr_rng_below(rng, (uint32_t)prompt_max), *prompt = calloc((size_t)n_prompt, sizeof *prompt);
        GR_ASSERT(prompt);
        for (int32_t t = 0; t < n_prompt; t++) prompt[t] = (int32_t)gr_rng_below(rng, (uint32_t)vocab);
        *r = grace_request_defaults();
        r->prompt = prompt, r->n_prompt = n_prompt;
        r->n_generate = (int32_t)gr_rng_below(rng, (uint32_t)generate_max + 1);
        r->temperature = gr_rng_below(rng, 2) ? 0.8f : 0;
        r->seed = gr_rng_next(rng);
        r->ignore_eos = true;
        r->score = true;
    }
    return all;
}

static inline void gr_random_requests_free(gr_random_requests *all) {
    for (int32_t i = 0; i < all->n; i++) free((void *)all->requests[i].prompt);
    free(all->requests);
}

#endif
