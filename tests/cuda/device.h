/* What tests on a GPU share: memory there and back, random bf16 values, and the end of a program when CUDA says no. */
#ifndef TESTS_CUDA_DEVICE_H
#define TESTS_CUDA_DEVICE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SKIPPED = 77 };                                  /* what main() returns where there is no GPU */
bool no_gpu(const char *what);                          /* true, and says so, where there is none */

/* On any failure these say what failed and end the program. */
void must(bool ok, const char *what);
void *to_device(const void *from, size_t bytes);        /* from NULL: not filled. cudaFree() it */
void to_host(void *to, const void *device, size_t bytes);   /* after everything queued is done */

void fill_bf16(uint64_t seed, uint16_t *to, size_t n, float scale);     /* nearly normal; a long random piece again and again, of no round length */
float from_bf16(uint16_t b);
uint16_t to_bf16(float f);                              /* to nearest, ties to even */

#ifdef __cplusplus
}
#endif
#endif
