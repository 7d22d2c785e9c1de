/* The kernels of the exchange as plain C (fake_gpu.h), from what their headers say. A block a kernel: of a source's flags the first is raised. */
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/box.h"
#include "base/clock.h"
#include "base/half.h"
#include "compute/cuda/compress.h"
#include "compute/cuda/line.h"
#include "compute/cuda/rows.h"
#include "support/fake_gpu.h"

enum { GIVEN = 0, CALL = 32 };          /* words of node.epoch, as the kernels have them */
enum { HIDDEN_MAX = 512, SPIN_US = 100 };

static uint16_t narrow(float v) {       /* of values that bf16 holds */
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    GR_ASSERT((bits & 0xFFFF) == 0);
    return (uint16_t)(bits >> 16);
}

/* ---- in the node ---- */

typedef struct call { const gr_cuda_node *node; const gr_cuda_layer *layer; gr_cuda_area at; int32_t n, me, s, k, h; } call;

static call call_of(const gr_cuda_node *node, const gr_cuda_layer *layer) {
    GR_ASSERT(layer->n_rows <= layer->s && layer->s <= node->sizes.n_rows);
    return (call){node, layer, gr_cuda_area_of(&node->sizes), node->sizes.n_ranks, node->me, layer->s, node->sizes.top_k, node->sizes.hidden};
}

static void *part(const call *c, int32_t rank, int64_t at) { return c->node->area[rank] + at; }
static int64_t header_at(const call *c, int32_t source, int64_t choice) { return (int64_t)source * c->node->sizes.n_rows * c->k + choice; }
static uint16_t *row_at(const call *c, int32_t rank, int64_t at, int64_t row) { return (uint16_t *)part(c, rank, at) + row * c->h; }
static int32_t slot_of(const call *c, int64_t choice) { return choice < (int64_t)c->layer->n_rows * c->k ? c->layer->slot[choice] : -1; }
static int32_t place_of(const call *c, int64_t choice) {
    const int32_t slot = slot_of(c, choice);
    return slot < 0 ? -1 : c->layer->place_of_slot[slot];
}
static bool is_at(int32_t place, int32_t rank) { return place >= 0 && place >> 16 == rank; }

static int32_t entries_at(const call *c, int32_t row, int32_t rank) {
    int32_t n = 0;
    for (int32_t j = 0; j < c->k; j++) n += is_at(place_of(c, (int64_t)row * c->k + j), rank);
    return n;
}

static _Atomic uint32_t *flag_of(const call *c, int32_t rank, int32_t stage, int32_t source) {
    return (_Atomic uint32_t *)part(c, rank, c->at.flags) + (stage * GR_CUDA_NODE_MAX + source) * GR_CUDA_FLAGS;
}

/* False: too late, by the watch or by the clock, which then says who it was. */
static bool wait_for(const gr_cuda_node *node, _Atomic uint32_t *flag, uint32_t due, int32_t stage, int32_t layer, int32_t source) {
    volatile gr_cuda_watch *watch = node->watch;
    const double start_us = gr_now_us();
    while (atomic_load(flag) != due) {
        const bool late = 1e3 * (gr_now_us() - start_us) > (double)node->deadline_ns;
        if (!watch->stop && !late) {
            if (gr_now_us() - start_us < SPIN_US) sched_yield();
            else usleep(SPIN_US);
            continue;
        }
        if (watch->stage < 0) watch->stage = stage, watch->layer = layer, watch->source = source;
        watch->stop = 1;
        fake.gave_up = true;
        return false;
    }
    return true;
}

static bool wait_for_all(const call *c, int32_t stage, uint32_t due) {
    for (int32_t r = 0; r < c->n; r++)
        if (!wait_for(c->node, flag_of(c, c->me, stage, r), due, stage, c->layer->layer, r)) return false;
    return true;
}

static void add_counts(const call *c, int32_t first, int32_t rank, int32_t entries) {
    c->node->count[first * GR_CUDA_NODE_MAX + rank] += entries > 0;
    c->node->count[(first + 1) * GR_CUDA_NODE_MAX + rank] += entries;
}

