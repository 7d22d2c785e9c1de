#include "plan_decode.h"

#include <stdio.h>

#include "plan/phases.h"
#include "plan_costs.h"

static void count_copies(const grace_plan *plan, gr_plan_decode *d) {
    for (int32_t l = 0; l < plan->n_layers; l++) {
        const grace_plan_layer *pl = &plan->layers[l];
        d->n_copies += pl->n_slots - plan->n_experts;
        for (int32_t s = 0; s < pl->n_slots && pl->serve_decode; s++) d->n_rest += !pl->serve_decode[s];
    }
}

grace_status gr_plan_decode_measure(const grace_plan *plan, const grace_bundles *b, const grace_shape *shape, const grace_rates *rates, int32_t tokens,
                                    gr_plan_decode *out) {
    grace_status st = GRACE_OK;
    gr_plan_decode d = {.tokens = tokens};
    grace_batch batch = grace_batch_decode((double)tokens * grace_cluster_ranks(plan->cluster), GR_PLAN_PROMPT);
    grace_plan *view = NULL;
    count_copies(plan, &d);
    GR_TRY(gr_plan_of_decode(plan, &view));
    GR_TRY(grace_plan_predict(plan, b, shape, rates, &batch, &d.before));
    GR_TRY(grace_plan_predict(view, b, shape, rates, &batch, &d.after));
    *out = d;
done:
    grace_plan_free(view);
    return st;
}

void gr_plan_decode_print(const gr_plan_decode *d) {
    printf("decode steps of %d tokens a GPU: %d of %d copies rest; experts with tokens on the GPU with most %.2f -> %.2f, rows between nodes %.4f -> %.4f, "
           "step %.3f -> %.3f ms (%+.1f %%)\n", d->tokens, d->n_rest, d->n_copies, d->before.active_max, d->after.active_max, d->before.rows_cross,
           d->after.rows_cross, 1e3 * d->before.step.total, 1e3 * d->after.step.total, 100 * (d->after.step.total / d->before.step.total - 1));
}

static gr_json *prediction_json(const grace_prediction *p) {
    gr_json *o = gr_json_new_object();
    gr_json_set_real(o, "seconds", p->step.total);
    gr_json_set_real(o, "experts_s", p->step.experts);
    gr_json_set_real(o, "active_experts_most", p->active_max);
    gr_json_set_real(o, "rows_cross", p->rows_cross);
    return o;
}

gr_json *gr_plan_decode_json(const gr_plan_decode *d) {
    gr_json *o = gr_json_new_object();
    gr_json_set_int(o, "tokens", d->tokens);
    gr_json_set_int(o, "copies", d->n_copies);
    gr_json_set_int(o, "rest", d->n_rest);
    gr_json_set(o, "before", prediction_json(&d->before));
    gr_json_set(o, "after", prediction_json(&d->after));
    return o;
}
