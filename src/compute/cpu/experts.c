/* MLPs of the experts this rank hosts. Two passes over all slots: hidden = act(x gate^T, x up^T), then out = hidden down^T. A task
 * is (slot, block of outputs, part of its pairs), so that one large slot uses every thread and many small ones are spread over them. */
#include "compute/cpu/cpu.h"

typedef struct expert_args {
    const gr_cpu *cpu;
    const gr_experts *e;
    const int32_t *first_task;      /* [n_slots + 1] */
    float *hidden;                  /* [n_pairs, width] */
    int32_t width, hidden_size;     /* outputs of the first and of the second pass */
    int32_t outs_per_block, rows_per_part;
} expert_args;

/* The pairs and outputs of one task. */
typedef struct expert_cut { int32_t slot, out, n_outs, pair, pair_end; } expert_cut;

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

static int32_t row_of_pair(const gr_experts *e, int32_t pair) { return e->row_of_pair ? e->row_of_pair[pair] : pair; }

static int32_t slot_of_task(const expert_args *x, int32_t task) {
    int32_t low = 0, high = x->e->n_slots;      /* first_task[low] <= task < first_task[high] */
    while (high - low > 1) {
        const int32_t middle = low + (high - low) / 2;
        if (x->first_task[middle] <= task) low = middle;
        else high = middle;
    }
    return low;
}

static expert_cut cut_of_task(const expert_args *x, int32_t task, int32_t n_outs) {
    const int32_t slot = slot_of_task(x, task), first = x->e->first_pair[slot], end = x->e->first_pair[slot + 1];
    const int32_t n_parts = (int32_t)gr_ceil_div(end - first, x->rows_per_part), index = task - x->first_task[slot];
    const int32_t out = index / n_parts * x->outs_per_block, pair = first + index % n_parts * x->rows_per_part;
    return (expert_cut){slot, out, least(x->outs_per_block, n_outs - out), pair, least(pair + x->rows_per_part, end)};
}

/* Of one slot's block of outputs, n of them from `out` on. */
static void add_bias(const gr_kernels *k, const gr_weight *bias, int32_t out, int32_t n, float *x) {
    if (bias) k->add(x, bias->vector + out, n);
}

static void activate(const expert_args *x, const expert_cut *cut, float *gate, float *up) {
    const gr_mlp *mlp = &x->e->slots[cut->slot];
    const gr_kernels *k = x->cpu->k;
    add_bias(k, mlp->gate_bias, cut->out, cut->n_outs, gate);
    add_bias(k, mlp->up_bias, cut->out, cut->n_outs, up);
    if (x->e->swiglu_limit > 0) k->silu_clamped(gate, up, cut->n_outs, x->e->swiglu_limit);
    else k->silu_mul(gate, up, cut->n_outs);
}

static void up_task(void *args, int64_t task, int32_t thread) {
    const expert_args *x = args;
    const expert_cut cut = cut_of_task(x, (int32_t)task, x->width);
    const gr_kernels *k = x->cpu->k;
    float *block = (float *)x->cpu->up.data + (int64_t)thread * GR_TILE_ROWS_MAX * GR_BLOCK_OUTS_MAX;
    gr_tile gate, up;
    gr_block_open(x->cpu, thread, 0, x->e->slots[cut.slot].gate, cut.out, cut.n_outs, cut.pair_end - cut.pair, &gate);
    gr_block_open(x->cpu, thread, 1, x->e->slots[cut.slot].up, cut.out, cut.n_outs, cut.pair_end - cut.pair, &up);
    for (int32_t p = cut.pair; p < cut.pair_end; p += gate.n_rows) {
        gate.n_rows = up.n_rows = least(k->tile_rows, cut.pair_end - p);
        for (int32_t r = 0; r < gate.n_rows; r++) {
            gate.x[r] = up.x[r] = (const float *)x->e->in + (int64_t)row_of_pair(x->e, p + r) * x->hidden_size;
            gate.out[r] = x->hidden + (int64_t)(p + r) * x->width + cut.out;
            up.out[r] = block + r * GR_BLOCK_OUTS_MAX;
        }
        k->tile(&gate);
        k->tile(&up);
        for (int32_t r = 0; r < gate.n_rows; r++) activate(x, &cut, gate.out[r], up.out[r]);
    }
}

static void down_task(void *args, int64_t task, int32_t thread) {
    const expert_args *x = args;
    const expert_cut cut = cut_of_task(x, (int32_t)task, x->hidden_size);
    gr_tile t;
    gr_block_open(x->cpu, thread, 0, x->e->slots[cut.slot].down, cut.out, cut.n_outs, cut.pair_end - cut.pair, &t);
    for (int32_t p = cut.pair; p < cut.pair_end; p += t.n_rows) {
        t.n_rows = least(x->cpu->k->tile_rows, cut.pair_end - p);
        for (int32_t r = 0; r < t.n_rows; r++) {
            t.x[r] = x->hidden + (int64_t)(p + r) * x->width;
            t.out[r] = (float *)x->e->out + (int64_t)(p + r) * x->hidden_size + cut.out;
        }
        x->cpu->k->tile(&t);
        for (int32_t r = 0; r < t.n_rows; r++) add_bias(x->cpu->k, x->e->slots[cut.slot].down_bias, cut.out, cut.n_outs, t.out[r]);
    }
}

