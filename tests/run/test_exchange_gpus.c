/* The exchange between GPUs, all that is the host's of it, on 1x3, 1x4, 2x2, 3x1, 4x1 and 2x4 ranks without a GPU: a process a rank over tcp, memory
 * and kernels by support/fake_gpu.h, lines and staged wires as they are. Rows of small integers come home with the sums of their experts whatever the
 * plan, exchange, wire and number of rows; rows and loads are counted as they must be; memory is what was announced; what fails on one rank while it
 * opens fails on all, and leaves nothing behind. */
#include "comm/job.h"

#include "base/half.h"
#include "base/rng.h"
#include "comm/line.h"
#include "run/exchange.h"
#include "support/fake_gpu.h"
#include "support/naive_count.h"
#include "support/random_plan.h"

enum { LAYERS = 2, EXPERTS = 12, TOP_K = 3, HIDDEN = 128, ROWS_MOST = 576, STEPS = 6 };
static const size_t memory_each = (size_t)128 << 20;
static const char *const kinds[] = {"per-expert", "flat", "hsc"};
static const grace_cluster clusters[] = {{1, 3}, {1, 4}, {2, 2}, {3, 1}, {4, 1}, {2, 4}};
static grace_cluster cluster;           /* of the job under way */

/* ---- a case: what every rank knows ---- */

typedef struct scene {
    gr_comm *comm;
    grace_plan *plan;
    gr_exchange_options opt;
    gr_exchange *ex;
    naive_count expected;
    int64_t load[GR_FLIGHTS][LAYERS];   /* pairs of this rank in the steps under way */
    int64_t parts, blocks;              /* of all steps: parts, and the most rows of a rank in each */
    uint64_t seed;
} scene;

static void name_fake(const gr_comm *c, grace_exchange kind) {
    const int32_t g = c->gpus_per_node, blocks = kind == GRACE_EXCHANGE_HSC ? c->n_ranks : g * (1 + c->n_ranks - g);
    fake.rank = fake.gpu = c->rank, fake.node = gr_comm_node(c, c->rank);
    fake.choices_max = (int64_t)blocks * ROWS_MOST * TOP_K;
}

static int32_t most_slots(const grace_plan *plan, int32_t rank) {
    int32_t most = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) {
        const int32_t n = plan->layers[l].first_slot[rank + 1] - plan->layers[l].first_slot[rank];
        most = n > most ? n : most;
    }
    return most;
}

/* Of a copy an expert there are fewer rows: their memory is the same. */
static scene scene_new(gr_comm *c, grace_exchange kind, bool exact, const char *wire, uint64_t seed) {
    gr_rng rng = gr_rng_seed(seed);
    const gr_random_plan_options shape = {LAYERS, EXPERTS, TOP_K, grace_comm_cluster(c), gr_rng_uniform(&rng) * 0.6, gr_rng_below(&rng, 2) ? 0.4 : 0};
    scene s = {.comm = c, .seed = seed, .plan = gr_random_plan(&shape, &rng)};
    s.opt = (gr_exchange_options){.kind = kind, .exact = exact, .n_rows_max = kind == GRACE_EXCHANGE_PER_EXPERT ? ROWS_MOST / TOP_K : ROWS_MOST,
                                  .n_slots_max = most_slots(s.plan, c->rank), .top_k = TOP_K, .hidden = HIDDEN, .plan = s.plan, .wire = wire,
                                  .compress = seed % 2, .turns_from = seed / 2 % 2 ? 20 : 0};
    s.expected = naive_count_new(grace_comm_cluster(c), kind, exact);
    name_fake(c, kind);
    return s;
}

static void scene_free(scene *s) {
    gr_exchange_close(s->ex);
    naive_count_free(&s->expected);
    grace_plan_free(s->plan);
}

/* ---- a step: rows of all ranks, so that each knows what all send ---- */

