/* Any bytes as plan.json: one sentence, or a plan whose text parses to a plan with the same text. */
#include "plan/plan_json.h"

#include <string.h>

#include "base/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_round_trip(const grace_plan *plan) {
    gr_buf first = {0}, second = {0};
    grace_plan *again = NULL;
    GR_ASSERT(!gr_plan_print(plan, &first));
    GR_ASSERT(!gr_plan_parse("printed", first.data, first.n, &again));
    GR_ASSERT(!gr_plan_print(again, &second));
    GR_ASSERT(!strcmp(first.data, second.data));
    grace_plan_free(again);
    gr_buf_free(&first), gr_buf_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    grace_plan *plan = NULL;
    if (gr_plan_parse("fuzz", (const char *)data, n, &plan)) GR_ASSERT(!plan && grace_last_error()[0]);
    else check_round_trip(plan);
    grace_plan_free(plan);
    return 0;
}
