/* A temporary folder of a test: a model's config.json or files, and a trace. As set-up and tear-down:
 *
 *     cmocka_unit_test_setup_teardown(test, gr_folder_enter, gr_folder_leave)        gr_folder and gr_folder_trace are paths in between */
#ifndef GR_TESTS_FOLDER_H
#define GR_TESTS_FOLDER_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/tiny_model.h"

static char gr_folder[64], gr_folder_trace[80];

static inline int gr_folder_enter(void **state) {
    (void)state;
    strcpy(gr_folder, "/tmp/grace-test-XXXXXX");
    if (!mkdtemp(gr_folder)) return 1;
    snprintf(gr_folder_trace, sizeof gr_folder_trace, "%s/routing.trace", gr_folder);
    return 0;
}

static inline int gr_folder_leave(void **state) {
    (void)state;
    gr_tiny_model_remove(gr_folder);
    return 0;
}

static inline void gr_folder_write_config(const char *text) {
    char path[80];
    snprintf(path, sizeof path, "%s/config.json", gr_folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0 && fclose(file) == 0);
}

#endif