static uint16_t bf16_of(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* Integers so small that every sum is exact in bf16. */
static float value_of(int32_t rank, int32_t row, int32_t h) { return (float)((rank + 3 * row + 5 * h) % 3); }
static float residual_of(int32_t row, int32_t h) { return (float)((row + h) % 4); }
static float result_of(int32_t expert, float value) { return value * (float)(expert + 1); }

typedef struct choice { int32_t slot[TOP_K]; float weight[TOP_K]; } choice;

static choice choose(const grace_plan_layer *pl, gr_rng *rng) {
    choice c;
    int32_t experts[EXPERTS];
    for (int32_t e = 0; e < EXPERTS; e++) experts[e] = e;
    gr_random_shuffle(rng, experts, EXPERTS);
    for (int32_t j = 0; j < TOP_K; j++) {
        const int32_t first = pl->slots_first[experts[j]], n = pl->slots_first[experts[j] + 1] - first;
        c.slot[j] = pl->slots_of_expert[first + (int32_t)gr_rng_below(rng, (uint32_t)n)];
        c.weight[j] = gr_rng_below(rng, 2) ? 1 : 0.5f;
    }
    return c;
}

typedef struct step_rows { int32_t n, n_most; choice *choice[LAYERS]; int32_t *slot; float *weight; uint16_t *y; } step_rows;

static void count_choice(scene *s, const grace_plan_layer *pl, int64_t *load, int32_t rank, const choice *c) {
    int32_t rank_of_choice[TOP_K];
    for (int32_t j = 0; j < TOP_K; j++) {
        rank_of_choice[j] = pl->rank_of_slot[c->slot[j]];
        *load += rank_of_choice[j] == s->comm->rank;
    }
    naive_count_token(&s->expected, rank, rank_of_choice, TOP_K);
}

/* How many rows a rank brings: often none, odd numbers, all there is room for. */
static int32_t rows_of_rank(gr_rng *rng, int32_t most) {
    const uint32_t how = gr_rng_below(rng, 4);
    return how == 0 ? 0 : how == 1 ? most : 1 + (int32_t)gr_rng_below(rng, (uint32_t)most);
}

static step_rows step_new(scene *s, int32_t step) {
    const int32_t sizes[STEPS] = {s->opt.n_rows_max, 1, 7, 40, s->opt.n_rows_max - 1, 3}, most = sizes[step];
    gr_rng rng = gr_rng_seed(s->seed * 100 + (uint64_t)step);
    step_rows r = {.n_most = most};
    memset(s->load[step % GR_FLIGHTS], 0, sizeof s->load[0]);
    for (int32_t l = 0; l < LAYERS; l++) assert_non_null(r.choice[l] = calloc((size_t)most, sizeof(choice)));
    for (int32_t rank = 0; rank < s->comm->n_ranks; rank++) {
        const int32_t n = rows_of_rank(&rng, most);
        if (rank == s->comm->rank) r.n = n;
        for (int32_t i = 0; i < n * LAYERS; i++) {
            const grace_plan_layer *pl = &s->plan->layers[i / n];
            const choice c = choose(pl, &rng);
            count_choice(s, pl, &s->load[step % GR_FLIGHTS][i / n], rank, &c);
            if (rank == s->comm->rank) r.choice[i / n][i % n] = c;
        }
    }
    r.slot = calloc((size_t)most * TOP_K, sizeof *r.slot), r.weight = calloc((size_t)most * TOP_K, sizeof *r.weight);
    r.y = calloc((size_t)most * HIDDEN, sizeof *r.y);
    assert_true(r.slot && r.weight && r.y);
    return r;
}

static void step_free(step_rows *r) {
    for (int32_t l = 0; l < LAYERS; l++) free(r->choice[l]);
    free(r->slot), free(r->weight), free(r->y);
}

/* ---- layers, as run/network.c goes through them ---- */

/* Rows [first, end) of a part: where the exchange sends them from, and their choices. */
static grace_status route(scene *s, step_rows *r, int32_t layer, int32_t first, int32_t end) {
    const grace_plan_layer *pl = &s->plan->layers[layer];
    uint16_t *rows = gr_exchange_rows(s->ex);
    for (int32_t i = first; i < end; i++) {
        for (int32_t h = 0; h < HIDDEN; h++) {
            rows[(size_t)(i - first) * HIDDEN + (size_t)h] = bf16_of(value_of(s->comm->rank, i, h));
            r->y[(size_t)i * HIDDEN + (size_t)h] = bf16_of(residual_of(i, h));
        }
        memcpy(r->slot + i * TOP_K, r->choice[layer][i].slot, sizeof r->choice[layer][i].slot);
        memcpy(r->weight + i * TOP_K, r->choice[layer][i].weight, sizeof r->choice[layer][i].weight);
    }
    const int32_t me = s->comm->rank;
    return gr_exchange_build(s->ex, &(gr_route){.layer = layer, .n_rows = end - first, .slot = r->slot + first * TOP_K, .weight = r->weight + first * TOP_K,
                                                .rank_of_slot = pl->rank_of_slot, .n_slots_all = pl->n_slots, .first_slot = pl->first_slot[me],
                                                .n_slots = pl->first_slot[me + 1] - pl->first_slot[me]});
}

static void run_experts(const scene *s, int32_t layer, const gr_arrived *a) {
    const grace_plan_layer *pl = &s->plan->layers[layer];
    const gr_cuda_pairs *p = &a->pairs->pairs;
    uint16_t *results = a->results;
    assert_true(p->first_pair[p->n_slots] <= s->opt.n_rows_max * TOP_K * s->comm->n_ranks);
    for (int32_t slot = 0; slot < p->n_slots; slot++)
        for (int32_t i = p->first_pair[slot]; i < p->first_pair[slot + 1]; i++)
            for (int32_t h = 0; h < HIDDEN; h++) {
                const float v = gr_float_of_bf16(((const uint16_t *)a->rows)[(size_t)p->row_of_pair[i] * HIDDEN + (size_t)h]);
                results[(size_t)i * HIDDEN + (size_t)h] = bf16_of(result_of(pl->expert_of_slot[pl->first_slot[s->comm->rank] + slot], v));
            }
}

static grace_status compute(scene *s, int32_t layer) {
    grace_status st = GRACE_OK;
    gr_arrived arrived;
    GR_TRY(gr_exchange_dispatch_start(s->ex));
    GR_TRY(gr_exchange_dispatch_finish(s->ex, &arrived));
    run_experts(s, layer, &arrived);
    GR_TRY(gr_exchange_give_back(s->ex));
done:
    return st;
}

static void check_home(const scene *s, const step_rows *r, int32_t layer, int32_t first, int32_t end) {
    const grace_plan_layer *pl = &s->plan->layers[layer];
    for (int32_t i = first; i < end && !fake.gave_up; i++)
        for (int32_t h = 0; h < HIDDEN; h++) {
            float expected = residual_of(i, h);
            const float found = gr_float_of_bf16(r->y[(size_t)i * HIDDEN + (size_t)h]);
            for (int32_t j = 0; j < TOP_K; j++) {
                const choice *c = &r->choice[layer][i];
                expected += c->weight[j] * result_of(pl->expert_of_slot[c->slot[j]], value_of(s->comm->rank, i, h));
            }
            if (expected == found) continue;
            fprintf(stderr, "seed %llu, %d rows of %d, layer %d, row %d, value %d: expected %g, found %g\n", (unsigned long long)s->seed, r->n, r->n_most,
                    layer, i, h, (double)expected, (double)found);
            exit(2);
        }
}

/* A layer's end and the next one's beginning, part by part; then the experts of each. */
static grace_status run_layer(scene *s, step_rows *r, int32_t layer, int32_t n_parts) {
    grace_status st = GRACE_OK;
    const int32_t begin[GR_PARTS_MAX + 1] = {0, n_parts > 1 ? r->n / 2 : r->n, r->n};
    for (int32_t i = 0; i < n_parts; i++) {
        gr_exchange_turn(s->ex, i);
        if (layer > 0) {
            GR_TRY(gr_exchange_combine(s->ex, r->y + (size_t)begin[i] * HIDDEN));
            check_home(s, r, layer - 1, begin[i], begin[i + 1]);
        }
        if (layer < LAYERS) GR_TRY(route(s, r, layer, begin[i], begin[i + 1]));
    }
    for (int32_t i = 0; i < n_parts && layer < LAYERS; i++) {
        gr_exchange_turn(s->ex, i);
        GR_TRY(compute(s, layer));
    }
done:
    return st;
}

/* The end of a step is read: loads, and what it adds to the counts. */
static grace_status land(scene *s, int32_t step) {
    grace_status st = GRACE_OK;
    const gr_exchange_step end = {.n_layers = LAYERS, .flight = step % GR_FLIGHTS};
    int64_t load[LAYERS] = {0};
    GR_TRY(gr_exchange_step_done(s->ex, &end, load));
    for (int32_t l = 0; l < LAYERS; l++)
        GR_CHECK(load[l] == s->load[step % GR_FLIGHTS][l], GRACE_ERR_ARG, "pairs of step %d, layer %d: expected %lld, found %lld", step, l,
                 (long long)s->load[step % GR_FLIGHTS][l], (long long)load[l]);
done:
    return st;
}

/* Where steps may be queued, each is landed behind the next, and nothing but its rows keeps ranks together. */
static grace_status run_step(scene *s, int32_t step) {
    grace_status st = GRACE_OK;
    const gr_exchange_step end = {.n_layers = LAYERS, .flight = step % GR_FLIGHTS};
    const bool queues = gr_exchange_queues(s->ex);
    step_rows r = step_new(s, step);
    const int32_t n_parts = gr_exchange_step_start(s->ex, r.n_most, GR_PARTS_MAX);
    s->parts += n_parts, s->blocks += n_parts > 1 ? 2 * gr_part_rows_most(r.n_most) : r.n_most;
    for (int32_t l = 0; l <= LAYERS; l++) GR_TRY(run_layer(s, &r, l, n_parts));
    GR_TRY(gr_exchange_step_end(s->ex, &end));
    if (queues && step > 0) GR_TRY(land(s, step - 1));
    if (!queues || step == STEPS - 1) GR_TRY(land(s, step));
    if (!queues) GR_TRY(grace_comm_agree(s->comm, GRACE_OK));
done:
    step_free(&r);
    return st;
}

/* ---- numbers ---- */

static grace_status check_rows(const scene *s) {
    grace_status st = GRACE_OK;
    grace_link_count there[GRACE_N_STAGES][GRACE_N_LINKS] = {0}, back[GRACE_N_STAGES][GRACE_N_LINKS] = {0};
    const gr_exchange_counts *found = gr_exchange_counts_of(s->ex);
    naive_links(&s->expected, s->comm->rank, HIDDEN, there, back);
    for (int stage = 0; stage < GRACE_N_STAGES; stage++)
        for (int link = 0; link < GRACE_N_LINKS; link++)
            GR_CHECK(there[stage][link].rows == found->dispatch[stage][link].rows && back[stage][link].rows == found->combine[stage][link].rows, GRACE_ERR_ARG,
                     "rows of stage %d over link %d, there and back: expected %lld, %lld, found %lld, %lld", stage, link, (long long)there[stage][link].rows,
                     (long long)back[stage][link].rows, (long long)found->dispatch[stage][link].rows, (long long)found->combine[stage][link].rows);
    for (int32_t r = 0; r < s->comm->n_ranks; r++)
        GR_CHECK(naive_pair_rows(&s->expected, s->comm->rank, r) == found->pair_rows[r], GRACE_ERR_ARG, "rows to rank %d: expected %lld, found %lld", r,
                 (long long)naive_pair_rows(&s->expected, s->comm->rank, r), (long long)found->pair_rows[r]);
done:
    return st;
}

static int64_t beside_rows(const grace_link_count *c) { return c->bytes_wire - c->bytes_payload; }

/* In a node headers travel of whole blocks; over lines, unless rows are packed, those of rows, and a frame a message. */
static grace_status check_bytes(const scene *s) {
    grace_status st = GRACE_OK;
    const gr_comm *c = s->comm;
    const grace_link_count(*d)[GRACE_N_LINKS] = gr_exchange_counts_of(s->ex)->dispatch;
    const int fan = s->opt.kind == GRACE_EXCHANGE_PER_EXPERT ? TOP_K : 1;
    const int n_wires = s->opt.kind == GRACE_EXCHANGE_HSC ? c->n_nodes - 1 : c->n_ranks - c->gpus_per_node;
    const int64_t header = TOP_K / fan * (int64_t)(sizeof(int32_t) + sizeof(float));
    const int stage = s->opt.kind == GRACE_EXCHANGE_HSC && c->n_nodes > 1 ? GRACE_STAGE_CROSS : GRACE_STAGE_NODE;
    const int64_t node = beside_rows(&d[GRACE_STAGE_NODE][GRACE_LINK_SELF]) + beside_rows(&d[GRACE_STAGE_NODE][GRACE_LINK_INTRA]);
    const int64_t node_expected = c->gpus_per_node * LAYERS * s->blocks * fan * (1 + n_wires) * header;
    const int64_t cross = beside_rows(&d[stage][GRACE_LINK_CROSS]);
    const int64_t cross_expected = d[stage][GRACE_LINK_CROSS].rows * header + n_wires * LAYERS * s->parts * GR_LINE_FRAME_BYTES;
    GR_CHECK(node == node_expected, GRACE_ERR_ARG, "headers in the node: expected %lld bytes, found %lld", (long long)node_expected, (long long)node);
    GR_CHECK(s->opt.compress || strcmp(s->opt.wire, "sockets") != 0 || cross == cross_expected, GRACE_ERR_ARG,
             "headers and frames between nodes: expected %lld bytes, found %lld", (long long)cross_expected, (long long)cross);
done:
    return st;
}

/* What was announced, and the rest of a block that a handle opens. */
static grace_status check_memory(const scene *s) {
    grace_status st = GRACE_OK;
    int64_t announced;
    GR_TRY(gr_exchange_memory(s->comm, fake_compute(), &s->opt, &announced));
    GR_CHECK(fake.device_bytes >= announced && fake.device_bytes < announced + (2 << 20), GRACE_ERR_ARG, "memory: announced %lld bytes, taken %lld",
             (long long)announced, (long long)fake.device_bytes);
done:
    return st;
}

static grace_status check_left(const char *when) {
    grace_status st = GRACE_OK;
    GR_CHECK(fake.n_live == 0 && fake.device_bytes == 0, GRACE_ERR_ARG, "%s: %d things of CUDA are left, %lld bytes", when, fake.n_live,
             (long long)fake.device_bytes);
done:
    return st;
}

/* ---- claims ---- */

static grace_status run_case(gr_comm *c, grace_exchange kind, bool exact, const char *wire, uint64_t seed) {
    grace_status st = GRACE_OK;
    scene s = scene_new(c, kind, exact, wire, seed);
    GR_TRY(gr_exchange_open(c, fake_compute(), &s.opt, &s.ex));
    GR_TRY(check_memory(&s));
    for (int32_t i = 0; i < STEPS; i++) GR_TRY(run_step(&s, i));
    GR_TRY(check_rows(&s));
    GR_TRY(check_bytes(&s));
done:
    scene_free(&s);
    if (!st) st = check_left("closed");
    GR_ASSERT(st || fake_gpu_freed_open() == 0);
    if (st) gr_fail_in(st, "rank %d of %dx%d, %s, %s, %s, seed %llu", c->rank, c->n_nodes, c->gpus_per_node, kinds[kind], exact ? "exact" : "fast", wire,
                       (unsigned long long)seed);
    return st;
}

/* Each wire with every way of turns and packing, over all clusters. */
static grace_status exchange_all(gr_comm *c) {
    grace_status st = GRACE_OK;
    uint64_t seed = (uint64_t)(100 * c->n_nodes + c->gpus_per_node);
    for (int kind = GRACE_EXCHANGE_PER_EXPERT; kind <= GRACE_EXCHANGE_HSC; kind++)
        for (int exact = 0; exact < 2; exact++)
            for (int wire = 0; wire < (c->n_nodes > 1 ? 2 : 1); wire++) GR_TRY(run_case(c, (grace_exchange)kind, exact, wire ? "staged" : "sockets", seed++));
done:
    return st;
}

static job start_cluster(act what, double deadline_s) {
    job j = new_job();
    char host[16];
    fake_gpus_open(grace_cluster_ranks(cluster), memory_each);
    for (int r = 0; r < grace_cluster_ranks(cluster); r++) {
        snprintf(host, sizeof host, "node%d", r / cluster.gpus_per_node);
        start_on(&j, r, grace_cluster_ranks(cluster), host, deadline_s, what);
    }
    fake_gpus_close();                  /* here: the ranks have it */
    return j;
}

static void on_every_cluster(act what) {
    for (size_t i = 0; i < sizeof clusters / sizeof *clusters; i++) {
        cluster = clusters[i];
        job j = start_cluster(what, far_s);
        end_all(&j);
        ended_well(&j);
    }
}

static void rows_come_home_and_are_counted_on_every_cluster(void **state) {
    (void)state;
    on_every_cluster(exchange_all);
}

/* Each call in turn that may lack memory fails, on a rank that changes with it, until one opening needs no more calls. */
static grace_status fail_in_turn(gr_comm *c) {
    grace_status st = GRACE_OK;
    int64_t most = 0;
    scene s = scene_new(c, GRACE_EXCHANGE_HSC, false, "sockets", 3);
    GR_TRY(gr_exchange_open(c, fake_compute(), &s.opt, &s.ex));
    most = fake.n_calls;
    gr_exchange_close(s.ex);
    s.ex = NULL;
    GR_TRY(gr_comm_allreduce(c, &most, 1, GR_MAX));
    for (int32_t call = 1; call <= most; call++) {
        int64_t failed = 0;
        fake.n_calls = 0, fake.fails_at = c->rank == call % c->n_ranks ? call : 0;
        const grace_status opened = gr_exchange_open(c, fake_compute(), &s.opt, &s.ex);
        failed = fake.fails_at > 0 && fake.n_calls >= fake.fails_at;
        gr_exchange_close(s.ex);
        s.ex = NULL;
        GR_TRY(gr_comm_allreduce(c, &failed, 1, GR_MAX));
        GR_CHECK(failed ? opened == GRACE_ERR_MEMORY : opened == GRACE_OK, GRACE_ERR_ARG, "rank %d: call %d of rank %d: opening gave %d", c->rank, call,
                 call % c->n_ranks, (int)opened);
        char name[32];
        snprintf(name, sizeof name, "rank %d: ", call % c->n_ranks);
        GR_CHECK(!failed || strstr(grace_last_error(), name), GRACE_ERR_ARG, "call %d: nobody named %s'%s'", call, name, grace_last_error());
        GR_TRY(check_left("failed"));
    }
    fake.fails_at = 0;
    (void)fake_gpu_freed_open();        /* where opening failed the ranks do not meet before they free */
    GR_TRY(run_case(c, GRACE_EXCHANGE_HSC, false, "sockets", 3));       /* the ranks are still together */
done:
    scene_free(&s);
    return st;
}

static void what_one_rank_cannot_open_fails_on_all_and_leaves_nothing(void **state) {
    (void)state;
    on_every_cluster(fail_in_turn);
}

/* Ranks that share a GPU: none in nodes of several; single ones over host memory. */
static grace_status share(gr_comm *c) {
    grace_status st = GRACE_OK;
    scene s = scene_new(c, GRACE_EXCHANGE_HSC, false, "auto", 5);
    fake.gpu = c->rank / 2;
    const grace_status opened = gr_exchange_open(c, fake_compute(), &s.opt, &s.ex);
    if (c->gpus_per_node > 1) GR_CHECK(opened == GRACE_ERR_UNSUPPORTED && strstr(grace_last_error(), "ranks 0 and 1 share a GPU"), GRACE_ERR_ARG,
                                       "shared in a node: opening gave %d, '%s'", (int)opened, grace_last_error());
    else GR_TRY(opened);
    for (int32_t i = 0; i < STEPS && s.ex; i++) GR_TRY(run_step(&s, i));
    if (s.ex) GR_CHECK(gr_exchange_waits(s.ex), GRACE_ERR_ARG, "shared GPUs: expected a wire at which hosts wait");
done:
    scene_free(&s);
    return st;
}

static void ranks_share_a_gpu_where_each_is_a_node(void **state) {
    (void)state;
    on_every_cluster(share);
}

/* The last rank leaves out a step, and stays longer than the others wait. */
enum { PATIENCE_S = 4, STAY_S = 6 };

static grace_status stay_away(gr_comm *c) {
    grace_status st = GRACE_OK;
    scene s = scene_new(c, GRACE_EXCHANGE_HSC, false, "sockets", 8);
    GR_TRY(gr_exchange_open(c, fake_compute(), &s.opt, &s.ex));
    GR_TRY(run_step(&s, 0));
    if (c->rank == c->n_ranks - 1) sleep(STAY_S);
    else GR_TRY(run_step(&s, 1));
done:
    scene_free(&s);
    return st;
}

static void a_rank_that_does_not_come_ends_the_others(void **state) {
    (void)state;
    const grace_cluster of_four[] = {{1, 4}, {2, 2}, {4, 1}};
    job jobs[3];
    for (int i = 0; i < 3; i++) {
        cluster = of_four[i];
        jobs[i] = start_cluster(stay_away, PATIENCE_S);
    }
    for (int i = 0; i < 3; i++) {
        end_all(&jobs[i]);
        for (int r = 0; r < 3; r++) {
            ended(&jobs[i], r, 1, "of MoE layer 0");
            if (of_four[i].n_nodes == 1) ended(&jobs[i], r, 1, "nothing came from rank 3");     /* between nodes some wait for one that waits for it */
        }
        ended(&jobs[i], 3, 0, "");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_home_and_are_counted_on_every_cluster),
        cmocka_unit_test(what_one_rank_cannot_open_fails_on_all_and_leaves_nothing),
        cmocka_unit_test(ranks_share_a_gpu_where_each_is_a_node),
        cmocka_unit_test(a_rank_that_does_not_come_ends_the_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
