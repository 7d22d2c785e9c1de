/* libgrace: serving sparse Mixture-of-Experts models over several ranks, experts placed by affinity and load.
 *
 *     grace_model *model = NULL;  grace_engine *engine = NULL;
 *     grace_engine_options opt = grace_engine_defaults();
 *     if (grace_model_open("models/tiny-olmoe", &model) || grace_engine_open(model, &opt, &engine)) {
 *         fprintf(stderr, "%s\n", grace_last_error());
 *         return 1;
 *     }
 *     grace_request req = grace_request_defaults();
 *     req.prompt = ids; req.n_prompt = n_ids; req.n_generate = 32;
 *     grace_engine_submit(engine, &req);                 // every rank submits every request, in the same order
 *     grace_engine_run(engine);                          // all ranks step together until nothing is left
 *     const grace_result *res = grace_engine_result(engine, 0);
 *
 * All calls are "one thread at a time" unless their comment says more. Numbers in files have a decimal point: a program that calls setlocale() leaves
 * LC_NUMERIC at "C". Files that are open are mapped or read as they go: they may be replaced, but not shortened. */
#ifndef GRACE_GRACE_H
#define GRACE_GRACE_H
#define GRACE_VERSION "0.1.0"

#include "grace/chat.h"
#include "grace/engine.h"
#include "grace/model.h"
#include "grace/plan.h"
#include "grace/sim.h"
#include "grace/status.h"
#include "grace/tokenizer.h"
#include "grace/trace.h"

#endif
