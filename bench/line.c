/* What lines (comm/line.h) carry between two ranks, without GPUs: threads fill boxes and await flags in their place. One JSON line a case, by rank 0:
 * payload one way (gb_s), a message after the other (us: until it is there and the peer's has come), and CPU seconds of both threads of each lane for a
 * gigabyte sent (cpu_s_gb: of this rank, which receives as much where ways is 2).
 *
 *     bench/nodes.sh --rate 25gbit --gpus 0 -- build/release/bench_line [BYTES...]       over a link; ranks find each other as those of the engine do */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "comm/line.h"

enum { LANES = 2, BYTES_MAX = 10 << 20, LOOKS = 200, PAGE = 4096 };
static const double deadline_s = 30, span_us = 6e5;

typedef struct player {
    gr_line_lane *lane;
    const gr_line *line;
    uint32_t done;                      /* rounds */
    int32_t n_rounds;
    int64_t n_bytes;
    double cpu_s;
    grace_status st;
    pthread_t thread;
} player;

typedef struct bench {
    gr_comm *world;
    gr_line_lane lanes[LANES];
    gr_line_box boxes[LANES][GR_LINE_WAYS][2];      /* out, in */
    volatile int32_t stop;
    gr_line *line;
    player players[LANES];
} bench;

/* ---- in place of a GPU ---- */

static void post(const gr_line_box *box, uint32_t number, int64_t n_bytes) {
    box->head->n_bytes = n_bytes;
    atomic_store_explicit((_Atomic uint32_t *)&box->head->number, number, memory_order_release);
}

static grace_status await(const player *p, const gr_line_box *box, uint32_t number) {
    for (int64_t looks = 0; atomic_load_explicit((_Atomic uint32_t *)&box->head->number, memory_order_acquire) != number; looks++) {
        if (looks < LOOKS) continue;
        nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL);
        if (gr_line_check(p->line)) return GRACE_ERR_COMM;
    }
    return GRACE_OK;
}

