/* The router of an MoE layer on the device: logits -> the chosen experts, their weights, and the slots that serve them. Agrees with gr_cpu_gate()
 * (src/compute/cpu/gate.c) to the bit on equal logits, and with gr_router_place() (src/run/router.c). Nothing waits for the device. */
#ifndef GR_COMPUTE_CUDA_GATE_H
#define GR_COMPUTE_CUDA_GATE_H
#include <stdint.h>

#include "base/status.h"
#include "compute/cuda/linear.h"
#include "grace/model.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { GR_CUDA_GATE_EXPERTS_MAX = 256, GR_CUDA_GATE_TOP_K_MAX = 16 };

/* One layer's gate. Pointers are device memory. */
typedef struct gr_cuda_gate {
    int32_t n_experts, top_k;
    grace_gate rule;
    const float *bias;              /* [n_experts] of logits; NULL: none */
    const float *correction;        /* [n_experts] of choices; NULL: none */
    const int32_t *pick;            /* [n_experts, GR_TURNS] the slot for a turn; NULL: an expert's slot is its id */
    int32_t layer;                  /* what the turn depends on, beside sequence, expert and position */
} gr_cuda_gate;

/* LIMIT or ARG when the kernels do not take such a gate: for the moment a model is opened. */
grace_status gr_cuda_gate_check(const gr_cuda_gate *g);

/* logits [n_rows, n_experts]; sequence, position [n_rows] for the turns; kv_sequence [n_rows] (NULL: no padding).
 * ids, weights, slots [n_rows, top_k]: largest weight first, equal ones by id. A row with kv_sequence < 0 is padding: slots -1, weights 0.
 * NaN or infinity in a logit stores row + 1 into *flaw if it holds 0; such a row gets experts 0 .. top_k - 1 with weights 0. */
grace_status gr_cuda_gate_choose(const gr_cuda_gate *g, const float *logits, const int32_t *sequence, const int32_t *position,
                                 const int32_t *kv_sequence, int32_t n_rows, int32_t *ids, float *weights, int32_t *slots, int32_t *flaw,
                                 gr_cuda_stream stream);

/* What gate_few multiplies with, and where it works. */
typedef struct gr_cuda_router {
    gr_cuda_matrix w;               /* [n_experts, hidden] */
    float *logits;                  /* [n_rows, n_experts] are left there */
    int32_t *n_done;                /* [n_rows] zeros before the first call, and after each; calls that share it must not run side by side */
    gr_cuda_norming norm;           /* norm.w not NULL: norm.to = norm(x) takes the place of x, with the bits of gr_cuda_norm() */
} gr_cuda_router;

/* logits = x W^T, x [n_rows, hidden] bf16, then gate_choose, in one kernel; a norm costs another, but for a row or two of up to 2048 elements before a bf16
 * router. sequence and position are read early: no kernel may write them. Made for few rows (decode), right for any number. A row's bits depend on
 * that row alone; with a bf16 router its logits have the bits of gr_cuda_linear() in exact mode. */
grace_status gr_cuda_gate_few(const gr_cuda_gate *g, const gr_cuda_router *r, const void *x, const int32_t *sequence, const int32_t *position,
                              const int32_t *kv_sequence, int32_t n_rows, int32_t *ids, float *weights, int32_t *slots, int32_t *flaw,
                              gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
