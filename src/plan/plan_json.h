/* plan.json as text (docs/formats.md), for fuzzing and tests; files go through grace_plan_load() and grace_plan_save(). */
#ifndef GR_PLAN_PLAN_JSON_H
#define GR_PLAN_PLAN_JSON_H
#include <stddef.h>

#include "base/json.h"
#include "base/memory.h"
#include "grace/plan.h"

/* where names the text in messages. Everything is checked before it is believed: a plan that comes out can be run. The caller frees.
 * Fails with FORMAT, LIMIT, UNSUPPORTED (another version), MEMORY. */
grace_status gr_plan_parse(const char *where, const char *text, size_t n, grace_plan **out);

/* Appends the plan's JSON text, one line a table. Fails with MEMORY. */
grace_status gr_plan_print(const grace_plan *plan, gr_buf *out);

/* "planned_from" of a plan.json, for whoever reports figures. The caller owns it. */
gr_json *gr_origin_json(const grace_origin *o);

#endif
