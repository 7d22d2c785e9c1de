/* Any template, and any JSON of variables behind a zero byte: text or one sentence, within the bounds, and the same text again. */
#include <stdlib.h>
#include <string.h>

#include "text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static gr_json *variables_of(const uint8_t *json, size_t n) {
    static const char usual[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"h\\u00e9llo\"}, "
                                "{\"role\": \"assistant\", \"content\": null}], \"tools\": [{\"a\": [1, 2.5, true]}],"
                                " \"add_generation_prompt\": true, \"bos_token\": \"<s>\"}";
    gr_json *variables = NULL;
    if (n && gr_json_parse("fuzz", (const char *)json, n, &variables)) return NULL;
    if (!n) GR_ASSERT(gr_json_parse("usual", usual, sizeof usual - 1, &variables) == GRACE_OK);
    return variables;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const gr_template_limits limits = {20000, 1 << 21, 1 << 16};
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    size_t n_text = zero ? (size_t)(zero - data) : n, n_json = zero ? n - n_text - 1 : 0;
    gr_json *variables = variables_of(zero ? zero + 1 : NULL, n_json);
    gr_template *tmpl = NULL;
    gr_buf out = {0}, again = {0};
    if (gr_template_parse("fuzz", (const char *)data, n_text, &tmpl)) {
        GR_ASSERT(!tmpl && strncmp(grace_last_error(), "fuzz: ", 6) == 0);
    } else {
        grace_status st = gr_template_render(tmpl, variables, &limits, 1718454896, &out);
        GR_ASSERT(gr_template_render(tmpl, variables, &limits, 1718454896, &again) == st);
        GR_ASSERT(out.n == again.n && out.n <= limits.n_output && (st == GRACE_OK || out.n == 0));
        if (out.n) GR_ASSERT(memcmp(out.data, again.data, out.n) == 0);
    }
    gr_template_free(tmpl);
    gr_json_free(variables);
    gr_buf_free(&out);
    gr_buf_free(&again);
    return 0;
}
