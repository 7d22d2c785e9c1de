#include "run/record.h"

#include <string.h>

#include "base/memory.h"

struct gr_recorder {
    gr_comm *comm;
    grace_trace_info info;
    grace_trace_writer *writer;     /* rank 0 */
    uint16_t *experts;              /* [n_rows_max, n_layers, top_k] of the current step */
    float *weights;                 /* the same; NULL when they are not recorded */
    int32_t *ids;                   /* [n_rows_max] */
    char *packed;                   /* segments, token ids, experts, weights, as sent to rank 0 */
    int32_t *sizes, *to, *from;     /* [n_ranks] bytes of every rank's packed, and what this rank sends and receives */
    char *all;                      /* rank 0: every rank's packed, room for the worst step */
    int32_t n_rows_max;
};

/* Of a row in packed: its token id, its experts and perhaps their weights. */
static size_t row_bytes(const gr_recorder *rec) {
    size_t value = sizeof *rec->experts + (rec->info.weights ? sizeof *rec->weights : 0);
    return sizeof *rec->ids + (size_t)rec->info.n_layers * (size_t)rec->info.top_k * value;
}

static grace_status open_here(gr_comm *comm, const char *path, const grace_trace_info *info, const char *const *domains, int32_t n_domains,
                              int32_t n_rows_max, gr_recorder **out) {
    grace_status st = GRACE_OK;
    gr_recorder *rec = NULL;
    size_t row = (size_t)info->n_layers * (size_t)info->top_k;
    GR_CALLOC(rec, 1);
    rec->comm = comm;
    rec->info = *info;
    rec->n_rows_max = n_rows_max;
    GR_CALLOC(rec->experts, (size_t)n_rows_max * row);
    GR_CALLOC(rec->ids, n_rows_max);
    if (info->weights) GR_CALLOC(rec->weights, (size_t)n_rows_max * row);
    size_t most = sizeof(int32_t) + (size_t)n_rows_max * (sizeof(grace_trace_segment) + row_bytes(rec));
    GR_CHECK(most <= INT32_MAX / (size_t)comm->n_ranks, GRACE_ERR_LIMIT,
             "recording %d rows a step on %d ranks: expected at most %d bytes of choices, found %zu",
             n_rows_max, comm->n_ranks, INT32_MAX / comm->n_ranks, most);
    GR_CALLOC(rec->packed, most);
    GR_CALLOC(rec->sizes, comm->n_ranks);
    GR_CALLOC(rec->to, comm->n_ranks);
    GR_CALLOC(rec->from, comm->n_ranks);
    if (comm->rank == 0) GR_CALLOC(rec->all, most * (size_t)comm->n_ranks);
    if (comm->rank == 0) GR_TRY(grace_trace_create(path, info, domains, n_domains, &rec->writer));
    *out = rec;
    rec = NULL;
done:
    gr_recorder_free(rec);
    return st;
}

grace_status gr_recorder_open(gr_comm *comm, const char *path, const grace_trace_info *info, const char *const *domains, int32_t n_domains,
                              int32_t n_rows_max, gr_recorder **out) {
    grace_status st = GRACE_OK;
    gr_recorder *rec = NULL;
    GR_TRY(grace_comm_agree(comm, open_here(comm, path, info, domains, n_domains, n_rows_max, &rec)));
    *out = rec;
    rec = NULL;
done:
    gr_recorder_free(rec);
    return st;
}

grace_status gr_recorder_add(gr_recorder *rec, grace_trace_sequence seq) {
    return rec->writer ? grace_trace_add_sequence(rec->writer, seq) : GRACE_OK;
}

void gr_recorder_gate(void *recorder, int32_t moe_layer, const gr_step *step, const int32_t *experts, const float *weights) {
    gr_recorder *rec = recorder;
    int32_t k = rec->info.top_k;
    for (int32_t r = 0; r < step->n_rows; r++) {
        int64_t to = ((int64_t)r * rec->info.n_layers + moe_layer) * k;
        for (int32_t j = 0; j < k; j++) rec->experts[to + j] = (uint16_t)experts[(int64_t)r * k + j];
        if (rec->weights) memcpy(rec->weights + to, weights + (int64_t)r * k, (size_t)k * sizeof *weights);
    }
}

