/* Any bytes as a folder of a foreign trace: meta.json, seqs.csv, tokens.u16 and topk.u8, each ended by a zero byte but the last. An empty part
 * but the first and the last is a file that is not there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "plan/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char folder[64];

static void remove_folder(void) {
    static const char *const names[] = {"meta.json", "seqs.csv", "tokens.u16", "topk.u8"};
    char path[128];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void put(const char *name, const void *bytes, size_t n, bool wanted) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *fp = wanted ? fopen(path, "wb") : NULL;
    if (!wanted) unlink(path);
    if (fp) {
        fwrite(bytes, 1, n, fp);
        fclose(fp);
    }
}

/* Up to the next zero byte; *at moves behind it. */
static void put_part(const char *name, const uint8_t **at, const uint8_t *end, bool needed) {
    size_t left = (size_t)(end - *at);
    const uint8_t *stop = left ? memchr(*at, 0, left) : NULL;
    size_t size = stop ? (size_t)(stop - *at) : left;
    put(name, *at, size, needed || size > 0);
    *at += size + (stop != NULL);
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const uint8_t *at = data, *end = data + n;
    grace_trace *t = NULL;
    if (!folder[0]) {
        strcpy(folder, "/tmp/grace-fuzz-XXXXXX");
        GR_ASSERT(mkdtemp(folder));
        atexit(remove_folder);
    }
    put_part("meta.json", &at, end, true);
    put_part("seqs.csv", &at, end, false);
    put_part("tokens.u16", &at, end, false);
    put("topk.u8", at, (size_t)(end - at), true);
    if (grace_trace_open(folder, &t, NULL) == GRACE_OK) check(t);
    grace_trace_close(t);
    return 0;
}
