/* Loads of experts by layer, as tables of other tools give them, and profiles without affinity made of them. */
#ifndef GR_INTEROP_LOADS_H
#define GR_INTEROP_LOADS_H
#include <stddef.h>
#include <stdint.h>

#include "grace/trace.h"
#include "base/csv.h"

typedef struct gr_loads {
    int32_t n_layers, n_experts;
    int32_t *layer_id;          /* [n_layers] as the table numbers them, ascending */
    double *load;               /* [n_layers, n_experts] finite, 0 or more */
} gr_loads;

/* Zeros; layers are numbered from 0. Free it also after a failure. Fails with FORMAT (sizes outside what a trace may have), MEMORY. */
grace_status gr_loads_alloc(const char *where, int64_t n_layers, int64_t n_experts, gr_loads *out);

/* CSV with columns layer, expert, count; rows in any order, every expert of every layer once. Any text is safe; memory follows its length. */
grace_status gr_loads_parse_csv(const char *where, const char *text, size_t n, gr_loads *out);
/* [[...], ...] with rows of equal length; layers are numbered from 0. */
grace_status gr_loads_parse_json(const char *where, const char *text, size_t n, gr_loads *out);
void gr_loads_free(gr_loads *loads);    /* accepts a zeroed one */

int32_t gr_loads_layer(const gr_loads *loads, int64_t layer_id);    /* index of the layer with that number, -1: none */

/* top_k 0: 1 is assumed. Tokens: those of the fullest layer's loads. Fails with FORMAT, LIMIT (affinity over 8 GiB), MEMORY. */
grace_status gr_loads_profile(const char *where, const gr_loads *loads, const char *model, int32_t top_k, grace_profile **out);

#endif
