/* Lines between ranks that are processes of this test. Threads play the GPUs: they fill outboxes, wait for inboxes and compare every byte. A peer that lies
 * is one that has connections as a line has, and writes to them by itself. */
#include "comm/job.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/rng.h"
#include "comm/line_parts.h"

enum { LANES = 2, GUARD_BYTES = 64, GUARD = 0xa5, PAUSE_US = 20, SEED = 20261126 };

static const gr_line_room rooms[GR_LINE_WAYS] = {{65536, 64, 4}, {16384, 32, 1}};
static const char *const way_names[GR_LINE_WAYS] = {"there", "back"};

/* ---- a rank's end of its lines ---- */

typedef struct ends {
    int32_t rank, n_peers, peers[RANKS_MAX];
    double deadline_s;
    gr_line_lane lanes[LANES];
    gr_line_box out[LANES][GR_LINE_WAYS][RANKS_MAX], in[LANES][GR_LINE_WAYS][RANKS_MAX];
    volatile int32_t stop;
    gr_line *line;
} ends;

static gr_line_box new_box(size_t n_bytes) {
    char *memory = calloc(1, GR_LINE_HEAD_BYTES + n_bytes + GUARD_BYTES);
    GR_ASSERT(memory);
    memset(memory + GR_LINE_HEAD_BYTES + n_bytes, GUARD, GUARD_BYTES);
    return (gr_line_box){(gr_line_head *)memory};
}