grace_status gr_cuda_dispatch(const gr_cuda_node *node, const gr_cuda_layer *layer, gr_cuda_stream stream) {
    const call c = call_of(node, layer);
    (void)stream;
    for (int32_t rank = 0; rank < c.n; rank++) {
        for (int64_t i = 0; i < (int64_t)c.s * c.k; i++) {
            const int32_t place = place_of(&c, i);
            ((int32_t *)part(&c, rank, c.at.header))[header_at(&c, c.me, i)] = is_at(place, rank) ? place & 0xFFFF : -1;
            ((float *)part(&c, rank, c.at.weight))[header_at(&c, c.me, i)] = is_at(place, rank) ? layer->weight[i] : 0;
        }
        for (int32_t row = 0; row < layer->n_rows; row++) {
            const int32_t entries = entries_at(&c, row, rank);
            const int64_t at = (int64_t)c.me * c.s + row;
            if (entries && rank != c.me) memcpy(row_at(&c, rank, c.at.row, at), row_at(&c, c.me, c.at.row, at), (size_t)c.h * 2);
            add_counts(&c, 0, rank, entries);
        }
        if (!fake.gave_up) atomic_store(flag_of(&c, rank, GR_CUDA_STAGE_DISPATCH, c.me), node->epoch[GIVEN] + 1);
    }
    return GRACE_OK;
}

static void group(const int32_t *slot, const gr_cuda_pairs *p) {
    int32_t n = 0;
    for (int32_t i = 0; i < p->n_rows * p->top_k; i++) p->pair_of_choice[i] = -1;
    for (int32_t s = 0; s < p->n_slots; s++) {
        p->first_pair[s] = n;
        for (int32_t i = 0; i < p->n_rows * p->top_k; i++)
            if (slot[i] == s) p->row_of_pair[n] = i / p->top_k, p->pair_of_choice[i] = n++;
    }
    p->first_pair[p->n_slots] = n;
}

grace_status gr_cuda_arrive(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_pairs *pairs, gr_cuda_stream stream) {
    const call c = call_of(node, layer);
    int32_t *taken = part(&c, c.me, c.at.slot);
    const int32_t *header = part(&c, c.me, c.at.header);
    (void)stream;
    GR_ASSERT(pairs->n_rows == c.n * c.s && pairs->top_k == c.k && pairs->n_slots >= layer->n_slots);
    (void)wait_for_all(&c, GR_CUDA_STAGE_DISPATCH, node->epoch[GIVEN] + 1);
    for (int32_t r = 0; r < c.n; r++)
        for (int64_t i = 0; i < (int64_t)c.s * c.k; i++) {
            const int32_t slot = header[header_at(&c, r, i)];
            taken[(int64_t)r * c.s * c.k + i] = slot >= 0 && slot < layer->n_slots ? slot : -1;
        }
    node->epoch[CALL] = node->epoch[GIVEN] + 1;
    group(taken, pairs);
    return GRACE_OK;
}

/* sum += weight * row */
static void add_row(const call *c, float *sum, float weight, const uint16_t *row) {
    for (int32_t h = 0; h < c->h; h++) sum[h] += weight * gr_float_of_bf16(row[h]);
}
static void store_sum(const call *c, const float *sum, uint16_t *row) {
    for (int32_t h = 0; h < c->h; h++) row[h] = narrow(sum[h]);
}

static void give_row(const call *c, const gr_cuda_pairs *pairs, const uint16_t *results, int32_t source, int32_t row) {
    const int32_t *pair = pairs->pair_of_choice + ((int64_t)source * c->s + row) * c->k;
    const float *weight = (const float *)part(c, c->me, c->at.weight) + header_at(c, source, (int64_t)row * c->k);
    float sum[HIDDEN_MAX] = {0};
    int32_t entries = 0;
    for (int32_t j = 0; j < c->k; j++) {
        if (pair[j] < 0) continue;
        const uint16_t *result = results + (int64_t)pair[j] * c->h;
        if (c->node->sizes.exact) memcpy(row_at(c, source, c->at.home, (int64_t)row * c->k + j), result, (size_t)c->h * 2);
        else add_row(c, sum, weight[j], result);
        entries++;
    }
    if (entries && !c->node->sizes.exact) store_sum(c, sum, row_at(c, source, c->at.home, (int64_t)c->me * c->s + row));
    add_counts(c, 2, source, entries);
}

