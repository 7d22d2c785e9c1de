/* A step of the network: what it brings along, one run of the layers, and the ids that come of it. */
#include "base/memory.h"
#include "run/network_parts.h"

/* ---- what a step brings along ---- */

/* The next n values of a block. */
static void *take(char **at, int64_t n, size_t size) {
    void *values = *at;
    *at += n * (int64_t)size;
    return values;
}

/* The arrays of a block for n rows, in the block's memory here or there: the order is the layout. */
static gr_step_rows rows_of(char *block, int32_t n) {
    gr_step_rows r = {.n = n};
    r.id = take(&block, n, sizeof *r.id);
    r.sequence = take(&block, n, sizeof *r.sequence);
    r.position = take(&block, n, sizeof *r.position);
    r.kv_sequence = take(&block, n, sizeof *r.kv_sequence);
    r.decode = take(&block, n, sizeof *r.decode);
    r.recorded = take(&block, n, sizeof *r.recorded);
    return r;
}

static gr_draws draws_of(char *block, int32_t n, const int32_t **index) {
    gr_draws d;
    d.u = take(&block, n, sizeof *d.u);
    d.temperature = take(&block, n, sizeof *d.temperature);
    d.top_p = take(&block, n, sizeof *d.top_p);
    d.top_k = take(&block, n, sizeof *d.top_k);
    *index = take(&block, n, sizeof **index);
    return d;
}

/* The last rows whose prompts begin in this step: each has all the rows before it beside it. */
static int32_t count_begun(const gr_step *step) {
    int32_t first = step->n_rows;
    while (first > step->n_decode) {
        const int32_t last = first - 1, start = last - step->position[last];
        if (start < step->n_decode || step->position[start] != 0 || step->kv_sequence[start] != step->kv_sequence[last]) break;
        first = start;
    }
    return step->n_rows - first;
}

static int32_t clamp32(int32_t v, int32_t most) { return v < 0 ? 0 : v > most ? most : v; }

/* The rows [first, end) of the step, which may be padding. */
static void make_part(const gr_network *net, const gr_step *step, int32_t first, int32_t end, gr_part *p) {
    const int32_t n = end - first, n_real = clamp32(step->n_rows - first, n);
    p->first = first;
    p->step = *step;
    p->step.n_rows = n_real, p->step.n_decode = clamp32(step->n_decode - first, n_real);
    p->step.id += first, p->step.sequence += first, p->step.position += first, p->step.kv_sequence += first;
    const int32_t n_begun = net->makes_keys ? count_begun(&p->step) : 0;
    p->rows = net->rows;
    p->rows.n = n;
    p->rows.id += first, p->rows.sequence += first, p->rows.position += first, p->rows.kv_sequence += first, p->rows.decode += first, p->rows.recorded += first;
    p->rows.n_made = n_begun ? n_begun + n - n_real : 0;
    p->rows.has_decode = p->step.n_decode > 0;
    p->rows.has_prompt = p->step.n_decode + n_begun < n_real;
}

/* Where the second of two parts begins: in the middle, or, if one is near, where a prompt does. */
static int32_t cut_of(const gr_step *step, int32_t n) {
    const int32_t middle = n / 2, slack = gr_part_slack(step->n_rows_most);
    for (int32_t d = 0; d <= slack; d++)
        for (int32_t row = middle - d; row <= middle + d; row += d ? 2 * d : 1)
            if (row >= step->n_decode && row < step->n_rows && step->position[row] == 0) return row;
    return middle;
}

static void make_parts(gr_network *net, const gr_step *step, int32_t n) {
    const int32_t cut = net->n_parts > 1 ? cut_of(step, n) : n;
    make_part(net, step, 0, cut, &net->parts[0]);
    if (net->n_parts > 1) make_part(net, step, cut, n, &net->parts[1]);
}

