#include <string.h>

#include "base/memory.h"
#include "plan/homes.h"

/* Those that may move are `who`, an index for each; the others stay for good. */
typedef struct moving {
    const gr_settled *s;
    int32_t n, n_ranks, n_who;
    bool *stays;                /* [n] */
    double *all, *cost;         /* [n, n_nodes] of all, and of who */
    int32_t *who, *from, *to;   /* [n_who] */
    int32_t *held;              /* [n_ranks] */
    gr_room *room;              /* [n_ranks] */
} moving;

static void price(const gr_settled *s, const double *rows, int32_t n, double moved_rows, grace_cluster c, double *cost) {
    for (int32_t i = 0; i < n; i++)
        for (int32_t node = 0; node < c.n_nodes; node++, rows++) {
            double expected = *rows / (s[i].n_done + GR_HOMES_FEW) * s[i].n_left;
            *cost++ = expected + (node == s[i].home / c.gpus_per_node ? 0 : moved_rows * s[i].n_done);
        }
}

/* Homes for who may move, as if there were room. */
static grace_status choose(moving *m, grace_cluster c, const int32_t *held) {
    memcpy(m->held, held, (size_t)m->n_ranks * sizeof *held);
    m->n_who = 0;
    for (int32_t i = 0; i < m->n; i++) {
        if (m->stays[i]) continue;
        memcpy(m->cost + (size_t)m->n_who * (size_t)c.n_nodes, m->all + (size_t)i * (size_t)c.n_nodes, (size_t)c.n_nodes * sizeof *m->cost);
        m->held[m->from[m->n_who] = m->s[i].home]--;
        m->who[m->n_who++] = i;
    }
    return gr_homes_assign(m->cost, m->n_who, c, m->from, m->held, m->to);
}

/* In order of sequence, into what is free once all have left. */
static bool all_find_room(moving *m, const gr_room *room) {
    bool all = true;
    memcpy(m->room, room, (size_t)m->n_ranks * sizeof *room);
    for (int32_t w = 0; w < m->n_who; w++)
        if (m->to[w] != m->from[w]) m->room[m->from[w]].pages += m->s[m->who[w]].n_pages, m->room[m->from[w]].sequences++;
    for (int32_t w = 0; w < m->n_who; w++) {
        gr_room *left = &m->room[m->to[w]];
        int32_t n_pages = m->s[m->who[w]].n_pages;
        if (m->to[w] == m->from[w]) continue;
        if (left->pages < n_pages || left->sequences < 1) m->stays[m->who[w]] = true, all = false;
        else left->pages -= n_pages, left->sequences--;
    }
    return all;
}

grace_status gr_homes_move(const gr_settled *s, const double *rows, int32_t n, double moved_rows, grace_cluster cluster, const gr_room *room, int32_t *held,
                           int32_t *homes) {
    grace_status st = GRACE_OK;
    moving m = {.s = s, .n = n, .n_ranks = grace_cluster_ranks(cluster)};
    size_t values = (size_t)n * (size_t)cluster.n_nodes;
    GR_CALLOC(m.stays, n);
    GR_CALLOC(m.all, values);
    GR_CALLOC(m.cost, values);
    GR_CALLOC(m.who, n);
    GR_CALLOC(m.from, n);
    GR_CALLOC(m.to, n);
    GR_CALLOC(m.held, m.n_ranks);
    GR_CALLOC(m.room, m.n_ranks);
    price(s, rows, n, moved_rows, cluster, m.all);
    do GR_TRY(choose(&m, cluster, held));
    while (!all_find_room(&m, room));       /* each round fewer may move */
    for (int32_t i = 0; i < n; i++) homes[i] = s[i].home;
    for (int32_t w = 0; w < m.n_who; w++) homes[m.who[w]] = m.to[w];
    memcpy(held, m.held, (size_t)m.n_ranks * sizeof *held);
done:
    free(m.stays), free(m.all), free(m.cost), free(m.who), free(m.from), free(m.to), free(m.held), free(m.room);
    return st;
}
