#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gr_log_level threshold = GR_WARN;
static int log_rank, log_ranks = 1;

static gr_log_level effective_level(void) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    const char *wish = getenv("GRACE_LOG");
    for (int i = 0; wish && i < 4; i++)
        if (strcmp(wish, names[i]) == 0) return (gr_log_level)i;
    return threshold;
}

void gr_log_set_level(gr_log_level level) { threshold = level; }

void gr_log_set_rank(int rank, int n_ranks) {
    log_rank = rank;
    log_ranks = n_ranks;
}

void gr_log(gr_log_level level, const char *subject, const char *format, ...) {
    if (level > effective_level()) return;
    char prefix[32] = "", text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (log_ranks > 1) snprintf(prefix, sizeof prefix, "[r%d/%d] ", log_rank, log_ranks);
    fprintf(stderr, "%s%s%s: %s\n", prefix, level == GR_WARN ? "warning: " : level == GR_ERROR ? "error: " : "", subject, text);
}
