#include "base/parallel.h"

#include <stdio.h>

enum { SENTENCE_MAX = 1024 };

typedef struct failure { grace_status status; int32_t index; char sentence[SENTENCE_MAX]; } failure;

/* Sentences belong to a thread, so this one is copied out. */
static void keep_first(failure *f, grace_status status, int32_t index) {
    if (f->status != GRACE_OK && f->index < index) return;
    f->status = status, f->index = index;
    snprintf(f->sentence, sizeof f->sentence, "%s", grace_last_error());
}

grace_status gr_parallel(int32_t n, gr_task task, void *context) {
    failure f = {.status = GRACE_OK};
#pragma omp parallel for schedule(dynamic, 1)
    for (int32_t i = 0; i < n; i++) {
        grace_status st = task(context, i);
#pragma omp critical(gr_parallel_failure)
        if (st != GRACE_OK) keep_first(&f, st, i);
    }
    return f.status == GRACE_OK ? GRACE_OK : gr_fail(f.status, "%s", f.sentence);
}
