/* Which layers of the model the MoE layers of a trace or a plan are: numbers that rise, or NULL when it is unknown. */
#ifndef GR_PLAN_LAYER_IDS_H
#define GR_PLAN_LAYER_IDS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "grace/trace.h"

enum { GR_LAYER_ID_MAX = 4095 };

/* ids [n] rise from 0 or more to GR_LAYER_ID_MAX at most; NULL is fine. Fails with STATUS; the message starts with WHERE. */
grace_status gr_layer_ids_check(const char *where, const int32_t *ids, int32_t n, grace_status status);
/* The member 'layer_ids', an array of n such numbers, to ids [n]; *known is false when there is none. Fails with FORMAT. */
grace_status gr_layer_ids_read(const gr_json *object, const char *where, int32_t n, int32_t *ids, bool *known);
/* The same of a foreign meta.json, whose 'layer_ids' may be words for people: then nothing is known. info->n_layers is set. */
grace_status gr_layer_ids_read_meta(const gr_json *meta, const char *where, grace_trace_info *info);
/* MISMATCH when both are known and differ; what: "plan". */
grace_status gr_layer_ids_agree(const char *what, const int32_t *a, const int32_t *b, int32_t n);

/* "1-26", "0-2 4 6-7"; cut short at the text's end. "unknown" for NULL. */
typedef struct gr_layer_ids_string { char text[64]; } gr_layer_ids_string;
gr_layer_ids_string gr_layer_ids_text(const int32_t *ids, int32_t n);

/* info->layer_ids from ids [info->n_layers], or unknown. */
void gr_layer_ids_set(grace_trace_info *info, const int32_t *ids);
static inline const int32_t *gr_layer_ids_of(const grace_trace_info *info) { return info->layer_ids_known ? info->layer_ids : NULL; }

#endif
