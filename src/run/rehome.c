#include "run/rehome.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "plan/homes.h"

struct gr_rehome {
    gr_network *net;
    int32_t n_nodes;
    gr_home_rows rows;
    uint16_t *experts;          /* [top_k] of one row */
    double *sent;               /* [n_rows_max, n_nodes] where a request's first row is in the step: what its rows send to other nodes from each node */
    char *mine;                 /* what this rank offers: gr_room, then offers, room for n_rows_max */
    double moved_rows;          /* what a token's KV cache weighs, in rows that go out and come home */
};

/* A request that may move, as its home tells the others. */
typedef struct offer { int32_t request, n_done, n_ids, padding; double rows[]; } offer;

static size_t offer_bytes(const gr_rehome *r) { return sizeof(offer) + (size_t)r->n_nodes * sizeof(double); }

grace_status gr_rehome_open(gr_network *net, int32_t n_rows_max, gr_rehome **out) {
    grace_status st = GRACE_OK;
    gr_rehome *r = NULL;
    GR_CALLOC(r, 1);
    r->net = net;
    r->n_nodes = net->plan->cluster.n_nodes;
    r->moved_rows = (double)grace_model_kv_token_bytes(net->info) / (2.0 * (double)sizeof(float) * net->info->hidden);
    GR_TRY(gr_home_rows_build(net->plan, &r->rows));
    GR_CALLOC(r->experts, net->info->top_k);
    GR_CALLOC(r->sent, (size_t)n_rows_max * (size_t)r->n_nodes);
    GR_CALLOC(r->mine, sizeof(gr_room) + (size_t)n_rows_max * offer_bytes(r));
    *out = r;
    r = NULL;
done:
    gr_rehome_free(r);
    return st;
}

void gr_rehome_free(gr_rehome *r) {
    if (!r) return;
    gr_home_rows_free(&r->rows);
    free(r->experts), free(r->sent), free(r->mine);
    free(r);
}

/* ---- what first rows send ---- */

void gr_rehome_gate(void *rehome, int32_t moe_layer, const gr_step *step, const int32_t *experts, const float *weights) {
    gr_rehome *r = rehome;
    const int32_t k = r->net->info->top_k;
    double *sent = NULL;
    (void)weights;
    for (int32_t row = 0; row < step->n_rows; row++) {
        if (row == 0 || step->sequence[row] != step->sequence[row - 1]) {
            sent = step->position[row] == 0 ? r->sent + (size_t)row * (size_t)r->n_nodes : NULL;
            if (sent && moe_layer == 0) memset(sent, 0, (size_t)r->n_nodes * sizeof *sent);
        }
        if (!sent) continue;
        for (int32_t j = 0; j < k; j++) r->experts[j] = (uint16_t)experts[(int64_t)row * k + j];
        gr_home_rows_add(&r->rows, moe_layer, r->experts, sent);
    }
}

/* ---- what the ranks tell each other ---- */

static gr_room room_of(const gr_kv *kv) {
    gr_room room = {.pages = kv->n_free};
    for (int32_t s = 0; s < kv->n_sequences_max; s++) room.sequences += kv->n_held[s] == 0;
    return room;
}

/* Of the step that has just been computed: its rows are still there. Returns bytes. */
static int32_t make_offers(gr_rehome *r, const gr_batch *b) {
    gr_room room = room_of(&r->net->kv);
    char *at = memcpy(r->mine, &room, sizeof room);
    at += sizeof room;
    const gr_fill *f = b->fill;
    for (int32_t row = 0; row < f->step.n_rows; row++) {
        const int32_t request = f->request_of_row[row];
        const gr_sequence *s = b->sequences[request];
        if (f->step.position[row] != 0 || s->finished) continue;
        offer *o = (offer *)at;
        *o = (offer){request, s->n_computed, s->result.n_ids, 0};
        memcpy(o->rows, r->sent + (size_t)row * (size_t)r->n_nodes, (size_t)r->n_nodes * sizeof(double));
        at += offer_bytes(r);
    }
    return (int32_t)(at - r->mine);
}

static int by_request(const void *a, const void *b) { return (*(const offer *const *)a)->request - (*(const offer *const *)b)->request; }