static ends *new_ends(const gr_comm *c, const gr_line_room room[GR_LINE_WAYS], double deadline_s) {
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

static void add_peer(ends *t, int32_t peer) {
    int32_t p = t->n_peers++;
    t->peers[p] = peer;
    for (int32_t lane = 0; lane < LANES; lane++)
        for (int way = 0; way < GR_LINE_WAYS; way++) {
            t->out[lane][way][p] = new_box((size_t)t->lanes[lane].room[way].n_bytes);
            t->in[lane][way][p] = new_box((size_t)t->lanes[lane].room[way].n_bytes);
        }
}

static grace_status open_ends(gr_comm *c, ends *t) {
    gr_line_options opt = {.peers = t->peers, .n_peers = t->n_peers, .n_lanes = LANES, .lanes = t->lanes, .deadline_s = t->deadline_s, .stop = &t->stop};
    return gr_line_open(c, &opt, &t->line);
}

/* Every other rank is a peer. */
static grace_status open_to_all(gr_comm *c, const gr_line_room room[GR_LINE_WAYS], double deadline_s, ends **out) {
    *out = new_ends(c, room, deadline_s);
    for (int32_t p = 0; p < c->n_ranks; p++)
        if (p != c->rank) add_peer(*out, p);
    return open_ends(c, *out);
}

static bool is_guard(const gr_line_box *box, int64_t n_bytes) {
    const char *at = gr_line_bytes(box) + n_bytes;
    for (int i = 0; i < GUARD_BYTES; i++)
        if ((uint8_t)at[i] != GUARD) return false;
    return true;
}

/* The failure so far, or the first thing that closing found wrong: words behind boxes, a raised stop without a failure. */
static grace_status close_ends(ends *t, grace_status st) {
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

/* ---- messages that both ends know ---- */

typedef struct message { int32_t rows, entries; int64_t n_bytes; gr_rng words; } message;

static message message_of(int32_t from, int32_t to, int32_t lane, int way, uint32_t number) {
    uint32_t hash = gr_mix32((uint32_t)(from * RANKS_MAX + to), (uint32_t)(lane * GR_LINE_WAYS + way), number);
    gr_rng rng = gr_rng_seed((uint64_t)SEED << 32 | hash);
    const gr_line_room *room = &rooms[way];
    uint32_t kind = gr_rng_below(&rng, 16);
    message m = {.rows = 1 + (int32_t)gr_rng_below(&rng, (uint32_t)room->rows), .n_bytes = gr_rng_below(&rng, 2048)};
    m.entries = m.rows + (int32_t)gr_rng_below(&rng, (uint32_t)(m.rows * (room->entries_a_row - 1) + 1));
    if (kind == 0) m = (message){0};                                    /* as between nodes that have nothing for each other */
    if (kind == 1) m = (message){room->rows, room->rows * room->entries_a_row, room->n_bytes, rng};
    m.words = rng;
    return m;
}

static void fill(char *bytes, message m) {
    for (int64_t i = 0; i < m.n_bytes; i += 8) {
        uint64_t word = gr_rng_next(&m.words);
        memcpy(bytes + i, &word, m.n_bytes - i < 8 ? (size_t)(m.n_bytes - i) : 8);
    }
}

static int64_t first_wrong(const char *bytes, message m) {
    for (int64_t i = 0; i < m.n_bytes; i += 8) {
        uint64_t word = gr_rng_next(&m.words);
        if (memcmp(bytes + i, &word, m.n_bytes - i < 8 ? (size_t)(m.n_bytes - i) : 8) != 0) return i;
    }
    return -1;
}

static _Atomic uint32_t *flag_of(gr_line_head *head) { return (_Atomic uint32_t *)&head->number; }

static void raise_flag(gr_line_head *head, int32_t rows, int32_t entries, int64_t n_bytes, uint32_t number) {
    head->rows = rows, head->entries = entries, head->n_bytes = n_bytes;
    atomic_store_explicit(flag_of(head), number, memory_order_release);
}

static void post(ends *t, int32_t lane, int way, int32_t p, uint32_t number) {
    gr_line_box *box = &t->out[lane][way][p];
    message m = message_of(t->rank, t->peers[p], lane, way, number);
    fill(gr_line_bytes(box), m);
    raise_flag(box->head, m.rows, m.entries, m.n_bytes, number);
}

static grace_status await_flag(const ends *t, gr_line_head *head, uint32_t number) {
    grace_status st = GRACE_OK;
    for (double start_us = gr_now_us(); atomic_load_explicit(flag_of(head), memory_order_acquire) != number; usleep(PAUSE_US)) {
        GR_TRY(gr_line_check(t->line));
        GR_CHECK(gr_now_us() - start_us < 1e6 * SOON_S, GRACE_ERR_COMM, "message %u has not come", number);
    }
done:
    return st;
}

static grace_status take(ends *t, int32_t lane, int way, int32_t p, uint32_t number) {
    grace_status st = GRACE_OK;
    const gr_line_box *box = &t->in[lane][way][p];
    gr_line_head *h = box->head;
    message m = message_of(t->peers[p], t->rank, lane, way, number);
    GR_TRY(await_flag(t, h, number));
    GR_CHECK(h->rows == m.rows && h->entries == m.entries && h->n_bytes == m.n_bytes, GRACE_ERR_COMM,
             "lane %d, %s %u from rank %d: expected %d rows, %d entries, %lld bytes, found %d, %d, %lld", lane, way_names[way], number, t->peers[p], m.rows,
             m.entries, (long long)m.n_bytes, h->rows, h->entries, (long long)h->n_bytes);
    int64_t wrong = first_wrong(gr_line_bytes(box), m);
    GR_CHECK(wrong < 0, GRACE_ERR_COMM, "lane %d, %s %u from rank %d: byte %lld or one of the next 7 is another", lane, way_names[way], number, t->peers[p],
             (long long)wrong);
done:
    return st;
}

/* ---- GPUs ---- */

/* A layer's exchange: everybody is sent to, and whoever has come is answered, in any order. */
static grace_status exchange(ends *t, int32_t lane, uint32_t number, gr_rng *rng) {
    grace_status st = GRACE_OK;
    const int32_t first = (int32_t)gr_rng_below(rng, (uint32_t)t->n_peers);
    if (gr_rng_below(rng, 16) == 0) usleep(gr_rng_below(rng, 300));
    for (int32_t p = 0; p < t->n_peers; p++) post(t, lane, GR_LINE_THERE, p, number);
    for (int32_t i = 0; i < t->n_peers; i++) {
        GR_TRY(take(t, lane, GR_LINE_THERE, (first + i) % t->n_peers, number));
        post(t, lane, GR_LINE_BACK, (first + i) % t->n_peers, number);
    }
    for (int32_t p = 0; p < t->n_peers; p++) GR_TRY(take(t, lane, GR_LINE_BACK, p, number));
done:
    return st;
}

typedef struct gpu { ends *t; int32_t lane; uint32_t n_numbers; pthread_t thread; grace_status st; char said[400]; } gpu;

static void *run_gpu(void *user) {
    gpu *g = user;
    gr_rng rng = gr_rng_seed((uint64_t)(g->t->rank * LANES + g->lane));
    for (uint32_t number = 1; number <= g->n_numbers && !g->st; number++) g->st = exchange(g->t, g->lane, number, &rng);
    if (g->st) snprintf(g->said, sizeof g->said, "%s", grace_last_error());
    return NULL;
}

/* All lanes at once. */
static grace_status run_gpus(ends *t, uint32_t n_numbers) {
    grace_status st = GRACE_OK;
    gpu gpus[LANES];
    for (int32_t lane = 0; lane < LANES; lane++) {
        gpus[lane] = (gpu){.t = t, .lane = lane, .n_numbers = n_numbers};
        GR_ASSERT(pthread_create(&gpus[lane].thread, NULL, run_gpu, &gpus[lane]) == 0);
    }
    for (int32_t lane = 0; lane < LANES; lane++) pthread_join(gpus[lane].thread, NULL);
    for (int32_t lane = 0; lane < LANES; lane++)
        if (gpus[lane].st) st = gr_fail(gpus[lane].st, "%s", gpus[lane].said);
    return st;
}

/* ---- rows arrive ---- */

static grace_status exchange_with_all(gr_comm *c) {
    ends *t;
    grace_status st = open_to_all(c, rooms, far_s, &t);
    if (!st) st = run_gpus(t, 2400 / (uint32_t)(c->n_ranks * c->n_ranks));
    return close_ends(t, st);
}

/* Ranks close when they are done, whatever the others do. */
static void every_message_arrives_whole_and_in_order(void **state) {
    (void)state;
    for (int n_ranks = 2; n_ranks <= 4; n_ranks++) {
        job j = new_job();
        start_all(&j, n_ranks, far_s, exchange_with_all);
        end_all(&j);
        ended_well(&j);
    }
}

/* Two nodes of two: a rank's peer is the one of the same index. */
static grace_status exchange_between_nodes(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t = new_ends(c, rooms, far_s);
    add_peer(t, (c->rank + 2) % 4);
    GR_TRY(open_ends(c, t));
    GR_TRY(run_gpus(t, 1000));
done:
    return close_ends(t, st);
}

static void ranks_have_lines_to_their_peers_alone(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 4, far_s, exchange_between_nodes);
    end_all(&j);
    ended_well(&j);
}

static grace_status exchange_lane_after_lane(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t;
    gr_rng rng = gr_rng_seed(SEED);
    GR_TRY(open_to_all(c, rooms, far_s, &t));
    for (int32_t lane = LANES - 1; lane >= 0; lane--)
        for (uint32_t number = 1; number <= 100; number++) GR_TRY(exchange(t, lane, number, &rng));
done:
    return close_ends(t, st);
}

static void a_lane_goes_on_while_others_stand_still(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, exchange_lane_after_lane);
    end_all(&j);
    ended_well(&j);
}

