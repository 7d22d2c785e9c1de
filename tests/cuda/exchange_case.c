#include "cuda/exchange_case.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "cuda/device.h"

static int32_t node_of(const exchange_case *c, int32_t rank) { return rank / c->n_local; }

/* The rank that wire w of rank r leads to, and the wire that leads back. */
static int32_t peer_of(const exchange_case *c, int32_t r, int32_t w) {
    return (1 - node_of(c, r)) * c->n_local + (c->kind == KIND_HSC ? r % c->n_local : w);
}
static int32_t wire_back(const exchange_case *c, int32_t r) { return c->kind == KIND_HSC ? 0 : r % c->n_local; }

/* Who hands a row of rank a to rank q. */
static int32_t sender_to(const exchange_case *c, int32_t a, int32_t q) {
    if (node_of(c, a) == node_of(c, q)) return a;
    return c->kind == KIND_HSC ? node_of(c, q) * c->n_local + a % c->n_local : q;
}

/* ---- placement: every expert has a slot, some two; every rank has one at least ---- */
static void place_slots(exchange_case *c, gr_rng *rng) {
    const int32_t n_more = c->n_experts / 3;
    c->n_slots = c->n_experts + n_more;
    c->expert_of_slot = calloc((size_t)c->n_slots, 4), c->rank_of_slot = calloc((size_t)c->n_slots, 4);
    c->index_of_slot = calloc((size_t)c->n_slots, 4);
    for (int32_t slot = 0; slot < c->n_slots; slot++) {
        const int32_t r = slot < c->n_ranks ? slot : (int32_t)gr_rng_below(rng, (uint32_t)c->n_ranks);
        c->expert_of_slot[slot] = slot % c->n_experts;
        c->rank_of_slot[slot] = r, c->index_of_slot[slot] = c->n_slots_of[r]++;
    }
}

void case_open(exchange_case *c, uint64_t seed) {
    gr_rng rng = gr_rng_seed(seed);
    const size_t n_up = (size_t)2 * c->width * c->hidden;
    c->n_ranks = c->n_nodes * c->n_local;
    c->fan = c->kind == KIND_PER_EXPERT ? c->top_k : 1, c->k = c->top_k / c->fan;
    c->n_wires = c->n_nodes == 1 ? 0 : c->kind == KIND_HSC ? 1 : c->n_local;
    c->capacity = c->n_rows * c->fan, c->n_source = c->capacity * (1 + c->n_wires) + 8;
    place_slots(c, &rng);
    c->gate_up = malloc(n_up * 2 * (size_t)c->n_experts), c->down = malloc(n_up * (size_t)c->n_experts);
    fill_bf16(seed + 2, c->gate_up, n_up * (size_t)c->n_experts, 1 / sqrtf((float)c->hidden));
    fill_bf16(seed + 3, c->down, n_up / 2 * (size_t)c->n_experts, 1 / sqrtf((float)c->width));
}

/* ---- experts ---- */
/* n values an expert, of the slots of rank r. */
static void *weights_of(const exchange_case *c, int32_t r, const uint16_t *all, size_t n) {
    uint16_t *mine = malloc(n * 2 * (size_t)c->n_slots_of[r]);
    size_t at = 0;
    for (int32_t slot = 0; slot < c->n_slots; slot++)
        if (c->rank_of_slot[slot] == r) memcpy(mine + n * at++, all + n * (size_t)c->expert_of_slot[slot], n * 2);
    void *device = to_device(mine, n * 2 * at);
    free(mine);
    return device;
}

static gr_cuda_pairs pairs_open(int32_t n_slots, int32_t n_rows, int32_t top_k) {
    const size_t n = (size_t)n_rows * top_k;
    return (gr_cuda_pairs){.n_slots = n_slots, .n_rows = n_rows, .top_k = top_k, .first_pair = to_device(NULL, ((size_t)n_slots + 1) * 4),
                           .row_of_pair = to_device(NULL, n * 4), .pair_of_choice = to_device(NULL, n * 4),
                           .scratch = to_device(NULL, (size_t)gr_cuda_group_scratch((int64_t)n, n_slots) * 4)};
}

