#include "sim_json.h"

#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "plan/cluster.h"
#include "plan/rates.h"

double gr_sim_rows_per_token(const grace_sim *s, int link) {
    double rows = 0, tokens = (double)(s->n_prefill + s->n_decode) * s->n_layers;
    for (int stage = 0; stage < GRACE_N_STAGES; stage++) rows += (double)s->dispatch[stage][link].rows;
    return tokens > 0 ? rows / tokens : 0;
}

/* ---- JSON ---- */

static gr_json *seconds_json(const grace_seconds *s) {
    gr_json *o = gr_json_new_object();
    gr_json_set_real(o, "total", s->total);
    gr_json_set_real(o, "cross", s->cross);
    gr_json_set_real(o, "intra", s->intra);
    gr_json_set_real(o, "latency", s->latency);
    gr_json_set_real(o, "experts", s->experts);
    gr_json_set_real(o, "dense", s->dense);
    return o;
}

static gr_json *layer_json(const grace_sim *s, int32_t l) {
    const grace_sim_layer *layer = &s->layers[l];
    gr_json *o = gr_json_new_object(), *load = gr_json_new_array();
    gr_json_set_int(o, "rows_cross", layer->rows_cross);
    gr_json_set_int(o, "rows_intra", layer->rows_intra);
    gr_json_set_real(o, "load_max_over_mean", layer->load_max_over_mean);
    gr_json_set_real(o, "load_std", layer->load_std);
    gr_json_set_real(o, "load_floor", layer->load_floor);
    gr_json_set_real(o, "active_prefill", layer->active_prefill);
    gr_json_set_real(o, "active_decode", layer->active_decode);
    gr_json_set(o, "seconds_prefill", seconds_json(&layer->prefill));
    gr_json_set(o, "seconds_decode", seconds_json(&layer->decode));
    if (s->n_ranks <= GRACE_SIM_PAIRS_MAX)
        for (int32_t r = 0; r < s->n_ranks; r++) gr_json_push_int(load, s->load[(int64_t)l * s->n_ranks + r]);
    gr_json_set(o, "load", load);
    return o;
}

static gr_json *memory_json(const grace_sim *s) {
    gr_json *o = gr_json_new_object();
    gr_json_set_int(o, "slots_max", s->slots_max);
    gr_json_set_int(o, "replica_bytes_max", s->replica_bytes_max);
    gr_json_set_int(o, "kv_tokens_displaced", s->kv_tokens_displaced);
    return o;
}

static void set_times(gr_json *o, const grace_sim *s) {
    gr_json *seconds = gr_json_new_object(), *steps = gr_json_new_object();
    gr_json_set(seconds, "prefill", seconds_json(&s->prefill));
    gr_json_set(seconds, "decode", seconds_json(&s->decode));
    gr_json_set_real(seconds, "total", s->prefill.total + s->decode.total);
    gr_json_set(o, "seconds", seconds);
    if (s->n_steps_decode) gr_json_set_real(o, "decode_step_s", s->decode.total / s->n_steps_decode);
    else gr_json_set_null(o, "decode_step_s");
    gr_json_set_int(steps, "prefill", s->n_steps_prefill);
    gr_json_set_int(steps, "decode", s->n_steps_decode);
    gr_json_set(o, "steps", steps);
}

static void set_counts(gr_json *o, const grace_sim *s) {
    gr_json *rows = gr_json_new_object();
    gr_json_set_real(rows, "cross", gr_sim_rows_per_token(s, GRACE_LINK_CROSS));
    gr_json_set_real(rows, "intra", gr_sim_rows_per_token(s, GRACE_LINK_INTRA));
    gr_json_set(o, "rows_per_token", rows);
    gr_json_set(o, "dispatch", gr_links_json(s->dispatch));
    gr_json_set(o, "combine", gr_links_json(s->combine));
    if (s->pair_rows) gr_json_set(o, "pair_rows", gr_matrix_json(s->pair_rows, s->n_ranks, s->n_ranks));
    else gr_json_set_null(o, "pair_rows");
    gr_json_set_real(o, "load_max_over_mean", s->load_max_over_mean);
    gr_json_set_real(o, "load_std", s->load_std);
    gr_json_set_real(o, "load_floor", s->load_floor);
    gr_json_set_int(o, "idle_pairs", s->idle_pairs);
    gr_json_set_real(o, "idle_s", s->idle_s);
}

static gr_json *plan_json(const gr_sim_plan *p) {
    gr_json *o = gr_json_new_object(), *layers = gr_json_new_array();
    gr_json_set_string(o, "plan", p->name);
    gr_json_set_string(o, "planner", p->plan->planner);
    gr_json_set_string(o, "cluster", gr_cluster_text(p->plan->cluster).text);
    gr_json_set_int(o, "tokens_prefill", p->sim->n_prefill);
    gr_json_set_int(o, "tokens_decode", p->sim->n_decode);
    set_counts(o, p->sim);
    set_times(o, p->sim);
    gr_json_set(o, "memory", memory_json(p->sim));
    for (int32_t l = 0; l < p->sim->n_layers; l++) gr_json_push(layers, layer_json(p->sim, l));
    gr_json_set(o, "layers", layers);
    return o;
}

static gr_json *other_json(grace_other which, const grace_other_price *p) {
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "name", grace_other_name(which));
    gr_json_set_real(o, "seconds_prefill", p->prefill_s);
    gr_json_set_real(o, "seconds_decode", p->decode_s);
    gr_json_set_real(o, "seconds_total", p->prefill_s + p->decode_s);
    gr_json_set_real(o, "weight_bytes_per_rank", p->bytes_per_rank);
    gr_json_set_int(o, "parts_prefill", p->micro_prefill);
    gr_json_set_int(o, "parts_decode", p->micro_decode);
    return o;
}

