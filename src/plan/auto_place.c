#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/parallel.h"
#include "plan/auto.h"
#include "plan/cost.h"
#include "plan/replicate.h"

enum { GPU_PASSES_MAX = 6, SHARE_ROUNDS = 12 };
static const double GPU_UNEVEN = 1.1;       /* a loose bound is for nodes; GPUs of the heaviest node differ by no more, others need not be lighter */

static int32_t gpus_of(const gr_auto *a) { return a->cluster.gpus_per_node; }

/* ---- labels: homes are alike, so a layer's nodes may stand for any nodes of the cluster ---- */

static int32_t slots_on(const gr_nodes *s, int32_t node) {
    int32_t n = 0;
    for (int32_t e = 0; e < s->n; e++) n += gr_nodes_hosts(s, e, node);
    return n;
}

/* The largest of what is left goes to the emptiest place that is left. size [n], total [n] -> label [n], total. used [n]. */
static void label_greedily(const int32_t *size, int32_t n, int64_t *total, int32_t *label, bool *used) {
    for (int32_t i = 0; i < n; i++) label[i] = -1, used[i] = false;
    for (int32_t step = 0; step < n; step++) {
        int32_t big = -1, empty = -1;
        for (int32_t i = 0; i < n; i++) {
            if (label[i] < 0 && (big < 0 || size[i] > size[big])) big = i;
            if (!used[i] && (empty < 0 || total[i] < total[empty])) empty = i;
        }
        label[big] = empty, used[empty] = true;
    }
    for (int32_t i = 0; i < n; i++) total[label[i]] += size[i];
}

static double excess(int64_t total, int64_t cap) { return total > cap ? (double)(total - cap) * (double)(total - cap) : 0; }

/* Two labels of a layer change places while that lowers what is over the cap. */
static void swap_labels(const int32_t *size, int32_t n, int64_t cap, int64_t *total, int32_t *label) {
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < i; j++) {
            int64_t *x = &total[label[i]], *y = &total[label[j]], d = size[j] - size[i];
            if (excess(*x + d, cap) + excess(*y - d, cap) >= excess(*x, cap) + excess(*y, cap)) continue;
            *x += d, *y -= d;
            int32_t kept = label[i];
            label[i] = label[j], label[j] = kept;
        }
}

static int32_t fullest(const int64_t *total, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (total[i] > total[best]) best = i;
    return best;
}

/* The copy on a node of the cluster that is missed least, whatever the layer; an expert without copies moves instead. */
static bool make_room(gr_auto *a, int32_t label, int64_t *total) {
    double best = INFINITY;
    int32_t best_layer = -1;
    gr_node_op best_op = {0};
    for (int32_t l = 0; l < a->n_layers; l++) {
        const gr_auto_layer *al = &a->layers[l];
        const gr_nodes *s = &al->nodes;
        for (int32_t e = 0; e < a->n; e++)
            for (int32_t from = 0; from < s->n_nodes; from++)
                for (int32_t to = 0; to < s->n_nodes && al->node_label[from] == label && gr_nodes_hosts(s, e, from); to++) {
                    bool hosts = gr_nodes_hosts(s, e, to), was = s->primary[e] == from;
                    gr_node_op op = {(int16_t)e, (int16_t)(hosts ? -1 : to), (int16_t)from, (int16_t)(was ? to : s->primary[e])};
                    if (to == from || (!hosts && total[al->node_label[to]] >= a->slots_of_rank * gpus_of(a))) continue;
                    double loss = -(double)gr_nodes_gain(s, op) / (double)(s->bundles->n_tokens + 1);
                    if (loss < best) best = loss, best_op = op, best_layer = l;
                }
    }
    if (best_layer < 0) return false;
    gr_nodes_apply(&a->layers[best_layer].nodes, best_op);
    total[label]--;
    if (best_op.add >= 0) total[a->layers[best_layer].node_label[best_op.add]]++;
    return true;
}

grace_status gr_auto_label_nodes(gr_auto *a) {
    grace_status st = GRACE_OK;
    int32_t n = a->cluster.n_nodes, *size = NULL;
    int64_t *total = NULL, cap = a->slots_of_rank * gpus_of(a);
    bool *used = NULL;
    GR_CALLOC(size, (size_t)a->n_layers * (size_t)n);
    GR_CALLOC(total, n);
    GR_CALLOC(used, n);
    for (int32_t l = 0; l < a->n_layers; l++) {
        for (int32_t node = 0; node < n; node++) size[l * n + node] = slots_on(&a->layers[l].nodes, node);
        label_greedily(size + l * n, n, total, a->layers[l].node_label, used);
    }
    for (int32_t l = 0; l < a->n_layers; l++) swap_labels(size + l * n, n, cap, total, a->layers[l].node_label);
    for (int32_t node; total[node = fullest(total, n)] > cap;) GR_ASSERT(make_room(a, node, total));
done:
    free(size), free(total), free(used);
    return st;
}

