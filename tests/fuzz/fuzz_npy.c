/* Any bytes as .npy, and as a placement pattern in it. */
#include "base/status.h"
#include "interop/npy.h"
#include "interop/omni.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    gr_npy npy;
    gr_placement placement = {0};
    grace_plan *plan = NULL;
    if (!gr_npy_parse("fuzz", data, n, &npy)) {
        int64_t sum = 0;
        for (int64_t i = 0; i < npy.n; i++) sum ^= gr_npy_int(&npy, i);
        GR_ASSERT(npy.n <= (int64_t)n && sum == sum);
    }
    if (!gr_omni_parse("fuzz", data, n, &placement) && !gr_placement_plan("fuzz", &placement, (grace_cluster){1, placement.n_ranks}, 1, &plan))
        GR_ASSERT(plan->n_layers == placement.n_layers);
    grace_plan_free(plan);
    gr_placement_free(&placement);
    return 0;
}
