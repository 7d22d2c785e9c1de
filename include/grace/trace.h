/* Routing traces: which experts every token chose, in every MoE layer. docs/formats.md has the bytes. */
#ifndef GRACE_TRACE_H
#define GRACE_TRACE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grace/status.h"
#ifdef __cplusplus
extern "C" {
#endif

/* How gate weights are kept: not at all; as round(255 w) in one byte, which is for weights from 0 to 1; as IEEE half floats. */
typedef enum grace_trace_weights { GRACE_WEIGHTS_NONE, GRACE_WEIGHTS_U8, GRACE_WEIGHTS_F16, GRACE_N_WEIGHTS } grace_trace_weights;
/* What a run of tokens was: part of a prompt, or generated; unknown in foreign traces. */
typedef enum grace_phase { GRACE_PHASE_UNKNOWN, GRACE_PHASE_PREFILL, GRACE_PHASE_DECODE, GRACE_N_PHASES } grace_phase;

enum { GRACE_TRACE_LAYERS_MAX = 1024 };

typedef struct grace_trace_info {
    char model[64];             /* a name for people */
    uint64_t fingerprint;       /* grace_model_info.fingerprint; 0: unknown (foreign traces) */
    int32_t n_layers;           /* MoE layers */
    int32_t n_experts, top_k;
    int32_t n_ranks, n_nodes;   /* of the run that recorded it; homes refer to them; 1, 1 when unknown */
    int32_t vocab;              /* token ids are below it; 0: the trace has no token ids */
    grace_trace_weights weights;
    bool synthetic;             /* tokens were made to fit counts, no router chose them */
    bool layer_ids_known;       /* false: nothing is said of dense layers between or before those with experts */
    int32_t layer_ids[GRACE_TRACE_LAYERS_MAX];  /* [n_layers] when known: which of the model's layers they are, rising from 0 or more */
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
    grace_phase phase;
} grace_trace_segment;

/* What is known of n_tokens tokens. */
typedef struct grace_trace_tokens {
    const uint16_t *experts;    /* [n_tokens, n_layers, top_k] largest gate weight first */
    const int32_t *ids;         /* [n_tokens] token ids; NULL exactly when info.vocab is 0 */
    const float *weights;       /* [n_tokens, n_layers, top_k] of the experts; NULL exactly when info.weights is NONE */
} grace_trace_tokens;

/* ---- writing: append while running; what is written up to the last block survives a crash ---- */
typedef struct grace_trace_writer grace_trace_writer;

/* domains [n_domains] names, copied. Fails with ARG (sizes, names that are not UTF-8) or IO. Limits: 1024 layers, 65536 experts, top-256. */
grace_status grace_trace_create(const char *path, const grace_trace_info *info, const char *const *domains, int32_t n_domains,
                                grace_trace_writer **out);
/* Adds a sequence; its index is the number of sequences added before. */
grace_status grace_trace_add_sequence(grace_trace_writer *w, grace_trace_sequence seq);
/* Checked: ids in range, no expert twice within a token's layer, weights that can be kept as info.weights says. Input that is refused
 * (ARG) leaves the writer as it was; after a failed write every later call fails, also finish. No tokens: nothing is recorded. */
grace_status grace_trace_append(grace_trace_writer *w, grace_trace_segment seg, grace_trace_tokens tokens);
/* Writes the last block and the end mark, and frees the writer, also on failure. Until then the file is PATH.XXXXXX.partial; a failed or
 * abandoned trace leaves PATH untouched and no temporary file, a process that dies leaves one that grace_trace_open() reads. */
grace_status grace_trace_finish(grace_trace_writer *w);
void grace_trace_abandon(grace_trace_writer *w);    /* accepts NULL */

/* ---- reading ---- */
typedef struct grace_trace grace_trace;     /* a whole trace in memory */

/* PATH is one of our files, or a folder with topk.u8|topk.u16, meta.json and perhaps tokens.u16|tokens.u32 and seqs.csv. A file cut
 * short is read up to its last whole block and logs a warning; *truncated tells (may be NULL). Any other damage fails with FORMAT. Segments
 * that continue one another within a step come back as one. A folder's sequences get home 0 and step 0. */
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
/* Segment after segment; borrowed. */
const uint16_t *grace_trace_experts(const grace_trace *t);      /* [n_tokens, n_layers, top_k] */
const int32_t *grace_trace_token_ids(const grace_trace *t);     /* [n_tokens]; NULL when the trace has none (info.vocab 0) */
const float *grace_trace_gate_weights(const grace_trace *t);    /* [n_tokens, n_layers, top_k] as they were kept; NULL when there are none */

/* ---- reading in pieces: traces of any size in bounded memory ---- */
typedef struct grace_trace_reader grace_trace_reader;

/* PATH as for grace_trace_open(). Of a file that grows, what is there now. A piece has about 16 MiB of experts, or one block of the file; beside
 * it the reader holds 12 bytes a sequence, of a folder 16. Fails as grace_trace_open(). */
grace_status grace_trace_reader_open(const char *path, grace_trace_reader **out);
/* The next tokens, as a trace of their own: its information and domains, all sequences so far, but only the segments and tokens of this
 * piece. NULL at the end. Borrowed until the next call. Fails with FORMAT, IO, MEMORY; then the reader is only good for closing. */
grace_status grace_trace_reader_next(grace_trace_reader *r, const grace_trace **piece);
/* Back to the first token. */
void grace_trace_reader_rewind(grace_trace_reader *r);
/* Information, domains and sequences so far, before, between and after the pieces. Borrowed until the reader is closed. */
const grace_trace *grace_trace_reader_head(const grace_trace_reader *r);
bool grace_trace_reader_truncated(const grace_trace_reader *r);     /* at the end: there was no end mark */
void grace_trace_reader_close(grace_trace_reader *r);               /* accepts NULL */

/* ---- selection: some of a trace's tokens, so that plans can be measured on others than they were made from ---- */
typedef enum grace_sequences { GRACE_SEQUENCES_ALL, GRACE_SEQUENCES_EVEN, GRACE_SEQUENCES_ODD } grace_sequences;
typedef struct grace_selection {
    grace_sequences sequences;  /* by the sequence's index */
    char domains[256];          /* names, separated by commas; empty: all tokens, also those of no domain */
} grace_selection;              /* all zeros: everything */

/* "all", "even", "odd", "domain:NAME,NAME", "even domain:NAME". Fails with ARG. */
grace_status grace_selection_parse(const char *text, grace_selection *out);
/* The same text back, [320] bytes at most. */
void grace_selection_format(const grace_selection *s, char *text, size_t size);
/* No token of any trace is in both. */
bool grace_selections_disjoint(const grace_selection *a, const grace_selection *b);

/* Which tokens something was made from or measured on. */
typedef struct grace_origin {
    char file[64];              /* the trace's name without its folders; empty: unknown */
    grace_selection which;
    int64_t n_tokens;
    uint64_t loads;             /* hash of the load table: the same tokens have the same, whatever their file is called */
    bool synthetic;             /* grace_trace_info.synthetic */
} grace_origin;

/* Some tokens are, or may be, in both: the same loads, or selections of one file that are not disjoint. False when one of them is unknown. */
bool grace_origins_overlap(const grace_origin *a, const grace_origin *b);

/* ---- profile: what the planner needs: affinity A, load w (docs/paper.md) ---- */
typedef struct grace_profile {
    grace_trace_info info;
    grace_origin origin;
    int64_t n_tokens;
    double *load;               /* [n_layers, n_experts] tokens routed to the expert */
    double *affinity;           /* [n_layers, n_experts, n_experts] tokens that chose both; symmetric, zero diagonal */
} grace_profile;

/* Counts a trace's tokens; which NULL: all. A selection without tokens gives zeros. Fails with ARG (no such domain), LIMIT (affinity over
 * 8 GiB), MEMORY. The caller frees. */
grace_status grace_profile_build(const grace_trace *t, const grace_selection *which, grace_profile **out);
/* The same from the beginning of a trace that is read in pieces. */
grace_status grace_profile_stream(grace_trace_reader *r, const grace_selection *which, grace_profile **out);
void grace_profile_free(grace_profile *p);

#ifdef __cplusplus
}
#endif
#endif