/* ---- GPUs ---- */

static grace_status open_gpus(gr_auto *a, gr_auto_layer *al, bool with_edges) {
    grace_status st = GRACE_OK;
    const gr_nodes *s = &al->nodes;
    double mean = s->total_load / a->n_ranks, most = 0, tokens = (double)s->bundles->n_tokens * s->n_nodes;
    al->n_relief = 0;
    for (int32_t node = 0; node < s->n_nodes; node++) most = fmax(most, s->node_load[node] / gpus_of(a));
    for (int32_t node = 0; node < s->n_nodes; node++) {
        gr_parts *p = &al->parts[node];
        gr_parts_close(p);
        GR_TRY(gr_parts_open(s, node, with_edges, with_edges ? a->slots_each : 0, p));
        p->cap = fmax(fmin(al->bound * mean, GPU_UNEVEN * most), s->node_load[node] / gpus_of(a));
        p->load_unit = mean > 0 ? 2 * s->top_k / mean : 0;
        p->count_unit = tokens > 0 ? a->opt.w_gpu / tokens : 0;
    }
done:
    return st;
}

static grace_status refine_gpus(void *context, int32_t layer) {
    grace_status st = GRACE_OK;
    gr_auto *a = context;
    gr_auto_layer *al = &a->layers[layer];
    GR_TRY(open_gpus(a, al, true));
    for (int32_t node = 0; node < a->cluster.n_nodes; node++) {
        gr_parts *p = &al->parts[node];
        for (int32_t i = 0; i < p->n && gr_parts_swap(p); i++) continue;
        for (int32_t i = 0; i < GPU_PASSES_MAX; i++)
            if (gr_parts_pass(p) < 1e-9) break;
    }
done:
    return st;
}

/* Loads of a node's GPUs with copies inside it, which share an expert's load evenly. on [n_items, gpus]: who hosts what. */
static void share_evenly(const gr_parts *p, const bool *on, double *load) {
    memset(load, 0, (size_t)p->n_parts * sizeof *load);
    for (int32_t i = 0; i < p->n; i++) {
        int32_t n_hosts = 0;
        for (int32_t g = 0; g < p->n_parts; g++) n_hosts += on[i * p->n_parts + g];
        for (int32_t g = 0; g < p->n_parts; g++)
            if (on[i * p->n_parts + g]) load[g] += p->load[i] / n_hosts;
    }
}

static int32_t hosts_of(const gr_parts *p, const bool *on, int32_t item) {
    int32_t n = 0;
    for (int32_t g = 0; g < p->n_parts; g++) n += on[item * p->n_parts + g];
    return n;
}

/* One copy more of an expert of the heaviest GPU, on the GPU where the heavier of the two ends up lightest. False: nothing helps. */
static bool relieve_once(const gr_parts *p, const int32_t *count, bool *on, double *load, int32_t *item, int32_t *gpu) {
    int32_t heavy = 0;
    for (int32_t g = 1; g < p->n_parts; g++)
        if (load[g] > load[heavy]) heavy = g;
    double best = load[heavy] * (1 - 1e-6);
    bool found = false;
    for (int32_t i = 0; i < p->n; i++)
        for (int32_t g = 0; g < p->n_parts && on[i * p->n_parts + heavy]; g++) {
            if (on[i * p->n_parts + g] || (p->count_most > 0 && count[g] >= p->count_most)) continue;
            int32_t r = hosts_of(p, on, i);
            double after = fmax(load[heavy] - p->load[i] / r + p->load[i] / (r + 1), load[g] + p->load[i] / (r + 1));
            if (after < best) best = after, *item = i, *gpu = g, found = true;
        }
    if (found) on[*item * p->n_parts + *gpu] = true, share_evenly(p, on, load);
    return found;
}

