/* Policy joint on a GPU (compute/cuda/joint.cu) gives the slots of gr_joint_place() on the host, behind the kernel that places choice by choice: any plan,
 * phase, home, number of choices and rows, one by one and replayed; padding stays. Without a GPU it says "skipped". */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "compute/cuda/joint.h"
#include "compute/cuda/trace_gate.h"
#include "cuda/device.h"
#include "plan/phases.h"
#include "run/joint.h"
#include "run/router.h"
#include "support/random_plan.h"

enum { LAYER = 1 };     /* of two */

/* Rows with their experts, and the tables of a rank; d_ there. */
typedef struct scene {
    grace_plan *plan, *decode;
    gr_router *router;
    int32_t n_rows, top_k;
    uint16_t *experts;                      /* [n_rows, top_k] */
    int32_t *sequence, *position, *recorded;    /* [n_rows] the last is the row itself, or below 0: padding */
    int32_t *slots[2];                      /* [n_rows, top_k] as each by itself and as all together are placed here */
    int32_t *d_tables, *d_ids;
    float *d_weights;
    gr_joint_tables tables;
    gr_recorded choices;
    gr_place place;
    gr_step_rows rows;
} scene;

static int n_failed;

static void draw_experts(gr_rng *rng, int32_t n_experts, int32_t top_k, uint16_t *experts) {
    bool taken[256] = {false};
    for (int32_t j = 0; j < top_k; j++) {
        do experts[j] = (uint16_t)gr_rng_below(rng, (uint32_t)n_experts);
        while (taken[experts[j]]);
        taken[experts[j]] = true;
    }
}

static void draw_rows(scene *s, int32_t n_experts, gr_rng *rng) {
    const size_t n = (size_t)s->n_rows + 1;
    s->experts = malloc(n * (size_t)s->top_k * 2);
    s->sequence = malloc(n * 4), s->position = malloc(n * 4), s->recorded = malloc(n * 4);
    for (int32_t i = 0; i < s->n_rows; i++) {
        draw_experts(rng, n_experts, s->top_k, s->experts + (size_t)i * (size_t)s->top_k);
        s->sequence[i] = (int32_t)gr_rng_below(rng, 1000), s->position[i] = (int32_t)gr_rng_below(rng, 4096);
        s->recorded[i] = gr_rng_below(rng, 6) == 0 ? -1 : i;
    }
}

/* What the host places. */
static void place_here(scene *s) {
    const size_t n = (size_t)s->n_rows * (size_t)s->top_k;
    for (int how = 0; how < 2; how++) s->slots[how] = malloc(n * 4 + 4);
    for (int32_t i = 0; i < s->n_rows; i++) {
        int32_t ids[GR_CUDA_JOINT_TOP_K_MAX], *slots[2] = {s->slots[0] + (size_t)i * (size_t)s->top_k, s->slots[1] + (size_t)i * (size_t)s->top_k};
        for (int32_t j = 0; j < s->top_k; j++) {
            ids[j] = s->experts[(size_t)i * (size_t)s->top_k + (size_t)j];
            slots[0][j] = s->recorded[i] < 0 ? -1 : gr_router_pick(s->router, LAYER, ids[j], gr_router_turn(s->sequence[i], LAYER, ids[j], s->position[i]));
            slots[1][j] = slots[0][j];
        }
        if (s->recorded[i] >= 0) gr_joint_place(&s->router->joint, LAYER, s->top_k, ids, s->sequence[i], s->position[i], slots[1]);
    }
}

static void send(scene *s) {
    const gr_router *r = s->router;
    const size_t n = (size_t)s->n_rows, choices = n * (size_t)s->top_k, picks = (size_t)r->n_experts * GR_TURNS;
    s->d_tables = to_device(r->joint.tables, r->joint.first[r->n_layers] * sizeof(int32_t));
    s->d_ids = to_device(NULL, choices * 4), s->d_weights = to_device(NULL, choices * 4);
    s->tables = gr_joint_of_layer(&r->joint, s->d_tables, LAYER);
    s->choices = (gr_recorded){.n_layers = 1, .top_k = s->top_k, .experts = to_device(s->experts, choices * 2), .weight = 0.5f};
    s->place = (gr_place){.pick = to_device(r->pick + LAYER * picks, picks * 4), .layer = LAYER, .slots = to_device(NULL, choices * 4)};
    s->rows = (gr_step_rows){.n = s->n_rows, .sequence = to_device(s->sequence, n * 4), .position = to_device(s->position, n * 4),
                             .recorded = to_device(s->recorded, n * 4)};
}

static scene scene_new(uint64_t seed, grace_cluster cluster, int32_t n_experts, int32_t top_k, int32_t n_rows, double copies) {
    scene s = {.n_rows = n_rows, .top_k = top_k};
    gr_rng rng = gr_rng_seed(seed);
    const gr_random_plan_options opt = {2, n_experts, top_k, cluster, copies, gr_rng_below(&rng, 2) ? 0.3 : 0};
    s.plan = gr_random_plan(&opt, &rng);
    if (gr_rng_below(&rng, 2)) {
        gr_random_decode(s.plan, 0.5, &rng);
        must(gr_plan_of_decode(s.plan, &s.decode) == GRACE_OK, "the plan of decode steps");
    }
    const int32_t rank = (int32_t)gr_rng_below(&rng, (uint32_t)grace_cluster_ranks(cluster));
    must(gr_router_build(s.decode ? s.decode : s.plan, rank, GRACE_ROUTE_JOINT, &s.router) == GRACE_OK, "the router");
    draw_rows(&s, n_experts, &rng);
    place_here(&s);
    send(&s);
    return s;
}

