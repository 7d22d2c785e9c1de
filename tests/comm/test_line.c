/* Lines between ranks that are processes of this test. Threads play the GPUs: they fill outboxes, wait for inboxes and compare every byte. */
#include "comm/line_ends.h"

#include <pthread.h>

#include "base/hash.h"
#include "base/rng.h"

enum { SEED = 20261126 };

static const char *const way_names[GR_LINE_WAYS] = {"there", "back"};

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

static void post(ends *t, int32_t lane, int way, int32_t p, uint32_t number) {
    gr_line_box *box = &t->out[lane][way][p];
    message m = message_of(t->rank, t->peers[p], lane, way, number);
    fill(gr_line_bytes(box), m);
    raise_flag(box->head, m.rows, m.entries, m.n_bytes, number);
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
    gr_rng rng = gr_rng_seed((uint64_t)g->t->rank * LANES + (uint64_t)g->lane);
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

/* Rank 0 closes as soon as its boxes are full; rank 1 looks a while later. */
static grace_status send_much_and_close(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t;
    GR_TRY(open_to_all(c, large_rooms, far_s, &t));
    gr_line_box *out = &t->out[1][GR_LINE_THERE][0], *in = &t->in[1][GR_LINE_THERE][0];
    const int64_t n = large_rooms[GR_LINE_THERE].n_bytes;
    if (c->rank == 0) {
        memset(gr_line_bytes(out), 'g', (size_t)n);
        raise_flag(out->head, 1, 1, n, 1);
        raise_flag(t->out[1][GR_LINE_BACK][0].head, 0, 0, 0, 1);
        goto done;
    }
    GR_TRY(await_flag(t, in->head, 1));
    GR_CHECK(gr_line_bytes(in)[0] == 'g' && memcmp(gr_line_bytes(in), gr_line_bytes(in) + 1, (size_t)n - 1) == 0, GRACE_ERR_COMM, "other bytes came");
    GR_TRY(await_flag(t, t->in[1][GR_LINE_BACK][0].head, 1));
    usleep(100000);                     /* rank 0 is over by now: no failure */
done:
    return close_ends(t, st);
}

static void what_is_in_outboxes_goes_before_a_line_closes(void **state) {
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_arrives_whole_and_in_order),
        cmocka_unit_test(ranks_have_lines_to_their_peers_alone),
        cmocka_unit_test(a_lane_goes_on_while_others_stand_still),
        cmocka_unit_test(closing_raises_no_stop),
        cmocka_unit_test(what_is_in_outboxes_goes_before_a_line_closes),
        cmocka_unit_test(lines_close_while_messages_are_under_way),
        cmocka_unit_test(one_that_said_goodbye_is_missed_when_it_is_sent_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