static double cpu_s(int who) {
    struct rusage u;
    getrusage(who, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void *play(void *user) {
    player *p = user;
    (void)prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    for (int32_t i = 0; i < p->n_rounds && !p->st; i++, p->done++)
        for (int way = 0; way < GR_LINE_WAYS && !p->st; way++) {
            post(&p->lane->out[way][0], p->done + 1, p->n_bytes);
            p->st = await(p, &p->lane->in[way][0], p->done + 1);
        }
    p->cpu_s = cpu_s(RUSAGE_THREAD);
    return NULL;
}

/* ---- cases ---- */

typedef struct result { double us, cpu_s; } result;

static grace_status run(bench *b, int32_t n_lanes, int64_t n_bytes, int32_t n_rounds, result *out) {
    grace_status st = GRACE_OK;
    GR_TRY(grace_comm_agree(b->world, GRACE_OK));       /* both begin together */
    const double start_us = gr_now_us(), start_cpu_s = cpu_s(RUSAGE_SELF);
    for (int32_t i = 0; i < n_lanes; i++) {
        b->players[i].n_rounds = n_rounds, b->players[i].n_bytes = n_bytes;
        GR_ASSERT(pthread_create(&b->players[i].thread, NULL, play, &b->players[i]) == 0);
    }
    for (int32_t i = 0; i < n_lanes; i++) pthread_join(b->players[i].thread, NULL);
    *out = (result){gr_now_us() - start_us, cpu_s(RUSAGE_SELF) - start_cpu_s};
    for (int32_t i = 0; i < n_lanes; i++) out->cpu_s -= b->players[i].cpu_s;
    GR_TRY(gr_line_check(b->line));
done:
    return st;
}

/* As many rounds as take a while, which rank 0 decides. */
static grace_status measure(bench *b, int32_t n_lanes, int64_t n_bytes, int32_t ways) {
    grace_status st = GRACE_OK;
    const int64_t mine = ways == 2 || b->world->rank == 0 ? n_bytes : 0;
    int64_t n_rounds = n_bytes > 1000000 ? 4 : 40;
    result r;
    GR_TRY(run(b, n_lanes, mine, (int32_t)n_rounds, &r));
    n_rounds = b->world->rank == 0 ? (int64_t)(span_us / r.us * (double)n_rounds) + 1 : 0;
    GR_TRY(gr_comm_allreduce(b->world, &n_rounds, 1, GR_MAX));
    GR_TRY(run(b, n_lanes, mine, (int32_t)n_rounds, &r));
    const double n = (double)GR_LINE_WAYS * (double)n_rounds, gb = 1e-9 * n * n_lanes * (double)n_bytes;
    if (b->world->rank == 0)
        printf("{\"bench\":\"line\",\"lanes\":%d,\"bytes\":%lld,\"ways\":%d,\"rounds\":%lld,\"us\":%.1f,\"gb_s\":%.4f,\"cpu_s_gb\":%.3f}\n", n_lanes,
               (long long)n_bytes, ways, (long long)n_rounds, r.us / n, gb / (1e-6 * r.us), r.cpu_s / gb);
    fflush(stdout);
done:
    return st;
}

static grace_status measure_all(bench *b, char **sizes) {
    grace_status st = GRACE_OK;
    for (int32_t n_lanes = 1; n_lanes <= LANES; n_lanes++)
        for (int32_t ways = 1; ways <= 2; ways++)
            for (char **size = sizes; *size; size++) GR_TRY(measure(b, n_lanes, atoll(*size), ways));
done:
    return st;
}

static grace_status check_sizes(char **sizes) {
    grace_status st = GRACE_OK;
    for (; *sizes; sizes++)
        GR_CHECK(atoll(*sizes) > 0 && atoll(*sizes) <= BYTES_MAX, GRACE_ERR_ARG, "expected sizes up to %d bytes, found '%s'", BYTES_MAX, *sizes);
done:
    return st;
}

/* ---- lines ---- */

static grace_status open_line(bench *b) {
    grace_status st = GRACE_OK;
    const int32_t peer = 1 - b->world->rank;
    GR_CHECK(b->world->n_ranks == 2, GRACE_ERR_ARG, "expected 2 ranks, found %d", b->world->n_ranks);
    for (int32_t i = 0; i < LANES * GR_LINE_WAYS * 2; i++) {
        gr_line_box *box = &b->boxes[i / 4][i / 2 % 2][i % 2];
        box->head = aligned_alloc(PAGE, PAGE + BYTES_MAX);
        GR_CHECK(box->head, GRACE_ERR_MEMORY, "no memory for a box");
        memset(box->head, 0, PAGE + BYTES_MAX);
        gr_line_lane *lane = &b->lanes[i / 4];
        lane->room[i / 2 % 2] = (gr_line_room){BYTES_MAX, 1, 1};
        (i % 2 ? lane->in : lane->out)[i / 2 % 2] = box;
    }
    const gr_line_options opt = {&peer, 1, LANES, b->lanes, deadline_s, &b->stop};
    GR_TRY(gr_line_open(b->world, &opt, &b->line));
    for (int32_t i = 0; i < LANES; i++) b->players[i] = (player){.lane = &b->lanes[i], .line = b->line};
done:
    return st;
}

int main(int argc, char **argv) {
    grace_status st = GRACE_OK;
    static char *usual[] = {"64", "65536", "262144", "1048576", "5000000", "10000000", NULL};
    bench b = {0};
    GR_TRY(check_sizes(argv + 1));
    GR_TRY(grace_comm_open(GRACE_TRANSPORT_AUTO, 0, deadline_s, &b.world));
    GR_TRY(open_line(&b));
    GR_TRY(measure_all(&b, argc > 1 ? argv + 1 : usual));
done:
    if (st) fprintf(stderr, "%s\n", grace_last_error());
    gr_line_close(b.line, st == GRACE_OK);
    for (int32_t i = 0; i < LANES * GR_LINE_WAYS * 2; i++) free(b.boxes[i / 4][i / 2 % 2][i % 2].head);
    grace_comm_close(b.world);
    return st != GRACE_OK;
}
