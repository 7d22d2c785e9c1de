#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "sim/replay.h"

/* ---- one plan ---- */

typedef struct run {
    const grace_sim_options *opt;
    gr_schedule schedule;
    gr_replay replay;
    grace_sim *sim;
} run;

static grace_status check_together(const grace_routing *routing, const grace_sim_options *opt) {
    grace_status st = GRACE_OK;
    const grace_trace_info *i = &routing->info;
    const grace_plan *p = opt->plan;
    GR_CHECK(p->n_layers == i->n_layers && p->n_experts == i->n_experts && p->top_k == i->top_k, GRACE_ERR_MISMATCH,
             "the plan is for %d layers of %d experts, top-%d; the routing has %d of %d, top-%d", p->n_layers, p->n_experts, p->top_k, i->n_layers,
             i->n_experts, i->top_k);
    GR_CHECK(!p->fingerprint || !i->fingerprint || p->fingerprint == i->fingerprint, GRACE_ERR_MISMATCH,
             "the plan is for the model %016llx, the routing of %016llx", (unsigned long long)p->fingerprint, (unsigned long long)i->fingerprint);
    GR_TRY(grace_shape_check(opt->shape, p->n_layers, p->n_experts, p->top_k));
done:
    return st;
}

static int32_t most_rows(const gr_schedule *s) {
    double most = 1;
    for (int32_t i = 0; i < s->n_steps; i++)
        for (int32_t r = 0; r < s->n_ranks; r++) most = fmax(most, s->steps[i].batches[r].tokens);
    return (int32_t)most;
}

static grace_status sim_new(const grace_plan *plan, grace_sim **out) {
    grace_status st = GRACE_OK;
    grace_sim *s = NULL;
    GR_CALLOC(s, 1);
    s->n_ranks = grace_cluster_ranks(plan->cluster), s->n_nodes = plan->cluster.n_nodes, s->n_layers = plan->n_layers;
    GR_CALLOC(s->load, (size_t)s->n_layers * (size_t)s->n_ranks);
    GR_CALLOC(s->layers, s->n_layers);
    *out = s, s = NULL;
done:
    grace_sim_free(s);
    return st;
}

void grace_sim_free(grace_sim *s) {
    if (!s) return;
    free(s->pair_rows), free(s->load), free(s->layers);
    free(s);
}

/* ---- counts of a layer ---- */

static double most_of(const double *values, int32_t n) {
    double most = 0;
    for (int32_t i = 0; i < n; i++) most = fmax(most, values[i]);
    return most;
}

static void add_step(run *r, const gr_sim_step *step, int32_t layer) {
    const grace_layer_counts *c = &r->replay.counts;
    grace_sim *s = r->sim;
    grace_sim_layer *out = &s->layers[layer];
    grace_seconds seconds = grace_layer_seconds(c, r->opt->shape, r->opt->rates);
    int64_t most = (int64_t)most_of(c->pairs, s->n_ranks);
    for (int32_t rank = 0; rank < s->n_ranks; rank++) {
        s->load[(int64_t)layer * s->n_ranks + rank] += (int64_t)c->pairs[rank];
        s->idle_pairs += most - (int64_t)c->pairs[rank];
    }
    *(step->decode ? &out->active_decode : &out->active_prefill) += most_of(c->active, s->n_ranks);
    grace_seconds_add(step->decode ? &out->decode : &out->prefill, &seconds, 1);
    grace_seconds_add(step->decode ? &s->decode : &s->prefill, &seconds, 1);
}

static int64_t rows_over(const gr_replay *r, int link) {
    int64_t n = 0;
    for (int stage = 0; stage < GRACE_N_STAGES; stage++) n += r->dispatch[stage][link].rows + r->combine[stage][link].rows;
    return n;
}

static void spread(const int64_t *load, int32_t n, grace_sim_layer *out) {
    double sum = 0, squares = 0, most = 0;
    for (int32_t r = 0; r < n; r++) sum += (double)load[r], squares += (double)load[r] * (double)load[r], most = fmax(most, (double)load[r]);
    if (sum == 0) return;
    double mean = sum / n;
    out->load_max_over_mean = most / mean;
    out->load_std = sqrt(fmax(0, squares / n - mean * mean));
    out->load_floor = sqrt(mean * (1 - 1.0 / n));       /* a pair falls on a rank with chance 1/n */
}