grace_status gr_cuda_give_back(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_pairs *pairs, const void *results,
                               gr_cuda_stream stream) {
    const call c = call_of(node, layer);
    (void)stream;
    for (int32_t source = 0; source < c.n; source++) {
        for (int32_t row = 0; row < c.s; row++) give_row(&c, pairs, results, source, row);
        if (!fake.gave_up) atomic_store(flag_of(&c, source, GR_CUDA_STAGE_COMBINE, c.me), node->epoch[CALL]);
    }
    node->epoch[GIVEN] = node->epoch[CALL];
    *layer->n_pairs = pairs->first_pair[pairs->n_slots];
    return GRACE_OK;
}

/* ---- results at home ---- */

static int64_t back_step(const gr_cuda_wires *w, const call *c) { return (int64_t)w->capacity * (c->node->sizes.exact ? c->k : 1); }

static void settle_exact(const call *c, const gr_cuda_settle *s, int32_t r, int32_t t, float *sum) {
    const gr_cuda_wires *w = s->wires;
    int32_t before[GR_CUDA_WIRES_MAX] = {0};
    for (int32_t j = 0; j < c->k; j++) {
        const int64_t choice = (int64_t)r * c->k + j;
        const int32_t slot = slot_of(c, choice), wire = slot >= 0 && w ? w->wire_of_slot[slot] : -1;
        if (place_of(c, choice) >= 0) add_row(c, sum, c->layer->weight[choice], row_at(c, c->me, c->at.home, choice));
        if (wire < 0) continue;
        const int32_t position = w->position[(int64_t)wire * w->capacity + t];
        const int64_t entry = w->entry[(int64_t)wire * (w->capacity + 1) + position] + before[wire]++;
        add_row(c, sum, c->layer->weight[choice], (const uint16_t *)(void *)w->home + (wire * back_step(w, c) + entry) * c->h);
    }
}

static void settle_fast(const call *c, const gr_cuda_settle *s, int32_t r, int32_t t, float *sum) {
    const gr_cuda_wires *w = s->wires;
    for (int32_t rank = 0; rank < c->n; rank++)
        if (entries_at(c, r, rank)) add_row(c, sum, 1, row_at(c, c->me, c->at.home, (int64_t)rank * c->s + r));
    for (int32_t i = 0; w && i < w->n_wires; i++) {
        const int32_t position = w->position[(int64_t)i * w->capacity + t];
        if (position >= 0) add_row(c, sum, 1, (const uint16_t *)(void *)w->home + (i * back_step(w, c) + position) * c->h);
    }
}

grace_status gr_cuda_settle_rows(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_settle *s, gr_cuda_stream stream) {
    const call c = call_of(node, layer);
    (void)stream;
    GR_ASSERT(s->first >= 0 && s->first + s->n * s->fan <= layer->n_rows);
    (void)wait_for_all(&c, GR_CUDA_STAGE_COMBINE, node->epoch[CALL]);
    for (int32_t t = 0; t < s->n && !node->watch->stop; t++) {
        float sum[HIDDEN_MAX] = {0};
        for (int32_t i = t * s->fan; i < (t + 1) * s->fan; i++) (node->sizes.exact ? settle_exact : settle_fast)(&c, s, s->first + i, i, sum);
        if (s->residual) add_row(&c, sum, 1, (const uint16_t *)s->residual + (int64_t)t * c.h);
        store_sum(&c, sum, (uint16_t *)s->out + (int64_t)t * c.h);
    }
    return GRACE_OK;
}

grace_status gr_cuda_pack_entries(const gr_cuda_node *node, const gr_cuda_layer *layer, int32_t first, int32_t n, int32_t *entry, void *out,
                                  gr_cuda_stream stream) {
    const call c = call_of(node, layer);
    int32_t at = 0;
    (void)stream;
    GR_ASSERT(node->sizes.exact && first >= 0 && first + n <= layer->n_rows);
    (void)wait_for_all(&c, GR_CUDA_STAGE_COMBINE, node->epoch[CALL]);
    for (int32_t t = 0; t < n; entry[++t] = at) {
        entry[t] = at;
        for (int64_t i = (int64_t)(first + t) * c.k; i < (int64_t)(first + t + 1) * c.k; i++)
            if (slot_of(&c, i) >= 0) memcpy((uint16_t *)out + (int64_t)at++ * c.h, row_at(&c, c.me, c.at.home, i), (size_t)c.h * 2);
    }
    return GRACE_OK;
}