static void pairs_close(gr_cuda_pairs *p) { cudaFree(p->first_pair), cudaFree(p->row_of_pair), cudaFree(p->pair_of_choice), cudaFree(p->scratch); }

static gr_cuda_experts *experts_open(const exchange_case *c, int32_t n_slots, const void *gate_up, const void *down, void *act, int32_t n_pairs) {
    gr_cuda_experts *e = NULL;
    const gr_cuda_experts_options options = {.kernels = GR_CUDA_KERNELS_PLAIN, .n_slots = n_slots, .hidden = c->hidden, .width = c->width,
                                             .gate_up = gate_up, .down = down, .act = act, .n_pairs_max = n_pairs};
    must(!gr_cuda_experts_open(&options, &e), "experts_open");
    return e;
}

/* ---- ranks ---- */
static void *zeros(size_t bytes) {
    void *to = to_device(NULL, bytes);
    must(cudaMemset(to, 0, bytes) == cudaSuccess, "cudaMemset");
    return to;
}

static void open_wires(exchange_case *c, case_rank *k, int32_t r) {
    const size_t n = (size_t)c->n_wires * c->capacity, row = (size_t)c->hidden * 2, each = c->exact ? (size_t)c->k : 1;
    int32_t *wire_of_slot = malloc(4 * (size_t)c->n_slots);
    for (int32_t slot = 0; slot < c->n_slots; slot++) {
        const int32_t q = c->rank_of_slot[slot];
        wire_of_slot[slot] = node_of(c, q) == node_of(c, r) ? -1 : c->kind == KIND_HSC ? 0 : q % c->n_local;
    }
    k->wires = (gr_cuda_wires){.n_wires = c->n_wires, .capacity = c->capacity, .wire_of_slot = to_device(wire_of_slot, 4 * (size_t)c->n_slots),
                               .n_sent = zeros(8 * (size_t)c->n_wires + 8), .position = zeros(4 * n), .entry = zeros(4 * (n + (size_t)c->n_wires)),
                               .rows = zeros(n * row), .slot = zeros(4 * n * (size_t)c->k), .weight = zeros(4 * n * (size_t)c->k),
                               .home = zeros(n * each * row)};
    k->returned = zeros(n * each * row), k->entry = zeros(4 * ((size_t)c->capacity + 1));
    must(cudaMallocHost((void **)&k->sent, 8 * CASE_RANKS) == cudaSuccess, "pinned");
    memset(k->sent, 0, 8 * CASE_RANKS);
    free(wire_of_slot);
}

