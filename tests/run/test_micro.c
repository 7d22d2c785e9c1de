/* Every model of tests/golden/micro against the reference implementation: one test a model, named after it. Together they use every option of
 * every family (tools/make_goldens.py). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>

#include "support/goldens.h"

#define MICRO GRACE_SOURCE_DIR "/tests/golden/micro"

enum { MODELS_MAX = 64 };

/* Families land one by one: what the build says it does not know yet is not compared. */
static bool is_family_to_come(const char *dir) {
    grace_model *model = NULL;
    grace_status st = grace_model_open(dir, &model);
    grace_model_close(model);
    if (st == GRACE_ERR_UNSUPPORTED) print_message("skipped: %s\n", grace_last_error());
    return st == GRACE_ERR_UNSUPPORTED;
}

/* In a step of many rows, and in steps so small that prompts are cut, pages and windows crossed. */
static void is_what_the_reference_computes(void **state) {
    const char *name = *state;
    char dir[512], goldens[600];
    snprintf(dir, sizeof dir, MICRO "/%s", name);
    snprintf(goldens, sizeof goldens, "%s/goldens.safetensors", dir);
    if (is_family_to_come(dir)) skip();
    gr_goldens g = gr_goldens_open(name, dir, goldens);
    gr_goldens_check(&g, false, 100);
    gr_goldens_check(&g, true, 13);
    print_message("%s: largest error %.2f of its bound, %lld of %lld logits rows before an open choice\n", name, g.worst, (long long)g.n_rows_checked,
                  (long long)g.n_rows);
    assert_true(10 * g.n_rows_checked >= 9 * g.n_rows);
    gr_goldens_close(&g);
}

static int by_name(const void *a, const void *b) { return strcmp(((const struct CMUnitTest *)a)->name, ((const struct CMUnitTest *)b)->name); }

static size_t find_models(struct CMUnitTest *tests) {
    size_t n = 0;
    DIR *d = opendir(MICRO);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        if (entry->d_name[0] == '.' || n == MODELS_MAX) continue;
        char *name = strdup(entry->d_name);
        tests[n++] = (struct CMUnitTest){.name = name, .test_func = is_what_the_reference_computes, .initial_state = name};
    }
    if (d) closedir(d);
    qsort(tests, n, sizeof *tests, by_name);
    return n;
}

int main(void) {
    static struct CMUnitTest tests[MODELS_MAX];
    size_t n = find_models(tests);
    int failed = n >= 16 ? _cmocka_run_group_tests("micro", tests, n, NULL, NULL) : 1;
    for (size_t i = 0; i < n; i++) free((char *)tests[i].initial_state);
    return failed;
}