static void scene_free(scene *s) {
    void *const there[] = {s->d_tables, s->d_ids, s->d_weights, s->choices.experts, (void *)s->place.pick, s->place.slots, (void *)s->rows.sequence,
                           (void *)s->rows.position, (void *)s->rows.recorded};
    void *const here[] = {s->experts, s->sequence, s->position, s->recorded, s->slots[0], s->slots[1]};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++) must(cudaFree(there[i]) == cudaSuccess, "cudaFree");
    for (size_t i = 0; i < sizeof here / sizeof *here; i++) free(here[i]);
    gr_router_free(s->router);
    grace_plan_free(s->decode);
    grace_plan_free(s->plan);
}

static void queue(scene *s, cudaStream_t stream) {
    must(gr_cuda_recall(&s->choices, 0, &s->place, &s->rows, s->d_ids, s->d_weights, stream) == GRACE_OK, "recall");
    must(gr_cuda_joint(&s->tables, &s->rows, s->top_k, s->d_ids, s->place.slots, stream) == GRACE_OK, "joint");
}

/* Choices that differ from those placed one by one. */
static int64_t check_slots(const scene *s, const char *how, uint64_t seed) {
    const size_t n = (size_t)s->n_rows * (size_t)s->top_k;
    int32_t *found = malloc(n * 4 + 4);
    int64_t moved = 0, wrong = -1;
    to_host(found, s->place.slots, n * 4);
    for (int64_t i = (int64_t)n - 1; i >= 0; i--) {
        moved += s->slots[1][i] != s->slots[0][i];
        if (found[i] != s->slots[1][i]) wrong = i;
    }
    if (wrong >= 0)
        printf("FAILED %s, seed %llu: %d x %d, %d rows, top %d: first wrong choice %lld: expected slot %d (%d by itself), found %d\n", how,
               (unsigned long long)seed, s->plan->cluster.n_nodes, s->plan->cluster.gpus_per_node, s->n_rows, s->top_k, (long long)wrong,
               s->slots[1][wrong], s->slots[0][wrong], found[wrong]);
    n_failed += wrong >= 0;
    free(found);
    return moved;
}

/* As a step is recorded: layers behind each other, each begins before the one before has ended. */
static void replay(scene *s) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "capture");
    for (int layer = 0; layer < 16; layer++) queue(s, stream);
    must(cudaStreamEndCapture(stream, &graph) == cudaSuccess && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "graph");
    for (int turn = 0; turn < 4; turn++) must(cudaGraphLaunch(exec, stream) == cudaSuccess, "replay");
    must(cudaStreamSynchronize(stream) == cudaSuccess, "replays");
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

static int64_t check(uint64_t seed, grace_cluster cluster, int32_t n_experts, int32_t top_k, int32_t n_rows, double copies) {
    scene s = scene_new(seed, cluster, n_experts, top_k, n_rows, copies);
    const size_t bytes = (size_t)n_rows * (size_t)top_k * 4;
    queue(&s, NULL);
    const int64_t moved = check_slots(&s, "as on the host", seed);
    must(cudaMemset(s.place.slots, 0x55, bytes) == cudaSuccess, "cudaMemset");
    if (n_rows) replay(&s);
    check_slots(&s, "replayed", seed);
    scene_free(&s);
    return moved;
}

static void check_random(uint64_t n_seeds) {
    static const grace_cluster clusters[] = {{1, 1}, {1, 8}, {2, 1}, {2, 2}, {2, 4}, {4, 2}, {4, 4}, {3, 5}, {8, 8}, {64, 1}, {64, 8}};
    static const int32_t top_k[] = {1, 2, 3, 6, 8, 16, 31, 32}, rows[] = {0, 1, 2, 7, 64, 300};
    int64_t moved = 0;
    const int before = n_failed;
    for (uint64_t seed = 0; seed < n_seeds; seed++) {
        gr_rng rng = gr_rng_seed(seed + 1000);
        const int32_t k = top_k[gr_rng_below(&rng, 8)], n_experts = k + (int32_t)gr_rng_below(&rng, (uint32_t)(gr_rng_below(&rng, 2) ? 20 : 225));
        const double u = gr_rng_uniform(&rng);
        moved += check(seed, clusters[seed % 11], n_experts, k, rows[gr_rng_below(&rng, 6)], 0.6 * u * u);
    }
    n_failed += moved == 0;
    printf("%s rows are placed as on the host: %llu plans, %lld choices differ from those placed one by one\n", n_failed == before ? "ok    " : "FAILED",
           (unsigned long long)n_seeds, (long long)moved);
}

static void check_refusals(void) {
    const gr_step_rows rows = {.n = 1};
    const gr_joint_tables few = {.n_nodes = 1, .gpus_per_node = 1}, many = {.n_nodes = 2048, .gpus_per_node = 8};
    const bool refused = gr_cuda_joint(&few, &rows, GR_CUDA_JOINT_TOP_K_MAX + 1, NULL, NULL, NULL) == GRACE_ERR_LIMIT &&
                         gr_cuda_joint(&many, &rows, 8, NULL, NULL, NULL) == GRACE_ERR_LIMIT;
    printf("%s more choices than lanes, and more ranks than there is room for, are refused\n", refused ? "ok    " : "FAILED");
    n_failed += !refused;
}

/* "small": only what a sanitizer gets through in seconds. */
int main(int argc, char **argv) {
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    if (no_gpu("policy joint")) return SKIPPED;
    check_refusals();
    check_random(small ? 22 : 330);
    if (!small) {
        check(1, (grace_cluster){4, 4}, 128, 8, 8192, 0.1);         /* a prompt's rows */
        check(2, (grace_cluster){1024, 8}, 40, 8, 50, 0.01);        /* GRACE_RANKS_MAX */
    }
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