/* What all ranks told: room [n_ranks], offers [*n] in order of request, borrowed from told. */
static grace_status read_offers(const gr_rehome *r, const char *told, const int32_t *sizes, gr_room *room, const offer ***offers, int32_t *n) {
    grace_status st = GRACE_OK;
    const int32_t n_ranks = r->net->comm->n_ranks;
    size_t n_bytes = 0;
    for (int32_t rank = 0; rank < n_ranks; rank++) n_bytes += (size_t)sizes[rank] - sizeof *room;
    GR_CALLOC(*offers, n_bytes / offer_bytes(r));
    *n = 0;
    for (int32_t rank = 0; rank < n_ranks; told += sizes[rank++]) {
        memcpy(&room[rank], told, sizeof *room);
        for (const char *at = told + sizeof *room; at < told + sizes[rank]; at += offer_bytes(r)) (*offers)[(*n)++] = (const offer *)at;
    }
    qsort(*offers, (size_t)*n, sizeof **offers, by_request);
done:
    return st;
}

/* ---- the choice ---- */

static gr_settled settle(const gr_batch *b, const offer *o) {
    const gr_sequence *s = b->sequences[o->request];
    const int32_t n_tokens = s->request.n_prompt + s->request.n_generate;
    return (gr_settled){s->result.home, o->n_done, n_tokens - o->n_done, gr_kv_pages_for(n_tokens)};
}

/* moves: malloc'ed. Every rank finds the same. */
static grace_status choose(const gr_rehome *r, const gr_batch *b, const char *told, const int32_t *sizes, int32_t *held, gr_move **moves, int32_t *n_moves) {
    grace_status st = GRACE_OK;
    gr_room room[GRACE_RANKS_MAX];
    const offer **offers = NULL;
    gr_settled *settled = NULL;
    double *rows = NULL;
    int32_t n = 0, *homes = NULL;
    GR_TRY(read_offers(r, told, sizes, room, &offers, &n));
    GR_CALLOC(settled, n);
    GR_CALLOC(rows, (size_t)n * (size_t)r->n_nodes);
    GR_CALLOC(homes, n);
    GR_CALLOC(*moves, n);
    for (int32_t i = 0; i < n; i++) {
        settled[i] = settle(b, offers[i]);
        memcpy(rows + (size_t)i * (size_t)r->n_nodes, offers[i]->rows, (size_t)r->n_nodes * sizeof *rows);
    }
    GR_TRY(gr_homes_move(settled, rows, n, r->moved_rows, r->net->plan->cluster, room, held, homes));
    for (int32_t i = 0; i < n; i++)
        if (homes[i] != settled[i].home)
            (*moves)[(*n_moves)++] = (gr_move){offers[i]->request, settled[i].home, homes[i], offers[i]->n_done, offers[i]->n_ids};
done:
    free(offers), free(settled), free(rows), free(homes);
    return st;
}

static void note(const gr_rehome *r, gr_batch *b, const gr_move *moves, int32_t n, gr_moved *moved) {
    for (const gr_move *m = moves; m < moves + n; m++) {
        grace_result *result = &b->sequences[m->request]->result;
        result->home = m->to, result->n_first = m->n_done;
        moved->requests++;
        moved->kv_rows += (int64_t)m->n_done * r->net->info->n_layers;
        moved->kv_bytes += m->n_done * gr_move_token_bytes(r->net);
    }
}

grace_status gr_rehome_step(gr_rehome *r, gr_batch *b, int32_t *held, gr_moved *moved) {
    grace_status st = GRACE_OK;
    double start = gr_now_us();
    int32_t sizes[GRACE_RANKS_MAX], n = 0;
    char *told = NULL;
    gr_move *moves = NULL;
    gr_comm_at("choice of second homes", -1);
    GR_TRY(gr_comm_allgatherv(r->net->comm, r->mine, make_offers(r, b), sizes, (void **)&told));
    GR_TRY(grace_comm_agree(r->net->comm, choose(r, b, told, sizes, held, &moves, &n)));
    if (n > 0) GR_TRY(gr_move_requests(r->net, b, moves, n));
    note(r, b, moves, n, moved);
done:
    moved->us += gr_now_us() - start;
    free(told), free(moves);
    return st;
}
