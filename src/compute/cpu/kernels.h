/* The inner loops of the cpu backend, once per instruction set. kernels_body.h holds the one text of them, in terms of a vector of 16
 * floats; kernels_portable.c, kernels_avx2.c and kernels_avx512.c each say what that vector is. Since every operation on it is exact
 * per lane or correctly rounded, all three give the same bits (docs/adr/0001-one-summation-order.md). */
#ifndef GR_COMPUTE_CPU_KERNELS_H
#define GR_COMPUTE_CPU_KERNELS_H
#include <stdbool.h>
#include <stdint.h>

#include "grace/model.h"

enum { GR_TILE_ROWS_MAX = 6, GR_WEIGH_QUERIES = 3, GR_PREFETCH_BYTES = 4096 };     /* weights stream from memory: ask for them this far ahead */

/* out[r][o] = dot(x[r], row o of w): the canonical sum of compute.h over k products. */
typedef struct gr_tile {
    const void *w;                          /* row 0 of n_outs; any alignment */
    int64_t w_stride;                       /* bytes from row to row */
    int64_t prefetch;                       /* bytes ahead to ask memory for, where weights are not float32 */
    grace_dtype dtype;
    int32_t n_outs, n_rows, k;              /* n_rows <= kernels->tile_rows */
    const float *x[GR_TILE_ROWS_MAX];       /* [k] each */
    float *out[GR_TILE_ROWS_MAX];           /* [n_outs] each */
} gr_tile;

/* Up to 16 elements of one head of some rows: out[d] = sum over positions j < n of p[j] * v[j][d] / total, the canonical sum over j. */
typedef struct gr_weigh {
    int32_t n_queries;                      /* 1..GR_WEIGH_QUERIES: rows that meet the same values */
    const float *p[GR_WEIGH_QUERIES];       /* [n] each */
    float total[GR_WEIGH_QUERIES];
    int32_t n[GR_WEIGH_QUERIES];            /* positions */
    const float *v;                         /* [n, 16] */
    int32_t n_out;                          /* 1..16 */
    float *out[GR_WEIGH_QUERIES];           /* [n_out] each */
} gr_weigh;

/* out[i] (+)= sum over j < n of weight[j] * in[index[j]][i]; weight NULL: all 1. */
typedef struct gr_sum_row {
    const float *in;
    const int32_t *index;
    const float *weight;
    int32_t n, width;
    bool accumulate;
    float *out;
} gr_sum_row;

typedef struct gr_kernels {
    const char *name;
    int32_t tile_rows;
    void (*tile)(const gr_tile *t);
    void (*widen)(grace_dtype dtype, const void *from, int64_t n, float *to);
    void (*norm)(const float *x, const float *w, int32_t n, float eps, float *out);     /* x / rms(x) * w; out may be x */
    /* x = exp(scale x - max), returns their canonical sum; n >= 1. sink (NULL: none) is one more score, scaled already, added to the sum last. */
    float (*softmax)(float *x, int32_t n, float scale, const float *sink);
    void (*exp)(float *x, int32_t n);
    void (*pack)(const float *from, int64_t stride, int32_t n, int32_t m, float *to);   /* to [n, 16]: the first m <= 16 of each, then zeros */
    void (*weigh)(const gr_weigh *g);
    void (*silu_mul)(float *gate, const float *up, int32_t n);      /* gate = silu(gate) * up */
    void (*silu_clamped)(float *gate, const float *up, int32_t n, float limit);     /* grace_model_info.swiglu_limit; gate = the result */
    void (*sigmoid)(float *x, int32_t n);
    void (*rope)(float *x, const float *cosine, const float *sine, int32_t half);   /* element i turns with i + half */
    void (*rope_neighbours)(float *x, const float *cosine, const float *sine, int32_t half);    /* element 2i turns with 2i + 1 */
    void (*clip)(float *x, int32_t n, float limit);
    void (*add)(float *x, const float *y, int64_t n);
    void (*sum_row)(const gr_sum_row *s);
    /* for measuring the machine */
    double (*burn)(int64_t n, float seed);                  /* n rounds of independent fma; returns how many flops that was */
    float (*read)(const float *x, int64_t n);               /* touches n floats (a multiple of 128), returns a sum of them */
} gr_kernels;

extern const gr_kernels gr_kernels_portable;
#ifdef GRACE_X86
extern const gr_kernels gr_kernels_avx2, gr_kernels_avx512;
#endif
bool gr_kernels_run_here(const gr_kernels *k);      /* this machine has their instructions (cpu.c) */

#endif
