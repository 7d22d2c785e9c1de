#include "run/kv.h"

#include "base/memory.h"

void gr_kv_widths(const grace_model_info *info, int64_t *key, int64_t *value) {
    *key = info->kv_rank ? info->kv_rank + info->rope.dim : (int64_t)info->n_kv_heads * info->head_dim;
    *value = info->kv_rank ? 0 : (int64_t)info->n_kv_heads * info->v_dim;
}

grace_status gr_kv_init(gr_kv *kv, gr_compute *compute, const grace_model_info *info, int64_t n_tokens, int32_t n_sequences_max) {
    grace_status st = GRACE_OK;
    int64_t n_pages = (n_tokens + GR_KV_PAGE - 1) / GR_KV_PAGE, key, value;
    gr_kv_widths(info, &key, &value);
    GR_CHECK(n_pages >= 1 && n_pages <= INT32_MAX, GRACE_ERR_LIMIT, "KV cache of %lld tokens: expected 1 to %lld", (long long)n_tokens,
             (long long)INT32_MAX * GR_KV_PAGE);
    *kv = (gr_kv){.compute = compute, .n_layers = info->n_layers, .n_pages = (int32_t)n_pages, .n_sequences_max = n_sequences_max};
    kv->pages_max = gr_kv_pages_for(info->context_max);
    if (kv->pages_max > kv->n_pages) kv->pages_max = kv->n_pages;       /* no sequence gets more, nor can more of them run */
    if (kv->n_sequences_max > kv->n_pages) kv->n_sequences_max = n_sequences_max = kv->n_pages;
    GR_CALLOC(kv->k, info->n_layers);
    GR_CALLOC(kv->v, info->n_layers);
    for (int32_t l = 0; l < info->n_layers; l++) {
        const size_t positions = (size_t)n_pages * GR_KV_PAGE * compute->ops->element;
        GR_TRY(compute->ops->alloc(compute, positions * (size_t)key, &kv->k[l]));
        if (value) GR_TRY(compute->ops->alloc(compute, positions * (size_t)value, &kv->v[l]));
    }
    GR_CALLOC(kv->page_table, (size_t)n_sequences_max * (size_t)kv->pages_max);
    GR_TRY(compute->ops->alloc(compute, (size_t)n_sequences_max * (size_t)kv->pages_max * sizeof *kv->page_table, (void **)&kv->page_table_there));
    GR_CALLOC(kv->n_held, n_sequences_max);
    GR_CALLOC(kv->changed, n_sequences_max);
    GR_CALLOC(kv->free_pages, n_pages);
    for (int32_t i = 0; i < kv->n_pages; i++) kv->free_pages[kv->n_free++] = kv->n_pages - 1 - i;
done:
    return st;
}

void gr_kv_free(gr_kv *kv) {
    for (int32_t l = 0; l < kv->n_layers; l++) {
        if (kv->k && kv->k[l]) kv->compute->ops->release(kv->compute, kv->k[l]);
        if (kv->v && kv->v[l]) kv->compute->ops->release(kv->compute, kv->v[l]);
    }
    if (kv->page_table_there) kv->compute->ops->release(kv->compute, kv->page_table_there);
    free(kv->k);
    free(kv->v);
    free(kv->page_table);
    free(kv->n_held);
    free(kv->changed);
    free(kv->free_pages);
    *kv = (gr_kv){0};
}

static int32_t free_row(const gr_kv *kv) {
    for (int32_t s = 0; s < kv->n_sequences_max; s++)
        if (!kv->n_held[s]) return s;
    return -1;
}

int32_t gr_kv_take(gr_kv *kv, int32_t n_tokens) {
    const int32_t n = gr_kv_pages_for(n_tokens), s = free_row(kv);
    GR_ASSERT(n >= 1);
    if (n > kv->n_free || n > kv->pages_max || s < 0) return -1;
    kv->n_held[s] = n;
    for (int32_t i = 0; i < n; i++) kv->page_table[(int64_t)s * kv->pages_max + i] = kv->free_pages[--kv->n_free];
    kv->changed[s] = true;
    kv->any_changed = true;
    return s;
}

void gr_kv_give(gr_kv *kv, int32_t sequence) {
    for (int32_t i = kv->n_held[sequence]; i-- > 0;) kv->free_pages[kv->n_free++] = kv->page_table[(int64_t)sequence * kv->pages_max + i];
    kv->n_held[sequence] = 0;
}

grace_status gr_kv_sync(gr_kv *kv) {
    grace_status st = GRACE_OK;
    for (int32_t s = 0; kv->any_changed && s < kv->n_sequences_max; s++) {
        const int64_t row = (int64_t)s * kv->pages_max;
        if (!kv->changed[s]) continue;
        GR_TRY(kv->compute->ops->upload(kv->compute, kv->page_table_there + row, kv->page_table + row, (size_t)kv->n_held[s] * sizeof *kv->page_table));
        kv->changed[s] = false;
    }
    kv->any_changed = false;
done:
    return st;
}
