/* Any bytes as a machine's rates: one sentence, or rates whose text parses to the same rates. */
#include "plan/rates.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char *print(const grace_rates *rates) {
    gr_json *json = gr_rates_json(rates);
    char *text = NULL;
    GR_ASSERT(!gr_json_write(json, 0, &text, NULL));
    gr_json_free(json);
    return text;
}

/* A latency is kept in seconds and written in us, so texts may differ in the last digit once; rates are what is compared. */
static void check_round_trip(const grace_rates *rates) {
    char *text = print(rates);
    grace_rates again;
    GR_ASSERT(!gr_rates_parse("printed", text, strlen(text), &again));
    GR_ASSERT(again.cross.bytes_s == rates->cross.bytes_s && again.flop_s == rates->flop_s && again.n_nodes == rates->n_nodes);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    grace_rates rates;
    if (gr_rates_parse("fuzz", (const char *)data, n, &rates)) GR_ASSERT(grace_last_error()[0]);
    else check_round_trip(&rates);
    return 0;
}
