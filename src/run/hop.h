/* One stage of an exchange, seen from one rank: which source rows go to which peer, with which (slot, weight) entries. Integers only. */
#ifndef GR_RUN_HOP_H
#define GR_RUN_HOP_H
#include <stdbool.h>

#include "comm/comm.h"

/* Rows with their entries: row r has entries [first[r], first[r+1]). */
typedef struct gr_rows {
    int32_t n;
    int32_t *first;             /* [n + 1] */
    int32_t *slot;              /* [n_entries] */
    float *weight;              /* [n_entries] */
} gr_rows;

typedef struct gr_hop {
    gr_comm *comm;
    const int32_t *peer_of_rank;    /* [world ranks] who gets rows for that rank in this hop, -1: not by this hop */
    bool per_expert;                /* no deduplication: a row per entry */
    int32_t n_send, n_recv;         /* rows */
    int32_t n_send_entries, n_recv_entries;
    int32_t recv_rows_max, recv_entries_max;    /* what the buffers hold: peers are not trusted with more */
    int32_t slot_from, slot_to;     /* slots that may arrive: [slot_from, slot_to) */
    int32_t *send_rows, *recv_rows, *send_entries, *recv_entries;   /* [n_peers] */
    int32_t *row_of_send;           /* [n_send] source row; by peer, then source row */
    int32_t *send_of_entry;         /* [source entries] index among the sent entries, -1: not sent by this hop */
    int32_t *send_words, *recv_words;   /* the lists on the wire: per row its number of entries, then (slot, weight) each */
    int32_t *copies_first, *copies;     /* [n source rows + 1], [n_send] sends of each source row, by peer */
    /* scratch */
    int32_t *touched, *row_at, *word_at, *entry_at, *counts_out, *counts_in, *words_out, *words_in;
} gr_hop;

/* Sizes bound what one call can hold. Free with gr_hop_free(). */
grace_status gr_hop_init(gr_hop *hop, gr_comm *comm, const int32_t *peer_of_rank, bool per_expert, int32_t source_rows_max,
                         int32_t source_entries_max, int32_t send_rows_max, int32_t recv_rows_max, int32_t recv_entries_max);
void gr_hop_free(gr_hop *hop);

void gr_hop_begin(gr_hop *hop);
/* Count source rows [from, to); may be called for several ranges, ascending. */
void gr_hop_count(gr_hop *hop, const gr_rows *source, const int32_t *rank_of_slot, int32_t from, int32_t to);
/* Lay out everything counted: row_of_send, lists, copies. */
void gr_hop_fill(gr_hop *hop, const gr_rows *source, const int32_t *rank_of_slot);

/* Exchange of counts, then of lists. */
grace_status gr_hop_counts_start(gr_hop *hop, gr_request **request);
grace_status gr_hop_counts_done(gr_hop *hop);       /* after the wait: n_recv and friends are known. Fails with COMM on impossible counts */
grace_status gr_hop_lists_start(gr_hop *hop, gr_request **request);
/* After the wait: append what arrived to rows (slot and weight arrays with room). Fails with COMM on lists that contradict the counts and on
 * slots that do not belong here. */
grace_status gr_hop_lists_parse(const gr_hop *hop, gr_rows *rows);

int64_t gr_hop_list_bytes(const gr_hop *hop, int32_t peer);     /* counts and lists sent to a peer */

#endif
