#include "run/hop.h"

#include <string.h>

#include "base/memory.h"

grace_status gr_hop_init(gr_hop *hop, gr_comm *comm, const int32_t *peer_of_rank, bool per_expert, int32_t source_rows_max,
                         int32_t source_entries_max, int32_t send_rows_max, int32_t recv_rows_max, int32_t recv_entries_max) {
    grace_status st = GRACE_OK;
    size_t peers = (size_t)comm->n_ranks;
    *hop = (gr_hop){.comm = comm, .peer_of_rank = peer_of_rank, .per_expert = per_expert, .recv_rows_max = recv_rows_max,
                    .recv_entries_max = recv_entries_max, .slot_to = INT32_MAX};
    GR_CALLOC(hop->send_rows, peers);
    GR_CALLOC(hop->recv_rows, peers);
    GR_CALLOC(hop->send_entries, peers);
    GR_CALLOC(hop->recv_entries, peers);
    GR_CALLOC(hop->touched, peers);
    GR_CALLOC(hop->row_at, peers);
    GR_CALLOC(hop->word_at, peers);
    GR_CALLOC(hop->entry_at, peers);
    GR_CALLOC(hop->counts_out, 2 * peers);
    GR_CALLOC(hop->counts_in, 2 * peers);
    GR_CALLOC(hop->words_out, peers);
    GR_CALLOC(hop->words_in, peers);
    GR_CALLOC(hop->row_of_send, send_rows_max);
    GR_CALLOC(hop->copies, send_rows_max);
    GR_CALLOC(hop->copies_first, (size_t)source_rows_max + 2);
    GR_CALLOC(hop->send_of_entry, source_entries_max);
    GR_CALLOC(hop->send_words, (size_t)send_rows_max + 2 * (size_t)source_entries_max);
    GR_CALLOC(hop->recv_words, (size_t)recv_rows_max + 2 * (size_t)recv_entries_max);
done:
    return st;
}

void gr_hop_free(gr_hop *hop) {
    int32_t *arrays[] = {hop->send_rows,  hop->recv_rows, hop->send_entries, hop->recv_entries,  hop->row_of_send, hop->send_of_entry,
                         hop->send_words, hop->recv_words, hop->copies_first, hop->copies,       hop->touched,     hop->row_at,
                         hop->word_at,    hop->entry_at,  hop->counts_out,   hop->counts_in,     hop->words_out,   hop->words_in};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    *hop = (gr_hop){0};
}

void gr_hop_begin(gr_hop *hop) {
    int32_t n = hop->comm->n_ranks;
    memset(hop->send_rows, 0, (size_t)n * sizeof(int32_t));
    memset(hop->send_entries, 0, (size_t)n * sizeof(int32_t));
    for (int32_t p = 0; p < n; p++) hop->touched[p] = -1;
}

void gr_hop_count(gr_hop *hop, const gr_rows *source, const int32_t *rank_of_slot, int32_t from, int32_t to) {
    for (int32_t r = from; r < to; r++)
        for (int32_t e = source->first[r]; e < source->first[r + 1]; e++) {
            int32_t peer = hop->peer_of_rank[rank_of_slot[source->slot[e]]];
            if (peer < 0) continue;
            hop->send_rows[peer] += hop->per_expert || hop->touched[peer] != r;
            hop->send_entries[peer]++;
            hop->touched[peer] = r;
        }
}

/* Where each peer's rows, entries and words begin. */
static void layout(gr_hop *hop) {
    int32_t rows = 0, entries = 0;
    for (int32_t p = 0; p < hop->comm->n_ranks; p++) {
        hop->row_at[p] = rows;
        hop->entry_at[p] = entries;
        hop->word_at[p] = rows + 2 * entries;
        hop->touched[p] = -1;
        rows += hop->send_rows[p];
        entries += hop->send_entries[p];
    }
    hop->n_send = rows;
    hop->n_send_entries = entries;
}

/* A peer's stream grows row by row, so the row's header word can be kept current while its entries arrive: touched holds its place. */
static void place_entry(gr_hop *hop, const gr_rows *source, int32_t row, int32_t entry, int32_t peer, int32_t *header_of_peer) {
    if (hop->per_expert || hop->touched[peer] != row) {
        hop->touched[peer] = row;
        hop->row_of_send[hop->row_at[peer]++] = row;
        header_of_peer[peer] = hop->word_at[peer]++;
        hop->send_words[header_of_peer[peer]] = 0;
        hop->copies_first[row + 2]++;
    }
    int32_t at = hop->word_at[peer];
    hop->send_words[header_of_peer[peer]]++;
    hop->send_words[at] = source->slot[entry];
    memcpy(&hop->send_words[at + 1], &source->weight[entry], sizeof(int32_t));
    hop->word_at[peer] = at + 2;
    hop->send_of_entry[entry] = hop->entry_at[peer]++;
}

