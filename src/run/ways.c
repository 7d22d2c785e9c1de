#include "run/ways.h"

#include "base/memory.h"

enum { A = GRACE_STAGE_CROSS, B = GRACE_STAGE_NODE };

grace_status gr_ways_init(gr_ways *w, grace_cluster cluster, grace_exchange kind) {
    grace_status st = GRACE_OK;
    *w = (gr_ways){.cluster = cluster, .two_stage = gr_ways_has_two_stages(cluster, kind)};
    GR_CALLOC(w->peer_of_rank[A], grace_cluster_ranks(cluster));
    GR_CALLOC(w->peer_of_rank[B], grace_cluster_ranks(cluster));
done:
    return st;
}

void gr_ways_free(gr_ways *w) {
    free(w->peer_of_rank[A]);
    free(w->peer_of_rank[B]);
    *w = (gr_ways){0};
}

void gr_ways_aim(gr_ways *w, int32_t rank) {
    int32_t g = w->cluster.gpus_per_node, home = rank / g, local = rank % g;
    w->rank = rank;
    for (int32_t node = 0; node < w->cluster.n_nodes; node++)
        for (int32_t gpu = 0; gpu < g; gpu++) {
            int32_t r = node * g + gpu;
            w->peer_of_rank[A][r] = node == home ? -1 : node * g + local;       /* the peer with our local index */
            w->peer_of_rank[B][r] = !w->two_stage ? r : node == home ? gpu : -1;
        }
}

int32_t gr_ways_n_peers(const gr_ways *w, int stage) {
    return stage == B && w->two_stage ? w->cluster.gpus_per_node : grace_cluster_ranks(w->cluster);
}

int32_t gr_ways_world_rank(const gr_ways *w, int stage, int32_t peer) {
    int32_t g = w->cluster.gpus_per_node;
    return stage == B && w->two_stage ? w->rank / g * g + peer : peer;
}

int gr_ways_link(const gr_ways *w, int32_t to) {
    if (to == w->rank) return GRACE_LINK_SELF;
    return to / w->cluster.gpus_per_node == w->rank / w->cluster.gpus_per_node ? GRACE_LINK_INTRA : GRACE_LINK_CROSS;
}