/* The expert with most load a copy of those that a GPU has not; there is one, GPUs have no more slots than a node has experts. */
static int32_t most_wanted(const gr_parts *p, const bool *on, int32_t gpu) {
    int32_t best = -1;
    double most = 0;
    for (int32_t i = 0; i < p->n; i++) {
        double part = on[i * p->n_parts + gpu] ? -1 : p->load[i] / hosts_of(p, on, i);
        if (part >= 0 && (best < 0 || part > most)) best = i, most = part;
    }
    GR_ASSERT(best >= 0);
    return best;
}

/* Copies inside a node until no GPU is over the bound or room is spent; with equal slots, then until none is free. */
static grace_status relieve(gr_auto *a, gr_auto_layer *al, int32_t node, int64_t *room) {
    grace_status st = GRACE_OK;
    const gr_parts *p = &al->parts[node];
    int32_t item = 0, gpu = 0, *count = NULL;
    bool *on = NULL;
    double *load = NULL;
    GR_CALLOC(count, p->n_parts);
    memcpy(count, p->part_count, (size_t)p->n_parts * sizeof *count);
    GR_CALLOC(on, (size_t)p->n * (size_t)p->n_parts);
    GR_CALLOC(load, p->n_parts);
    for (int32_t i = 0; i < p->n; i++) on[i * p->n_parts + p->part[i]] = true;
    share_evenly(p, on, load);
    while (*room > 0 && gr_max_over_mean(load, p->n_parts) > 1 + 1e-9) {
        double most = 0;
        for (int32_t g = 0; g < p->n_parts; g++) most = fmax(most, load[g]);
        if (most <= p->cap * (1 + 1e-9) || !relieve_once(p, count, on, load, &item, &gpu)) break;
        al->relief[al->n_relief++] = (gr_copy){p->expert[item], node * gpus_of(a) + gpu};
        (*room)--, count[gpu]++;
    }
    for (gpu = 0; gpu < p->n_parts && p->count_most > 0; gpu++)
        for (; count[gpu] < p->count_most; count[gpu]++) {
            item = most_wanted(p, on, gpu);
            on[item * p->n_parts + gpu] = true;
            al->relief[al->n_relief++] = (gr_copy){p->expert[item], node * gpus_of(a) + gpu};
        }
done:
    free(on), free(load), free(count);
    return st;
}

grace_status gr_auto_count_relief(gr_auto *a, int64_t *n_copies) {
    grace_status st = GRACE_OK;
    *n_copies = 0;
    for (int32_t l = 0; l < a->n_layers; l++) {
        int64_t room = INT64_MAX;
        GR_TRY(open_gpus(a, &a->layers[l], false));
        for (int32_t node = 0; node < a->cluster.n_nodes; node++) GR_TRY(relieve(a, &a->layers[l], node, &room));
        *n_copies += a->layers[l].n_relief;
    }
done:
    return st;
}

static int32_t slots_of_gpu(const gr_auto *a, const gr_auto_layer *al, int32_t node, int32_t gpu) {
    int32_t n = 0;
    for (int32_t i = 0; i < al->parts[node].n; i++) n += al->parts[node].part[i] == gpu;
    for (int32_t i = 0; i < al->n_relief; i++) n += al->relief[i].rank == node * gpus_of(a) + gpu;
    return n;
}

static bool has_relief(const gr_auto_layer *al, int32_t expert, int32_t rank) {
    for (int32_t i = 0; i < al->n_relief; i++)
        if (al->relief[i].expert == expert && al->relief[i].rank == rank) return true;
    return false;
}

/* A GPU holds more than it may: in the layer where it hurts least, one expert goes to another GPU of the node that has room. */
static bool move_one(gr_auto *a, int32_t label, int64_t *total) {
    int32_t g = gpus_of(a), best_layer = -1, best_node = 0, best_item = 0, best_part = 0;
    double best = INFINITY;
    for (int32_t l = 0; l < a->n_layers; l++) {
        gr_auto_layer *al = &a->layers[l];
        for (int32_t node = 0; node < a->cluster.n_nodes; node++)
            for (int32_t i = 0; al->node_label[node] == label / g && i < al->parts[node].n; i++) {
                const gr_parts *p = &al->parts[node];
                if (al->gpu_label[node * g + p->part[i]] != label % g) continue;
                for (int32_t to = 0; to < g; to++) {
                    if (total[label / g * g + al->gpu_label[node * g + to]] >= a->slots_of_rank || has_relief(al, p->expert[i], node * g + to)) continue;
                    double loss = p->load_unit * fmax(0, p->part_load[to] + p->load[i] - p->cap) -
                                  p->count_unit * (double)(p->sole[i] - p->empty[(size_t)i * g + to]);
                    if (loss < best) best = loss, best_layer = l, best_node = node, best_item = i, best_part = to;
                }
            }
    }
    if (best_layer < 0) return false;
    gr_parts_move(&a->layers[best_layer].parts[best_node], best_item, best_part);
    total[label]--;
    total[label / g * g + a->layers[best_layer].gpu_label[best_node * g + best_part]]++;
    return true;
}