static gr_json *workload_json(const grace_workload *w) {
    gr_json *o = gr_json_new_object();
    gr_json_set_int(o, "sequences", w->sequences);
    gr_json_set_int(o, "prefill", w->prefill);
    gr_json_set_int(o, "decode", w->decode);
    gr_json_set_int(o, "chunk", w->chunk);
    return o;
}

gr_json *gr_sim_json(const gr_sim_output *o) {
    gr_json *root = gr_json_new_object(), *plans = gr_json_new_array(), *others = gr_json_new_array();
    gr_json_set_int(root, "grace_sim", 1);
    gr_json_set_string(root, "trace", o->trace);
    gr_json_set_string(root, "tokens", o->tokens);
    gr_json_set_bool(root, "synthetic", o->synthetic);
    gr_json_set_string(root, "model", o->options.shape->name);
    gr_json_set_int(root, "experts", o->options.shape->n_experts);
    gr_json_set_int(root, "top_k", o->options.shape->top_k);
    if (o->workload) gr_json_set(root, "workload", workload_json(o->workload));
    else gr_json_set_null(root, "workload");
    gr_json_set_string(root, "exchange", gr_exchange_name(o->options.exchange));
    gr_json_set_string(root, "route", gr_route_name(o->options.route));
    gr_json_set_bool(root, "exact", o->options.exact);
    gr_json_set(root, "rates", gr_rates_json(o->options.rates));
    for (int32_t i = 0; i < o->n_plans; i++) gr_json_push(plans, plan_json(&o->plans[i]));
    gr_json_set(root, "plans", plans);
    for (int i = 0; o->has_others && i < GRACE_N_OTHERS; i++) gr_json_push(others, other_json((grace_other)i, &o->others[i]));
    gr_json_set(root, "others", others);
    return root;
}

/* ---- a table ---- */

static void print_plan(const gr_sim_plan *p) {
    const grace_sim *s = p->sim;
    double steps = s->n_steps_decode ? s->n_steps_decode : 1;
    size_t length = strlen(p->name);        /* of a long path the end is shown: it tells plans apart */
    printf("%-28s %6.3f %6.3f  %5.2f  %9.3f %8.3f %8.3f %8.3f %8.3f %8.3f  %8.3f %8.3f %8.3f %8.3f  %9.3f\n", p->name + (length > 28 ? length - 28 : 0),
           gr_sim_rows_per_token(s, GRACE_LINK_CROSS), gr_sim_rows_per_token(s, GRACE_LINK_INTRA), s->load_max_over_mean, 1e3 * s->prefill.total,
           1e3 * s->prefill.cross, 1e3 * s->prefill.intra, 1e3 * s->prefill.latency, 1e3 * s->prefill.experts, 1e3 * s->prefill.dense,
           1e3 * s->decode.total / steps, 1e3 * s->decode.cross / steps, 1e3 * s->decode.latency / steps, 1e3 * s->decode.experts / steps,
           s->prefill.total + s->decode.total);
}

static void print_header(const gr_sim_output *o) {
    const grace_workload *w = o->workload;
    const grace_rates *r = o->options.rates;
    printf("%s%s; model %s; %s, %s%s; rates %s: %.3g MB/s between nodes, %.3g GB/s inside\n", o->trace ? o->trace : "made-up routing",
           o->synthetic ? " (synthetic)" : "", o->options.shape->name, gr_exchange_name(o->options.exchange), gr_route_name(o->options.route),
           o->options.exact ? ", exact" : "", r->name, r->cross.bytes_s * 1e-6, r->intra.bytes_s * 1e-9);
    if (w) printf("%d sequences of %d + %d tokens; ", w->sequences, w->prefill, w->decode);
    else printf("the trace's own steps, all of its prompts and generated tokens (--workload for others); ");
    printf("rows a token dispatches in a layer; times predicted, ms (total: s)\n\n");
    printf("%-28s %6s %6s  %5s  %9s %8s %8s %8s %8s %8s  %8s %8s %8s %8s  %9s\n", "plan", "cross", "intra", "load", "prefill", "cross", "intra", "latency",
           "experts", "dense", "step", "cross", "latency", "experts", "total s");
}

static void print_others(const gr_sim_output *o) {
    printf("\nbeside expert parallelism between nodes (%s):\n", gr_cluster_text(o->cluster).text);
    printf("%-28s %9s %9s %9s  %12s\n", "", "prefill", "step", "total s", "GB a rank");
    for (int i = 0; i < GRACE_N_OTHERS; i++) {
        const grace_other_price *p = &o->others[i];
        double steps = o->workload->decode ? o->workload->decode : 1;
        printf("%-28s %9.3f %9.3f %9.3f  %12.2f", grace_other_name((grace_other)i), 1e3 * p->prefill_s, 1e3 * p->decode_s / steps, p->prefill_s + p->decode_s,
               1e-9 * p->bytes_per_rank);
        if (p->micro_prefill) printf("  in %d and %d parts", p->micro_prefill, p->micro_decode);
        printf("\n");
    }
}

void gr_sim_print(const gr_sim_output *o) {
    print_header(o);
    for (int32_t i = 0; i < o->n_plans; i++) print_plan(&o->plans[i]);
    if (o->has_others) print_others(o);
}