/* Runs of consecutive rows of one sequence. The first n_decode rows are generated tokens. */
static int32_t cut_segments(const gr_step *step, int32_t n_decode, int32_t number, grace_trace_segment *out) {
    int32_t n = 0;
    for (int32_t r = 0; r < step->n_rows; r++) {
        if (r > 0 && r != n_decode && step->sequence[r] == step->sequence[r - 1]) out[n - 1].n_tokens++;
        else out[n++] = (grace_trace_segment){.sequence = step->sequence[r], .position = step->position[r], .n_tokens = 1, .step = number,
                                              .phase = r < n_decode ? GRACE_PHASE_DECODE : GRACE_PHASE_PREFILL};
    }
    return n;
}

static char *put(char *to, const void *from, size_t n) {
    if (n) memcpy(to, from, n);
    return to + n;
}

/* packed = n_segments, segments, and for all rows: token ids, experts, weights. */
static int32_t pack(gr_recorder *rec, const gr_step *step, int32_t n_decode, int32_t number) {
    size_t rows = (size_t)step->n_rows, values = rows * (size_t)rec->info.n_layers * (size_t)rec->info.top_k;
    grace_trace_segment *segments = (grace_trace_segment *)(rec->packed + sizeof(int32_t));
    int32_t n = cut_segments(step, n_decode, number, segments);
    memcpy(rec->packed, &n, sizeof n);
    char *end = put((char *)(segments + n), step->id, rows * sizeof *rec->ids);
    end = put(end, rec->experts, values * sizeof *rec->experts);
    end = put(end, rec->weights, rec->weights ? values * sizeof *rec->weights : 0);
    return (int32_t)(end - rec->packed);
}

static const char *take(void *to, const char *from, size_t n) {
    if (n) memcpy(to, from, n);
    return from + n;
}

/* What a rank packed goes to the file, through rank 0's own buffers: its rows of this step have been packed. */
static grace_status write_rank(gr_recorder *rec, const char *packed, int32_t size) {
    grace_status st = GRACE_OK;
    int32_t n, first = 0;
    const char *segments = take(&n, packed, sizeof n), *at = segments + (size_t)n * sizeof(grace_trace_segment);
    size_t rows = (size_t)(packed + size - at) / row_bytes(rec), row = (size_t)rec->info.n_layers * (size_t)rec->info.top_k;
    at = take(rec->ids, at, rows * sizeof *rec->ids);
    at = take(rec->experts, at, rows * row * sizeof *rec->experts);
    take(rec->weights, at, rec->weights ? rows * row * sizeof *rec->weights : 0);
    for (int32_t i = 0; i < n; i++) {
        grace_trace_segment s;
        memcpy(&s, segments + (size_t)i * sizeof s, sizeof s);
        size_t value = (size_t)first * row;
        GR_TRY(grace_trace_append(rec->writer, s, (grace_trace_tokens){.experts = rec->experts + value, .ids = rec->ids + first,
                                                                       .weights = rec->weights ? rec->weights + value : NULL}));
        first += s.n_tokens;
    }
done:
    return st;
}

grace_status gr_recorder_step(gr_recorder *rec, const gr_step *step, int32_t n_decode, int32_t step_number) {
    grace_status st = GRACE_OK, mine = GRACE_OK;
    int32_t n = pack(rec, step, n_decode, step_number);
    const char *at = rec->all;
    GR_TRY(gr_comm_allgather(rec->comm, &n, sizeof n, rec->sizes));
    rec->to[0] = n;
    for (int32_t r = 0; r < rec->comm->n_ranks; r++) rec->from[r] = rec->comm->rank == 0 ? rec->sizes[r] : 0;
    GR_TRY(gr_comm_alltoallv(rec->comm, &(gr_xfer){rec->packed, rec->to, rec->all, rec->from, 1}));
    for (int32_t r = 0; rec->writer && !mine && r < rec->comm->n_ranks; at += rec->sizes[r++]) mine = write_rank(rec, at, rec->sizes[r]);
    GR_TRY(grace_comm_agree(rec->comm, mine));
done:
    return st;
}

grace_status gr_recorder_finish(gr_recorder *rec) {
    grace_status mine = GRACE_OK;
    if (rec->writer) {
        mine = grace_trace_finish(rec->writer);
        rec->writer = NULL;
    }
    return grace_comm_agree(rec->comm, mine);
}

void gr_recorder_free(gr_recorder *rec) {
    if (!rec) return;
    if (rec->writer) grace_trace_abandon(rec->writer);
    free(rec->experts);
    free(rec->weights);
    free(rec->ids);
    free(rec->packed);
    free(rec->sizes);
    free(rec->to);
    free(rec->from);
    free(rec->all);
    free(rec);
}