/* ---- closing ---- */

static grace_status open_and_close(gr_comm *c) {
    grace_status st = GRACE_OK;
    for (int i = 0; i < 24 && !st; i++) {
        ends *t;
        st = open_to_all(c, rooms, far_s, &t);
        if (!st && i % 2) st = run_gpus(t, 2);
        st = close_ends(t, st);
    }
    return st;
}

static void closing_raises_no_stop(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, open_and_close);
    end_all(&j);
    ended_well(&j);
}

/* More than sockets hold. */
static const gr_line_room large_rooms[GR_LINE_WAYS] = {{64 << 20, 1, 1}, {1, 1, 1}};

/* Rank 0 closes as soon as its box is full; rank 1 looks a while later. */
static grace_status send_much_and_close(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t;
    GR_TRY(open_to_all(c, large_rooms, far_s, &t));
    gr_line_box *out = &t->out[1][GR_LINE_THERE][0], *in = &t->in[1][GR_LINE_THERE][0];
    const int64_t n = large_rooms[GR_LINE_THERE].n_bytes;
    if (c->rank == 0) memset(gr_line_bytes(out), 'g', (size_t)n), raise_flag(out->head, 1, 1, n, 1);
    if (c->rank == 0) goto done;
    GR_TRY(await_flag(t, in->head, 1));
    GR_CHECK(gr_line_bytes(in)[0] == 'g' && memcmp(gr_line_bytes(in), gr_line_bytes(in) + 1, (size_t)n - 1) == 0, GRACE_ERR_COMM, "other bytes came");
    usleep(100000);                     /* rank 0 is over by now: no failure */
done:
    return close_ends(t, st);
}

static void what_is_in_an_outbox_goes_before_a_line_closes(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, send_much_and_close);
    end_all(&j);
    ended_well(&j);
}

/* Nobody takes anything: whether it arrives is not promised, only that everybody ends. */
static grace_status all_send_and_close(gr_comm *c) {
    ends *t;
    grace_status st = open_to_all(c, rooms, far_s, &t);
    for (int32_t lane = 0; lane < LANES && !st; lane++)
        for (int32_t p = 0; p < t->n_peers; p++) post(t, lane, GR_LINE_THERE, p, 1);
    (void)close_ends(t, st);
    return st;
}

static void lines_close_while_messages_are_under_way(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++) {
        job j = new_job();
        start_all(&j, 3, far_s, all_send_and_close);
        end_all(&j);
        ended_well(&j);
        soon(&j);
    }
}

