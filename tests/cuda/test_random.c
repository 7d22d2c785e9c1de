/* Random weights made on a GPU (compute/cuda/random.cu) have the bits that the host makes. Without a GPU it says "skipped". */
#include <cuda_runtime_api.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random_bf16.h"
#include "compute/cuda/random.h"
#include "cuda/device.h"

static int n_failed;

/* Poisoned before, with 16 values more behind that must stay. */
static void check(int64_t first, int64_t n, uint64_t seed, float scale) {
    const size_t bytes = ((size_t)n + 16) * sizeof(uint16_t);
    uint16_t *host = malloc(bytes), *device = to_device(NULL, bytes);
    int64_t wrong = -1;
    must(cudaMemset(device, 0xAB, bytes) == cudaSuccess, "poison");
    must(gr_cuda_random_fill(device, first, n, seed, scale, NULL) == GRACE_OK, "random_fill");
    to_host(host, device, bytes);
    for (int64_t i = n + 15; i >= 0; i--)
        if (host[i] != (i < n ? gr_random_bf16(seed, (uint64_t)(first + i), scale) : 0xABAB)) wrong = i;
    printf("%s the device makes the host's bits: values %" PRId64 " to %" PRId64 " of seed %" PRIu64 ", scale %g\n", wrong < 0 ? "ok    " : "FAILED", first,
           first + n, seed, (double)scale);
    if (wrong >= 0)
        printf("       first wrong: %" PRId64 ", expected %04x, found %04x\n", wrong,
               wrong < n ? gr_random_bf16(seed, (uint64_t)(first + wrong), scale) : 0xABAB, host[wrong]);
    n_failed += wrong >= 0;
    free(host);
    must(cudaFree(device) == cudaSuccess, "cudaFree");
}

int main(int argc, char **argv) {
    bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    if (no_gpu("random weights")) return SKIPPED;
    check(0, 0, 1, 1);
    check(0, 1, 1, 1);
    check(7, 1000, UINT64_MAX, 0.022f);
    check(INT64_C(5000000000), 300, 42, 0.5f);      /* a place beyond 32 bits */
    if (small) return n_failed > 0;
    check(3, 5000001, 20261125, 0.0220970869f);     /* more than one turn of the grid; 1 / sqrt(2048) */
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
