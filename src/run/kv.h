/* The paged KV cache: pages of GR_KV_PAGE tokens, handed to sequences when they start and taken back when they end. */
#ifndef GR_RUN_KV_H
#define GR_RUN_KV_H
#include "compute/compute.h"

typedef struct gr_kv {
    gr_compute *compute;
    int32_t n_layers, n_pages, pages_max, n_sequences_max;
    void **k, **v;              /* [n_layers] pages of a layer, backend memory; v [l] NULL with latent attention, where keys hold the values */
    int32_t *page_table;        /* [n_sequences_max, pages_max] */
    int32_t *page_table_there;  /* the same, backend memory */
    int32_t *n_held;            /* [n_sequences_max] pages of a sequence, 0: free */
    bool *changed, any_changed; /* [n_sequences_max] rows taken since the last sync */
    int32_t *free_pages;        /* stack */
    int32_t n_free;
} gr_kv;

/* Floats of a position in one layer; together grace_model_kv_token_bytes(). */
void gr_kv_widths(const grace_model_info *info, int64_t *key, int64_t *value);
/* n_tokens of cache in all, sequences of at most context_max tokens, n_sequences_max of them at once (or as many as there are pages). Free with
 * gr_kv_free(). */
grace_status gr_kv_init(gr_kv *kv, gr_compute *compute, const grace_model_info *info, int64_t n_tokens, int32_t n_sequences_max);
void gr_kv_free(gr_kv *kv);

static inline int32_t gr_kv_pages_for(int32_t n_tokens) { return (n_tokens + GR_KV_PAGE - 1) / GR_KV_PAGE; }
/* Room for n_tokens: the sequence's row in page_table, or -1 when there is none now. */
int32_t gr_kv_take(gr_kv *kv, int32_t n_tokens);
void gr_kv_give(gr_kv *kv, int32_t sequence);
/* Brings page_table_there up to date, before a step that uses rows taken since the last. */
grace_status gr_kv_sync(gr_kv *kv);

#endif
