/* One stage's lists, in integers: a communicator that only knows its size, and rows whose entries can be checked by hand or by brute force. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "run/hop.h"

enum { PEERS = 4, ROWS = 12, SLOTS = 10, K = 5, ENTRIES = ROWS * K };

/* Never asked to move anything. */
static gr_comm four = {.n_ranks = PEERS, .n_nodes = 1, .gpus_per_node = PEERS};

typedef struct source { gr_rows rows; int32_t first[ROWS + 1], slot[ENTRIES]; float weight[ENTRIES]; } source;

/* Rows with 0 to K entries; every entry has another weight, which names it. */
static void random_source(gr_rng *rng, source *s) {
    int32_t n = (int32_t)gr_rng_below(rng, ROWS + 1), entry = 0;
    for (int32_t r = 0; r < n; r++) {
        for (int32_t j = (int32_t)gr_rng_below(rng, K + 1); j > 0; j--, entry++) {
            s->slot[entry] = (int32_t)gr_rng_below(rng, SLOTS);
            s->weight[entry] = (float)entry + 0.5f;
        }
        s->first[r + 1] = entry;
    }
    s->rows = (gr_rows){n, s->first, s->slot, s->weight};
}

/* Sends of one peer by brute force: rows in order, each with its entries for that peer. */
typedef struct expected { int32_t n, row[ENTRIES], n_entries[ENTRIES], entries[ENTRIES][K]; } expected;

static expected expect_peer(const source *s, const int32_t *peer_of_slot, int32_t peer, bool per_expert) {
    expected x = {0};
    for (int32_t r = 0; r < s->rows.n; r++) {
        int32_t open = -1;
        for (int32_t e = s->first[r]; e < s->first[r + 1]; e++) {
            if (peer_of_slot[s->slot[e]] != peer) continue;
            if (open < 0 || per_expert) x.row[open = x.n++] = r;
            x.entries[open][x.n_entries[open]++] = e;
        }
    }
    return x;
}

typedef struct place { gr_hop hop; int32_t rank_of_slot[SLOTS], peer_of_rank[6], peer_of_slot[SLOTS]; } place;

/* Slots on six ranks of which the hop serves some. */
static void random_place(gr_rng *rng, place *p, bool per_expert) {
    for (int r = 0; r < 6; r++) p->peer_of_rank[r] = (int32_t)gr_rng_below(rng, PEERS + 1) - 1;
    for (int s = 0; s < SLOTS; s++) {
        p->rank_of_slot[s] = (int32_t)gr_rng_below(rng, 6);
        p->peer_of_slot[s] = p->peer_of_rank[p->rank_of_slot[s]];
    }
    assert_int_equal(gr_hop_init(&p->hop, &four, p->peer_of_rank, per_expert, ROWS, ENTRIES, ENTRIES, ENTRIES, ENTRIES), GRACE_OK);
}

/* Counted in two ranges, as the exchange does with own and received rows. */
static void fill(place *p, const source *s, int32_t cut) {
    gr_hop_begin(&p->hop);
    gr_hop_count(&p->hop, &s->rows, p->rank_of_slot, 0, cut);
    gr_hop_count(&p->hop, &s->rows, p->rank_of_slot, cut, s->rows.n);
    gr_hop_fill(&p->hop, &s->rows, p->rank_of_slot);
}

static void check_sends(const place *p, const source *s, bool per_expert, uint64_t seed) {
    const gr_hop *hop = &p->hop;
    int32_t row = 0, entry = 0;
    const int32_t *word = hop->send_words;
    for (int32_t peer = 0; peer < PEERS; peer++) {
        expected x = expect_peer(s, p->peer_of_slot, peer, per_expert);
        int32_t n_entries = 0;
        for (int32_t i = 0; i < x.n; i++, row++) {
            assert_int_equal(hop->row_of_send[row], x.row[i]);
            assert_int_equal(*word++, x.n_entries[i]);
            for (int32_t j = 0; j < x.n_entries[i]; j++, entry++, n_entries++) {
                float weight;
                assert_int_equal(*word++, s->slot[x.entries[i][j]]);
                memcpy(&weight, word++, sizeof weight);
                assert_true(weight == s->weight[x.entries[i][j]]);
                assert_int_equal(hop->send_of_entry[x.entries[i][j]], entry);
            }
        }
        if (hop->send_rows[peer] != x.n || hop->send_entries[peer] != n_entries) fail_msg("seed %llu: peer %d", (unsigned long long)seed, peer);
        assert_int_equal(gr_hop_list_bytes(hop, peer), 4 * (2 + x.n + 2 * n_entries));
    }
    assert_int_equal(hop->n_send, row);
    assert_int_equal(hop->n_send_entries, entry);
}

