/* A Hugging Face model folder: what the network looks like, and its tensors. */
#ifndef GRACE_MODEL_H
#define GRACE_MODEL_H
#include <stdbool.h>
#include <stdint.h>

#include "grace/status.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct grace_model grace_model;

typedef enum grace_dtype { GRACE_F32, GRACE_BF16, GRACE_F16 } grace_dtype;

/* A row-major matrix (or a vector: rows = 1) that lies in a mapped shard. */
typedef struct grace_tensor {
    const void *data;       /* [rows, cols], borrowed until grace_model_close(); NULL when the tensor is absent */
    int64_t rows, cols;
    grace_dtype dtype;
} grace_tensor;

/* What the engine must know to run the network; filled by one file per family (src/model/olmoe.c, ...). */
typedef struct grace_model_info {
    char family[32];            /* config.json's model_type */
    int32_t n_layers;           /* decoder layers */
    int32_t n_moe_layers;       /* of them with routed experts */
    int32_t hidden;             /* width of the residual stream */
    int32_t vocab;
    int32_t n_heads, n_kv_heads, head_dim;
    int32_t n_experts, top_k;   /* routed experts per MoE layer, chosen per token */
    int32_t expert_width;       /* rows of an expert's gate and up matrices */
    int32_t context_max;        /* positions the model was made for */
    bool norm_topk;             /* gate weights are divided by their sum */
    bool tied_embeddings;       /* logits use the embedding table */
    float rms_eps;
    float rope_theta;
    float clip_qkv;             /* q, k, v are clamped to [-clip, clip]; 0: not at all */
    int32_t eos_ids[8], n_eos;  /* end-of-text ids */
    uint64_t fingerprint;       /* of the architecture and all router weights: plans and traces carry it */
    int64_t n_params;           /* all parameters */
    int64_t n_params_active;    /* parameters one token uses */
    int64_t n_bytes;            /* of all tensors on disk */
} grace_model_info;

/* Open DIR: config.json, generation_config.json if there (end-of-text ids), model.safetensors or the index with its shards. Shards are
 * mapped, nothing is copied, and only headers and routers are read; every name, dtype, shape and offset the network needs is checked here.
 * Fails with IO, FORMAT, UNSUPPORTED (model type, config key or value, dtype; the message names it), LIMIT. The caller closes. */
grace_status grace_model_open(const char *dir, grace_model **out);
void grace_model_close(grace_model *model);

const grace_model_info *grace_model_describe(const grace_model *model);   /* borrowed until close */
const char *grace_model_dir(const grace_model *model);

/* Any tensor by its name in the file. Fails with MISMATCH when there is none, UNSUPPORTED (not F32, BF16 or F16; over two dimensions). */
grace_status grace_model_tensor(const grace_model *model, const char *name, grace_tensor *out);

#ifdef __cplusplus
}
#endif
#endif
