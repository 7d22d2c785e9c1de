/* The meta.json that stands beside a foreign table. */
#ifndef GR_INTEROP_META_H
#define GR_INTEROP_META_H
#include <stdbool.h>
#include <stdint.h>

#include "interop/loads.h"

typedef struct gr_meta {
    bool found;                 /* false: there is no meta.json, the rest is empty */
    grace_trace_info info;      /* model, layers and their ids, experts, top_k */
} gr_meta;

/* meta.json in the folder of the file at `path`. Fails with FORMAT, LIMIT (a path). */
grace_status gr_meta_load(const char *path, gr_meta *out);
/* FORMAT unless the table has as many layers and experts as meta.json says. */
grace_status gr_meta_check(const gr_meta *meta, const char *path, const gr_loads *loads);

/* The file at path, through gr_loads_parse_csv(). */
grace_status gr_loads_load(const char *path, gr_loads *out);

#endif
