/* A routing trace in memory or a piece of one, its sources, and the checks that they and the writer share. */
#ifndef GR_PLAN_TRACE_H
#define GR_PLAN_TRACE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "grace/trace.h"

enum {
    GR_TRACE_LAYERS_MAX = GRACE_TRACE_LAYERS_MAX,
    GR_TRACE_EXPERTS_MAX = 65536,   /* ids are u16 */
    GR_TRACE_TOP_K_MAX = 256,
    GR_TRACE_RANKS_MAX = 65536,
    GR_TRACE_DOMAINS_MAX = 4096,
};
#define GR_TRACE_VALUES_MAX ((int64_t)1 << 33)      /* expert ids of a trace in memory: 16 GiB */
#define GR_TRACE_TOKENS_MAX ((int64_t)UINT32_MAX)   /* so that a count of tokens fits 32 bits */

struct grace_trace {
    grace_trace_info info;
    char name[64];                      /* its file's, without folders; empty: none */
    char **domains;                     /* [n_domains] */
    grace_trace_sequence *sequences;    /* [n_sequences] */
    grace_trace_segment *segments;      /* [n_segments] */
    uint16_t *experts;                  /* [n_tokens, n_layers, top_k] */
    int32_t *token_ids;                 /* [n_tokens]; NULL without */
    float *weights;                     /* [n_tokens, n_layers, top_k]; NULL without */
    int32_t n_domains;
    int64_t n_sequences, n_segments, n_tokens;
    int64_t first_segment, first_token; /* in pieces: how many came before */
    int32_t last_step;                  /* of the last segment, INT32_MIN before the first */
    int64_t sequences_capacity, segments_capacity, values_capacity, ids_capacity, weights_capacity;
    uint64_t *seen;                     /* [n_experts] the last gate choice that named the expert; see gr_trace_check_experts() */
    uint64_t n_seen;
};

/* An empty trace. The info is checked (FORMAT, message starts with WHERE). grace_trace_close() it. */
grace_status gr_trace_new(const char *where, const grace_trace_info *info, grace_trace **out);

/* The last part of a path, as gr_trace_set_model() cuts names. */
void gr_trace_set_name(char name[64], const char *path);
/* p->origin from its counts. */
void gr_profile_sign(grace_profile *p, const char *name, const grace_selection *which);

/* Tokens as they lie in a file, little endian. */
typedef struct gr_raw_tokens {
    const unsigned char *experts;       /* n_tokens x n_layers x top_k */
    int expert_bytes;                   /* 1 or 2 each */
    const unsigned char *ids;           /* n_tokens; read when info.vocab is not 0 */
    int id_bytes;                       /* 2 or 4 each */
    const unsigned char *weights;       /* as experts, of gr_trace_weight_bytes() each; read when info.weights is not NONE */
} gr_raw_tokens;

/* Copies a name for people, cut at a whole UTF-8 character when it is too long. */
void gr_trace_set_model(grace_trace_info *info, const char *name);

grace_status gr_trace_add_domain(const char *where, grace_trace *t, const char *name);
/* Index of the domain of that name, added when it is new. */
grace_status gr_trace_domain_index(const char *where, grace_trace *t, const char *name, int32_t *out);

/* Append, checked; whoever adds tokens adds the segments that cover them. A segment that goes on where the last one ended, in the same
 * step, is joined to it. After a failure the trace is only good for grace_trace_close(). */
grace_status gr_trace_push_sequence(const char *where, grace_trace *t, grace_trace_sequence seq);
grace_status gr_trace_push_segment(const char *where, grace_trace *t, grace_trace_segment seg);
grace_status gr_trace_push_tokens(const char *where, grace_trace *t, const gr_raw_tokens *raw, int64_t n_tokens);

/* ---- checks; STATUS is FORMAT for readers and ARG for the writer ---- */
grace_status gr_trace_check_info(const char *where, const grace_trace_info *info, grace_status status);
grace_status gr_trace_check_sequence(const char *where, const grace_trace_info *info, int32_t n_domains, const grace_trace_sequence *seq,
                                     grace_status status);
