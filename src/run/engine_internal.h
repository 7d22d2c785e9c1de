/* What tests may see of an engine. */
#ifndef GR_RUN_ENGINE_INTERNAL_H
#define GR_RUN_ENGINE_INTERNAL_H
#include "grace/engine.h"
#include "run/network.h"

/* Results without logits_hash: exact steps on a GPU are replayed too, as they are where nobody looks at logits. Before the first step. */
void gr_engine_drop_hashes(grace_engine *engine);
/* Steps are launched ahead, or not, whatever the options and the backend. On all ranks alike, before the first step. */
void gr_engine_look_ahead(grace_engine *engine, bool on);
gr_network *gr_engine_network(grace_engine *engine);    /* borrowed until close; set on_gate before the first step */

#endif
