/* The models of tests/golden/micro (docs/goldens.md): one test a model, named after it. */
#ifndef GR_TESTS_MICRO_H
#define GR_TESTS_MICRO_H
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

enum { GR_MICRO_MIN = 16, GR_MICRO_MAX = 64 };

static inline const char *gr_micro_dir(const char *name) {         /* valid until the next call */
    static char path[512];
    snprintf(path, sizeof path, GRACE_SOURCE_DIR "/tests/golden/micro/%s", name);
    return path;
}

static inline int gr_micro_by_name(const void *a, const void *b) { return strcmp(((const struct CMUnitTest *)a)->name, ((const struct CMUnitTest *)b)->name); }

/* tests [GR_MICRO_MAX]: `test` once a model, in the order of their names; *state is the name. */
static inline size_t gr_micro_tests(CMUnitTestFunction test, struct CMUnitTest *tests) {
    static char names[GR_MICRO_MAX][64];
    size_t n = 0;
    DIR *d = opendir(gr_micro_dir(""));
    for (struct dirent *entry; d && n < GR_MICRO_MAX && (entry = readdir(d));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(names[n], sizeof names[n], "%.63s", entry->d_name);
        tests[n] = (struct CMUnitTest){.name = names[n], .test_func = test, .initial_state = names[n]};
        n++;
    }
    if (d) closedir(d);
    qsort(tests, n, sizeof *tests, gr_micro_by_name);
    GR_ASSERT(n >= GR_MICRO_MIN);       /* a checkout without them tests nothing */
    return n;
}

#endif