/* ---- between nodes ---- */

static void pack_wire(const gr_cuda_wires *w, int32_t wire, const uint16_t *rows, const int32_t *slot, const float *weight, int32_t n, int32_t k, int32_t h) {
    const int64_t first = (int64_t)wire * w->capacity;
    int32_t *entry = w->entry + (int64_t)wire * (w->capacity + 1), n_rows = 0, n_entries = 0;
    for (int32_t t = 0; t < n; t++) {
        int32_t mine = 0;
        for (int32_t j = 0; j < k; j++) mine += slot[(int64_t)t * k + j] >= 0 && w->wire_of_slot[slot[(int64_t)t * k + j]] == wire;
        w->position[first + t] = mine ? n_rows : -1;
        if (!mine) continue;
        memcpy((uint16_t *)(void *)w->rows + (first + n_rows) * h, rows + (int64_t)t * h, (size_t)h * 2);
        for (int32_t j = 0; j < k; j++) {
            const int64_t from = (int64_t)t * k + j, to = (first + n_rows) * k + j;
            const bool goes = slot[from] >= 0 && w->wire_of_slot[slot[from]] == wire;
            w->slot[to] = goes ? slot[from] : -1, w->weight[to] = goes ? weight[from] : 0;
        }
        entry[n_rows++] = n_entries, n_entries += mine;
    }
    entry[n_rows] = n_entries;
    for (int64_t i = (first + n_rows) * k; i < (first + n) * k; i++) w->slot[i] = -1, w->weight[i] = 0;
    w->n_sent[2 * wire] = n_rows, w->n_sent[2 * wire + 1] = n_entries;
}

grace_status gr_cuda_pack(const gr_cuda_wires *w, const void *rows, const int32_t *slot, const float *weight, int32_t n, int32_t k, int32_t h,
                          const gr_cuda_headers *own, int32_t *n_sent_host, gr_cuda_stream stream) {
    (void)stream;
    GR_ASSERT(n <= w->capacity && own->n >= n);
    for (int64_t i = 0; i < (int64_t)own->n * k; i++) {
        own->slot[i] = i < (int64_t)n * k ? slot[i] : -1;
        if (i < (int64_t)n * k) own->weight[i] = weight[i];
    }
    for (int32_t wire = 0; wire < w->n_wires; wire++) pack_wire(w, wire, rows, slot, weight, n, k, h);
    memcpy(n_sent_host, w->n_sent, (size_t)w->n_wires * 2 * sizeof *n_sent_host);
    return GRACE_OK;
}

grace_status gr_cuda_count_wires(const gr_cuda_wires *wires, const int32_t *received, int32_t n, int32_t top_k, int64_t *count, gr_cuda_stream stream) {
    (void)wires, (void)received, (void)n, (void)top_k, (void)count, (void)stream;
    return gr_fail(GRACE_ERR_UNSUPPORTED, "whole blocks go over NCCL alone, and there is none");
}

static int64_t on_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

/* Rows as they are behind a table: as large as packed rows may be. */
int64_t gr_cuda_packed_bytes(int64_t n_rows, int32_t hidden) { return on_16(8 * n_rows) + n_rows * 2 * hidden; }

static int32_t n_of_bale(const gr_cuda_bales *b, int32_t w) {
    if (!b->n_sent) return b->wire[w].n_rows;
    GR_ASSERT(b->n_sent[2 * w] >= 0 && b->n_sent[2 * w] <= b->wire[w].n_rows);
    return b->n_sent[2 * w];
}

grace_status gr_cuda_compress(const gr_cuda_bales *b, int64_t *n_bytes, gr_cuda_stream stream) {
    (void)stream;
    for (int32_t w = 0; w < b->n_wires; w++) {
        const int64_t n = n_of_bale(b, w);
        memset(b->wire[w].packed, 0x5A, (size_t)on_16(8 * n));
        memcpy(b->wire[w].packed + on_16(8 * n), b->wire[w].rows, (size_t)(n * 2 * b->hidden));
        n_bytes[w] = gr_cuda_packed_bytes(n, b->hidden);
    }
    return GRACE_OK;
}

