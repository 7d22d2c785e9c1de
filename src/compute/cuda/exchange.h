/* The exchange of an MoE layer between the GPUs of a node, by stores into each other's memory, and the lists and rows of its stage between nodes
 * (docs/exchange-gpu.md). Every call queues work on the stream, needs no number from the device, waits for nothing on the host and may be captured in a graph.
 *
 * A rank of a node computes with s source rows in a layer: its own n, then those that other nodes sent it. All ranks of a node agree on s. A rank's area is
 * memory that all of them write: source rows of local rank g lie in block g, whoever they are for, so no counts travel; a header of k (slot, weight) a row says
 * which are here. Flags of a source's blocks of threads say that its rows are complete. Results go home the same way. One area serves every layer: who
 * dispatches layer e + 1 has settled e, so all have given back its rows, and who returns results of e + 1 has seen every dispatch of it, so all have settled e.
 *
 *   dispatch   rows and headers to the areas of the node; flags
 *   arrive     waits for all flags, takes the slots over, makes pairs of them: then area.row is as gr_cuda_experts_run() takes it, with n_ranks * s rows
 *   give_back  a row's weighted sum over its experts here, in fp32, rounded once, to its source's area (exact: every expert's row by itself); flags
 *   settle     waits; sums what came for each row, in order of ranks (exact: of choices)
 */
#ifndef GR_COMPUTE_CUDA_EXCHANGE_H
#define GR_COMPUTE_CUDA_EXCHANGE_H
#include <stdbool.h>

#include "compute/cuda/moe.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { GR_CUDA_NODE_MAX = 8, GR_CUDA_WIRES_MAX = 63, GR_CUDA_FLAGS = 128 /* most blocks of a kernel that sends */ };

/* ---- memory ---- */

typedef struct gr_cuda_area_sizes {
    int32_t n_ranks;            /* of the node */
    int32_t n_rows;             /* most source rows of a rank */
    int32_t top_k, hidden;      /* hidden a multiple of 8 */
    bool exact;
} gr_cuda_area_sizes;

/* Where the parts of an area lie, in bytes from its start; 256-byte aligned. With s source rows of a rank in the call under way: */
typedef struct gr_cuda_area {
    int64_t flags;              /* uint32 [2 stages][GR_CUDA_NODE_MAX][GR_CUDA_FLAGS]: the last layer call that a block of a source has completed */
    int64_t header;             /* int32 [n_ranks][n_rows][k], s of them used: slots of this rank, counted from its first, as others write them; -1: not here */
    int64_t weight;             /* float [n_ranks][n_rows][k] */
    int64_t slot;               /* int32 [n_ranks][s][k] the header as arrive() found it: nobody else writes here, and all are below the layer's n_slots */
    int64_t row;                /* bf16 [n_ranks][s][hidden]; this rank's own block is where its source rows are made */
    int64_t home;               /* bf16 [n_ranks][s][hidden] sums, by the rank that made them; exact: [s][k][hidden], each by the one rank that has its slot */
    int64_t bytes;
} gr_cuda_area;
gr_cuda_area gr_cuda_area_of(const gr_cuda_area_sizes *sizes);

/* Memory on the current GPU that other processes of the machine can write, zeroed; a handle is GR_CUDA_HANDLE_BYTES to send to them. They attach it to their
 * own current GPU, which may be another (both GPUs must be visible to them), and detach it before its owner ends the sharing. */
enum { GR_CUDA_HANDLE_BYTES = 64 };
grace_status gr_cuda_share(int64_t bytes, void **memory, void *handle);
void gr_cuda_unshare(void *memory);
grace_status gr_cuda_attach(const void *handle, void **memory);     /* not in the process that shares it */
void gr_cuda_detach(void *memory);

/* Host memory that kernels see. A wait that outlasts the deadline writes who was missing and ends, as do all waits after it: what they would have waited for is
 * then garbage, in bounds. */
typedef struct gr_cuda_watch {
    int32_t stop;               /* not 0: no wait goes on; a host may set it too */
    int32_t stage;              /* GR_CUDA_STAGE_... of the first wait that was late, or, over a line, ended by the stop */
    int32_t layer, source;      /* its layer, and the local rank that did not come, or GR_CUDA_NODE_MAX + the wire (line.h) */
} gr_cuda_watch;
enum { GR_CUDA_STAGE_DISPATCH, GR_CUDA_STAGE_COMBINE };

typedef struct gr_cuda_node {
    gr_cuda_area_sizes sizes;
    int32_t me;                         /* local rank */
    char *area[GR_CUDA_NODE_MAX];       /* each rank's, as this process addresses it */
    uint32_t *epoch;                    /* device, zeroed: numbers of calls, for the kernels. GR_CUDA_EPOCH_BYTES */
    gr_cuda_watch *watch;               /* as the device addresses it */
    uint64_t deadline_ns;
    int32_t blocks_most;                /* of each kernel, the same on all ranks of the node; 0: as many as are fastest where nothing else runs */
    int64_t *count;                     /* device [4][GR_CUDA_NODE_MAX], added to by every call: rows dispatched to each rank, their entries (slots), rows given
                                         * back to each rank, their entries */
} gr_cuda_node;
enum { GR_CUDA_EPOCH_BYTES = 1024 };
grace_status gr_cuda_node_check(const gr_cuda_node *node);      /* once, when it is made: LIMIT for sizes the kernels do not take */

