#include "run/tally.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

enum { N_PREFILL, N_DECODE, N_STARTED, N_LOOKING, HEADER };       /* of the shared vector */

grace_status gr_tally_init(gr_tally *t, int32_t n_ranks, int32_t n_layers) {
    grace_status st = GRACE_OK;
    *t = (gr_tally){.n_ranks = n_ranks, .n_layers = n_layers};
    GR_CALLOC(t->shared, HEADER + (size_t)n_ranks + 2 * (size_t)n_ranks * (size_t)n_layers);
    GR_CALLOC(t->load, (size_t)n_ranks * (size_t)n_layers);
    GR_CALLOC(t->pair_rows, (size_t)n_ranks * (size_t)n_ranks);
done:
    return st;
}

void gr_tally_free(gr_tally *t) {
    free(t->shared);
    free(t->load);
    free(t->pair_rows);
    *t = (gr_tally){0};
}

/* ---- once a step ---- */

static int64_t *rows_of_rank(const gr_tally *t) { return t->shared + HEADER; }
static int64_t *step_loads(const gr_tally *t) { return rows_of_rank(t) + t->n_ranks; }

static void share_own(gr_tally *t, const gr_network *net) {
    int64_t *load = step_loads(t), *nanoseconds = load + (int64_t)t->n_layers * t->n_ranks;
    memset(load, 0, 2 * (size_t)t->n_layers * (size_t)t->n_ranks * sizeof(int64_t));
    for (int32_t l = 0; t->pending && l < t->n_layers; l++) {
        load[l * t->n_ranks + net->comm->rank] = t->pending->load[l];
        nanoseconds[l * t->n_ranks + net->comm->rank] = (int64_t)(1e3 * t->pending->expert_us[l]);
    }
}

static int32_t most_rows(const gr_tally *t) {
    int64_t most = 0;
    for (int32_t r = 0; r < t->n_ranks; r++) most = rows_of_rank(t)[r] > most ? rows_of_rank(t)[r] : most;
    return (int32_t)most;
}

static int64_t sum_of_gaps(const int64_t *v, int32_t n) {
    int64_t most = 0, gaps = 0;
    for (int32_t i = 0; i < n; i++) most = v[i] > most ? v[i] : most;
    for (int32_t i = 0; i < n; i++) gaps += most - v[i];
    return gaps;
}

static void add_step(gr_tally *t) {
    const int64_t *load = step_loads(t), *nanoseconds = load + (int64_t)t->n_layers * t->n_ranks;
    for (int32_t l = 0; l < t->n_layers; l++) {
        t->idle_pairs += sum_of_gaps(load + (int64_t)l * t->n_ranks, t->n_ranks);
        t->idle_us += 1e-3 * (double)sum_of_gaps(nanoseconds + (int64_t)l * t->n_ranks, t->n_ranks);
    }
    for (int32_t i = 0; i < t->n_layers * t->n_ranks; i++) {
        t->load[i] += load[i];
        t->n_pairs += load[i];
        t->expert_us += 1e-3 * (double)nanoseconds[i];
    }
    t->pending = NULL;
}

static gr_agreed agreed_of(const gr_tally *t) {
    const int64_t *sum = t->shared;
    return (gr_agreed){.n_prefill = sum[N_PREFILL], .n_decode = sum[N_DECODE], .n_started = sum[N_STARTED], .n_rows_most = most_rows(t),
                       .decode = sum[N_PREFILL] == 0, .quiet = sum[N_PREFILL] == 0 && sum[N_LOOKING] == 0};
}

/* The loads of the last step, and what every rank brings; now NULL: nothing. */
static grace_status add_up(gr_tally *t, const gr_network *net, const gr_fill *now, bool looks) {
    grace_status st = GRACE_OK;
    share_own(t, net);
    t->shared[N_PREFILL] = now ? now->n_prefill : 0;
    t->shared[N_DECODE] = now ? now->n_decode : 0;
    t->shared[N_STARTED] = now ? now->n_started : 0;
    t->shared[N_LOOKING] = looks;
    memset(rows_of_rank(t), 0, (size_t)t->n_ranks * sizeof(int64_t));
    rows_of_rank(t)[net->comm->rank] = now ? now->step.n_rows : 0;
    gr_comm_at("start of a step", -1);
    GR_TRY(gr_comm_allreduce(net->comm, t->shared, HEADER + t->n_ranks + 2 * t->n_layers * t->n_ranks, GR_SUM));
    add_step(t);
done:
    return st;
}

grace_status gr_tally_sync(gr_tally *t, gr_network *net, const gr_fill *now, bool looks, gr_agreed *out) {
    const grace_status st = add_up(t, net, now, looks);
    if (!st) *out = agreed_of(t);
    return st;
}

void gr_tally_step(gr_tally *t, const gr_agreed *step, const gr_landed *landed, double wall_us) {
    const double prefill = (double)step->n_prefill, decode = (double)step->n_decode;
    GR_ASSERT(!t->pending);
    t->n_steps++;
    t->n_prefill += step->n_prefill;
    t->n_decode += step->n_decode;
    t->n_started += step->n_started;
    t->pending = landed;
    t->prefill_us += wall_us * prefill / (prefill + decode);
    t->decode_us += wall_us * decode / (prefill + decode);
}

/* ---- at the end ---- */