static grace_status replay_layer(run *r, int32_t layer) {
    grace_status st = GRACE_OK;
    grace_sim *s = r->sim;
    grace_sim_layer *out = &s->layers[layer];
    int64_t cross = rows_over(&r->replay, GRACE_LINK_CROSS), intra = rows_over(&r->replay, GRACE_LINK_INTRA);
    for (int32_t i = 0; i < r->schedule.n_steps; i++) {
        GR_TRY(gr_replay_layer(&r->replay, &r->schedule, &r->schedule.steps[i], layer));
        add_step(r, &r->schedule.steps[i], layer);
    }
    out->rows_cross = rows_over(&r->replay, GRACE_LINK_CROSS) - cross;
    out->rows_intra = rows_over(&r->replay, GRACE_LINK_INTRA) - intra;
    if (s->n_steps_prefill) out->active_prefill /= s->n_steps_prefill;
    if (s->n_steps_decode) out->active_decode /= s->n_steps_decode;
    spread(s->load + (int64_t)layer * s->n_ranks, s->n_ranks, out);
    s->load_max_over_mean += out->load_max_over_mean / s->n_layers;
    s->load_std += out->load_std / s->n_layers;
    s->load_floor += out->load_floor / s->n_layers;
done:
    return st;
}

/* ---- the rest of a step, memory ---- */

static void add_dense(run *r) {
    for (int32_t i = 0; i < r->schedule.n_steps; i++) {
        const gr_sim_step *step = &r->schedule.steps[i];
        grace_seconds most = {0};
        for (int32_t rank = 0; rank < r->schedule.n_ranks; rank++) {
            grace_seconds s = grace_dense_seconds(&step->batches[rank], 1, r->opt->shape, r->opt->rates);
            if (s.dense > most.dense) most = s;
        }
        grace_seconds_add(step->decode ? &r->sim->decode : &r->sim->prefill, &most, 1);
    }
}

static void count_steps(const gr_schedule *schedule, grace_sim *s) {
    for (int32_t i = 0; i < schedule->n_steps; i++) {
        const gr_sim_step *step = &schedule->steps[i];
        *(step->decode ? &s->n_steps_decode : &s->n_steps_prefill) += 1;
        *(step->decode ? &s->n_decode : &s->n_prefill) += step->end - step->first;
    }
}

/* Slots of a rank over all layers, and how many of them are copies. */
static void count_slots(const grace_plan *plan, int32_t rank, int32_t *slots, int32_t *copies) {
    *slots = *copies = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) {
        const grace_plan_layer *pl = &plan->layers[l];
        for (int32_t s = pl->first_slot[rank]; s < pl->first_slot[rank + 1]; s++)
            *slots += 1, *copies += pl->slots_of_expert[pl->slots_first[pl->expert_of_slot[s]]] != s;
    }
}

static void weigh_memory(const grace_sim_options *opt, grace_sim *s) {
    int32_t slots, copies, copies_most = 0;
    for (int32_t r = 0; r < s->n_ranks; r++) {
        count_slots(opt->plan, r, &slots, &copies);
        if (slots > s->slots_max) s->slots_max = slots;
        if (copies > copies_most) copies_most = copies;
    }
    s->replica_bytes_max = llround(copies_most * 3.0 * opt->shape->hidden * opt->shape->expert_width * opt->shape->weight_bytes);
    double kv_bytes = opt->shape->kv_values * opt->rates->value_bytes;
    s->kv_tokens_displaced = kv_bytes > 0 ? (int64_t)((double)s->replica_bytes_max / kv_bytes) : 0;
    s->idle_s = (double)s->idle_pairs * 6.0 * opt->shape->hidden * opt->shape->expert_width / opt->rates->flop_s;
}

/* ---- all ---- */

static grace_status open_run(const grace_routing *routing, const grace_sim_options *opt, run *r) {
    grace_status st = GRACE_OK;
    r->opt = opt;
    GR_TRY(check_together(routing, opt));
    if (opt->workload) GR_TRY(gr_schedule_workload(routing, opt->workload, grace_cluster_ranks(opt->plan->cluster), &r->schedule));
    else GR_TRY(gr_schedule_recorded(routing, opt->plan->cluster, &r->schedule));
    GR_TRY(sim_new(opt->plan, &r->sim));
    GR_TRY(gr_replay_open(&r->replay, routing, opt, most_rows(&r->schedule)));
done:
    return st;
}

grace_status grace_sim_run(const grace_routing *routing, const grace_sim_options *opt, grace_sim **out) {
    grace_status st = GRACE_OK;
    run r = {0};
    GR_TRY(open_run(routing, opt, &r));
    count_steps(&r.schedule, r.sim);
    for (int32_t l = 0; l < r.sim->n_layers; l++) GR_TRY(replay_layer(&r, l));
    memcpy(r.sim->dispatch, r.replay.dispatch, sizeof r.replay.dispatch);
    memcpy(r.sim->combine, r.replay.combine, sizeof r.replay.combine);
    r.sim->pair_rows = r.replay.pair_rows, r.replay.pair_rows = NULL;
    add_dense(&r);
    weigh_memory(opt, r.sim);
    *out = r.sim, r.sim = NULL;
done:
    grace_sim_free(r.sim);
    gr_replay_close(&r.replay);
    gr_schedule_free(&r.schedule);
    return st;
}