/* copies of a row: its sends, ascending, which is by peer. */
static void check_copies(const place *p, const source *s) {
    const gr_hop *hop = &p->hop;
    int32_t at = 0;
    for (int32_t r = 0; r < s->rows.n; r++) {
        assert_int_equal(hop->copies_first[r], at);
        for (int32_t i = 0; i < hop->n_send; i++)
            if (hop->row_of_send[i] == r) assert_int_equal(hop->copies[at++], i);
    }
    assert_int_equal(hop->copies_first[s->rows.n], at);
}

static void check_unsent(const place *p, const source *s) {
    for (int32_t e = 0; e < s->first[s->rows.n]; e++)
        if (p->peer_of_slot[s->slot[e]] < 0) assert_int_equal(p->hop.send_of_entry[e], -1);
}

static void lists_of_random_rows_are_those_of_a_brute_force(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 400; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        place p = {0};
        source s = {0};
        bool per_expert = seed % 2;
        random_place(&rng, &p, per_expert);
        for (int round = 0; round < 3; round++) {       /* a hop is used again and again */
            random_source(&rng, &s);
            fill(&p, &s, (int32_t)gr_rng_below(&rng, (uint32_t)s.rows.n + 1));
            check_sends(&p, &s, per_expert, seed);
            check_copies(&p, &s);
            check_unsent(&p, &s);
        }
        gr_hop_free(&p.hop);
    }
}

static void a_row_goes_once_to_a_peer_however_many_of_its_experts_are_there(void **state) {
    (void)state;
    static const int32_t peer_of_rank[] = {0, 1, -1};
    const int32_t rank_of_slot[] = {0, 0, 1, 2};
    source s = {.first = {0, 4}, .slot = {0, 2, 1, 3}, .weight = {1, 2, 3, 4}};
    gr_hop hop;
    s.rows = (gr_rows){1, s.first, s.slot, s.weight};
    assert_int_equal(gr_hop_init(&hop, &four, peer_of_rank, false, 1, 4, 4, 4, 4), GRACE_OK);
    gr_hop_begin(&hop);
    gr_hop_count(&hop, &s.rows, rank_of_slot, 0, 1);
    gr_hop_fill(&hop, &s.rows, rank_of_slot);
    assert_int_equal(hop.send_rows[0], 1);
    assert_int_equal(hop.send_entries[0], 2);
    assert_int_equal(hop.send_rows[1], 1);
    assert_int_equal(hop.n_send_entries, 3);
    assert_int_equal(hop.send_of_entry[0], 0);
    assert_int_equal(hop.send_of_entry[2], 1);
    assert_int_equal(hop.send_of_entry[1], 2);
    assert_int_equal(hop.send_of_entry[3], -1);
    gr_hop_free(&hop);
}

/* ---- what arrives: over self, where what leaves comes back ---- */

typedef struct arrived { gr_rows rows; int32_t first[ENTRIES + 1], slot[ENTRIES]; float weight[ENTRIES]; } arrived;

static void exchange_lists(gr_hop *hop) {
    gr_request *request = NULL;
    assert_int_equal(gr_hop_counts_start(hop, &request), GRACE_OK);
    assert_int_equal(gr_comm_wait(hop->comm, request), GRACE_OK);
    assert_int_equal(gr_hop_counts_done(hop), GRACE_OK);
    assert_int_equal(gr_hop_lists_start(hop, &request), GRACE_OK);
    assert_int_equal(gr_comm_wait(hop->comm, request), GRACE_OK);
}

static void open_self(gr_comm **self, gr_hop *hop, source *s, const int32_t *rank_of_slot) {
    static const int32_t peer_of_rank[] = {0};
    assert_int_equal(gr_comm_self_open(self), GRACE_OK);
    assert_int_equal(gr_hop_init(hop, *self, peer_of_rank, false, ROWS, ENTRIES, ENTRIES, ENTRIES, ENTRIES), GRACE_OK);
    gr_hop_begin(hop);
    gr_hop_count(hop, &s->rows, rank_of_slot, 0, s->rows.n);
    gr_hop_fill(hop, &s->rows, rank_of_slot);
    exchange_lists(hop);
}

static void what_arrives_is_what_was_sent_behind_what_was_there(void **state) {
    (void)state;
    const int32_t rank_of_slot[SLOTS] = {0};
    for (uint64_t seed = 0; seed < 50; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        source s = {0};
        arrived a = {.first = {0, 1}, .slot = {77}, .weight = {0.25f}};
        gr_comm *self = NULL;
        gr_hop hop;
        do random_source(&rng, &s);
        while (s.first[s.rows.n] >= ENTRIES - 1);
        a.rows = (gr_rows){1, a.first, a.slot, a.weight};
        open_self(&self, &hop, &s, rank_of_slot);
        assert_int_equal(gr_hop_lists_parse(&hop, &a.rows), GRACE_OK);
        assert_int_equal(a.rows.n, 1 + hop.n_send);         /* rows without entries are not sent */
        assert_int_equal(a.slot[0], 77);
        for (int32_t i = 0; i < hop.n_send; i++) {
            int32_t row = hop.row_of_send[i], n = s.first[row + 1] - s.first[row];
            assert_int_equal(a.first[i + 2] - a.first[i + 1], n);
            assert_memory_equal(a.slot + a.first[i + 1], s.slot + s.first[row], (size_t)n * sizeof(int32_t));
            assert_memory_equal(a.weight + a.first[i + 1], s.weight + s.first[row], (size_t)n * sizeof(float));
        }
        gr_hop_free(&hop);
        grace_comm_close(self);
    }
}