/* One rank's share, gathered as bytes. */
typedef struct share {
    grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS], combine[GRACE_N_STAGES][GRACE_N_LINKS];
    double time_us[GRACE_N_TIMES], moe_us, prefill_us, decode_us, move_us;
    int64_t replica_bytes;
} share;

static void fill_share(const gr_tally *t, gr_network *net, share *mine) {
    const gr_exchange_counts *c = gr_exchange_counts_of(net->exchange);
    memcpy(mine->dispatch, c->dispatch, sizeof c->dispatch);
    memcpy(mine->combine, c->combine, sizeof c->combine);
    memcpy(mine->time_us, net->time_us, sizeof net->time_us);
    mine->time_us[GRACE_TIME_ROUTE] += c->list_us;      /* 0 where rows are on devices: their stages are timed there */
    mine->time_us[GRACE_TIME_DISPATCH] += c->move_us[0];
    mine->time_us[GRACE_TIME_COMBINE] += c->move_us[1];
    mine->moe_us = mine->time_us[GRACE_TIME_ROUTE] + mine->time_us[GRACE_TIME_DISPATCH] + mine->time_us[GRACE_TIME_EXPERTS] + mine->time_us[GRACE_TIME_COMBINE];
    mine->prefill_us = t->prefill_us;
    mine->decode_us = t->decode_us;
    mine->move_us = t->moved.us;
    mine->replica_bytes = net->w.replica_bytes;
}

static void add_links(grace_link_count sum[GRACE_N_STAGES][GRACE_N_LINKS], const grace_link_count one[GRACE_N_STAGES][GRACE_N_LINKS]) {
    for (int s = 0; s < GRACE_N_STAGES; s++)
        for (int l = 0; l < GRACE_N_LINKS; l++) {
            sum[s][l].rows += one[s][l].rows;
            sum[s][l].bytes_payload += one[s][l].bytes_payload;
            sum[s][l].bytes_wire += one[s][l].bytes_wire;
        }
}

static double max_double(double a, double b) { return a > b ? a : b; }

static void add_share(grace_stats *out, const share *one) {
    add_links(out->dispatch, one->dispatch);
    add_links(out->combine, one->combine);
    for (int i = 0; i < GRACE_N_TIMES; i++) out->time_us[i] += one->time_us[i] / out->n_ranks;
    out->move_us += one->move_us / out->n_ranks;
    out->moe_us = max_double(out->moe_us, one->moe_us);
    out->prefill_us = max_double(out->prefill_us, one->prefill_us);
    out->decode_us = max_double(out->decode_us, one->decode_us);
    if (one->replica_bytes > out->replica_bytes_max) out->replica_bytes_max = one->replica_bytes;
}

/* max/mean and standard deviation of each layer's loads over the ranks, averaged over the layers that had any. */
static void load_spread(const gr_tally *t, grace_stats *out) {
    int32_t used = 0;
    for (int32_t l = 0; l < t->n_layers; l++) {
        double sum = 0, squares = 0, most = 0;
        for (int32_t r = 0; r < t->n_ranks; r++) {
            double w = (double)t->load[l * t->n_ranks + r];
            sum += w;
            squares += w * w;
            most = max_double(most, w);
        }
        if (sum == 0) continue;
        double mean = sum / t->n_ranks;
        used++;
        out->load_max_over_mean += most / mean;
        out->load_std += sqrt(max_double(0, squares / t->n_ranks - mean * mean));
    }
    if (used) out->load_max_over_mean /= used;
    if (used) out->load_std /= used;
}

grace_status gr_tally_stats(gr_tally *t, gr_network *net, grace_stats *out) {
    grace_status st = GRACE_OK;
    gr_comm *comm = net->comm;
    share mine = {0}, *all = NULL;
    grace_stats s = {.n_ranks = comm->n_ranks, .n_nodes = comm->n_nodes, .n_layers = t->n_layers, .n_steps = t->n_steps};
    GR_CALLOC(all, comm->n_ranks);
    if (t->pending) GR_TRY(add_up(t, net, NULL, false));
    fill_share(t, net, &mine);
    GR_TRY(gr_comm_allgather(comm, &mine, sizeof mine, all));
    GR_TRY(gr_comm_allgather(comm, gr_exchange_counts_of(net->exchange)->pair_rows, (size_t)comm->n_ranks * sizeof(int64_t), t->pair_rows));
    for (int32_t r = 0; r < comm->n_ranks; r++) add_share(&s, &all[r]);
    load_spread(t, &s);
    s.n_prefill = t->n_prefill;
    s.n_decode = t->n_decode;
    s.n_tokens = t->n_prefill + t->n_decode;
    s.moved_requests = t->moved.requests;
    s.moved_kv_rows = t->moved.kv_rows;
    s.moved_kv_bytes = t->moved.kv_bytes;
    s.pair_rows = t->pair_rows;
    s.load = t->load;
    s.idle_pairs = t->idle_pairs;
    s.pair_us = t->n_pairs ? t->expert_us / (double)t->n_pairs : 0;
    s.idle_model_us = (double)t->idle_pairs * s.pair_us;
    s.idle_measured_us = comm->oversubscribed ? -1 : t->idle_us;
    s.kv_tokens_displaced = s.replica_bytes_max / grace_model_kv_token_bytes(net->info);
    *out = s;
done:
    free(all);
    return st;
}