void case_open_rank(exchange_case *c, int32_t r, uint64_t deadline_ns, void *area) {
    case_rank *k = &c->rank[r];
    const int32_t n_rows = c->n_local * c->n_source, n_pairs = n_rows * c->k;
    const size_t n_up = (size_t)2 * c->width * c->hidden, row = (size_t)c->hidden * 2;
    int32_t *place = malloc(4 * (size_t)c->n_slots);
    *k = (case_rank){.node = {.sizes = {c->n_local, c->n_source, c->k, c->hidden, c->exact}, .me = r % c->n_local, .deadline_ns = deadline_ns}};
    k->at = gr_cuda_area_of(&k->node.sizes);
    k->node.area[k->node.me] = area ? area : zeros((size_t)k->at.bytes);
    k->node.epoch = zeros(GR_CUDA_EPOCH_BYTES), k->node.count = zeros(sizeof k->counted), k->n_pairs = zeros(sizeof *k->n_pairs);
    must(cudaHostAlloc((void **)&k->watch, sizeof *k->watch, cudaHostAllocMapped) == cudaSuccess, "watch");
    memset(k->watch, 0, sizeof *k->watch);
    must(cudaHostGetDevicePointer((void **)&k->node.watch, k->watch, 0) == cudaSuccess, "watch");
    k->weights[0] = weights_of(c, r, c->gate_up, n_up);
    k->weights[1] = weights_of(c, r, c->down, n_up / 2);
    k->act = to_device(NULL, (size_t)n_pairs * c->width * 2), k->y = to_device(NULL, (size_t)n_pairs * row);
    must(cudaMemset(k->y, 0xFF, (size_t)n_pairs * row) == cudaSuccess, "poison");
    k->experts = experts_open(c, c->n_slots_of[r], k->weights[0], k->weights[1], k->act, n_pairs);
    k->pairs = pairs_open(c->n_slots_of[r], n_rows, c->k);
    k->x = zeros((size_t)c->capacity * row), k->residual = zeros((size_t)c->n_rows * row), k->out = zeros((size_t)c->n_rows * row);
    k->slot = zeros(4 * (size_t)c->n_source * c->k), k->weight = zeros(4 * (size_t)c->n_source * c->k);
    for (int32_t slot = 0; slot < c->n_slots; slot++) {
        const int32_t q = c->rank_of_slot[slot];
        place[slot] = node_of(c, q) == node_of(c, r) ? q % c->n_local << 16 | c->index_of_slot[slot] : -1;
    }
    k->place = to_device(place, 4 * (size_t)c->n_slots);
    if (c->n_wires) open_wires(c, k, r);
    free(place);
}

void case_connect(exchange_case *c) {
    for (int32_t r = 0; r < c->n_ranks; r++) {
        for (int32_t l = 0; l < c->n_local; l++) {
            const case_rank *other = &c->rank[node_of(c, r) * c->n_local + l];
            c->rank[r].node.area[l] = other->node.area[other->node.me];
        }
        must(!gr_cuda_node_check(&c->rank[r].node), "node");
    }
}

void case_close(exchange_case *c) {
    for (int32_t r = 0; r < c->n_ranks; r++) {
        case_rank *k = &c->rank[r];
        void *device[] = {k->node.epoch, k->node.count, k->weights[0], k->weights[1], k->act, k->y, k->x, k->residual, k->out, k->slot, k->weight,
                          k->place, k->entry, k->n_pairs, k->returned, (void *)k->wires.wire_of_slot, k->wires.n_sent, k->wires.position, k->wires.entry,
                          k->wires.rows, k->wires.slot, k->wires.weight, k->wires.home};
        if (!k->experts) continue;
        gr_cuda_experts_close(k->experts), pairs_close(&k->pairs);
        for (size_t i = 0; i < sizeof device / sizeof *device; i++) cudaFree(device[i]);
        cudaFreeHost(k->watch), cudaFreeHost(k->sent);
        if (k->node.area[k->node.me]) cudaFree(k->node.area[k->node.me]);
    }
    free(c->expert_of_slot), free(c->rank_of_slot), free(c->index_of_slot), free(c->gate_up), free(c->down);
}

/* ---- what a layer is fed ---- */
static void choose(const exchange_case *c, gr_rng *rng, routing how, int32_t *slot, float *weight) {
    for (int32_t j = 0; j < c->top_k; j++) {
        bool taken = true;
        slot[j] = -1, weight[j] = (float)(0.05 + 0.4 * gr_rng_uniform(rng));
        for (int32_t tries = 0; taken && tries < 1000; tries++) {
            const int32_t s = (int32_t)gr_rng_below(rng, (uint32_t)c->n_slots);
            taken = how == ROUTING_ONE_RANK && c->rank_of_slot[s] != c->n_ranks - 1;
            for (int32_t i = 0; i < j; i++) taken = taken || (slot[i] >= 0 && c->expert_of_slot[slot[i]] == c->expert_of_slot[s]);
            if (!taken) slot[j] = s;
        }
        if (how == ROUTING_NONE || (how == ROUTING_GAPS && gr_rng_below(rng, 3) == 0)) slot[j] = -1;
    }
}

