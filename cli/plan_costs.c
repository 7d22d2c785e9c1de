#include "plan_costs.h"

#include <stdio.h>

const char *const gr_plan_aims[GR_N_AIMS] = {"rows", "prefill", "decode", "time"};

static grace_batch prefill_step(void) { return grace_batch_prefill(GR_PLAN_SEQUENCES, GR_PLAN_PROMPT); }
static grace_batch decode_step(void) { return grace_batch_decode(GR_PLAN_SEQUENCES, GR_PLAN_PROMPT); }

grace_objective gr_plan_objective(gr_plan_aim aim, const grace_shape *shape, const grace_rates *rates) {
    grace_objective o = {.shape = *shape, .rates = *rates};
    if (aim != GR_AIM_DECODE) o.steps[o.n_steps++] = (grace_objective_step){prefill_step(), 1};
    if (aim != GR_AIM_PREFILL) o.steps[o.n_steps++] = (grace_objective_step){decode_step(), GR_PLAN_DECODE};
    return o;
}

static int32_t most_copies(const grace_plan *plan) {
    int32_t most = 0;
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
        int32_t n = 0;
        for (int32_t l = 0; l < plan->n_layers; l++) {
            const grace_plan_layer *pl = &plan->layers[l];
            for (int32_t s = pl->first_slot[r]; s < pl->first_slot[r + 1]; s++) n += pl->slots_of_expert[pl->slots_first[pl->expert_of_slot[s]]] != s;
        }
        if (n > most) most = n;
    }
    return most;
}

grace_status gr_plan_costs_measure(const grace_plan *plan, const grace_bundles *b, const grace_profile *p, const grace_shape *shape, const grace_rates *rates,
                                   gr_plan_costs *out) {
    grace_status st = GRACE_OK;
    gr_plan_costs c = {.shape = shape->name, .n_copies = most_copies(plan), .priced = rates != NULL};
    grace_batch prefill = prefill_step(), decode = decode_step();
    GR_TRY(gr_quality_measure(plan, GRACE_ROUTE_TAR, b, p, &c.q));
    c.copy_bytes = 3.0 * shape->hidden * shape->expert_width * shape->weight_bytes * c.n_copies;
    c.kv_tokens = shape->kv_values > 0 ? c.copy_bytes / (shape->kv_values * (rates ? rates->value_bytes : 2)) : 0;
    if (rates) snprintf(c.rates, sizeof c.rates, "%s", rates->name);
    if (rates) GR_TRY(grace_plan_predict(plan, b, shape, rates, &prefill, &c.prefill));
    if (rates) GR_TRY(grace_plan_predict(plan, b, shape, rates, &decode, &c.decode));
    *out = c;
done:
    return st;
}

static void print_step(const char *name, const grace_seconds *s) {
    printf("%-8s %10.3f ms: between nodes %.3f, inside %.3f, latency %.3f, experts %.3f, dense %.3f\n", name, 1e3 * s->total, 1e3 * s->cross, 1e3 * s->intra,
           1e3 * s->latency, 1e3 * s->experts, 1e3 * s->dense);
}

void gr_plan_costs_print(const gr_plan_costs *c) {
    printf("on these tokens: %.4f rows a token and layer between nodes, %.4f inside; load max/mean %.3f (worst layer %.3f), std %.3f of the mean "
           "(by chance %.3f)\n", c->q.rows.cross, c->q.rows.intra, c->q.load, c->q.load_worst, c->q.load_std, c->q.load_floor);
    printf("copies: %d on the rank with most, %.1f MB, as much as the KV cache of %.0f tokens (sizes %s); slots %.3f x the model, "
           "fullest rank %.3f x its share\n", c->n_copies, c->copy_bytes * 1e-6, c->kv_tokens, c->shape, c->q.total, c->q.fullest);
    if (!c->priced) return;
    printf("predicted for %s, %d sequences of %d tokens:\n", c->rates, GR_PLAN_SEQUENCES, GR_PLAN_PROMPT);
    print_step("prefill", &c->prefill.step);
    print_step("a decode", &c->decode.step);
}

static gr_json *step_json(const grace_prediction *p) {
    gr_json *o = gr_json_new_object();
    gr_json_set_real(o, "seconds", p->step.total);
    gr_json_set_real(o, "cross_s", p->step.cross), gr_json_set_real(o, "intra_s", p->step.intra), gr_json_set_real(o, "latency_s", p->step.latency);
    gr_json_set_real(o, "experts_s", p->step.experts), gr_json_set_real(o, "dense_s", p->step.dense);
    gr_json_set_real(o, "active_experts_most", p->active_max);
    return o;
}

gr_json *gr_plan_costs_json(const gr_plan_costs *c) {
    gr_json *o = gr_json_new_object();
    gr_json_set_real(o, "rows_cross", c->q.rows.cross), gr_json_set_real(o, "rows_intra", c->q.rows.intra);
    gr_json_set_real(o, "load_max_over_mean", c->q.load), gr_json_set_real(o, "load_max_over_mean_worst", c->q.load_worst);
    gr_json_set_real(o, "load_std", c->q.load_std), gr_json_set_real(o, "load_std_by_chance", c->q.load_floor);
    gr_json_set_real(o, "slots_fullest", c->q.fullest), gr_json_set_real(o, "slots_total", c->q.total);
    gr_json_set_int(o, "copies_most", c->n_copies);
    gr_json_set_real(o, "copy_bytes_most", c->copy_bytes), gr_json_set_real(o, "kv_tokens_displaced", c->kv_tokens);
    gr_json_set_string(o, "shape", c->shape);
    if (c->priced) {
        gr_json_set_string(o, "rates", c->rates);
        gr_json_set(o, "prefill", step_json(&c->prefill));
        gr_json_set(o, "decode", step_json(&c->decode));
    }
    return o;
}
