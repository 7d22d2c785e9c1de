/* One MoE layer's random inputs on the host and on the device, and its reference in double precision. */
#ifndef TESTS_CUDA_MOE_CASE_H
#define TESTS_CUDA_MOE_CASE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/cuda/moe.h"
#include "cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of choices over slots: alike; few hot ones; all choices on the lowest slots; alike, but a third of the choices and the last quarter of the rows have
 * none. */
typedef enum spread { SPREAD_EVEN, SPREAD_SKEWED, SPREAD_ONE, SPREAD_GAPS } spread;

typedef struct moe_case {
    int32_t n_slots, hidden, width, n_rows, top_k;
    gr_cuda_kernels kernels;
    bool biased, unweighted;                        /* with random biases; all weights 1 */
    bool untabled;                                  /* one slot, one choice, no tables: an ordinary MLP */
    float limit;
    uint16_t *rows, *gate_up, *down;                /* bf16, host */
    float *gate_up_bias, *down_bias;
    int32_t *slot;
    float *weight;
    void *d_rows, *d_gate_up, *d_down, *d_y, *d_out, *d_act;
    float *d_gate_up_bias, *d_down_bias, *d_weight;
    int32_t *d_slot;
    gr_cuda_pairs pairs;
    gr_cuda_experts *experts;
} moe_case;

/* Sizes and flags are set, the rest zero. Outputs on the device are NaN until something is written. */
void moe_case_open(moe_case *c, uint64_t seed, spread how);
void moe_case_close(moe_case *c);
void moe_case_run(const moe_case *c, gr_cuda_stream stream);            /* group, experts, combine */
void moe_case_run_part(const moe_case *c, int32_t first_row, int32_t n_rows, gr_cuda_stream stream);       /* of these rows alone; out is theirs too */
/* y [hidden] of one row, and the size of what was added up for it, for a bound: of each expert its output and the root of the sum of its squared terms. */
void moe_reference(const moe_case *c, int32_t row, double *y, double *magnitude);

#ifdef __cplusplus
}
#endif
#endif
