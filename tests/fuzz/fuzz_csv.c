/* Any bytes as a table of loads, as a table of pairs of the loads below, and as EPLB weights. */
#include <math.h>

#include "base/status.h"
#include "interop/coact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_loads(const gr_loads *loads) {
    for (int64_t i = 0; i < (int64_t)loads->n_layers * loads->n_experts; i++) GR_ASSERT(isfinite(loads->load[i]) && loads->load[i] >= 0);
    for (int32_t l = 1; l < loads->n_layers; l++) GR_ASSERT(loads->layer_id[l] > loads->layer_id[l - 1]);
}

static void check_pairs(const gr_pairs *pairs, const gr_loads *loads) {
    for (int32_t l = 0; l < loads->n_layers; l++)
        for (size_t i = pairs->first[l]; i < pairs->first[l + 1]; i++)
            GR_ASSERT(pairs->pairs[i].a >= 0 && pairs->pairs[i].a < pairs->pairs[i].b && pairs->pairs[i].b < loads->n_experts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int32_t ids[2] = {3, 5};
    double load[8] = {6, 6, 2, 2, 4, 4, 4, 4};
    const gr_loads known = {.n_layers = 2, .n_experts = 4, .layer_id = ids, .load = load};
    gr_loads loads = {0}, weights = {0};
    gr_pairs pairs = {0};
    if (!gr_loads_parse_csv("fuzz", (const char *)data, n, &loads)) check_loads(&loads);
    if (!gr_loads_parse_json("fuzz", (const char *)data, n, &weights)) check_loads(&weights);
    if (!gr_pairs_parse("fuzz", (const char *)data, n, &known, &pairs)) check_pairs(&pairs, &known);
    gr_loads_free(&loads), gr_loads_free(&weights);
    gr_pairs_free(&pairs);
    return 0;
}