/* Experts' results of all rows, on one GPU with every expert. */
static void run_whole(const exchange_case *c, layer_data *l) {
    const size_t n_up = (size_t)2 * c->width * c->hidden, row = (size_t)c->hidden * 2;
    int32_t n = 0, at = 0;
    for (int32_t r = 0; r < c->n_ranks; r++) n += l->n[r] * c->fan;
    const size_t n_choices = (size_t)n * c->k;
    int32_t *expert = malloc(4 * n_choices + 4), *pair = malloc(4 * n_choices + 4);
    uint16_t *x = malloc((size_t)n * row + 2), *y = malloc(n_choices * row + 2);
    for (int32_t r = 0; r < c->n_ranks; at += l->n[r] * c->fan, r++) {
        memcpy(x + (size_t)at * c->hidden, l->x[r], (size_t)l->n[r] * c->fan * row);
        for (int32_t i = 0; i < l->n[r] * c->fan * c->k; i++)
            expert[at * c->k + i] = l->slot[r][i] < 0 ? -1 : c->expert_of_slot[l->slot[r][i]];
    }
    gr_cuda_pairs pairs = pairs_open(c->n_experts, n, c->k);
    void *d[] = {to_device(expert, 4 * n_choices), to_device(x, (size_t)n * row), to_device(NULL, n_choices * row),
                 to_device(NULL, n_choices * c->width * 2), to_device(c->gate_up, n_up * 2 * (size_t)c->n_experts),
                 to_device(c->down, n_up * (size_t)c->n_experts)};
    gr_cuda_experts *e = experts_open(c, c->n_experts, d[4], d[5], d[3], (int32_t)n_choices + 1);
    must(!gr_cuda_group(d[0], &pairs, NULL) && !gr_cuda_experts_run(e, &pairs, d[1], d[2], NULL), "experts of all rows");
    to_host(y, d[2], n_choices * row), to_host(pair, pairs.pair_of_choice, n_choices * 4);
    at = 0;
    for (int32_t r = 0; r < c->n_ranks; at += l->n[r] * c->fan * c->k, r++)
        for (int32_t i = 0; i < l->n[r] * c->fan * c->k; i++)
            if (l->slot[r][i] >= 0) memcpy(l->y[r] + (size_t)i * c->hidden, y + (size_t)pair[at + i] * c->hidden, row);
    gr_cuda_experts_close(e), pairs_close(&pairs);
    for (size_t i = 0; i < sizeof d / sizeof *d; i++) cudaFree(d[i]);
    free(expert), free(pair), free(x), free(y);
}

/* ---- what must come out: fp32 sums in the stated order, rounded where rows are ---- */

/* sum [hidden] += bf16(what rank q makes of source row i of rank r); false: it has no part. */
static bool add_of_rank(const exchange_case *c, const layer_data *l, int32_t r, int32_t i, int32_t q, float *sum) {
    float *of_rank = calloc((size_t)c->hidden, sizeof *of_rank);
    bool any = false;
    for (int32_t at = i * c->k; at < (i + 1) * c->k; at++) {
        if (l->slot[r][at] < 0 || c->rank_of_slot[l->slot[r][at]] != q) continue;
        for (int32_t h = 0; h < c->hidden; h++) of_rank[h] = fmaf(l->weight[r][at], from_bf16(l->y[r][(size_t)at * c->hidden + h]), of_rank[h]);
        any = true;
    }
    for (int32_t h = 0; h < c->hidden && any; h++) sum[h] += from_bf16(to_bf16(of_rank[h]));
    free(of_rank);
    return any;
}

static void add_of_wire(const exchange_case *c, const layer_data *l, int32_t r, int32_t i, int32_t w, float *sum) {
    const int32_t peer = peer_of(c, r, w), first = c->kind == KIND_HSC ? node_of(c, peer) * c->n_local : peer, n = c->kind == KIND_HSC ? c->n_local : 1;
    float *of_wire = calloc((size_t)c->hidden, sizeof *of_wire);
    bool any = false;
    for (int32_t q = first; q < first + n; q++) any = add_of_rank(c, l, r, i, q, of_wire) || any;
    for (int32_t h = 0; h < c->hidden && any; h++) sum[h] += from_bf16(to_bf16(of_wire[h]));
    free(of_wire);
}

