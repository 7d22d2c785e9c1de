/* A rank's end of its lines, for ranks that are processes of a test: boxes with words behind them that nobody may touch, and flags as a GPU would set and
 * await them. */
#ifndef GRACE_TESTS_COMM_LINE_ENDS_H
#define GRACE_TESTS_COMM_LINE_ENDS_H
#include "comm/job.h"

#include <stdatomic.h>

#include "comm/line_parts.h"

enum { LANES = 2, GUARD_BYTES = 64, GUARD = 0xa5, PAUSE_US = 20 };

static const gr_line_room rooms[GR_LINE_WAYS] = {{65536, 64, 4}, {16384, 32, 1}};
/* More than sockets hold. */
static const gr_line_room large_rooms[GR_LINE_WAYS] = {{64 << 20, 1, 1}, {1, 1, 1}};

typedef struct ends {
    int32_t rank, n_peers, peers[RANKS_MAX];
    double deadline_s;
    gr_line_lane lanes[LANES];
    gr_line_box out[LANES][GR_LINE_WAYS][RANKS_MAX], in[LANES][GR_LINE_WAYS][RANKS_MAX];
    volatile int32_t stop;
    gr_line *line;
} ends;

static inline gr_line_box new_box(size_t n_bytes) {
    char *memory = calloc(1, GR_LINE_HEAD_BYTES + n_bytes + GUARD_BYTES);
    GR_ASSERT(memory);
    memset(memory + GR_LINE_HEAD_BYTES + n_bytes, GUARD, GUARD_BYTES);
    return (gr_line_box){(gr_line_head *)memory};
}

static inline ends *new_ends(const gr_comm *c, const gr_line_room room[GR_LINE_WAYS], double deadline_s) {
    ends *t = calloc(1, sizeof *t);
    GR_ASSERT(t);
    t->rank = c->rank, t->deadline_s = deadline_s;
    for (int32_t lane = 0; lane < LANES; lane++)
        for (int way = 0; way < GR_LINE_WAYS; way++) {
            t->lanes[lane].room[way] = room[way];
            t->lanes[lane].out[way] = t->out[lane][way], t->lanes[lane].in[way] = t->in[lane][way];
        }
    return t;
}

static inline void add_peer(ends *t, int32_t peer) {
    int32_t p = t->n_peers++;
    t->peers[p] = peer;
    for (int32_t lane = 0; lane < LANES; lane++)
        for (int way = 0; way < GR_LINE_WAYS; way++) {
            t->out[lane][way][p] = new_box((size_t)t->lanes[lane].room[way].n_bytes);
            t->in[lane][way][p] = new_box((size_t)t->lanes[lane].room[way].n_bytes);
        }
}

static inline grace_status open_ends(gr_comm *c, ends *t) {
    gr_line_options opt = {.peers = t->peers, .n_peers = t->n_peers, .n_lanes = LANES, .lanes = t->lanes, .deadline_s = t->deadline_s, .stop = &t->stop};
    return gr_line_open(c, &opt, &t->line);
}

/* Every other rank is a peer. */
static inline grace_status open_to_all(gr_comm *c, const gr_line_room room[GR_LINE_WAYS], double deadline_s, ends **out) {
    *out = new_ends(c, room, deadline_s);
    for (int32_t p = 0; p < c->n_ranks; p++)
        if (p != c->rank) add_peer(*out, p);
    return open_ends(c, *out);
}

static inline bool is_guard(const gr_line_box *box, int64_t n_bytes) {
    const char *at = gr_line_bytes(box) + n_bytes;
    for (int i = 0; i < GUARD_BYTES; i++)
        if ((uint8_t)at[i] != GUARD) return false;
    return true;
}

/* The failure so far, or the first thing that closing found wrong: words behind boxes, a raised stop without a failure. */
static inline grace_status close_ends(ends *t, grace_status st) {
    if (!st && gr_line_check(t->line)) st = GRACE_ERR_COMM;
    gr_line_close(t->line, st == GRACE_OK);
    if (!st && t->stop) st = gr_fail(GRACE_ERR_COMM, "stop was raised, but no line failed");
    for (int32_t lane = 0; lane < LANES; lane++)
        for (int way = 0; way < GR_LINE_WAYS; way++)
            for (int32_t p = 0; p < t->n_peers; p++) {
                int64_t n = t->lanes[lane].room[way].n_bytes;
                if (!is_guard(&t->in[lane][way][p], n)) st = gr_fail(GRACE_ERR_COMM, "something was written behind a box");
                free(t->in[lane][way][p].head);
                free(t->out[lane][way][p].head);
            }
    free(t);
    return st;
}

static inline _Atomic uint32_t *flag_of(gr_line_head *head) { return (_Atomic uint32_t *)&head->number; }

static inline void raise_flag(gr_line_head *head, int32_t rows, int32_t entries, int64_t n_bytes, uint32_t number) {
    head->rows = rows, head->entries = entries, head->n_bytes = n_bytes;
    atomic_store_explicit(flag_of(head), number, memory_order_release);
}

static inline grace_status await_flag(const ends *t, gr_line_head *head, uint32_t number) {
    grace_status st = GRACE_OK;
    for (double start_us = gr_now_us(); atomic_load_explicit(flag_of(head), memory_order_acquire) != number; usleep(PAUSE_US)) {
        GR_TRY(gr_line_check(t->line));
        GR_CHECK(gr_now_us() - start_us < 1e6 * SOON_S, GRACE_ERR_COMM, "message %u has not come", number);
    }
done:
    return st;
}

#endif