/* Sends ordered by peer, then row, become for each source row its sends in order of peer: copies_first was counted two places ahead. */
static void list_copies(gr_hop *hop, int32_t n_source) {
    for (int32_t r = 0; r < n_source; r++) hop->copies_first[r + 2] += hop->copies_first[r + 1];
    for (int32_t i = 0; i < hop->n_send; i++) hop->copies[hop->copies_first[hop->row_of_send[i] + 1]++] = i;
}

void gr_hop_fill(gr_hop *hop, const gr_rows *source, const int32_t *rank_of_slot) {
    layout(hop);
    memset(hop->copies_first, 0, ((size_t)source->n + 2) * sizeof(int32_t));
    for (int32_t r = 0; r < source->n; r++)
        for (int32_t e = source->first[r]; e < source->first[r + 1]; e++) {
            int32_t peer = hop->peer_of_rank[rank_of_slot[source->slot[e]]];
            hop->send_of_entry[e] = -1;
            if (peer >= 0) place_entry(hop, source, r, e, peer, hop->words_out);
        }
    list_copies(hop, source->n);
}

grace_status gr_hop_counts_start(gr_hop *hop, gr_request **request) {
    int32_t n = hop->comm->n_ranks;
    for (int32_t p = 0; p < n; p++) {
        hop->counts_out[2 * p] = hop->send_rows[p];
        hop->counts_out[2 * p + 1] = hop->send_entries[p];
        hop->words_out[p] = hop->words_in[p] = 1;
    }
    gr_xfer xfer = {hop->counts_out, hop->words_out, hop->counts_in, hop->words_in, 2 * sizeof(int32_t)};
    return gr_comm_alltoallv_start(hop->comm, &xfer, request);
}

grace_status gr_hop_counts_done(gr_hop *hop) {
    hop->n_recv = hop->n_recv_entries = 0;
    for (int32_t p = 0; p < hop->comm->n_ranks; p++) {
        int32_t rows = hop->counts_in[2 * p], entries = hop->counts_in[2 * p + 1];
        if (rows < 0 || entries < rows || rows > hop->recv_rows_max - hop->n_recv || entries > hop->recv_entries_max - hop->n_recv_entries)
            return gr_fail(GRACE_ERR_COMM, "peer %d announces %d rows with %d entries; there is room for %d and %d", p, rows, entries,
                           hop->recv_rows_max - hop->n_recv, hop->recv_entries_max - hop->n_recv_entries);
        hop->n_recv += hop->recv_rows[p] = rows;
        hop->n_recv_entries += hop->recv_entries[p] = entries;
    }
    return GRACE_OK;
}

grace_status gr_hop_lists_start(gr_hop *hop, gr_request **request) {
    for (int32_t p = 0; p < hop->comm->n_ranks; p++) {
        hop->words_out[p] = hop->send_rows[p] + 2 * hop->send_entries[p];
        hop->words_in[p] = hop->recv_rows[p] + 2 * hop->recv_entries[p];
    }
    gr_xfer xfer = {hop->send_words, hop->words_out, hop->recv_words, hop->words_in, sizeof(int32_t)};
    return gr_comm_alltoallv_start(hop->comm, &xfer, request);
}

grace_status gr_hop_lists_parse(const gr_hop *hop, gr_rows *rows) {
    int32_t entry = rows->first[rows->n], end = entry + hop->n_recv_entries;
    const int32_t *word = hop->recv_words;
    for (int32_t i = 0; i < hop->n_recv; i++) {
        int32_t n = *word++;
        if (n < 1 || n > end - entry) return gr_fail(GRACE_ERR_COMM, "row %d of %d arrived with %d entries, at most %d left", i, hop->n_recv, n, end - entry);
        for (int32_t j = 0; j < n; j++, entry++, word += 2) {
            if (word[0] < hop->slot_from || word[0] >= hop->slot_to)
                return gr_fail(GRACE_ERR_COMM, "slot %d arrived, expected %d to %d", word[0], hop->slot_from, hop->slot_to - 1);
            rows->slot[entry] = word[0];
            memcpy(&rows->weight[entry], &word[1], sizeof(float));
        }
        rows->first[++rows->n] = entry;
    }
    if (entry != end) return gr_fail(GRACE_ERR_COMM, "%d entries announced, %d arrived", hop->n_recv_entries, hop->n_recv_entries - (end - entry));
    return GRACE_OK;
}

int64_t gr_hop_list_bytes(const gr_hop *hop, int32_t peer) {
    return (int64_t)sizeof(int32_t) * (2 + hop->send_rows[peer] + 2 * (int64_t)hop->send_entries[peer]);
}