/* n >= step->n_rows: padding rows at the end. */
static grace_status send_rows(gr_network *net, const gr_step *step, int32_t n) {
    const gr_step_rows here = rows_of(net->step_block.host, n);
    for (int32_t i = 0; i < n; i++) {
        const bool real = i < step->n_rows;
        ((int32_t *)here.id)[i] = real ? step->id[i] : 0;
        ((int32_t *)here.sequence)[i] = real ? step->sequence[i] : 0;
        ((int32_t *)here.position)[i] = real ? step->position[i] : 0;
        ((int32_t *)here.kv_sequence)[i] = real ? step->kv_sequence[i] : -1;
        ((int32_t *)here.decode)[i] = i < step->n_decode || !real;
        ((int32_t *)here.recorded)[i] = real && net->trace_gate ? gr_trace_gate_token(net->trace_gate, step->sequence[i], step->position[i]) : -1;
    }
    net->rows = rows_of(net->step_block.there, n);
    make_parts(net, step, n);
    return net->compute->ops->upload(net->compute, net->step_block.there, net->step_block.host, (size_t)n * GR_STEP_BYTES);
}

/* rows NULL: 0, 1, ... */
static grace_status send_draws(gr_network *net, const int32_t *rows, const gr_draw *draws, int32_t n_real, int32_t n) {
    const int32_t *index;
    const gr_draws here = draws_of(net->draw_block.host, n, &index);
    static const gr_draw none = {.top_p = 1};
    for (int32_t i = 0; i < n; i++) {
        const gr_draw *d = i < n_real ? &draws[i] : &none;
        ((double *)here.u)[i] = d->temperature > 0 ? gr_draw_uniform(d->seed, d->position) : 0;
        ((float *)here.temperature)[i] = d->temperature;
        ((float *)here.top_p)[i] = d->top_p;
        ((int32_t *)here.top_k)[i] = d->top_k;
        ((int32_t *)index)[i] = rows ? rows[i] : i;
    }
    net->draws = draws_of(net->draw_block.there, n, &net->index);
    return net->compute->ops->upload(net->compute, net->draw_block.there, net->draw_block.host, (size_t)n * GR_DRAW_BYTES);
}

/* ---- run, draw ---- */

/* Logits of the rows of net->index, and ids by net->draws. */
static grace_status run_draws(gr_network *net, int32_t n) {
    grace_status st = GRACE_OK;
    const gr_compute_ops *ops = net->compute->ops;
    if (net->times_stages) ops->mark(net->compute, NULL);
    GR_TRY(ops->gather(net->compute, net->x, net->index, n, net->info->hidden, net->h));
    GR_TRY(ops->logits(net->compute, net->w.head, net->h, n, net->logits));
    GR_TRY(ops->sample(net->compute, net->logits, n, net->info->vocab, &net->draws, net->drawn_there));
    if (net->times_stages) ops->mark(net->compute, &net->time_us[GRACE_TIME_LOGITS]);
done:
    return st;
}

typedef struct whole_step { gr_network *net; const gr_step *step; } whole_step;

static grace_status run_whole(void *user) {
    const whole_step *w = user;
    grace_status st = gr_network_layers(w->net, w->step);
    return st ? st : run_draws(w->net, w->net->rows.n);
}

static gr_exchange_step end_of(const gr_network *net, const gr_step *step) {
    return (gr_exchange_step){step->n_rows, net->info->n_moe_layers, step->flight};
}

/* Where the host has nothing to do, and nobody looks. */
static bool replays(const gr_network *net) {
    return !net->on_gate && !net->on_stream && !net->times_stages && !gr_exchange_waits(net->exchange) && net->rows.n > 0;
}

static grace_status bring(gr_network *net, const gr_step *step, const gr_draw *draws) {
    grace_status st = GRACE_OK;
    const gr_compute_ops *ops = net->compute->ops;
    const int32_t most = ops->padded(net->compute, step->n_rows_most), n = draws && ops->packs ? most : step->n_rows;   /* all ranks replay one size */
    GR_ASSERT(step->n_rows <= step->n_rows_most && (!draws || (step->n_decode == step->n_rows && n <= net->n_logits_max && n <= net->n_rows_max)));
    net->flight = &net->landed[step->flight];
    net->n_parts = gr_exchange_step_start(net->exchange, most, net->on_stream || net->times_stages ? 1 : GR_PARTS_MAX);
    GR_TRY(gr_kv_sync(&net->kv));
    GR_TRY(send_rows(net, step, n));
    if (draws) GR_TRY(send_draws(net, NULL, draws, step->n_rows, n));
done:
    return st;
}

