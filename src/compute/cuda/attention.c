#include "compute/cuda/attention.h"

#include "base/memory.h"
#include "compute/cuda/attention_work.h"
#include "compute/rope.h"

enum { DIM_STEP = 8, DIMS_MAX = 12000 };        /* of a key and its value together, in the plain kernel's shared memory */

static grace_status check_sizes(const gr_cuda_attention_sizes *s) {
    grace_status st = GRACE_OK;
    GR_CHECK(s->n_kv_heads > 0 && s->n_heads > 0 && s->n_heads % s->n_kv_heads == 0, GRACE_ERR_LIMIT, "cuda: %d heads do not share %d kv heads evenly",
             s->n_heads, s->n_kv_heads);
    GR_CHECK(s->key_dim > 0 && s->value_dim > 0 && s->key_dim % DIM_STEP == 0 && s->value_dim % DIM_STEP == 0, GRACE_ERR_LIMIT,
             "cuda: heads of %d elements with values of %d: attention takes multiples of %d", s->key_dim, s->value_dim, DIM_STEP);
    GR_CHECK(s->key_dim + s->value_dim <= DIMS_MAX, GRACE_ERR_LIMIT, "cuda: heads of %d elements with values of %d: attention takes %d together",
             s->key_dim, s->value_dim, DIMS_MAX);
    GR_CHECK(!s->latent || (s->value_dim <= s->key_dim && s->n_kv_heads == 1), GRACE_ERR_LIMIT,
             "cuda: values of %d elements in %d keys of %d: expected one key that holds its value", s->value_dim, s->n_kv_heads, s->key_dim);
    GR_CHECK(!s->made_key_dim || (s->latent && s->made_key_dim > s->rope->dim && s->rope->dim % DIM_STEP == 0), GRACE_ERR_LIMIT,
             "cuda: made keys of %d elements with %d that turn: expected latents, more elements, and a multiple of %d", s->made_key_dim, s->rope->dim,
             DIM_STEP);
    GR_CHECK(s->rope->dim >= 0 && s->rope->dim <= s->key_dim && s->rope->dim % (s->rope->neighbours ? 2 : 4) == 0, GRACE_ERR_LIMIT,
             "cuda: %d of %d elements turn: attention takes multiples of %d", s->rope->dim, s->key_dim, s->rope->neighbours ? 2 : 4);
    GR_CHECK(s->n_rows_max >= 1 && s->kv_tokens >= 1 && s->kv_tokens <= INT32_MAX && s->n_positions >= 1, GRACE_ERR_LIMIT,
             "cuda: attention over %d rows, %lld tokens of cache, %d positions: expected 1 to %d", s->n_rows_max, (long long)s->kv_tokens, s->n_positions,
             INT32_MAX);
done:
    return st;
}

static grace_status open_array(void *out, size_t n, size_t size, const char *what) {
    void **to = out;
    const size_t bytes = n ? n * size : size;
    grace_status st = gr_cuda_status(cudaMalloc(to, bytes), what);
    return st ? gr_fail_in(st, "%zu bytes", bytes) : gr_cuda_status(cudaMemset(*to, 0, bytes), what);
}

static grace_status open_list(gr_cuda_list *list, int32_t n_max) {
    grace_status st = GRACE_OK;
    list->n_max = n_max;
    GR_TRY(open_array(&list->work, (size_t)n_max, sizeof *list->work, "attention's list"));
    GR_TRY(open_array(&list->n, 1, sizeof *list->n, "attention's list"));
done:
    return st;
}