static void expect_row(const exchange_case *c, layer_data *l, int32_t r, int32_t t) {
    float *sum = calloc((size_t)c->hidden, sizeof *sum);
    if (c->exact)
        for (int32_t at = t * c->top_k; at < (t + 1) * c->top_k; at++)
            for (int32_t h = 0; h < c->hidden && l->slot[r][at] >= 0; h++)
                sum[h] = fmaf(l->weight[r][at], from_bf16(l->y[r][(size_t)at * c->hidden + h]), sum[h]);
    else {
        for (int32_t i = t * c->fan; i < (t + 1) * c->fan; i++)
            for (int32_t q = node_of(c, r) * c->n_local, end = q + c->n_local; q < end; q++) add_of_rank(c, l, r, i, q, sum);
        for (int32_t i = t * c->fan; i < (t + 1) * c->fan; i++)
            for (int32_t w = 0; w < c->n_wires; w++) add_of_wire(c, l, r, i, w, sum);
    }
    for (int32_t h = 0; h < c->hidden; h++)
        l->expected[r][(size_t)t * c->hidden + h] = to_bf16(sum[h] + from_bf16(l->residual[r][(size_t)t * c->hidden + h]));
    free(sum);
}

void layer_make(const exchange_case *c, uint64_t seed, routing how, layer_data *l) {
    gr_rng rng = gr_rng_seed(seed);
    const size_t values = (size_t)c->hidden;
    for (int32_t r = 0; r < c->n_ranks; r++) {
        const int32_t n = gr_rng_below(&rng, 5) == 0 ? 0 : 1 + (int32_t)gr_rng_below(&rng, (uint32_t)c->n_rows);
        const size_t n_source = (size_t)n * c->fan, n_choices = (size_t)n * c->top_k;
        l->n[r] = n;
        l->x[r] = malloc(n_source * values * 2 + 2), l->residual[r] = malloc((size_t)n * values * 2 + 2);
        l->expected[r] = malloc((size_t)n * values * 2 + 2);
        l->slot[r] = malloc(n_choices * 4 + 4), l->weight[r] = malloc(n_choices * 4 + 4), l->y[r] = calloc(n_choices * values + 1, 2);
        fill_bf16(gr_rng_next(&rng), l->x[r], (size_t)n * values, 1), fill_bf16(gr_rng_next(&rng), l->residual[r], (size_t)n * values, 1);
        for (int32_t t = n - 1; t >= 0; t--) {
            for (int32_t i = c->fan - 1; i >= 0; i--)
                memmove(l->x[r] + (size_t)(t * c->fan + i) * values, l->x[r] + (size_t)t * values, values * 2);
            choose(c, &rng, how, l->slot[r] + t * c->top_k, l->weight[r] + t * c->top_k);
        }
    }
    run_whole(c, l);
    for (int32_t r = 0; r < c->n_ranks; r++)
        for (int32_t t = 0; t < l->n[r]; t++) expect_row(c, l, r, t);
}

void layer_free(layer_data *l) {
    for (int32_t r = 0; r < CASE_RANKS; r++)
        free(l->x[r]), free(l->residual[r]), free(l->slot[r]), free(l->weight[r]), free(l->y[r]), free(l->expected[r]);
    *l = (layer_data){0};
}

/* ---- stages ---- */
static void upload(void *to, const void *from, size_t bytes) { must(cudaMemcpy(to, from, bytes, cudaMemcpyDefault) == cudaSuccess, "upload"); }

static char *source_row(const exchange_case *c, const case_rank *k, int32_t row) {
    return k->node.area[k->node.me] + k->at.row + ((int64_t)k->node.me * k->layer.s + row) * c->hidden * 2;
}