/* ---- one layer, in the node ---- */

/* n_slots: this rank's slots in the layer. slot, weight [n_rows, k] of the source rows in block `me` of this rank's own area; a slot of -1 is no choice.
 * place_of_slot [slots of the layer]: local rank << 16 | the slot there; -1: not in this node. Rows [n_rows, s) are absent: their headers say so. */
typedef struct gr_cuda_layer {
    int32_t layer, n_slots;
    int32_t n_rows, s;
    const int32_t *slot;
    const float *weight;
    const int32_t *place_of_slot;
    int32_t *n_pairs;                   /* device; how many pairs there were, put here by give_back; NULL: nowhere */
} gr_cuda_layer;

grace_status gr_cuda_dispatch(const gr_cuda_node *node, const gr_cuda_layer *layer, gr_cuda_stream stream);
/* pairs, of n_ranks * s rows, become those of area.slot, as gr_cuda_group() makes them; NULL: nothing but area.slot. */
grace_status gr_cuda_arrive(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_pairs *pairs, gr_cuda_stream stream);
/* results [n_pairs, hidden] */
grace_status gr_cuda_give_back(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_pairs *pairs, const void *results, gr_cuda_stream stream);

/* What settles: out[t] = the sums of source rows r = first + t * fan + i, i < fan, for t < n, + residual[t] (NULL: 0; out may be residual), rounded once. Row
 * t * fan + i of the wires is what source row r sent over them.
 *   fast   what came home for each r, in order of r, then local rank; then what came back for it over the wires (NULL: none), in order of r, then wire
 *   exact  over choices (r, j) in order of r, then j: weight[r, j] * the row that came home for it, that of another node from the wires; then the residual:
 *          the bits of gr_cuda_combine() on one GPU, also with fan = k and one choice a source row */
typedef struct gr_cuda_settle {
    int32_t first, n, fan;
    const void *residual;
    void *out;                          /* [n, hidden] */
    const struct gr_cuda_wires *wires;  /* with what came back in wires->home; NULL: one node */
} gr_cuda_settle;
/* Waits for the node's results of the layer; may be called again for other rows of it. */
grace_status gr_cuda_settle_rows(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_settle *settle, gr_cuda_stream stream);

/* ---- between nodes ---- */

/* Wire w leads to another rank, which takes rows for a part of the slots (hsc: its node's; flat: its own). What is sent over it: the rows, in order, that have
 * a slot of that part, each with its header of k global slots (others -1) and k weights. */
typedef struct gr_cuda_wires {
    int32_t n_wires, capacity;          /* rows a wire carries at most: own rows of a rank */
    const int32_t *wire_of_slot;        /* [slots of the layer]; -1: this node */
    int32_t *n_sent;                    /* [n_wires][2] rows, entries; device */
    int32_t *position;                  /* [n_wires][capacity] of own row t among the sent ones, -1: not sent */
    int32_t *entry;                     /* [n_wires][capacity + 1] entries before each sent row: exact returns rows by entry */
    char *rows;                         /* [n_wires][capacity][hidden] bf16 packed to be sent; on the way back, what is returned */
    int32_t *slot;                      /* [n_wires][capacity][k] */
    float *weight;                      /* [n_wires][capacity][k] */
    char *home;                         /* [n_wires][capacity (exact: * k)][hidden] what came back */
} gr_cuda_wires;

/* Where headers of own rows go for a layer's dispatch: slot, weight [n, k], n not less than the own rows. Behind these, slots of -1. */
typedef struct gr_cuda_headers { int32_t *slot; float *weight; int32_t n; } gr_cuda_headers;

/* Own rows [n, hidden] with slot, weight [n, k]: lists, then packed rows and headers; behind the sent ones, up to n, headers say -1. All own headers go to
 * `own` too (NULL: nowhere). n_sent also goes to n_sent_host (pinned; NULL: nowhere). */
grace_status gr_cuda_pack(const gr_cuda_wires *wires, const void *rows, const int32_t *slot, const float *weight, int32_t n, int32_t top_k, int32_t hidden,
                          const gr_cuda_headers *own, int32_t *n_sent_host, gr_cuda_stream stream);
/* exact, who received: waits as settle does, then packs the results of source rows [first, first + n), which came over a wire, by row, then choice: out
 * [n_entries, hidden]; entry [n + 1] scratch: entries before each of these rows. */
grace_status gr_cuda_pack_entries(const gr_cuda_node *node, const gr_cuda_layer *layer, int32_t first, int32_t n, int32_t *entry, void *out,
                                  gr_cuda_stream stream);

/* Adds to count [2][n_wires][2] the rows and entries of the headers packed for each wire, and of those received over it, received [n_wires][n][k]: of the first
 * n rows of each, where absent ones have no choice. */
grace_status gr_cuda_count_wires(const gr_cuda_wires *wires, const int32_t *received, int32_t n, int32_t top_k, int64_t *count, gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