/* Decode rows are of different sequences, so the splits that are not the only one of a row hold at most twice the cache. */
static grace_status open_scratch(gr_cuda_attention *a) {
    grace_status st = GRACE_OK;
    const gr_cuda_attention_sizes *s = &a->sizes;
    const int32_t n_splits = (int32_t)(s->kv_tokens / GR_CUDA_SPLIT);
    const size_t n_results = (size_t)(2 * n_splits) * (size_t)s->n_heads;
    a->n_partials_max = 2 * n_splits;
    GR_TRY(open_list(&a->prompt, s->n_rows_max));
    GR_TRY(open_list(&a->decode, s->n_rows_max + n_splits));
    if (a->made_flash) GR_TRY(open_list(&a->made, s->n_rows_max));
    if (!a->flash) goto done;
    GR_TRY(open_array(&a->partial_out, n_results * (size_t)s->value_dim, sizeof *a->partial_out, "attention's partial results"));
    GR_TRY(open_array(&a->partial_sum, n_results * 2, sizeof *a->partial_sum, "attention's partial results"));
    GR_TRY(open_array(&a->n_done, (size_t)a->n_partials_max * (size_t)(s->n_kv_heads * a->decode_heads.n_parts), sizeof *a->n_done,
                      "attention's partial results"));
done:
    return st;
}

static grace_status open_rope(gr_cuda_attention *a, const grace_rope *rope) {
    grace_status st = GRACE_OK;
    gr_rope_table table = {0};
    const size_t n = (size_t)a->sizes.n_positions * (size_t)(rope->dim / 2);
    a->rope_dim = rope->dim, a->rope_neighbours = rope->neighbours;
    GR_TRY(gr_rope_reserve(&table, rope, a->sizes.n_positions));
    GR_TRY(open_array(&a->cosine, n, sizeof *a->cosine, "rope table"));
    GR_TRY(open_array(&a->sine, n, sizeof *a->sine, "rope table"));
    if (n == 0) goto done;
    GR_TRY(gr_cuda_status(cudaMemcpy(a->cosine, table.cosine, n * sizeof *a->cosine, cudaMemcpyHostToDevice), "rope table"));
    GR_TRY(gr_cuda_status(cudaMemcpy(a->sine, table.sine, n * sizeof *a->sine, cudaMemcpyHostToDevice), "rope table"));
done:
    gr_rope_free(&table);
    return st;
}

grace_status gr_cuda_attention_open(const gr_cuda_attention_sizes *sizes, gr_cuda_attention **out) {
    grace_status st = GRACE_OK;
    gr_cuda_attention *a = NULL;
    GR_TRY(check_sizes(sizes));
    GR_CALLOC(a, 1);
    a->sizes = *sizes;
    a->sizes.rope = NULL;
    a->rows_per_tile = 1;
    if (!sizes->plain) GR_TRY(gr_cuda_flash_open(a));
    GR_TRY(open_scratch(a));
    GR_TRY(open_rope(a, sizes->rope));
    GR_TRY(gr_cuda_status(cudaDeviceSynchronize(), "attention"));       /* zeros are there, whatever stream comes */
    *out = a, a = NULL;
done:
    gr_cuda_attention_close(a);
    return st;
}

void gr_cuda_attention_close(gr_cuda_attention *a) {
    if (!a) return;
    void *device[] = {a->cosine, a->sine, a->prompt.work, a->prompt.n, a->decode.work, a->decode.n, a->made.work, a->made.n, a->partial_out,
                      a->partial_sum, a->n_done};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) cudaFree(device[i]);
    free(a);
}

bool gr_cuda_attention_is_plain(const gr_cuda_attention *a) { return !a->flash; }

bool gr_cuda_attention_makes(const gr_cuda_attention *a) { return a->made_flash; }

grace_status gr_cuda_attention_run(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer,
                                   gr_cuda_stream stream) {
    GR_ASSERT(step->n_rows <= a->sizes.n_rows_max && step->n_made <= step->n_rows && (step->n_made == 0 || a->made_flash));
    if (step->n_rows == 0) return GRACE_OK;
    return a->flash ? gr_cuda_flash_run(a, step, layer, stream) : gr_cuda_attention_plain(a, step, layer, stream);
}
