/* cuBLASLt is opened when it is wanted (compute/cuda/linear_lt.c). Needs no GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <link.h>
#include <string.h>

#include "compute/cuda/linear_kernels.h"

static int is_cublaslt(struct dl_phdr_info *library, size_t size, void *user) {
    (void)size;
    (void)user;
    return strstr(library->dlpi_name, "libcublasLt") != NULL;
}

/* A program that starts with it takes eight times as long to start, also to print its version. */
static void programs_start_without_the_library(void **state) {
    (void)state;
    assert_false(dl_iterate_phdr(is_cublaslt, NULL));
}

/* Without a GPU it is the library itself that fails, so it was found, and all its calls. */
static void the_library_has_every_call(void **state) {
    (void)state;
    gr_cuda_lt *lt = NULL;
    if (gr_cuda_lt_open(&lt) && !strstr(grace_last_error(), "cuBLASLt: create: ")) fail_msg("%s", grace_last_error());
    gr_cuda_lt_close(lt);
    assert_true(dl_iterate_phdr(is_cublaslt, NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(programs_start_without_the_library),
        cmocka_unit_test(the_library_has_every_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
