#include "run/move.h"

#include <string.h>

#include "base/memory.h"

/* What travels is counted in pieces of 2 bytes: results and KV rows of any backend are whole ones. */
enum { PIECE = 2 };

typedef struct parcel { char *out, *in; int32_t *n_out, *n_in; } parcel;       /* for and from every rank, and pieces of each */

int64_t gr_move_token_bytes(const gr_network *net) {
    return grace_model_kv_token_bytes(net->info) / (int64_t)sizeof(float) * (int64_t)net->compute->ops->element;
}

static int64_t bytes_of(const gr_network *net, const gr_move *m) {
    return (int64_t)gr_result_bytes(m->n_ids) + m->n_done * gr_move_token_bytes(net);
}

/* ---- a sequence's part of the cache: layer after layer, keys [positions], then values ---- */

/* Between a layer's pages and host memory: *at moves on. */
typedef grace_status carry(gr_compute *c, char *page, char **at, size_t bytes);

static grace_status carry_out(gr_compute *c, char *page, char **at, size_t bytes) {
    grace_status st = c->ops->download(c, *at, page, bytes);
    *at += bytes;
    return st;
}

static grace_status carry_in(gr_compute *c, char *page, char **at, size_t bytes) {
    grace_status st = c->ops->upload(c, page, *at, bytes);
    *at += bytes;
    return st;
}

static grace_status carry_pages(const gr_kv *kv, int32_t sequence, int32_t n, char *pages, int64_t width, carry *f, char **at) {
    grace_status st = GRACE_OK;
    const int32_t *page = kv->page_table + (int64_t)sequence * kv->pages_max;
    const size_t position = (size_t)width * kv->compute->ops->element;
    for (int32_t left = n; left > 0; left -= GR_KV_PAGE, page++)
        GR_TRY(f(kv->compute, pages + (size_t)*page * GR_KV_PAGE * position, at, (size_t)(left < GR_KV_PAGE ? left : GR_KV_PAGE) * position));
done:
    return st;
}

static grace_status carry_cache(const gr_network *net, int32_t sequence, int32_t n, carry *f, char **at) {
    grace_status st = GRACE_OK;
    int64_t key, value;
    gr_kv_widths(net->info, &key, &value);
    for (int32_t l = 0; l < net->kv.n_layers; l++) {
        GR_TRY(carry_pages(&net->kv, sequence, n, net->kv.k[l], key, f, at));
        if (value) GR_TRY(carry_pages(&net->kv, sequence, n, net->kv.v[l], value, f, at));
    }
done:
    return st;
}

/* ---- leaving and arriving ---- */

static grace_status leave(gr_network *net, gr_batch *b, const gr_move *m, char **at) {
    grace_status st = GRACE_OK;
    gr_sequence *s = b->sequences[m->request];
    GR_ASSERT(s->n_computed == m->n_done && s->result.n_ids == m->n_ids && s->kv >= 0);
    *at = gr_result_pack(b, m->request, *at);
    GR_TRY(carry_cache(net, s->kv, m->n_done, carry_out, at));
    gr_kv_give(&net->kv, s->kv);
    s->kv = -1;
done:
    return st;
}

static grace_status arrive(gr_network *net, gr_batch *b, const gr_move *m, char **at) {
    gr_sequence *s = b->sequences[m->request];
    gr_result_unpack(b, *at);
    *at += gr_result_bytes(m->n_ids);
    s->n_computed = m->n_done;
    s->kv = gr_kv_take(&net->kv, s->request.n_prompt + s->request.n_generate);
    GR_ASSERT(s->kv >= 0);                  /* the moves were chosen so */
    if (b->first_open > m->request) b->first_open = m->request;
    return carry_cache(net, s->kv, m->n_done, carry_in, at);
}

static grace_status add_pieces(int32_t *pieces, const gr_move *m, int64_t bytes) {
    grace_status st = GRACE_OK;
    GR_CHECK(*pieces + bytes / PIECE <= INT32_MAX, GRACE_ERR_LIMIT, "moving request %d: expected at most %lld bytes from rank %d to rank %d, found %lld",
             m->request, (long long)INT32_MAX * PIECE, m->from, m->to, (long long)(*pieces * (int64_t)PIECE + bytes));
    *pieces += (int32_t)(bytes / PIECE);
done:
    return st;
}

static grace_status make_room(const gr_network *net, const gr_move *moves, int32_t n, parcel *p) {
    grace_status st = GRACE_OK;
    const int32_t rank = net->comm->rank;
    int64_t out = 0, in = 0;
    GR_CALLOC(p->n_out, net->comm->n_ranks);
    GR_CALLOC(p->n_in, net->comm->n_ranks);
    for (const gr_move *m = moves; m < moves + n; m++) {
        if (m->from == rank) GR_TRY(add_pieces(&p->n_out[m->to], m, bytes_of(net, m)));
        if (m->to == rank) GR_TRY(add_pieces(&p->n_in[m->from], m, bytes_of(net, m)));
    }
    for (int32_t r = 0; r < net->comm->n_ranks; r++) out += p->n_out[r], in += p->n_in[r];
    GR_CALLOC(p->out, out * PIECE);
    GR_CALLOC(p->in, in * PIECE);
done:
    return st;
}

static grace_status pack(gr_network *net, gr_batch *b, const gr_move *moves, int32_t n, parcel *p) {
    grace_status st = GRACE_OK;
    GR_TRY(make_room(net, moves, n, p));
    char *at = p->out;
    for (int32_t r = 0; r < net->comm->n_ranks; r++)
        for (const gr_move *m = moves; m < moves + n; m++)
            if (m->from == net->comm->rank && m->to == r) GR_TRY(leave(net, b, m, &at));
done:
    return st;
}

grace_status gr_move_requests(gr_network *net, gr_batch *b, const gr_move *moves, int32_t n) {
    grace_status st = GRACE_OK;
    parcel p = {0};
    GR_TRY(grace_comm_agree(net->comm, pack(net, b, moves, n, &p)));
    gr_comm_at("move of requests", -1);
    GR_TRY(gr_comm_alltoallv(net->comm, &(gr_xfer){p.out, p.n_out, p.in, p.n_in, PIECE}));
    char *at = p.in;
    for (int32_t r = 0; r < net->comm->n_ranks; r++)
        for (const gr_move *m = moves; m < moves + n; m++)
            if (m->to == net->comm->rank && m->from == r) GR_TRY(arrive(net, b, m, &at));
done:
    free(p.out), free(p.in), free(p.n_out), free(p.n_in);
    return st;
}
