/* Foreign formats in and out. docs/interop.md says what each of them looks like and where we know it from. */
#ifndef GR_INTEROP_INTEROP_H
#define GR_INTEROP_INTEROP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grace/plan.h"
#include "grace/trace.h"

/* ---- in: traces and profiles. Files are checked before they are believed; sizes are bounded by the file's. All fail with IO, FORMAT, LIMIT,
 * MEMORY besides what is said. The caller closes or frees. ---- */

typedef struct gr_foreign_options {
    int32_t top_k;              /* of load tables that do not say it; 0: not given, 1 is assumed where nothing says it */
    uint64_t seed;              /* of synthesised tokens */
    int32_t n_tokens;           /* of synthesised tokens; 0: as many as were counted, at most GR_SYNTH_TOKENS_DEFAULT */
} gr_foreign_options;

enum { GR_SYNTH_TOKENS_DEFAULT = 4096 };

/* What lies at PATH, whatever it is: our trace file, a folder with topk.u8|u16, coact.csv or load.csv, a .csv, a .pt, a .json.
 * Exactly one of *trace and *profile is set. A profile from loads has no affinity: all zeros. Our files and folders with topk.* are read in pieces.
 * MISMATCH when the input says another top_k than opt. */
grace_status gr_foreign_open(const char *path, const gr_foreign_options *opt, grace_trace_reader **trace, grace_profile **profile);

/* The same for those who need tokens: what has loads only is refused (ARG). _trace: all of it, in memory. */
grace_status gr_foreign_tokens(const char *path, const gr_foreign_options *opt, grace_trace_reader **trace);
grace_status gr_foreign_trace(const char *path, const gr_foreign_options *opt, grace_trace **out);

/* Columns layer, expert, count; every expert of every layer once. A meta.json in the same folder gives the model's name and top_k and must agree. */
grace_status gr_load_csv_load(const char *path, int32_t top_k, grace_profile **out);

/* DeepSeek EPLB's `weight`: [[...], ...], a row of loads for each layer. */
grace_status gr_eplb_load(const char *path, int32_t top_k, grace_profile **out);

/* FOLDER has load.csv, coact.csv (layer, expert_i, expert_j, count; pairs that are not listed are unknown) and meta.json. Tokens are made so that
 * loads hold exactly, but for rounding, and pairs as well as a seeded search can. info.synthetic is set, the model's name ends in
 * " (synthetic)", the domain of every sequence is "synthetic". fit may be NULL. */
typedef struct gr_coact_fit {
    double load_error_max;      /* tokens: greatest difference between an expert's load and its scaled count; below 1 */
    double listed_error;        /* sum of |made - scaled count| over listed pairs / sum of scaled counts */
    double listed_share;        /* of all co-activations, that listed pairs account for */
} gr_coact_fit;
grace_status gr_coact_load(const char *folder, uint64_t seed, int32_t n_tokens, grace_trace **out, gr_coact_fit *fit);

/* A recording of SGLang's expert-distribution recorder, mode per_token (trace), or stat, stat_approx, per_pass (profile; per_token too). Layers in
 * which no token was routed are dense and left out. */
grace_status gr_sglang_trace_load(const char *path, grace_trace **out);
grace_status gr_sglang_profile_load(const char *path, int32_t top_k, grace_profile **out);

/* ---- out: plans for other engines, and back. Save replaces the file whole. Formats with a table [layer][slot] need a plan with as many slots on
 * every rank of every layer (gr_plan_equalise() makes one); others are refused with MISMATCH. Load takes the cluster from the caller, checks
 * that every layer has every expert, and makes an expert's first slot its primary; top_k 0: 1 is assumed. A plan that comes back has no loads. ---- */

/* Which of the model's layers the plan's layers are. Formats with model layer numbers need it when the plan does not say: nothing is guessed (ARG). */
typedef struct gr_layer_map {
    int32_t n_model_layers;     /* 0: up to the last that is known; reading: as many as there are rows */
    int32_t n_layers;           /* of the plan: for reading; writing knows it */
    const int32_t *model_layer; /* [n_layers] ascending; NULL: as the plan says, else the last ones of the model */
} gr_layer_map;

/* SGLang --init-expert-location: {"physical_to_logical_map": [[...], ...]}, a row for every layer of the model; rows of dense layers go 0, 1, 2, ... */
grace_status gr_sglang_plan_save(const grace_plan *plan, const gr_layer_map *map, const char *path);
grace_status gr_sglang_plan_load(const char *path, grace_cluster cluster, int32_t top_k, const gr_layer_map *map, grace_plan **out);

/* [[...], ...]: the same table, MoE layers only. */
grace_status gr_flat_plan_save(const grace_plan *plan, const char *path);
grace_status gr_flat_plan_load(const char *path, grace_cluster cluster, int32_t top_k, grace_plan **out);

/* vLLM-Ascend expert_map_path: MoE layers from 0, experts of each device. */
grace_status gr_ascend_plan_save(const grace_plan *plan, const char *path);
grace_status gr_ascend_plan_load(const char *path, grace_cluster cluster, int32_t top_k, grace_plan **out);

/* TensorRT-LLM MoE load balancer: YAML with num_slots, initial_global_assignments {model layer: [expert of slot]}, layer_updates_per_iter. */
grace_status gr_trtllm_plan_save(const grace_plan *plan, const gr_layer_map *map, int32_t layer_updates_per_iter, const char *path);
grace_status gr_trtllm_plan_load(const char *path, grace_cluster cluster, int32_t top_k, grace_plan **out);

/* omni-infer placement pattern: .npy, int32 [ranks, layers, experts], 1 where the rank has the expert. Any plan will do. */
grace_status gr_omni_plan_save(const grace_plan *plan, const char *path);
grace_status gr_omni_plan_load(const char *path, grace_cluster cluster, int32_t top_k, grace_plan **out);

#endif