/* Copies for relief are the first to go when nothing else gives room. */
static bool drop_relief(gr_auto *a, int32_t label, int64_t *total) {
    int32_t g = gpus_of(a);
    for (int32_t l = a->n_layers - 1; l >= 0; l--) {
        gr_auto_layer *al = &a->layers[l];
        for (int32_t i = 0; i < al->n_relief; i++) {
            int32_t node = al->relief[i].rank / g;
            if (al->node_label[node] * g + al->gpu_label[al->relief[i].rank] != label) continue;
            al->relief[i] = al->relief[--al->n_relief];
            total[label]--;
            return true;
        }
    }
    return false;
}

static void label_gpus(gr_auto *a, int32_t *size, int64_t *total, bool *used) {
    int32_t g = gpus_of(a);
    for (int32_t l = 0; l < a->n_layers; l++) {
        gr_auto_layer *al = &a->layers[l];
        for (int32_t node = 0; node < a->cluster.n_nodes; node++) {
            for (int32_t gpu = 0; gpu < g; gpu++) size[gpu] = slots_of_gpu(a, al, node, gpu);
            label_greedily(size, g, total + al->node_label[node] * g, al->gpu_label + node * g, used);
        }
    }
    for (int32_t l = 0; l < a->n_layers; l++) {
        gr_auto_layer *al = &a->layers[l];
        for (int32_t node = 0; node < a->cluster.n_nodes; node++) {
            for (int32_t gpu = 0; gpu < g; gpu++) size[gpu] = slots_of_gpu(a, al, node, gpu);
            swap_labels(size, g, a->slots_of_rank, total + al->node_label[node] * g, al->gpu_label + node * g);
        }
    }
}

static void fit_gpus(gr_auto *a, int64_t *total) {
    for (int32_t rank; total[rank = fullest(total, a->n_ranks)] > a->slots_of_rank;)
        GR_ASSERT(move_one(a, rank, total) || drop_relief(a, rank, total));
}

grace_status gr_auto_place_gpus(gr_auto *a) {
    grace_status st = GRACE_OK;
    int32_t g = gpus_of(a), *size = NULL;
    int64_t *total = NULL, *room = NULL;
    bool *used = NULL;
    GR_CALLOC(size, g);
    GR_CALLOC(total, a->n_ranks);
    GR_CALLOC(used, g);
    GR_CALLOC(room, a->cluster.n_nodes);
    for (int32_t node = 0; node < a->cluster.n_nodes; node++) room[node] = a->slots_of_rank * g;
    GR_TRY(gr_parallel(a->n_layers, refine_gpus, a));
    for (int32_t l = 0; l < a->n_layers; l++)
        for (int32_t node = 0; node < a->cluster.n_nodes; node++) room[a->layers[l].node_label[node]] -= a->layers[l].parts[node].n;
    for (int32_t l = 0; l < a->n_layers; l++)
        for (int32_t node = 0; node < a->cluster.n_nodes; node++)
            GR_TRY(relieve(a, &a->layers[l], node, &room[a->layers[l].node_label[node]]));
    label_gpus(a, size, total, used);
    fit_gpus(a, total);
done:
    free(size), free(total), free(room), free(used);
    return st;
}

/* ---- tables ---- */

static int32_t rank_of(const gr_auto *a, const gr_auto_layer *al, int32_t node, int32_t gpu) {
    return al->node_label[node] * gpus_of(a) + al->gpu_label[node * gpus_of(a) + gpu];
}

static void list_places(const gr_auto *a, const gr_auto_layer *al, int32_t *rank_of_expert, gr_copy *copies, int32_t *n_copies) {
    const gr_nodes *s = &al->nodes;
    *n_copies = 0;
    for (int32_t node = 0; node < s->n_nodes; node++) {
        const gr_parts *p = &al->parts[node];
        for (int32_t i = 0; i < p->n; i++) {
            int32_t rank = rank_of(a, al, node, p->part[i]);
            if (s->primary[p->expert[i]] == node) rank_of_expert[p->expert[i]] = rank;
            else copies[(*n_copies)++] = (gr_copy){p->expert[i], rank};
        }
    }
    for (int32_t i = 0; i < al->n_relief; i++) {
        int32_t rank = al->relief[i].rank;
        copies[(*n_copies)++] = (gr_copy){al->relief[i].expert, rank_of(a, al, rank / gpus_of(a), rank % gpus_of(a))};
    }
}

