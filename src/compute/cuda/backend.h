/* What the files of the cuda backend's table share: the opened backend, its weights, its scratch. */
#ifndef GR_COMPUTE_CUDA_BACKEND_H
#define GR_COMPUTE_CUDA_BACKEND_H
#include "compute/compute.h"
#include "compute/cuda/attention.h"
#include "compute/cuda/cuda.h"
#include "compute/cuda/experts_one.h"
#include "compute/cuda/linear.h"
#include "compute/cuda/moe.h"

/* A matrix is bf16, a vector (rows == 1) fp32 and bf16. All device memory, owned. */
struct gr_weight {
    int32_t rows, cols;
    void *data;                 /* [rows, cols] bf16 */
    float *fp32;                /* [rows, cols] too, of vectors and of matrices that are float32 in the file; else NULL */
    float *bias;                /* [rows] of a stack; NULL: none */
};

/* gr_mlps.packed */
typedef struct gr_cuda_mlps {
    int32_t hidden, width;
    gr_cuda_experts *experts;
    void *gate_up, *down;
    float *gate_up_bias, *down_bias;
} gr_cuda_mlps;

/* Pairs by slot, or, of a row or two, every choice by itself: then `experts` only says which, and of what, and `combine` runs them. */
struct gr_pairs {
    gr_cuda_pairs pairs;
    bool single;
    gr_cuda_one one;
    const gr_cuda_experts *experts;
    const void *in;
};

/* Pinned memory that weights pass through: one piece is filled while the other travels. */
enum { GR_CUDA_STAGE_BYTES = 32 << 20, GR_CUDA_STAGES = 2 };
typedef struct gr_cuda_stage { void *pinned; cudaEvent_t sent; } gr_cuda_stage;

enum { GR_CUDA_REPLAYS_MAX = 1024 };
enum { GR_CUDA_FLAW_GATE, GR_CUDA_FLAW_DRAW, GR_CUDA_N_FLAWS };

/* The end of a step: what it leaves here, pinned, is whole when the event has come: flaws, then its ids. */
typedef struct gr_cuda_end { cudaEvent_t event; int32_t *seen; } gr_cuda_end;

/* Events between which times of stages are taken; made when first needed. */
enum { GR_CUDA_MARKS = 2048 };
typedef struct gr_cuda_mark { cudaEvent_t event; double *us; } gr_cuda_mark;

typedef struct gr_cuda {
    gr_compute base;
    gr_cuda_options opt;
    grace_model_info info;
    int device;
    cudaStream_t stream;
    gr_cuda_kernels kernels;
    gr_cuda_stage stage[GR_CUDA_STAGES];
    int32_t next_stage;
    gr_cuda_linears *linears;
    gr_cuda_attention *attention;
    gr_cuda_attention_step step;        /* of the step under way, with the page table of its attention */
    gr_step_rows rows;
    gr_pairs pairs;                     /* of the last group */
    void *act;                          /* experts' activations: [elements] of the widest run */
    int64_t act_elements;
    void *shared_act;                   /* [GR_CUDA_ONE_ROWS, shared_width], of a shared MLP beside the routed ones */
    float *router_logits;               /* [n_rows_max, n_experts] */
    int32_t *router_done;               /* [n_rows_max] */
    void *sample_scratch;
    int32_t *flaws;                     /* device: [GR_CUDA_N_FLAWS] row + 1 of the first NaN */
    gr_cuda_end ends[GR_FLIGHTS];
    int32_t width_told;                 /* of MLPs whose kernels were told last */
    int32_t product_rows;               /* an MLP of more than GR_CUDA_ONE_ROWS rows and at most so many is dense products (mlp.c) */
    float *gate_up;                     /* [product_rows, 2 * width] of the widest */
    bool spares;                        /* experts leave processors to kernels that move rows beside them */
    bool wants_lists;                   /* the step's attention lists are not made yet */
    cudaGraphExec_t replays[GR_CUDA_REPLAYS_MAX + 1];
    int64_t n_replayed;                 /* steps, so far */
    gr_cuda_mark marks[GR_CUDA_MARKS];  /* since the last finish: n_marks */
    int32_t n_marks;
    cudaError_t mark_error;             /* the first: told by `finish` */
} gr_cuda;

static inline gr_cuda *gr_cuda_of(gr_compute *c) { return (gr_cuda *)c; }

/* Whether kernels may go by the number of rows: nothing asks for one order of sums, for kernels by name, or for a limit. */
static inline bool gr_cuda_goes_by_rows(const gr_cuda *c) {
    return !c->opt.exact && (c->kernels == GR_CUDA_KERNELS_AUTO || c->kernels == GR_CUDA_KERNELS_HOPPER) && c->info.swiglu_limit == 0;
}
/* Whether these are so few that each streams its experts by itself. */
static inline bool gr_cuda_singles_pay(const gr_cuda *c, int32_t n_rows, int32_t top_k) {
    return gr_cuda_goes_by_rows(c) && n_rows <= GR_CUDA_ONE_ROWS && top_k <= GR_CUDA_ONE_TOP_K;
}

/* Device memory, not cleared; what says what for. MEMORY names the bytes wanted and free. */
grace_status gr_cuda_alloc(void *out, size_t bytes, const char *what);

/* Whether experts, and MLPs on their kernels, leave GR_CUDA_SPARED processors from now on to kernels that move rows beside them. */
void gr_cuda_spare(gr_compute *base, bool spares);

/* Recorded steps are forgotten: what they hold on to (a wire) can then be closed. */
void gr_cuda_drop_replays(gr_compute *base);

/* Room for pairs of so many rows, never single: the caller makes them. */
gr_pairs *gr_cuda_pairs_for(gr_compute *base, int32_t n_rows, int32_t top_k, int32_t n_slots);

/* ---- mlp.c ---- */
grace_status gr_cuda_mlp_open(gr_cuda *c);                                  /* its scratch, which cuda_free() frees */
grace_status gr_cuda_mlp_prepare(gr_cuda *c, const gr_cuda_mlps *m);        /* the products that m will be, if any, are chosen */
grace_status gr_cuda_mlp(gr_compute *base, const gr_mlp_rows *r);

/* ---- load.c ---- */
grace_status gr_cuda_weight_open(gr_compute *base, const grace_tensor *t, gr_weight **out);
grace_status gr_cuda_stack_open(gr_compute *base, const grace_tensor *parts, const grace_tensor *biases, int32_t n, gr_weight **out);
void gr_cuda_weight_close(gr_compute *c, gr_weight *w);
grace_status gr_cuda_mlps_open(gr_compute *base, const gr_mlp_tensors *mlps, int32_t n, float swiglu_limit, gr_mlps *out);
void gr_cuda_mlps_close(gr_compute *c, gr_mlps *mlps);
grace_status gr_cuda_stages_open(gr_cuda *c);
void gr_cuda_stages_close(gr_cuda *c);

#endif
