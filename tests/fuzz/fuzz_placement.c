/* Any bytes as a placement in JSON and YAML: one sentence, or tables from which a plan can be made or is refused. */
#include "base/status.h"
#include "interop/place_json.h"
#include "interop/trtllm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { N_RANKS = 2 };

static void use(grace_status st, gr_placement *p) {
    grace_plan *plan = NULL;
    if (st) GR_ASSERT(!p->first && grace_last_error()[0]);
    else if (!gr_placement_plan("fuzz", p, (grace_cluster){1, N_RANKS}, 0, &plan)) GR_ASSERT(plan->n_layers == p->n_layers);
    grace_plan_free(plan);
    gr_placement_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const char *text = (const char *)data;
    const gr_layer_map map = {.n_model_layers = 3, .n_layers = 2};
    gr_placement p = {0};
    use(gr_sglang_parse("fuzz", text, n, N_RANKS, NULL, &p), &p);
    use(gr_sglang_parse("fuzz", text, n, N_RANKS, &map, &p), &p);
    use(gr_flat_parse("fuzz", text, n, N_RANKS, &p), &p);
    use(gr_ascend_parse("fuzz", text, n, &p), &p);
    use(gr_trtllm_parse("fuzz", text, n, N_RANKS, &p), &p);
    return 0;
}