/* Copies on the primary's node share what comes from nodes without one, so they have the weight; elsewhere weights only divide a node's own
 * tokens and are so small that no turn of the others falls on them. want [n_slots]. */
static void weigh(const grace_plan *plan, grace_plan_layer *pl, const double *want) {
    const double small = 1e-6;
    int32_t g = plan->cluster.gpus_per_node;
    for (int32_t e = 0; e < plan->n_experts; e++) {
        const int32_t *slots = pl->slots_of_expert + pl->slots_first[e];
        int32_t n = pl->slots_first[e + 1] - pl->slots_first[e], node = pl->rank_of_slot[slots[0]] / g;
        double here = 0, there = 0, away = 0;
        for (int32_t i = 0; i < n; i++) *(pl->rank_of_slot[slots[i]] / g == node ? &here : &there) += want[slots[i]];
        away = there > 0 ? small : 0;
        for (int32_t i = 0; i < n; i++)
            pl->poll_weight[slots[i]] = (float)(pl->rank_of_slot[slots[i]] / g == node ? (1 - away) * want[slots[i]] / here : away * want[slots[i]] / there);
    }
}

/* Shares of copies lean away from the heavier ranks, round after round; the best round stays. */
static grace_status settle_shares(grace_plan *plan, int32_t layer, const double *load) {
    grace_status st = GRACE_OK;
    grace_plan_layer *pl = &plan->layers[layer];
    int32_t n_ranks = grace_cluster_ranks(plan->cluster);
    double *want = NULL, *best_want = NULL, *rank_load = pl->load_after, best = INFINITY, mean = 0;
    gr_shares shares = {0};
    GR_CALLOC(want, pl->n_slots);
    GR_CALLOC(best_want, pl->n_slots);
    for (int32_t e = 0; e < plan->n_experts; e++) mean += load[e] / n_ranks;
    for (int32_t s = 0; s < pl->n_slots; s++) want[s] = 1;
    for (int32_t round = 0; round <= SHARE_ROUNDS; round++) {
        if (round == SHARE_ROUNDS) memcpy(want, best_want, (size_t)pl->n_slots * sizeof *want);
        weigh(plan, pl, want);
        gr_shares_free(&shares);
        GR_TRY(gr_shares_build(plan, layer, &shares));
        gr_cost_loads(&shares, load, rank_load);
        double ratio = gr_max_over_mean(rank_load, n_ranks);
        if (ratio < best) best = ratio, memcpy(best_want, want, (size_t)pl->n_slots * sizeof *want);
        for (int32_t s = 0; s < pl->n_slots && mean > 0; s++) want[s] *= fmin(2, sqrt(mean / fmax(rank_load[pl->rank_of_slot[s]], 0.01 * mean)));
    }
done:
    gr_shares_free(&shares);
    free(want), free(best_want);
    return st;
}

grace_status gr_auto_settle(const gr_auto *a, int32_t layer, const int32_t *rank_of_expert, grace_plan *plan) {
    const double *load = a->profile->load + (size_t)layer * (size_t)a->n;
    gr_rank_loads(load, rank_of_expert, a->n, a->n_ranks, plan->layers[layer].load_before);
    return settle_shares(plan, layer, load);
}

grace_status gr_auto_fill_tables(gr_auto *a, grace_plan *plan) {
    grace_status st = GRACE_OK;
    int32_t *rank_of_expert = NULL, n_copies;
    gr_copy *copies = NULL;
    GR_CALLOC(rank_of_expert, a->n);
    GR_CALLOC(copies, (size_t)a->n * (size_t)a->n_ranks);
    for (int32_t l = 0; l < a->n_layers; l++) {
        list_places(a, &a->layers[l], rank_of_expert, copies, &n_copies);
        GR_TRY(gr_plan_place(plan, l, rank_of_expert, copies, n_copies));
        GR_TRY(gr_auto_settle(a, l, rank_of_expert, plan));
    }
done:
    free(rank_of_expert), free(copies);
    return st;
}