/* Own rows as the layer before the exchange leaves them. */
static void feed_own(exchange_case *c, int32_t r, const layer_data *l) {
    case_rank *k = &c->rank[r];
    const size_t row = (size_t)c->hidden * 2, n_choices = (size_t)l->n[r] * c->top_k;
    k->n_own = l->n[r] * c->fan;
    upload(k->x, l->x[r], (size_t)k->n_own * row), upload(k->residual, l->residual[r], (size_t)l->n[r] * row);
    upload(k->slot, l->slot[r], n_choices * 4), upload(k->weight, l->weight[r], n_choices * 4);
    must(cudaMemset(k->out, 0xFF, (size_t)c->n_rows * row) == cudaSuccess, "poison");
    k->settle = (gr_cuda_settle){.n = l->n[r], .fan = c->fan, .residual = k->residual, .out = k->out, .wires = c->n_wires ? &k->wires : NULL};
}

static void place_own(exchange_case *c, int32_t r, int32_t layer, int32_t n_source, int32_t s) {
    case_rank *k = &c->rank[r];
    k->layer = (gr_cuda_layer){.layer = layer, .n_slots = c->n_slots_of[r], .n_rows = n_source, .s = s, .slot = k->slot, .weight = k->weight,
                               .place_of_slot = k->place, .n_pairs = k->n_pairs};
    k->pairs.n_rows = c->n_local * s;
    upload(source_row(c, k, 0), k->x, (size_t)k->n_own * c->hidden * 2);
}

/* What every rank must count, of every row of the layer. */
void case_count(exchange_case *c, const layer_data *l) {
    for (int32_t a = 0; a < c->n_ranks; a++)
        for (int32_t i = 0; i < l->n[a] * c->fan; i++) {
            int32_t entries[CASE_RANKS] = {0};
            for (int32_t at = i * c->k; at < (i + 1) * c->k; at++)
                if (l->slot[a][at] >= 0) entries[c->rank_of_slot[l->slot[a][at]]]++;
            for (int32_t q = 0; q < c->n_ranks; q++) {
                if (entries[q] == 0) continue;
                const int32_t b = sender_to(c, a, q), to = q % c->n_local, from = b % c->n_local;
                c->rank[b].counted[0][to]++, c->rank[b].counted[1][to] += entries[q];
                c->rank[q].counted[2][from]++, c->rank[q].counted[3][from] += entries[q];
            }
        }
}

void case_feed(exchange_case *c, int32_t r, const layer_data *l, int32_t layer, int32_t s) {
    feed_own(c, r, l);
    place_own(c, r, layer, c->rank[r].n_own, s);
}

void case_send(exchange_case *c, int32_t r, gr_cuda_stream stream) {
    must(!gr_cuda_dispatch(&c->rank[r].node, &c->rank[r].layer, stream), "dispatch");
}

void case_compute(exchange_case *c, int32_t r, gr_cuda_stream stream) {
    case_rank *k = &c->rank[r];
    const char *area = k->node.area[k->node.me];
    must(!gr_cuda_arrive(&k->node, &k->layer, &k->pairs, stream), "arrive");
    must(!gr_cuda_experts_run(k->experts, &k->pairs, area + k->at.row, k->y, stream), "experts");
    must(!gr_cuda_give_back(&k->node, &k->layer, &k->pairs, k->y, stream), "give back");
}

void case_settle(exchange_case *c, int32_t r, gr_cuda_stream stream) {
    must(!gr_cuda_settle_rows(&c->rank[r].node, &c->rank[r].layer, &c->rank[r].settle, stream), "settle");
}

/* ---- wires: memory copied between ranks of this process ---- */