/* Waits for the step, of which n ids are wanted. Where a number was not one, the rows came home all the same: the step is over, here and for the others. */
static grace_status read_end(gr_network *net, const gr_step *step, int32_t n) {
    grace_status st = GRACE_OK, ended;
    const gr_landed *landed = &net->landed[step->flight];
    const gr_exchange_step end = end_of(net, step);
    ended = net->compute->ops->finish(net->compute, step->flight, landed->drawn, n);
    if (ended && ended != GRACE_ERR_NUMERIC) return ended;
    GR_TRY(gr_exchange_step_done(net->exchange, &end, landed->load));
    st = ended;
done:
    return st;
}

/* Draws follow, of some of the rows, or none. One rank alone need not wait for its rows. */
grace_status gr_network_forward(gr_network *net, const gr_step *step) {
    grace_status st = GRACE_OK;
    const gr_exchange_step end = end_of(net, step);
    GR_TRY(bring(net, step, NULL));
    GR_TRY(gr_network_layers(net, step));
    GR_TRY(gr_exchange_step_end(net->exchange, &end));
    if (net->comm->n_ranks == 1) return gr_exchange_step_done(net->exchange, &end, net->flight->load);
    GR_TRY(net->compute->ops->end(net->compute, step->flight, NULL, 0));
    GR_TRY(read_end(net, step, 0));
done:
    return st;
}

grace_status gr_network_launch(gr_network *net, const gr_step *step, const gr_draw *draws) {
    grace_status st = GRACE_OK;
    const gr_exchange_step end = end_of(net, step);
    whole_step whole = {net, step};
    GR_TRY(bring(net, step, draws));
    GR_TRY(replays(net) ? net->compute->ops->replay(net->compute, net->rows.n, run_whole, &whole) : run_whole(&whole));
    GR_TRY(gr_exchange_step_end(net->exchange, &end));
    GR_TRY(net->compute->ops->end(net->compute, step->flight, net->drawn_there, step->n_rows));
done:
    return st;
}

grace_status gr_network_land(gr_network *net, const gr_step *step) { return read_end(net, step, step->n_rows); }

/* A rank may send rows of the next step, of another number and so elsewhere in the memory of the others, when all have given back the last rows of this one:
 * a dense layer behind these would still be at work there. */
bool gr_network_queues(const gr_network *net) {
    const bool ends_dense = net->info->layers[net->info->n_layers - 1].moe < 0;
    return !net->on_gate && !net->on_stream && !net->times_stages && gr_exchange_queues(net->exchange) && (net->comm->n_ranks == 1 || !ends_dense);
}

grace_status gr_network_record(gr_network *net, const gr_step *step, const gr_draw *draws) {
    whole_step whole = {net, step};
    const grace_status st = bring(net, step, draws);
    return st || !replays(net) ? st : net->compute->ops->record(net->compute, net->rows.n, run_whole, &whole);
}

static grace_status bring_logits(gr_network *net, int32_t n, const float **logits) {
    grace_status st = GRACE_OK;
    const size_t row = (size_t)net->info->vocab * sizeof **logits;
    *logits = net->logits;
    if (!net->compute->ops->packs) goto done;
    if (!net->logits_here) GR_CALLOC(net->logits_here, (size_t)net->n_logits_max * (size_t)net->info->vocab);
    GR_TRY(net->compute->ops->download(net->compute, net->logits_here, net->logits, (size_t)n * row));
    *logits = net->logits_here;
done:
    return st;
}

grace_status gr_network_draw(gr_network *net, const int32_t *rows, int32_t n, const gr_draw *draws, const float **logits) {
    grace_status st = GRACE_OK;
    GR_ASSERT(n <= net->n_logits_max);
    GR_TRY(send_draws(net, rows, draws, n, n));
    GR_TRY(run_draws(net, n));
    GR_TRY(net->compute->ops->end(net->compute, 0, net->drawn_there, n));        /* nothing else is under way */
    GR_TRY(net->compute->ops->finish(net->compute, 0, net->flight->drawn, n));
    if (logits) GR_TRY(bring_logits(net, n, logits));
done:
    return st;
}
