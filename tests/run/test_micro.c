/* Every model of tests/golden/micro against the reference implementation. Together they use every option of every family
 * (tools/make_goldens.py). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/goldens.h"
#include "support/micro.h"

/* In a step of many rows, and in steps so small that prompts are cut, pages and windows crossed. */
static void is_what_the_reference_computes(void **state) {
    const char *name = *state;
    char goldens[600];
    snprintf(goldens, sizeof goldens, "%s/goldens.safetensors", gr_micro_dir(name));
    gr_goldens g = gr_goldens_open(name, gr_micro_dir(name), goldens);
    gr_goldens_check(&g, false, 100);
    gr_goldens_check(&g, true, 13);
    print_message("%s: largest error %.2f of its bound, %lld of %lld logits rows before an open choice\n", name, g.worst, (long long)g.n_rows_checked,
                  (long long)g.n_rows);
    assert_true(10 * g.n_rows_checked >= 9 * g.n_rows);
    gr_goldens_close(&g);
}

int main(void) {
    static struct CMUnitTest tests[GR_MICRO_MAX];
    size_t n = gr_micro_tests(is_what_the_reference_computes, tests);
    return _cmocka_run_group_tests("micro", tests, n, NULL, NULL);
}
