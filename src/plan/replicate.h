/* Replication of hot experts, load prediction and polling weights (paper Eq. 3-4), one layer at a time. No allocation, no failure. */
#ifndef GR_PLAN_REPLICATE_H
#define GR_PLAN_REPLICATE_H
#include <stdint.h>

#include "grace/plan.h"

/* load [n_experts], rank_of_expert [n_experts] -> rank_load [n_ranks]: W_i, sum of the loads of the rank's primaries. */
void gr_rank_loads(const double *load, const int32_t *rank_of_expert, int32_t n_experts, int32_t n_ranks, double *rank_load);

int32_t gr_heaviest_rank(const double *rank_load, int32_t n_ranks);     /* ties to the lower rank */

/* paper Eq. 3: min(max(1, floor(W_max / mean W)), D - 1). 0 when nothing was routed: there is nothing hot. */
int32_t gr_replica_count(const double *rank_load, int32_t n_ranks);

/* The rank's experts in falling order of load (ties by id), the shortest prefix whose sum exceeds threshold, all of them if none does.
 * hot [room for n_experts]. Returns how many. */
int32_t gr_hot_experts(const double *load, const int32_t *rank_of_expert, int32_t n_experts, int32_t rank, double threshold, int32_t *hot);

/* The n least loaded ranks other than except, ties to the lower rank; n <= n_ranks - 1. hosts [n]. */
void gr_least_loaded(const double *rank_load, int32_t n_ranks, int32_t except, int32_t n, int32_t *hosts);

typedef struct gr_replicas {
    int32_t heaviest;               /* the rank whose experts are copied */
    int32_t n_hot, *hot;            /* [room for n_experts] experts copied, falling load */
    int32_t n_replica, *hosts;      /* [room for n_ranks] ranks that get a copy of each of them, rising load; n_replica 0: no copies, n_hot 0 */
} gr_replicas;

/* Chooses hot experts and hosts; out->hot and out->hosts are the caller's arrays. FIXED: one copy whatever the skew. */
void gr_replicate(const double *load, const int32_t *rank_of_expert, int32_t n_experts, const double *rank_load, int32_t n_ranks,
                  grace_replication kind, gr_replicas *out);

/* paper Eq. 4, in place: rank_load of primaries -> predicted loads with the copies, each of the n_replica + 1 instances taking an equal part. */
void gr_predict_load(const double *load, const gr_replicas *replicas, double *rank_load);

/* Inverse loads of an expert's hosts, scaled to sum 1. Hosts without load share everything evenly: the limit of the inverse. weight [n]. */
void gr_poll_weights(const double *load_of_host, int32_t n, float *weight);

#endif