/* index: of the segment in the trace. last_step: of the segment before, INT32_MIN when first. n_tokens >= 1. */
grace_status gr_trace_check_segment(const char *where, const grace_trace_segment *seg, int64_t index, int64_t n_sequences, int32_t last_step,
                                    grace_status status);
/* In range and no duplicates within a token's layer; messages name token first + i and the layer. seen [n_experts] and *turn are the
 * caller's, zeroed once: a turn counts gate choices, so nothing is cleared between them. */
grace_status gr_trace_check_experts(const char *where, const grace_trace_info *info, const uint16_t *experts, int64_t n_tokens, int64_t first,
                                    uint64_t *seen, uint64_t *turn, grace_status status);
/* Token ids are below info.vocab; weights are finite, and 0 to 1 where one byte keeps them. */
grace_status gr_trace_check_ids(const char *where, const grace_trace_info *info, const int32_t *ids, int64_t n_tokens, int64_t first,
                                grace_status status);
grace_status gr_trace_check_weights(const char *where, const grace_trace_info *info, const float *weights, int64_t n_tokens, int64_t first,
                                    grace_status status);
/* LIMIT when n_tokens could not be held in memory, or with those before are more than a trace may have. */
grace_status gr_trace_check_room(const char *where, const grace_trace_info *info, int64_t n_before, int64_t n_tokens);

/* ---- recordings that are left ---- */

/* For a signal handler that ends the process: whether a recording is open. *kept: the file with the tokens of its whole blocks, or NULL where there are
 * none, and then the file is removed. */
bool gr_trace_leave(const char **kept);

/* ---- sources: where a reader's pieces come from ---- */
typedef struct gr_trace_source {
    /* Append the next tokens to t, at most one block of a file; *more: there were some. */
    grace_status (*next)(void *self, grace_trace *t, bool *more);
    void (*rewind)(void *self, grace_trace *t);             /* t has no tokens; a source that adds sequences on the way takes them away */
    bool (*truncated)(const void *self);
    void (*close)(void *self);                              /* accepts NULL */
} gr_trace_source;

/* One of our files (docs/formats.md), as it is now. *t: its information and domains, nothing else yet; the caller closes both. */
grace_status gr_trace_file_open(const char *path, void **self, grace_trace **t);
/* The same from n bytes in memory; WHERE names them in messages. Any bytes are safe. */
grace_status gr_trace_bytes_open(const char *where, const void *bytes, size_t n, void **self, grace_trace **t);
extern const gr_trace_source gr_trace_file_source;
/* A folder with topk.u8 or topk.u16, meta.json, and perhaps token ids and seqs.csv. *t has all sequences. */
grace_status gr_trace_folder_open(const char *path, void **self, grace_trace **t);
extern const gr_trace_source gr_trace_folder_source;

/* ---- readers ---- */

/* A reader whose only piece is this trace, borrowed or taken over; what can fail does so before it is taken. */
grace_status gr_trace_reader_of(const grace_trace *t, grace_trace_reader **out);
grace_status gr_trace_reader_take(grace_trace *t, grace_trace_reader **out);
/* All pieces in one, from the beginning of a reader that has given none; it is the caller's then, and the reader only good for closing. */
grace_status gr_trace_reader_whole(grace_trace_reader *r, grace_trace **out, bool *truncated);
/* A piece ends with the block that brings it to n_values expert ids; for tests, which want many small ones. */
void gr_trace_reader_set_piece(grace_trace_reader *r, int64_t n_values);
/* One of our files as bytes, whole. *truncated: no end mark, read up to the last whole block. */
grace_status gr_trace_parse(const char *where, const void *bytes, size_t n, grace_trace **out, bool *truncated);

/* ---- selections ---- */

/* wanted [n_domains + 1]: whether tokens of domain d - 1 are selected. Fails with ARG (a name that the trace does not have), MEMORY. */
grace_status gr_selection_resolve(const grace_selection *which, const grace_trace *head, bool **wanted);
static inline bool gr_selected(const grace_selection *which, const bool *wanted, const grace_trace *t, int32_t sequence) {
    bool parity = !which || which->sequences == GRACE_SEQUENCES_ALL || sequence % 2 == (which->sequences == GRACE_SEQUENCES_ODD);
    return parity && wanted[t->sequences[sequence].domain + 1];
}

#endif
