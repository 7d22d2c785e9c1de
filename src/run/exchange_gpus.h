/* The exchange of ranks on GPUs (docs/exchange-gpu.md): what its two files share. exchange_gpus_open.c makes its memory, exchange_gpus.c moves a
 * layer's rows. */
#ifndef GR_RUN_EXCHANGE_GPUS_H
#define GR_RUN_EXCHANGE_GPUS_H
#include "comm/wire.h"
#include "compute/cuda/backend.h"
#include "compute/cuda/compress.h"
#include "compute/cuda/exchange.h"
#include "run/exchange_kinds.h"

/* What a rank tells another before rows travel: how many, and the bytes they take packed (not packed: 0). */
typedef struct gr_gpus_told { int32_t rows, entries; int64_t bytes; } gr_gpus_told;

typedef struct gr_gpus {
    gr_exchange base;
    gr_comm *local;                     /* the ranks of this node */
    cudaStream_t stream, wire_stream;   /* the backend's; ours, for what crosses nodes */
    cudaEvent_t packed, crossed;
    int32_t fan, top_k;                 /* source rows of a token, choices of each: 1 and top_k, or, a copy an expert, top_k and 1 */
    int32_t block;                      /* source rows a rank brings in this step, and as many of each wire; the same everywhere */
    gr_cuda_node node;
    gr_cuda_area at;                    /* in this rank's own area */
    gr_cuda_watch *watch;               /* pinned */
    int32_t *tables;                    /* device: place_of_slot of all layers, then wire_of_slot */
    int64_t *table_of_layer;            /* [n_layers] where a layer's begins */
    int64_t n_slots_all;
    void *rows;                         /* fan > 1: where the caller puts rows; else in the area */
    int32_t *token_of_source;           /* fan > 1: [n_rows_max * fan] */
    void *results;                      /* [pairs, hidden] */
    int32_t *load, *load_seen;          /* [n_layers] pairs computed here in the last step; device, pinned */
    int64_t *count_seen, *counted;      /* [4][GR_CUDA_NODE_MAX] pinned; what was counted before */
    /* more than one node */
    gr_wire *wire;
    int32_t *peer;                      /* [n_wires] world ranks */
    gr_cuda_wires wires;
    int32_t *slot;                      /* device: slots and weights of source rows, own ones first */
    float *weight;
    int32_t *entry;                     /* device: scratch of pack_entries */
    bool padded;                        /* this step's wires carry whole blocks: no size is told, a step can be recorded */
    int32_t *n_packed;                  /* [n_wires][2] rows, entries, as gr_cuda_pack() found; pinned */
    int32_t *n_out, *n_in;              /* [n_wires][2] rows, entries that are sent, received */
    char *packed_out, *packed_in;       /* device: [n_wires] of packed_step bytes, rows packed for the wire; NULL: they go as they are */
    size_t packed_step;
    int64_t *n_packed_bytes, *bytes_out, *bytes_in;     /* [n_wires] pinned; of the way under way */
    struct gr_gpus_told *told_out, *told_in;            /* [n_ranks] scratch of what ranks tell each other */
    int32_t *one_each;                  /* [n_ranks] 1: a rank of a wire */
    gr_wire_piece *pieces;              /* [3 * n_wires] */
    int64_t *wire_count, *wire_count_seen, *wire_counted;   /* [2][n_wires][2] rows, entries packed and received in padded steps; device, pinned,
                                                             * counted before */
    int64_t forwarded[2];               /* rows, entries from wires since the last count */
    /* the layer under way */
    gr_route route;
    gr_cuda_layer layer;
    const gr_pairs *pairs;
} gr_gpus;

static inline gr_gpus *gr_gpus_of(gr_exchange *base) { return (gr_gpus *)base; }

/* This rank's block of source rows in its own area; the part of wire w is w + 1 blocks further. */
static inline char *gr_gpus_source(const gr_gpus *ex, int32_t source_row) {
    const int64_t all = (int64_t)ex->block * (1 + ex->wires.n_wires);
    return ex->node.area[ex->node.me] + ex->at.row + (ex->node.me * all + source_row) * ex->base.opt.hidden * (int64_t)sizeof(uint16_t);
}

grace_status gr_gpus_open(gr_exchange *base);
void gr_gpus_close(gr_exchange *base);

#endif
