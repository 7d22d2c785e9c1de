/* Rates as text, for files, other JSON and tests. The format is in docs/simulator.md. */
#ifndef GR_PLAN_RATES_H
#define GR_PLAN_RATES_H
#include "base/json.h"
#include "grace/sim.h"

/* where names the text in messages. Every key is known and checked; "measured" is for people and not read. Fails with FORMAT, LIMIT, UNSUPPORTED. */
grace_status gr_rates_parse(const char *where, const char *text, size_t n, grace_rates *out);
gr_json *gr_rates_json(const grace_rates *rates);       /* the caller frees */

#endif
