/* Routing traces: which experts every token chose, in every MoE layer. docs/formats.md has the bytes. */
#ifndef GRACE_TRACE_H
#define GRACE_TRACE_H
#include <stdbool.h>
#include <stdint.h>

#include "grace/status.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct grace_trace_info {
    char model[64];             /* a name for people */
    uint64_t fingerprint;       /* grace_model_info.fingerprint; 0: unknown (foreign traces) */
    int32_t n_layers;           /* MoE layers */
    int32_t n_experts, top_k;
    int32_t n_ranks, n_nodes;   /* of the run that recorded it; homes refer to them; 1, 1 when unknown */
} grace_trace_info;

/* One request. Tokens refer to it by its index. */
typedef struct grace_trace_sequence {
    int32_t id;                 /* sequence id the router's turn is computed from */
    int32_t home;               /* rank that owned it */
    int32_t domain;             /* index into the trace's domain names, -1: none */
} grace_trace_sequence;

/* A run of consecutive tokens of one sequence that were routed in one step. */
typedef struct grace_trace_segment {
    int32_t sequence;           /* index into the sequences seen so far */
    int32_t position;           /* of the first token */
    int32_t n_tokens;
    int32_t step;               /* engine step, ascending */
} grace_trace_segment;

/* ---- writing: append while running; what is written up to the last block survives a crash ---- */
typedef struct grace_trace_writer grace_trace_writer;

/* domains [n_domains] names, copied. Fails with ARG (sizes, names that are not UTF-8) or IO. Limits: 1024 layers, 65536 experts, top-256. */
grace_status grace_trace_create(const char *path, const grace_trace_info *info, const char *const *domains, int32_t n_domains,
                                grace_trace_writer **out);
/* Adds a sequence; its index is the number of sequences added before. */
grace_status grace_trace_add_sequence(grace_trace_writer *w, grace_trace_sequence seq);
/* experts [n_tokens, n_layers, top_k], largest gate weight first; checked: in range, no duplicates within a token's layer. Input that
 * is refused (ARG) leaves the writer as it was; after a failed write every later call fails, also finish. No tokens: nothing is recorded. */
grace_status grace_trace_append(grace_trace_writer *w, grace_trace_segment seg, const uint16_t *experts);
/* Writes the last block and the end mark, and frees the writer, also on failure. Until then the file is PATH.XXXXXX.partial; a failed or
 * abandoned trace leaves PATH untouched and no temporary file, a process that dies leaves one that grace_trace_open() reads. */
grace_status grace_trace_finish(grace_trace_writer *w);
void grace_trace_abandon(grace_trace_writer *w);    /* accepts NULL */

/* ---- reading ---- */
typedef struct grace_trace grace_trace;     /* a whole trace in memory */

/* PATH is one of our files, or a folder with topk.u8|topk.u16 and meta.json. A file cut short is read up to its last whole block and
 * logs a warning; *truncated tells (may be NULL). Any other damage fails with FORMAT. Segments that continue one another within a step
 * come back as one. A folder's sequences get home 0 and step 0. */
grace_status grace_trace_open(const char *path, grace_trace **out, bool *truncated);
void grace_trace_close(grace_trace *t);             /* accepts NULL */

const grace_trace_info *grace_trace_describe(const grace_trace *t);
int64_t grace_trace_n_tokens(const grace_trace *t);
int32_t grace_trace_n_sequences(const grace_trace *t);
int32_t grace_trace_n_segments(const grace_trace *t);
int32_t grace_trace_n_domains(const grace_trace *t);
const char *grace_trace_domain(const grace_trace *t, int32_t domain);          /* borrowed until close; indices outside are asserted */
grace_trace_sequence grace_trace_sequence_at(const grace_trace *t, int32_t index);
grace_trace_segment grace_trace_segment_at(const grace_trace *t, int32_t index);
const uint16_t *grace_trace_experts(const grace_trace *t);   /* [n_tokens, n_layers, top_k], segment after segment; borrowed */

/* ---- profile: what the planner needs: affinity A, load w (docs/paper.md) ---- */
typedef struct grace_profile {
    grace_trace_info info;
    int64_t n_tokens;
    double *load;               /* [n_layers, n_experts] tokens routed to the expert */
    double *affinity;           /* [n_layers, n_experts, n_experts] tokens that chose both; symmetric, zero diagonal */
} grace_profile;

/* Counts the trace's tokens. domain -1: all. parity -1: all sequences, 0/1: sequences with even/odd index only. A selection without
 * tokens gives zeros. Fails with ARG (no such domain), LIMIT (affinity over 8 GiB), MEMORY. */
grace_status grace_profile_build(const grace_trace *t, int32_t domain, int32_t parity, grace_profile **out);
void grace_profile_free(grace_profile *p);

#ifdef __cplusplus
}
#endif
#endif