/* Two rows of 1 and 2 entries; then the lists are damaged on the way. */
static void check_damaged(int32_t word, int32_t value, const char *message) {
    const int32_t rank_of_slot[SLOTS] = {0};
    source s = {.first = {0, 1, 3}, .slot = {0, 1, 2}, .weight = {1, 2, 3}};
    arrived a = {.first = {0}};
    gr_comm *self = NULL;
    gr_hop hop;
    s.rows = (gr_rows){2, s.first, s.slot, s.weight};
    a.rows = (gr_rows){0, a.first, a.slot, a.weight};
    open_self(&self, &hop, &s, rank_of_slot);
    hop.recv_words[word] = value;
    assert_int_equal(gr_hop_lists_parse(&hop, &a.rows), GRACE_ERR_COMM);
    if (strcmp(grace_last_error(), message) != 0) fail_msg("expected '%s', found '%s'", message, grace_last_error());
    gr_hop_free(&hop);
    grace_comm_close(self);
}

static void lists_that_contradict_the_counts_are_refused(void **state) {
    (void)state;
    check_damaged(0, 4, "row 0 of 2 arrived with 4 entries, at most 3 left");
    check_damaged(0, 0, "row 0 of 2 arrived with 0 entries, at most 3 left");
    check_damaged(0, -1, "row 0 of 2 arrived with -1 entries, at most 3 left");
    check_damaged(3, 3, "row 1 of 2 arrived with 3 entries, at most 2 left");
    check_damaged(3, 1, "3 entries announced, 2 arrived");
}

static void slots_that_do_not_belong_here_are_refused(void **state) {
    (void)state;
    check_damaged(1, -1, "slot -1 arrived, expected 0 to 2147483646");
    const int32_t rank_of_slot[SLOTS] = {0};
    source s = {.first = {0, 2}, .slot = {3, 5}, .weight = {1, 2}};
    gr_comm *self = NULL;
    gr_hop hop;
    s.rows = (gr_rows){1, s.first, s.slot, s.weight};
    open_self(&self, &hop, &s, rank_of_slot);
    for (int32_t to = 5; to <= 6; to++) {           /* this rank hosts [3, to) */
        arrived a = {.first = {0}};
        a.rows = (gr_rows){0, a.first, a.slot, a.weight};
        hop.slot_from = 3, hop.slot_to = to;
        assert_int_equal(gr_hop_lists_parse(&hop, &a.rows), to == 6 ? GRACE_OK : GRACE_ERR_COMM);
        if (to == 5) assert_string_equal(grace_last_error(), "slot 5 arrived, expected 3 to 4");
    }
    gr_hop_free(&hop);
    grace_comm_close(self);
}

static void counts_that_cannot_be_are_refused(void **state) {
    (void)state;
    static const int32_t peer_of_rank[] = {0};
    static const struct { int32_t rows, entries; } bad[] = {{-1, 0}, {3, 2}, {0, -1}, {5, 5}, {4, 9}, {INT32_MAX, INT32_MAX}};
    gr_comm *self = NULL;
    gr_hop hop;
    assert_int_equal(gr_comm_self_open(&self), GRACE_OK);
    assert_int_equal(gr_hop_init(&hop, self, peer_of_rank, false, 4, 8, 4, 4, 8), GRACE_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        hop.counts_in[0] = bad[i].rows, hop.counts_in[1] = bad[i].entries;
        assert_int_equal(gr_hop_counts_done(&hop), GRACE_ERR_COMM);
        assert_non_null(strstr(grace_last_error(), "there is room for 4 and 8"));
    }
    hop.counts_in[0] = 4, hop.counts_in[1] = 8;
    assert_int_equal(gr_hop_counts_done(&hop), GRACE_OK);
    gr_hop_free(&hop);
    grace_comm_close(self);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_of_random_rows_are_those_of_a_brute_force),
        cmocka_unit_test(a_row_goes_once_to_a_peer_however_many_of_its_experts_are_there),
        cmocka_unit_test(what_arrives_is_what_was_sent_behind_what_was_there),
        cmocka_unit_test(lists_that_contradict_the_counts_are_refused),
        cmocka_unit_test(slots_that_do_not_belong_here_are_refused),
        cmocka_unit_test(counts_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