/* Packing again with room for headers of n rows: own ones are there, then those without a choice. */
static void check_own_headers(const exchange_case *c, const case_rank *k, int32_t n) {
    const size_t own = (size_t)k->n_own * c->k, all = (size_t)n * c->k;
    int32_t *expected = malloc(all * 8 + 4), *found = malloc(all * 8 + 4);
    const gr_cuda_headers h = {to_device(NULL, all * 4), to_device(NULL, all * 4), n};
    must(!gr_cuda_pack(&k->wires, k->x, k->slot, k->weight, k->n_own, c->k, c->hidden, &h, k->sent, NULL), "pack, with headers");
    to_host(expected, k->slot, own * 4), to_host(expected + own, k->weight, own * 4);
    to_host(found, h.slot, all * 4), to_host(found + all, h.weight, own * 4);
    for (size_t i = 0; i < all; i++) {
        const int32_t e = i < own ? expected[i] : -1;
        if (found[i] != e) fprintf(stderr, "own header %zu of %zu, %zu own: expected slot %d, found %d\n", i, all, own, e, found[i]);
        must(found[i] == e, "own headers");
    }
    must(memcmp(found + all, expected + own, own * 4) == 0, "own weights");
    cudaFree(h.slot), cudaFree(h.weight), free(expected), free(found);
}

static void pack_own(exchange_case *c) {
    for (int32_t r = 0; r < c->n_ranks && c->n_wires; r++) {
        case_rank *k = &c->rank[r];
        must(!gr_cuda_pack(&k->wires, k->x, k->slot, k->weight, k->n_own, c->k, c->hidden, NULL, k->sent, NULL), "pack");
        check_own_headers(c, k, k->n_own), check_own_headers(c, k, 3 * k->n_own + 7);
    }
    must(cudaDeviceSynchronize() == cudaSuccess, "pack");
}

/* Rows [first, ...) of rank b are those from each of its wires' other end, in order of wires. Returns its source rows. */
static int32_t list_received(exchange_case *c, int32_t b) {
    case_rank *k = &c->rank[b];
    int32_t at = k->n_own;
    for (int32_t w = 0; w < c->n_wires; w++) {
        k->first[w] = at, k->received[w] = c->rank[peer_of(c, b, w)].sent[2 * wire_back(c, b)];
        at += k->received[w];
    }
    return at;
}

static void receive(exchange_case *c, int32_t b) {
    case_rank *k = &c->rank[b];
    for (int32_t w = 0; w < c->n_wires; w++) {
        const gr_cuda_wires *from = &c->rank[peer_of(c, b, w)].wires;
        const size_t n = (size_t)k->received[w], at = (size_t)wire_back(c, b) * c->capacity, to = (size_t)k->first[w] * c->k;
        upload(source_row(c, k, k->first[w]), from->rows + at * c->hidden * 2, n * c->hidden * 2);
        upload(k->slot + to, from->slot + at * c->k, n * c->k * 4), upload(k->weight + to, from->weight + at * c->k, n * c->k * 4);
    }
}

static void settle_received(exchange_case *c, int32_t b) {
    case_rank *k = &c->rank[b];
    const int64_t step = (int64_t)c->capacity * (c->exact ? c->k : 1) * c->hidden * 2;
    for (int32_t w = 0; w < c->n_wires; w++) {
        const gr_cuda_settle settle = {.first = k->first[w], .n = k->received[w], .fan = 1, .out = k->returned + w * step};
        must(!(c->exact ? gr_cuda_pack_entries(&k->node, &k->layer, k->first[w], k->received[w], k->entry, k->returned + w * step, NULL)
                        : gr_cuda_settle_rows(&k->node, &k->layer, &settle, NULL)), "settle received");
    }
}

static void bring_home(exchange_case *c, int32_t r) {
    case_rank *k = &c->rank[r];
    const size_t row = (size_t)c->hidden * 2, step = (size_t)c->capacity * (c->exact ? (size_t)c->k : 1) * row;
    for (int32_t w = 0; w < c->n_wires; w++) {
        const size_t n = (size_t)k->sent[2 * w + c->exact];
        upload(k->wires.home + (size_t)w * step, c->rank[peer_of(c, r, w)].returned + (size_t)wire_back(c, r) * step, n * row);
    }
}