grace_status gr_cuda_expand(const gr_cuda_bales *b, gr_cuda_stream stream) {
    (void)stream;
    for (int32_t w = 0; w < b->n_wires; w++) {
        const int64_t n = n_of_bale(b, w);
        memcpy(b->wire[w].rows, b->wire[w].packed + on_16(8 * n), (size_t)(n * 2 * b->hidden));
    }
    return GRACE_OK;
}

grace_status gr_cuda_gather(const void *in, const int32_t *index, int32_t n_rows, int32_t width, void *out, gr_cuda_stream stream) {
    (void)stream;
    for (int32_t i = 0; i < n_rows; i++) memcpy((uint16_t *)out + (int64_t)i * width, (const uint16_t *)in + (int64_t)index[i] * width, (size_t)width * 2);
    return GRACE_OK;
}

/* ---- boxes ---- */

int64_t gr_cuda_mail_bytes(int64_t rows, int32_t top_k, int64_t bytes_of_rows) { return 2 * on_16(4 * rows * top_k) + on_16(bytes_of_rows); }

static void count_mail(const gr_cuda_mail *m, int32_t wire, int32_t rows, int32_t entries, int64_t bytes) {
    m->count[3 * wire] += rows, m->count[3 * wire + 1] += entries, m->count[3 * wire + 2] += bytes;
}

grace_status gr_cuda_post(const gr_cuda_node *node, const gr_cuda_mail *m, gr_cuda_stream stream) {
    (void)node, (void)stream;
    for (int32_t w = 0; w < m->n_wires && !fake.gave_up; w++) {
        gr_line_head *head = (gr_line_head *)(void *)m->box[w];
        char *bytes = m->box[w] + GR_LINE_HEAD_BYTES;
        const int32_t rows = m->n[2 * w], entries = m->n[2 * w + 1];
        const size_t words = (size_t)rows * (size_t)m->top_k * 4, step = (size_t)on_16((int64_t)words);
        const int64_t n = m->n_bytes ? m->n_bytes[w] : (int64_t)(m->by_entry ? entries : rows) * m->row_bytes;
        memcpy(bytes, m->slot + w * m->slot_step, words);
        memcpy(bytes + step, m->weight + w * m->weight_step, words);
        memcpy(bytes + 2 * step, m->rows + w * m->row_step, (size_t)n);
        head->rows = rows, head->entries = entries, head->n_bytes = 2 * (int64_t)step + n;
        atomic_store((_Atomic uint32_t *)&head->number, ++m->state[GR_CUDA_MAIL_STATE * w + 1]);
        count_mail(m, w, rows, entries, n);
    }
    return GRACE_OK;
}

grace_status gr_cuda_fetch(const gr_cuda_node *node, const gr_cuda_mail *m, int32_t stage, int32_t layer, gr_cuda_stream stream) {
    (void)stream;
    for (int32_t w = 0; w < m->n_wires; w++) {
        gr_line_head *head = (gr_line_head *)(void *)m->box[w];
        const char *bytes = m->box[w] + GR_LINE_HEAD_BYTES;
        if (!wait_for(node, (_Atomic uint32_t *)&head->number, ++m->state[GR_CUDA_MAIL_STATE * w + 1], stage, layer, GR_CUDA_NODE_MAX + w)) return GRACE_OK;
        const size_t words = (size_t)head->rows * (size_t)m->top_k * 4, step = (size_t)on_16((int64_t)words);
        const int64_t n = head->n_bytes - 2 * (int64_t)step;
        GR_ASSERT(head->rows >= 0 && (m->by_entry ? head->entries : head->rows) <= m->rows_most && n >= 0 && n <= m->bytes_most);
        memcpy(m->slot + w * m->slot_step, bytes, words);
        memcpy(m->weight + w * m->weight_step, bytes + step, words);
        memcpy(m->rows + w * m->row_step, bytes + 2 * step, (size_t)n);
        if (m->n) m->n[2 * w] = head->rows, m->n[2 * w + 1] = head->entries;
        count_mail(m, w, head->rows, head->entries, n);
    }
    return GRACE_OK;
}
