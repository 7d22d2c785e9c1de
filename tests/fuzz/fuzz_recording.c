/* Any bytes as a recording of SGLang, read as tokens and as loads. */
#include <math.h>

#include "base/status.h"
#include "interop/sglang.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_trace(const grace_trace *t) {
    int64_t n_tokens = 0;
    for (int32_t s = 0; s < grace_trace_n_segments(t); s++) {
        grace_trace_segment seg = grace_trace_segment_at(t, s);
        GR_ASSERT(seg.sequence >= 0 && seg.sequence < grace_trace_n_sequences(t));
        n_tokens += seg.n_tokens;
    }
    GR_ASSERT(n_tokens == grace_trace_n_tokens(t));
}

static void check_profile(const grace_profile *p) {
    for (int64_t i = 0; i < (int64_t)p->info.n_layers * p->info.n_experts; i++) GR_ASSERT(isfinite(p->load[i]) && p->load[i] >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    grace_trace *trace = NULL;
    grace_profile *profile = NULL;
    if (gr_sglang_parse_trace("fuzz", data, n, &trace)) GR_ASSERT(!trace && grace_last_error()[0]);
    else check_trace(trace);
    if (gr_sglang_parse_profile("fuzz", data, n, 0, &profile)) GR_ASSERT(!profile && grace_last_error()[0]);
    else check_profile(profile);
    grace_trace_close(trace);
    grace_profile_free(profile);
    return 0;
}