void case_run(exchange_case *c, const layer_data *l, int32_t layer, int32_t extra) {
    int32_t n_source[CASE_RANKS], s[CASE_RANKS] = {0};
    for (int32_t r = 0; r < c->n_ranks; r++) feed_own(c, r, l);
    pack_own(c);
    for (int32_t r = 0; r < c->n_ranks; r++) {
        n_source[r] = list_received(c, r);
        if (n_source[r] + extra > s[node_of(c, r)]) s[node_of(c, r)] = n_source[r] + extra;
    }
    for (int32_t r = 0; r < c->n_ranks; r++) place_own(c, r, layer, n_source[r], s[node_of(c, r)]), receive(c, r);
    for (int32_t r = 0; r < c->n_ranks; r++) case_send(c, r, NULL);
    for (int32_t r = 0; r < c->n_ranks; r++) case_compute(c, r, NULL);
    for (int32_t r = 0; r < c->n_ranks; r++) settle_received(c, r);
    must(cudaDeviceSynchronize() == cudaSuccess, "exchange");
    for (int32_t r = 0; r < c->n_ranks; r++) bring_home(c, r), case_settle(c, r, NULL);
    must(cudaDeviceSynchronize() == cudaSuccess, "settle");
    case_count(c, l);
}

/* ---- claims ---- */
bool outputs_agree(const exchange_case *c, int32_t r, const layer_data *l) {
    const size_t n = (size_t)l->n[r] * c->hidden;
    uint16_t *out = malloc(n * 2 + 2);
    size_t at = 0;
    to_host(out, c->rank[r].out, n * 2);
    while (at < n && out[at] == l->expected[r][at]) at++;
    if (at < n)
        printf("       rank %d row %zu of %d column %zu: %g, expected %g\n", r, at / c->hidden, l->n[r], at % c->hidden, (double)from_bf16(out[at]),
               (double)from_bf16(l->expected[r][at]));
    free(out);
    return at == n;
}

bool slots_agree(const exchange_case *c, int32_t r, const layer_data *l) {
    const case_rank *k = &c->rank[r];
    const int32_t s = k->layer.s, n = c->n_local * s * c->k;
    int32_t *slot = malloc(4 * (size_t)n + 4), wrong = -1, expected = 0, n_pairs, here = 0;
    to_host(&n_pairs, k->n_pairs, sizeof n_pairs);
    to_host(slot, k->node.area[k->node.me] + k->at.slot, 4 * (size_t)n);
    for (int32_t i = 0; i < n && wrong < 0; i++) {
        const int32_t source = i / c->k / s, at = i - source * s * c->k;
        const int32_t global = at < l->n[source] * c->top_k ? l->slot[source][at] : -1;
        expected = global >= 0 && c->rank_of_slot[global] == r ? c->index_of_slot[global] : -1;
        if (slot[i] != expected) wrong = i;
        here += expected >= 0;
    }
    if (wrong >= 0)
        printf("       rank %d, source %d row %d choice %d: slot %d, expected %d\n", r, wrong / c->k / s, wrong / c->k % s, wrong % c->k, slot[wrong],
               expected);
    else if (n_pairs != here) printf("       rank %d: %d pairs, expected %d\n", r, n_pairs, here);
    free(slot);
    return wrong < 0 && n_pairs == here;
}

bool counts_agree(const exchange_case *c, int32_t r) {
    static const char *const names[] = {"rows dispatched to", "entries dispatched to", "rows given back to", "entries given back to"};
    int64_t found[4][GR_CUDA_NODE_MAX];
    to_host(found, c->rank[r].node.count, sizeof found);
    for (int32_t i = 0; i < 4 * GR_CUDA_NODE_MAX; i++) {
        const int32_t what = i / GR_CUDA_NODE_MAX, rank = i % GR_CUDA_NODE_MAX;
        if (found[what][rank] == c->rank[r].counted[what][rank]) continue;
        printf("       rank %d: %lld %s local rank %d, expected %lld\n", r, (long long)found[what][rank], names[what], rank,
               (long long)c->rank[r].counted[what][rank]);
        return false;
    }
    return true;
}
