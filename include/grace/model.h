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

typedef enum grace_dtype { GRACE_F32, GRACE_BF16, GRACE_F16, GRACE_F8_E4M3, GRACE_MXFP4 } grace_dtype;

/* Values made from a seed instead of read (grace_model_open_random()): the value at (row, col) is number first + row * row_step + col * col_step
 * of the seed's, which are nearly normal with mean 0 and standard deviation scale, rounded to BF16; with scale 0 all are `constant`. */
typedef struct grace_random { bool on; float scale, constant; uint64_t seed; int64_t first; } grace_random;

/* A matrix (or a vector: rows = 1) as it lies in a mapped shard. */
typedef struct grace_tensor {
    const void *data;       /* [rows, cols], borrowed until grace_model_close(); NULL when the tensor is absent or random */
    int64_t rows, cols;
    grace_dtype dtype;
    int64_t row_step, col_step; /* values from one row and from one column to the next; 0: row by row, side by side */
    const void *scale;      /* F8_E4M3: float32 [rows / 128, cols / 128], rounded up, multiplies a block; MXFP4: exponent + 127 in a byte for
                             * 32 columns, its rows as far apart as the data's; else NULL */
    grace_random random;    /* on: BF16 without data */
} grace_tensor;

enum { GRACE_LAYERS_MAX = 1024, GRACE_ROPE_PAIRS_MAX = 512 };

/* What one decoder layer does otherwise than its neighbours. */
typedef struct grace_layer_info {
    int32_t moe;            /* index among the layers with routed experts; -1: a dense layer */
    int32_t window;         /* positions a token attends to, its own included; 0: all before it */
} grace_layer_info;

/* Rotary positions. */
typedef struct grace_rope {
    int32_t dim;            /* elements of a query's and key's head that turn: the last ones */
    bool neighbours;        /* element 2i turns with 2i + 1; else i with i + dim / 2 */
    bool stretched;         /* frequencies follow from rope_theta and a scaling for longer contexts */
    float magnitude;        /* cosine and sine are multiplied with it */
    float frequency[GRACE_ROPE_PAIRS_MAX];      /* [dim / 2] radians from one position to the next, scaling included */
} grace_rope;

typedef enum grace_score { GRACE_SCORE_SOFTMAX, GRACE_SCORE_SIGMOID } grace_score;

/* How the router's logits become weights. A score is made of every expert's logit; choice = score (+ the router's correction); the top_k
 * best choices win, and their scores are the weights: divided by their sum when norm_topk, then multiplied with scaling. */
typedef struct grace_gate {
    grace_score score;
    int32_t n_groups;       /* experts form this many equal groups; 0: none */
    int32_t top_groups;     /* only experts of the best groups can be chosen */
    int32_t group_best;     /* a group is as good as the sum of its best 1 or 2 choices */
    bool norm_topk;
    float scaling;
} grace_gate;

/* What the engine must know to run the network; filled by one file per family (src/model/olmoe.c, ...). */
typedef struct grace_model_info {
    char family[32];            /* config.json's model_type */
    int32_t n_layers;           /* decoder layers */
    int32_t n_moe_layers;       /* of them with routed experts */
    int32_t hidden;             /* width of the residual stream */
    int32_t vocab;
    int32_t n_heads, n_kv_heads, head_dim;      /* head_dim: of queries and keys */
    int32_t n_experts, top_k;   /* routed experts per MoE layer, chosen per token */
    int32_t expert_width;       /* rows of an expert's gate and up matrices */
    int32_t shared_width;       /* of the expert every token uses beside those the router chooses; 0: none */
    int32_t dense_width;        /* of the MLP of dense layers; 0: there are none */
    int32_t context_max;        /* positions the model was made for */
    int32_t v_dim;              /* elements of a head of values */
    int32_t kv_rank;            /* latent attention: width of the latent that keys and values are made of, and that the cache holds; 0: no latents */
    int32_t q_rank;             /* width of the queries' latent; 0: none */
    bool tied_embeddings;       /* logits use the embedding table */
    float rms_eps, latent_eps;  /* of norms; of those of latents */
    float softmax_scale;        /* scores of attention are multiplied with it */
    float rope_theta;
    float clip_qkv;             /* q, k, v are clamped to [-clip, clip]; 0: not at all */
    float swiglu_limit;         /* 0: an MLP multiplies silu(g) with u; else g = min(g, limit), u in [-limit, limit]: g sigmoid(1.702 g) (u + 1) */
    grace_rope rope;
    grace_gate gate;
    grace_layer_info layers[GRACE_LAYERS_MAX];  /* [n_layers] */
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
/* The network that DIR/config.json describes with weights made from the seed, for measuring speed where the weights are not: matrices nearly normal with
 * standard deviation 1 / sqrt(columns), the embedding's 1, norms 1, biases 0, so that activations keep their size and tokens choose different experts.
 * Nothing but config.json and generation_config.json is read. Fails as grace_model_open(). */
grace_status grace_model_open_random(const char *dir, uint64_t seed, grace_model **out);
bool grace_model_is_random(const grace_model *model, uint64_t *seed);     /* *seed is set when it is */
void grace_model_close(grace_model *model);

const grace_model_info *grace_model_describe(const grace_model *model);   /* borrowed until close */
const char *grace_model_dir(const grace_model *model);

/* Bytes of KV cache that one token takes in all layers, float32 as the cpu backend keeps it: keys and values, or the latent and the key that turns. */
int64_t grace_model_kv_token_bytes(const grace_model_info *info);

/* ids [n_moe_layers]: the layers with routed experts, rising; what traces and plans call layer_ids. */
void grace_model_layer_ids(const grace_model_info *info, int32_t *ids);

/* Any tensor by its name in the file. Fails with MISMATCH when there is none, UNSUPPORTED (not F32, BF16 or F16; over two dimensions). */
grace_status grace_model_tensor(const grace_model *model, const char *name, grace_tensor *out);

#ifdef __cplusplus
}
#endif
#endif
