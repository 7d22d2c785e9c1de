/* Measuring the cpu backend against its machine: peak, bandwidth, and the kernels that must come near them. For `grace bench kernels`. */
#ifndef GR_COMPUTE_CPU_BENCH_H
#define GR_COMPUTE_CPU_BENCH_H
#include <stddef.h>

#include "compute/compute.h"

typedef struct gr_bench_time {
    double median_us, iqr_us;       /* of one call, over the repeats */
    double flops, weight_bytes;     /* of one call: gflops = flops / median_us / 1e3, GB/s = weight_bytes / median_us / 1e3 */
} gr_bench_time;

/* fp32 fma rate of all the backend's threads together, in GFLOP/s, with the instruction set the backend uses. Best of several. */
grace_status gr_bench_peak(gr_compute *c, double *gflops);
/* Rate at which all threads together read an array of this many bytes, in GB/s. Best of several. Fails with ARG, MEMORY. */
grace_status gr_bench_bandwidth(gr_compute *c, size_t bytes, double *gbs);
/* linear of `rows` rows through bf16 weights [out, in]; call after call takes another of rotate_bytes of weights, so that they come from
 * memory. repeats >= 3 calls are timed. Fails with ARG, MEMORY. */
grace_status gr_bench_linear(gr_compute *c, int32_t rows, int32_t out, int32_t in, size_t rotate_bytes, int32_t repeats, gr_bench_time *t);
/* One expert of [width, hidden] with `rows` pairs, rotated in the same way. */
grace_status gr_bench_experts(gr_compute *c, int32_t rows, int32_t width, int32_t hidden, size_t rotate_bytes, int32_t repeats, gr_bench_time *t);

#endif
