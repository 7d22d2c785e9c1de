/* The exchange of ranks on GPUs (docs/exchange-gpu.md): what its files share. exchange_gpus_open.c makes its memory, exchange_gpus.c moves a layer's rows,
 * exchange_gpus_wires.c those that change nodes; exchange_gpus_between.c opens what they go over. */
#ifndef GR_RUN_EXCHANGE_GPUS_H
#define GR_RUN_EXCHANGE_GPUS_H
#include "comm/line.h"
#include "comm/meet.h"
#include "comm/wire.h"
#include "compute/cuda/backend.h"
#include "compute/cuda/compress.h"
#include "compute/cuda/exchange.h"
#include "compute/cuda/line.h"
#include "run/exchange_kinds.h"

/* What a rank tells another before rows travel: how many, and the bytes they take packed (not packed: 0). */
typedef struct gr_gpus_told { int32_t rows, entries; int64_t bytes; } gr_gpus_told;

/* What a part of a step has of its own: its rows are under way while the other part's are. Lane 0 holds all rows of a step, lane 1 half of them. */
typedef struct gr_gpus_lane {
    gr_cuda_node node;
    gr_cuda_area at;                    /* in this rank's own area */
    cudaStream_t stream;                /* of this step's kernels: the backend's, or the lane's own */
    cudaStream_t own_stream;            /* one node: rows of a part move beside the experts of the other; NULL: none */
    cudaEvent_t packed, crossed;        /* the backend's stream is as far as what travels next; what travelled is there */
    int32_t block;                      /* source rows a rank brings in the step begun last, and as many of each wire; the same everywhere */
    void *rows;                         /* fan > 1: where the caller puts rows; else in the area */
    /* more than one node */
    gr_cuda_wires wires;
    int32_t *slot;                      /* device: slots and weights of source rows, own ones first */
    float *weight;
    int32_t *entry;                     /* device: scratch of pack_entries */
    int32_t *n_packed;                  /* [n_wires][2] rows, entries, as gr_cuda_pack() found; pinned */
    int32_t *n_out, *n_in;              /* [n_wires][2] rows, entries that are sent, received */
    char *packed_out, *packed_in;       /* device: [n_wires] of packed_step bytes, rows packed for the wire; NULL: they go as they are */
    size_t packed_step;
    uint64_t *bale_state;               /* device [n_wires][GR_CUDA_BALE_STATE] */
    int64_t *n_packed_bytes, *bytes_out, *bytes_in;     /* [n_wires] pinned; of the way under way */
    /* by lines */
    char *boxes;                        /* pinned */
    gr_line_lane line;                  /* where they lie in it */
    int32_t *n_come;                    /* device: n_in */
    int64_t *n_posted_bytes;            /* device: n_packed_bytes */
    uint32_t *mail_state;               /* device [4][n_wires][GR_CUDA_MAIL_STATE]: posts there, back, fetches there, back */
    /* the layer under way */
    gr_route route;
    gr_cuda_layer layer;
    const gr_pairs *pairs;
    gr_pairs own_pairs;                 /* lane 1 of one node: both parts have theirs at once */
    void *results;                      /* [pairs, hidden] */
} gr_gpus_lane;

/* What the end of a step brings here: running totals of the device, pinned, and the shape that the step had. */
typedef struct gr_gpus_seen {
    bool under_way;                     /* its end is queued, and not done */
    int32_t n_parts;
    int64_t n_sources;                  /* of all parts */
    int32_t *load;                      /* as gr_gpus.load; of this step alone */
    int64_t *count, *line_count, *wire_count;
} gr_gpus_seen;

/* What a rank shows the others when it joins them. */
typedef struct gr_gpus_card { char gpu[16], handle[GR_CUDA_HANDLE_BYTES], meeting[GR_MEETING_NAME]; } gr_gpus_card;