/* Cuts a pass with n_outs outputs of k products each into tasks; returns how many. */
static int32_t cut_pass(expert_args *x, int32_t *first_task, int32_t n_outs, int32_t k) {
    const gr_experts *e = x->e;
    const int32_t n_pairs = e->first_pair[e->n_slots];
    int32_t n_busy = 0, n_tasks = 0;
    for (int32_t s = 0; s < e->n_slots; s++) n_busy += e->first_pair[s + 1] > e->first_pair[s];
    x->outs_per_block = gr_block_outs(x->cpu, n_outs * least(n_busy, 64), k);
    const int64_t n_blocks = gr_ceil_div(n_outs, x->outs_per_block);
    x->rows_per_part = gr_rows_per_part(x->cpu, n_blocks * n_busy, n_pairs);
    for (int32_t s = 0; s < e->n_slots; s++) {
        first_task[s] = n_tasks;
        n_tasks += (int32_t)(n_blocks * gr_ceil_div(e->first_pair[s + 1] - e->first_pair[s], x->rows_per_part));
    }
    first_task[e->n_slots] = n_tasks;
    return n_tasks;
}

static grace_status check_shapes(const gr_experts *e, int32_t width, int32_t hidden) {
    grace_status st = GRACE_OK;
    for (int32_t s = 0; s < e->n_slots; s++) {
        const gr_weight *g = e->slots[s].gate, *u = e->slots[s].up, *d = e->slots[s].down;
        GR_CHECK(g->rows == width && u->rows == width && d->cols == width && g->cols == hidden && u->cols == hidden && d->rows == hidden,
                 GRACE_ERR_ARG, "slot %d: gate %dx%d, up %dx%d, down %dx%d; slot 0 has width %d, hidden %d", s, g->rows, g->cols, u->rows, u->cols,
                 d->rows, d->cols, width, hidden);
    }
done:
    return st;
}

grace_status gr_cpu_experts(gr_compute *c, const gr_experts *e) {
    grace_status st = GRACE_OK;
    gr_cpu *cpu = gr_cpu_of(c);
    const int32_t n_pairs = e->n_slots ? e->first_pair[e->n_slots] : 0;
    if (n_pairs == 0) return st;
    expert_args x = {.cpu = cpu, .e = e, .width = e->slots[0].gate->rows, .hidden_size = e->slots[0].gate->cols};
    const int64_t cost = (int64_t)n_pairs * x.width * x.hidden_size;
    GR_TRY(check_shapes(e, x.width, x.hidden_size));
    GR_TRY(gr_scratch_reserve(&cpu->hidden, sizeof(float) * (size_t)n_pairs * (size_t)x.width, "expert activations"));
    GR_TRY(gr_scratch_reserve(&cpu->tasks, sizeof(int32_t) * ((size_t)e->n_slots + 1), "expert tasks"));
    x.hidden = cpu->hidden.data;
    x.first_task = cpu->tasks.data;
    gr_cpu_for(cpu, cut_pass(&x, cpu->tasks.data, x.width, x.hidden_size), 2 * cost, up_task, &x);
    gr_cpu_for(cpu, cut_pass(&x, cpu->tasks.data, x.hidden_size, x.width), cost, down_task, &x);
done:
    return st;
}

/* ---- an MLP of every row ---- */

typedef struct adding { const gr_kernels *k; const gr_mlp_rows *m; int32_t hidden; } adding;

static void scale(const gr_kernels *k, const gr_weight *gate, const float *in, float *y) {
    float by = 0;
    gr_tile t = {.w = gate->vector, .dtype = GRACE_F32, .n_outs = 1, .n_rows = 1, .k = gate->cols, .x = {in}, .out = {&by}};
    k->tile(&t);
    k->sigmoid(&by, 1);
    for (int32_t i = 0; i < gate->cols; i++) y[i] *= by;
}

static void add_row(void *args, int64_t row, int32_t thread) {
    const adding *a = args;
    const int64_t at = row * a->hidden;
    float *y = (float *)a->m->between + at;
    (void)thread;
    if (a->m->gate) scale(a->k, a->m->gate, (const float *)a->m->in + at, y);
    a->k->add((float *)a->m->x + at, y, a->hidden);
}

grace_status gr_cpu_mlp(gr_compute *c, const gr_mlp_rows *m) {
    grace_status st = GRACE_OK;
    const int32_t pairs[2] = {0, m->n_rows};
    const gr_experts e = {.n_slots = 1, .slots = m->mlp->slots, .swiglu_limit = m->swiglu_limit, .first_pair = pairs, .in = m->in, .out = m->between};
    adding a = {gr_cpu_of(c)->k, m, m->mlp->slots->down->rows};
    GR_ASSERT(!m->gate || m->gate->vector);
    GR_TRY(gr_cpu_experts(c, &e));
    gr_cpu_for(gr_cpu_of(c), m->n_rows, (int64_t)m->n_rows * a.hidden * 2, add_row, &a);
done:
    return st;
}
