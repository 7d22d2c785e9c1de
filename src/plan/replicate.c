#include "plan/replicate.h"

#include <math.h>
#include <stdbool.h>

#include "base/status.h"

void gr_rank_loads(const double *load, const int32_t *rank_of_expert, int32_t n_experts, int32_t n_ranks, double *rank_load) {
    for (int32_t r = 0; r < n_ranks; r++) rank_load[r] = 0;
    for (int32_t e = 0; e < n_experts; e++) rank_load[rank_of_expert[e]] += load[e];
}

int32_t gr_heaviest_rank(const double *rank_load, int32_t n_ranks) {
    int32_t best = 0;
    for (int32_t r = 1; r < n_ranks; r++)
        if (rank_load[r] > rank_load[best]) best = r;
    return best;
}

int32_t gr_replica_count(const double *rank_load, int32_t n_ranks) {
    double sum = 0, max = rank_load[gr_heaviest_rank(rank_load, n_ranks)];
    for (int32_t r = 0; r < n_ranks; r++) sum += rank_load[r];
    if (!(sum > 0)) return 0;
    double rho = max * n_ranks / sum;       /* in this order a whole ratio of counts comes out whole */
    return (int32_t)fmin(fmax(1, floor(rho)), n_ranks - 1);
}

/* Does a come before b in falling order of load, ties by id? */
static bool hotter(const double *load, int32_t a, int32_t b) { return load[a] > load[b] || (load[a] == load[b] && a < b); }

/* The rank's hottest expert after `last` (-1: of all). -1: there is none. */
static int32_t next_hot(const double *load, const int32_t *rank_of_expert, int32_t n_experts, int32_t rank, int32_t last) {
    int32_t best = -1;
    for (int32_t e = 0; e < n_experts; e++) {
        if (rank_of_expert[e] != rank || (last >= 0 && !hotter(load, last, e))) continue;
        if (best < 0 || hotter(load, e, best)) best = e;
    }
    return best;
}

int32_t gr_hot_experts(const double *load, const int32_t *rank_of_expert, int32_t n_experts, int32_t rank, double threshold, int32_t *hot) {
    int32_t n = 0, last = -1;
    double sum = 0;
    while (!(sum > threshold) && (last = next_hot(load, rank_of_expert, n_experts, rank, last)) >= 0) {
        hot[n++] = last;
        sum += load[last];
    }
    return n;
}

static bool lighter(const double *rank_load, int32_t a, int32_t b) { return rank_load[a] < rank_load[b] || (rank_load[a] == rank_load[b] && a < b); }

void gr_least_loaded(const double *rank_load, int32_t n_ranks, int32_t except, int32_t n, int32_t *hosts) {
    GR_ASSERT(n < n_ranks);
    for (int32_t h = 0; h < n; h++) {
        hosts[h] = -1;
        for (int32_t r = 0; r < n_ranks; r++) {
            if (r == except || (h > 0 && !lighter(rank_load, hosts[h - 1], r))) continue;
            if (hosts[h] < 0 || lighter(rank_load, r, hosts[h])) hosts[h] = r;
        }
    }
}

void gr_replicate(const double *load, const int32_t *rank_of_expert, int32_t n_experts, const double *rank_load, int32_t n_ranks,
                  grace_replication kind, gr_replicas *out) {
    out->heaviest = gr_heaviest_rank(rank_load, n_ranks);
    out->n_hot = 0;
    out->n_replica = kind == GRACE_REPLICATION_NONE ? 0 : gr_replica_count(rank_load, n_ranks);
    if (kind == GRACE_REPLICATION_FIXED && out->n_replica > 1) out->n_replica = 1;
    if (out->n_replica == 0) return;
    double threshold = rank_load[out->heaviest] * out->n_replica / (1 + out->n_replica);
    out->n_hot = gr_hot_experts(load, rank_of_expert, n_experts, out->heaviest, threshold, out->hot);
    gr_least_loaded(rank_load, n_ranks, out->heaviest, out->n_replica, out->hosts);
}

void gr_predict_load(const double *load, const gr_replicas *replicas, double *rank_load) {
    double replicated = 0;                              /* W_r; the paper prints W_max here, against its own sentence (docs/paper.md) */
    for (int32_t i = 0; i < replicas->n_hot; i++) replicated += load[replicas->hot[i]];
    double part = replicated / (replicas->n_replica + 1);
    rank_load[replicas->heaviest] += part - replicated;
    for (int32_t h = 0; h < replicas->n_replica; h++) rank_load[replicas->hosts[h]] += part;
}

/* Least load / load instead of 1 / load: the same after scaling, and no load is too small to invert. */
void gr_poll_weights(const double *load_of_host, int32_t n, float *weight) {
    double least = load_of_host[0], sum = 0;
    for (int32_t h = 1; h < n; h++) least = fmin(least, load_of_host[h]);
    for (int32_t h = 0; h < n; h++) sum += least > 0 ? least / load_of_host[h] : load_of_host[h] <= 0;
    for (int32_t h = 0; h < n; h++) weight[h] = (float)((least > 0 ? least / load_of_host[h] : load_of_host[h] <= 0) / sum);
}
