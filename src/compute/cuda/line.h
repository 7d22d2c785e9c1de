/* A layer's rows between nodes through boxes in host memory (comm/line.h), as the device sees them: `post` fills this rank's outboxes and sets their
 * flags, `fetch` waits for the flags of its inboxes and empties them. Sizes are on the device; every call only queues work and may be captured in a graph.
 *
 * Behind a message's head: slots [rows, k] and weights [rows, k], each up to a multiple of 16 bytes, where top_k > 0; then the rows, as they are or packed. */
#ifndef GR_COMPUTE_CUDA_LINE_H
#define GR_COMPUTE_CUDA_LINE_H
#include "compute/cuda/exchange.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { GR_CUDA_MAIL_STATE = 8 };

typedef struct gr_cuda_mail {
    int32_t n_wires, top_k, row_bytes;
    bool by_entry;                      /* a row of an entry, else of a row */
    int32_t rows_most;                  /* of a message, in this step; rows by entry: entries */
    int64_t bytes_most;                 /* of rows, packed or not */
    char *box[GR_CUDA_WIRES_MAX];       /* heads, as the device addresses them */
    int32_t *n;                         /* device [n_wires][2] rows, entries: post reads them; fetch writes them, if it is not NULL */
    const int64_t *n_bytes;             /* post: [n_wires] bytes of packed rows; NULL: rows as they are */
    char *rows, *slot, *weight;         /* from where, or to where; wire w's is w steps further */
    int64_t row_step, slot_step, weight_step;       /* bytes; rows on 16 */
    int64_t *count;                     /* device [n_wires][3] rows, entries, bytes of rows: added to */
    uint32_t *state;                    /* device [n_wires][GR_CUDA_MAIL_STATE] zeroed once, on 8 bytes: of these boxes alone, numbers their messages */
} gr_cuda_mail;

/* Bytes behind the head for so many rows and bytes of them. */
int64_t gr_cuda_mail_bytes(int64_t rows, int32_t top_k, int64_t bytes_of_rows);

/* node: its watch and deadline bound the waits. One that is late says stage, layer and, as source, GR_CUDA_NODE_MAX + the wire. After any late wait of the
 * node's kernels, or of fetch, nothing more is posted. */
grace_status gr_cuda_post(const gr_cuda_node *node, const gr_cuda_mail *mail, gr_cuda_stream stream);
grace_status gr_cuda_fetch(const gr_cuda_node *node, const gr_cuda_mail *mail, int32_t stage, int32_t layer, gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
