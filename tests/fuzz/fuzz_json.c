/* Any bytes: a value or one sentence; what was read can be written and read again. */
#include <stdlib.h>

#include "base/json.h"
#include "base/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    gr_json *value = NULL, *again = NULL;
    char *text = NULL;
    size_t n_text = 0;
    if (gr_json_parse("fuzz", (const char *)data, n, &value)) {
        GR_ASSERT(value == NULL && grace_last_error()[0]);
        return 0;
    }
    GR_ASSERT(gr_json_write(value, 1, &text, &n_text) == GRACE_OK);
    GR_ASSERT(gr_json_parse("written", text, n_text, &again) == GRACE_OK);
    GR_ASSERT(gr_json_length(again) == gr_json_length(value));
    gr_json_free(value);
    gr_json_free(again);
    free(text);
    return 0;
}
