#include "cuda/device.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/status.h"

void must(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "%s: %s %s\n", what, grace_last_error(), cudaGetErrorString(cudaGetLastError()));
    exit(1);
}

float from_bf16(uint16_t b) {
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

void fill_bf16(uint64_t seed, uint16_t *to, size_t n, float scale) {
    const size_t period = 4000037;
    gr_rng rng = gr_rng_seed(seed);
    for (size_t i = 0; i < n && i < period; i++) {
        uint64_t r = gr_rng_next(&rng);     /* a sum of four */
        float sum = (float)(r & 0xFFFF) + (float)(r >> 16 & 0xFFFF) + (float)(r >> 32 & 0xFFFF) + (float)(r >> 48) - 131070.0f;
        to[i] = to_bf16(scale * sum / 37837.0f);
    }
    for (size_t at = period; at < n; at += period) memcpy(to + at, to, (n - at < period ? n - at : period) * sizeof *to);
}

void *to_device(const void *from, size_t bytes) {
    void *to = NULL;
    must(cudaMalloc(&to, bytes ? bytes : 1) == cudaSuccess, "cudaMalloc");
    must(!from || cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice) == cudaSuccess, "cudaMemcpy");
    return to;
}

void to_host(void *to, const void *device, size_t bytes) {
    must(cudaDeviceSynchronize() == cudaSuccess, "kernels");
    must(cudaMemcpy(to, device, bytes, cudaMemcpyDeviceToHost) == cudaSuccess, "cudaMemcpy");
}

bool no_gpu(const char *what) {
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess && n > 0) return false;
    printf("[  SKIPPED ] %s: no GPU here\n", what);
    return true;
}