static grace_status send_to_one_that_left(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t;
    GR_TRY(open_to_all(c, rooms, far_s, &t));
    if (c->rank == 1) goto done;
    usleep(300000);
    GR_TRY(gr_line_check(t->line));     /* it said goodbye */
    fprintf(stderr, "well; ");
    for (uint32_t i = 0; i < 2 * SOON_S && !gr_line_check(t->line); i++) {
        raise_flag(t->out[0][i % 2][0].head, 0, 0, 0, i / 2 + 1);
        usleep(500000);
    }
    st = gr_line_check(t->line);
done:
    return close_ends(t, st);
}

static void one_that_said_goodbye_is_missed_when_it_is_sent_to(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, send_to_one_that_left);
    end_all(&j);
    ended(&j, 0, 1, "well; rank 0: rank 1 is gone");
    ended(&j, 1, 0, "");
}

/* ---- peers that fail ---- */

/* Ranks in a row, each with a line to the next; the last dies. */
static grace_status stand_in_a_row(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t = new_ends(c, rooms, far_s);
    if (c->rank > 0) add_peer(t, c->rank - 1);
    if (c->rank < c->n_ranks - 1) add_peer(t, c->rank + 1);
    GR_TRY(open_ends(c, t));
    GR_TRY(run_gpus(t, 10));
    if (c->rank == c->n_ranks - 1) raise(SIGKILL);
    GR_TRY(await_flag(t, t->in[0][GR_LINE_THERE][0].head, 11));
done:
    GR_ASSERT(t->stop);                 /* kernels that wait were told */
    return close_ends(t, st);
}

static void a_dead_peer_ends_all_who_have_a_line_to_one_that_failed(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, stand_in_a_row);
    end_all(&j);
    ended(&j, 2, -SIGKILL, "");
    ended(&j, 1, 1, "rank 1: rank 2 is gone");
    ended(&j, 0, 1, "rank 0: rank 1 is gone");
    soon(&j);
}

static grace_status send_to_one_that_stands_still(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t;
    GR_TRY(open_to_all(c, large_rooms, near_s, &t));
    if (c->rank == 1) raise(SIGSTOP);
    raise_flag(t->out[0][GR_LINE_THERE][0].head, 1, 1, large_rooms[GR_LINE_THERE].n_bytes, 1);
    GR_TRY(await_flag(t, t->in[0][GR_LINE_THERE][0].head, 1));
done:
    return close_ends(t, st);
}

static void a_peer_that_takes_nothing_is_named_at_the_deadline(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, send_to_one_that_stands_still);
    end_one(&j.rank[0]);
    kill(j.rank[1].pid, SIGKILL);
    end_one(&j.rank[1]);
    ended(&j, 0, 1, "rank 0: rank 1 has taken nothing of a message for 1 s");
    soon(&j);
}

/* ---- peers that lie ---- */

typedef struct lie { size_t n_bytes; gr_line_frame frame; const char *answer; } lie;

static const lie *told;                 /* by rank 1 */

/* What gr_line_open() does, but for threads; then the lie, until rank 0 hangs up. */
static grace_status tell_it(gr_comm *c) {
    grace_status st = GRACE_OK;
    int *fd = NULL;
    char answer;
    GR_TRY(grace_comm_agree(c, GRACE_OK));
    GR_TRY(gr_line_connect(c, (const int32_t[]){0}, 1, LANES, far_s, &fd));
    GR_TRY(grace_comm_agree(c, GRACE_OK));
    GR_CHECK(send(fd[0], &told->frame, told->n_bytes, MSG_NOSIGNAL) == (ssize_t)told->n_bytes, GRACE_ERR_COMM, "not sent");
    for (struct pollfd p = {.fd = fd[0], .events = POLLIN}; poll(&p, 1, 1000 * SOON_S) == 1 && recv(fd[0], &answer, 1, 0) > 0;) {}
done:
    for (int i = 0; fd && i < LANES; i++) close(fd[i]);
    free(fd);
    return st;
}

static grace_status hear_it(gr_comm *c) {
    ends *t;
    grace_status st = open_to_all(c, rooms, near_s, &t);
    if (!st) st = await_flag(t, t->in[0][GR_LINE_BACK][0].head, 1);
    return close_ends(t, st);
}

static grace_status tell_or_hear(gr_comm *c) { return c->rank == 1 ? tell_it(c) : hear_it(c); }