typedef struct gr_gpus {
    gr_exchange base;
    gr_gpus_card card;
    gr_meeting *meeting;                /* of the node's ranks, when all are done; NULL: one rank a node */
    bool joined, in_step;               /* in a step whose end is not queued yet, or that failed: then the others may never come */
    gr_gpus_seen seen[GR_FLIGHTS];
    cudaStream_t stream, wire_stream;   /* the backend's; ours, for what crosses nodes */
    int32_t fan, top_k;                 /* source rows of a token, choices of each: 1 and top_k, or, a copy an expert, top_k and 1 */
    gr_gpus_lane lanes[GR_PARTS_MAX], *lane;    /* and the one whose turn it is */
    int32_t n_lanes, n_parts;           /* that there are; that the step begun last uses */
    int64_t area_bytes;                 /* of all lanes' areas */
    char *memory;                       /* device: what is not in the areas */
    size_t memory_bytes;
    gr_cuda_watch *watch;               /* pinned */
    int32_t *tables;                    /* device: place_of_slot of all layers, then wire_of_slot */
    int64_t *table_of_layer;            /* [n_layers] where a layer's begins */
    int64_t n_slots_all;
    int32_t *token_of_source;           /* fan > 1: [n_rows_max * fan] */
    int32_t *load;                      /* device [GR_PARTS_MAX][n_layers] pairs computed here in the last step */
    int64_t *count, *counted;           /* [4][GR_CUDA_NODE_MAX] of gr_cuda_node; device, counted before */
    /* more than one node */
    int32_t n_wires, *peer;             /* [n_wires] world ranks */
    gr_line *line;                      /* this, or */
    gr_wire *wire;
    bool shares;                        /* ranks share GPUs */
    int64_t *line_count, *line_counted; /* [4][n_wires][3] of gr_cuda_mail: posted there, back, fetched there, back; device, counted before */
    bool padded;                        /* the step's wires carry whole blocks: no size is told, a step can be recorded. Over wires no other is under way */
    struct gr_gpus_told *told_out, *told_in;            /* [n_ranks] scratch of what ranks tell each other */
    int32_t *one_each;                  /* [n_ranks] 1: a rank of a wire */
    gr_wire_piece *pieces;              /* [3 * n_wires] */
    int64_t *wire_count, *wire_counted; /* [2][n_wires][2] rows, entries packed and received in padded steps; device, counted before */
    int64_t forwarded[2];               /* rows, entries from wires since the last count */
} gr_gpus;

enum { GR_GPUS_ROWS = 0, GR_GPUS_ENTRIES = 1 };     /* of n_packed, n_out, n_in, forwarded */

static inline gr_gpus *gr_gpus_of(gr_exchange *base) { return (gr_gpus *)base; }
static inline size_t gr_gpus_row_bytes(const gr_gpus *ex) { return (size_t)ex->base.opt.hidden * sizeof(uint16_t); }
static inline int64_t gr_gpus_header_bytes(const gr_gpus *ex) { return (int64_t)ex->top_k * (int64_t)(sizeof(int32_t) + sizeof(float)); }
/* A lane's source rows: own ones and a block a wire. */
static inline int32_t gr_gpus_sources(const gr_gpus *ex) { return ex->lane->block * (1 + ex->n_wires); }
/* This rank's block of source rows in its own area; the part of wire w is w + 1 blocks further. */
static inline char *gr_gpus_source(const gr_gpus *ex, int32_t source_row) {
    const gr_gpus_lane *l = ex->lane;
    return l->node.area[l->node.me] + l->at.row + ((int64_t)l->node.me * gr_gpus_sources(ex) + source_row) * (int64_t)gr_gpus_row_bytes(ex);
}

/* Rows of a step from which it goes in two parts. In a node rows are quick: halves pay from 8 times as many, and not where only every second row leaves
 * (docs/performance.md). */
static inline int64_t gr_gpus_turns_from(const gr_gpus *ex) {
    const int32_t asked = ex->base.opt.turns_from, rows = asked < 0 ? 1024 : asked;
    const bool never = asked == 0 || (asked < 0 && ex->n_wires == 0 && ex->base.world->n_ranks == 2);
    return never ? INT64_MAX : (int64_t)rows * (ex->n_wires ? 1 : 8);
}

/* exchange_gpus_open.c */
grace_status gr_gpus_memory(gr_comm *world, const gr_exchange_options *opt, int64_t *bytes);
grace_status gr_gpus_open(gr_exchange *base);
grace_status gr_gpus_join(gr_exchange *base);
void gr_gpus_close(gr_exchange *base);
grace_status gr_gpus_pinned(void *out, size_t bytes);           /* zeroed, mapped */

/* exchange_gpus_between.c: ex->line or ex->wire, where there are wires. Collective. */
grace_status gr_gpus_between_open(gr_gpus *ex);

/* exchange_gpus_wires.c: the way of a lane's rows over wires. Each way: queue what is packed; leave, where the host may wait for that; queue what comes. */
void gr_gpus_wires_step(gr_gpus *ex, int32_t n_rows_most);      /* sets padded, and then all counts */
grace_status gr_gpus_pack(gr_gpus *ex);                         /* own rows for other nodes, and the headers of all source rows; ex->lane->layer has all rows */
grace_status gr_gpus_leave(gr_gpus *ex);
grace_status gr_gpus_come(gr_gpus *ex);                         /* source rows are whole */
grace_status gr_gpus_pack_back(gr_gpus *ex);
grace_status gr_gpus_leave_back(gr_gpus *ex);
grace_status gr_gpus_come_back(gr_gpus *ex);                    /* in wires.home */
/* The rows of a padded step, or of one by lines, once what the device counted is there. */
void gr_gpus_count_padded(gr_gpus *ex, const gr_exchange_step *step);
void gr_gpus_count_lines(gr_gpus *ex, const gr_exchange_step *step);
/* What is new in a running total. */
static inline int64_t gr_gpus_news(const int64_t *seen, int64_t *counted) {
    const int64_t add = *seen - *counted;
    *counted = *seen;
    return add;
}

#endif
