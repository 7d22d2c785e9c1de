/* Any bytes as a folder of a foreign trace: meta.json, seqs.csv, tokens.u16 and topk.u8, each ended by a zero byte but the last. An empty part
 * but the first and the last is a file that is not there. */
#include "fuzz/scratch.h"
#include "interop/meta.h"
#include "plan/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Up to the next zero byte; *at moves behind it. */
static void put_part(const char *name, const uint8_t **at, const uint8_t *end, bool needed) {
    const uint8_t *from = *at;
    size_t size = scratch_part(at, end);
    scratch_put(name, from, size, needed || size > 0);
}

/* What every reader of a trace relies on. */
static void check(const grace_trace *t) {
    int64_t n_tokens = 0;
    for (int32_t s = 0; s < grace_trace_n_segments(t); s++) {
        grace_trace_segment seg = grace_trace_segment_at(t, s);
        GR_ASSERT(seg.sequence >= 0 && seg.sequence < grace_trace_n_sequences(t) && grace_trace_sequence_at(t, seg.sequence).domain < t->n_domains);
        n_tokens += seg.n_tokens;
    }
    GR_ASSERT(n_tokens == grace_trace_n_tokens(t));
}

/* As it is read beside tables of loads. */
static void check_meta(void) {
    gr_meta meta = {0};
    char path[128];
    snprintf(path, sizeof path, "%s/topk.u8", scratch);
    if (gr_meta_load(path, &meta)) GR_ASSERT(!meta.found && grace_last_error()[0]);
    else GR_ASSERT(meta.found && meta.info.n_layers >= 1 && meta.info.n_experts >= 1 && meta.info.top_k >= 1 && meta.info.top_k <= meta.info.n_experts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const uint8_t *at = data, *end = data + n;
    grace_trace *t = NULL;
    put_part("meta.json", &at, end, true);
    put_part("seqs.csv", &at, end, false);
    put_part("tokens.u16", &at, end, false);
    scratch_put("topk.u8", at, (size_t)(end - at), true);
    check_meta();
    if (grace_trace_open(scratch, &t, NULL) == GRACE_OK) check(t);
    grace_trace_close(t);
    return 0;
}