static void a_head_that_lies_ends_the_line_and_is_quoted(void **state) {
    (void)state;
    enum { M = GR_LINE_MESSAGE, ALL = sizeof(gr_line_frame) };
    static const lie lies[] = {
        {ALL, {0x20646170, 1, 0, 0, 0, 0, 0}, "rank 1 sends message 1 of way 0, of kind 20646170, where dispatch 1 is next"},
        {ALL, {M, 2, 0, 0, 0, 0, 0}, "rank 1 sends message 2 of way 0, of kind 47524c31, where dispatch 1 is next"},
        {ALL, {M, 1, 1, 0, 0, 0, 0}, "rank 1 sends message 1 of way 1, of kind 47524c31, where dispatch 1 is next"},
        {ALL, {M, 1, -7, 0, 0, 0, 0}, "rank 1 sends message 1 of way -7"},
        {ALL, {M, 1, 0, 1, 1, 0, 65537}, "rank 1 sends 1 rows with 1 entries in 65537 bytes for dispatch; there is room for 64 with 4 each in 65536"},
        {ALL, {M, 1, 0, 1, 1, 0, INT64_MAX}, "in 9223372036854775807 bytes for dispatch"},
        {ALL, {M, 1, 0, 1, 1, 0, -1}, "in -1 bytes for dispatch"},
        {ALL, {M, 1, 0, 65, 65, 0, 8}, "rank 1 sends 65 rows with 65 entries in 8 bytes"},
        {ALL, {M, 1, 0, -1, 0, 0, 8}, "rank 1 sends -1 rows"},
        {ALL, {M, 1, 0, 2, 1, 0, 8}, "rank 1 sends 2 rows with 1 entries"},
        {ALL, {M, 1, 0, 2, 9, 0, 8}, "rank 1 sends 2 rows with 9 entries"},
        {ALL - 5, {M, 1, 0, 2, 8, 0, 8}, "the head of dispatch 1 from rank 1 has come in part, and nothing for 1 s"},
        {ALL, {M, 1, 0, 2, 8, 0, 8}, "0 of 8 bytes of dispatch 1 from rank 1 have come, and nothing for 1 s"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        job j = new_job();
        told = &lies[i];
        start_all(&j, 2, far_s, tell_or_hear);
        end_all(&j);
        ended(&j, 0, 1, lies[i].answer);
        ended(&j, 1, 0, "");
    }
}

/* ---- opening ---- */

/* Rank 0 knows of rank 2, but not the other way round. */
static grace_status disagree_about_peers(gr_comm *c) {
    ends *t = new_ends(c, rooms, near_s);
    if (c->rank != 0) add_peer(t, c->rank == 1 ? 0 : 1);
    else add_peer(t, 1), add_peer(t, 2);
    if (c->rank == 1) add_peer(t, 2);
    return close_ends(t, open_ends(c, t));
}

static void a_peer_that_does_not_come_ends_the_opening_for_all(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, disagree_about_peers);
    end_all(&j);
    ended(&j, 0, 1, "rank 0: 2 lines of higher ranks have not come after 1 s");
    for (int r = 1; r < 3; r++) ended(&j, r, 1, "");
    soon(&j);
}

static grace_status open_at_an_interface(gr_comm *c) {
    ends *t;
    setenv("NCCL_SOCKET_IFNAME", c->rank == 1 ? "=nosuch,lo0" : "lo", 1);
    return close_ends(t, open_to_all(c, rooms, near_s, &t));
}

static void a_rank_without_the_interface_it_was_given_ends_the_opening_for_all(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, open_at_an_interface);
    end_all(&j);
    ended(&j, 1, 1, "no interface that is up has a name as NCCL_SOCKET_IFNAME says: =nosuch,lo0");
    ended(&j, 0, 1, "");
    soon(&j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_arrives_whole_and_in_order),
        cmocka_unit_test(ranks_have_lines_to_their_peers_alone),
        cmocka_unit_test(a_lane_goes_on_while_others_stand_still),
        cmocka_unit_test(closing_raises_no_stop),
        cmocka_unit_test(what_is_in_an_outbox_goes_before_a_line_closes),
        cmocka_unit_test(lines_close_while_messages_are_under_way),
        cmocka_unit_test(one_that_said_goodbye_is_missed_when_it_is_sent_to),
        cmocka_unit_test(a_dead_peer_ends_all_who_have_a_line_to_one_that_failed),
        cmocka_unit_test(a_peer_that_takes_nothing_is_named_at_the_deadline),
        cmocka_unit_test(a_head_that_lies_ends_the_line_and_is_quoted),
        cmocka_unit_test(a_peer_that_does_not_come_ends_the_opening_for_all),
        cmocka_unit_test(a_rank_without_the_interface_it_was_given_ends_the_opening_for_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
