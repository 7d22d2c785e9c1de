/* Trace files from outside. Each input is read twice: as it is, and with its checksums made right, so that what they protect is reached too. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "plan/trace.h"
#include "plan/trace_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void seal_blocks(uint8_t *bytes, size_t n, size_t at, uint64_t chain) {
    while (n - at >= GR_TRACE_BLOCK_BYTES) {
        gr_trace_block b = gr_trace_get_block(bytes + at);
        size_t left = n - at - GR_TRACE_BLOCK_BYTES;
        if (b.stored_bytes > left) b.stored_bytes = (uint32_t)left;
        gr_trace_put_block(bytes + at, &b, chain);
        chain = b.header_check;
        at += GR_TRACE_BLOCK_BYTES + b.stored_bytes;
    }
}

static void seal(uint8_t *bytes, size_t n) {
    if (n < GR_TRACE_PREFIX_BYTES) return;
    uint32_t n_header = gr_get_u32(bytes + 12);
    if (n_header > n - GR_TRACE_PREFIX_BYTES) return;
    uint64_t chain = gr_trace_header_check(bytes, bytes + GR_TRACE_PREFIX_BYTES, n_header);
    gr_put_u64(bytes + 16, chain);
    seal_blocks(bytes, n, GR_TRACE_PREFIX_BYTES + n_header, chain);
}

/* What every reader of a trace relies on. */
static void check(const grace_trace *t) {
    int64_t n_tokens = 0;
    for (int32_t s = 0; s < grace_trace_n_segments(t); s++) {
        grace_trace_segment seg = grace_trace_segment_at(t, s);
        GR_ASSERT(seg.sequence >= 0 && seg.sequence < grace_trace_n_sequences(t));
        n_tokens += seg.n_tokens;
    }
    GR_ASSERT(n_tokens == grace_trace_n_tokens(t));
}

static void read_once(const uint8_t *data, size_t n) {
    grace_trace *t = NULL;
    bool truncated = false;
    if (gr_trace_parse("fuzz", data, n, &t, &truncated) != GRACE_OK) return;
    check(t);
    grace_trace_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    read_once(data, n);
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy) return 0;
    if (n) memcpy(copy, data, n);
    seal(copy, n);
    read_once(copy, n);
    free(copy);
    return 0;
}
