/* Requests and the rows they contribute to a step: decode rows first, then prefill chunks, as KV pages and the row budget allow. */
#ifndef GR_RUN_BATCH_H
#define GR_RUN_BATCH_H
#include "grace/engine.h"
#include "run/kv.h"
#include "run/network.h"

/* One request. Every rank keeps all of them; only the home rank computes it. */
typedef struct gr_sequence {
    grace_request request;      /* prompt is our copy */
    int32_t *prompt;
    grace_result result;
    int32_t n_computed;         /* tokens whose rows have been computed */
    int32_t kv;                 /* row of the page table, -1: not running */
    int32_t row_ahead;          /* of the step under way whose ids are not known yet, while the next is filled; -1: none */
    bool finished;
} gr_sequence;

/* The rows of a step. */
typedef struct gr_fill {
    gr_step step;               /* room for n_rows_max */
    int32_t *request_of_row;    /* [n_rows] */
    bool *wants_logits;         /* [n_rows] */
    int32_t n_prefill, n_decode;    /* rows */
    int32_t n_started;          /* requests whose first rows are among them */
} gr_fill;

typedef struct gr_batch {
    int32_t rank, n_ranks;
    gr_sequence **sequences;    /* [n] in order of submission; index = request number = sequence id */
    int32_t n, capacity;
    int32_t first_open;         /* all before it are finished or foreign */
    int32_t n_rows_max;
    gr_fill fills[GR_FLIGHTS], *fill;   /* and the one filled last */
} gr_batch;

grace_status gr_batch_init(gr_batch *b, int32_t rank, int32_t n_ranks, int32_t n_rows_max);
void gr_batch_free(gr_batch *b);
grace_status gr_batch_add(gr_batch *b, const grace_request *req);           /* copies the prompt */

/* Fill the next step with rows of this rank's requests; takes KV pages for those it starts. under_way: NULL, or a step of generated tokens alone that has not
 * been advanced: then the ids it draws stand as -1 - its row, and none of them is taken for an end of text. Such a fill may be dropped and filled anew. */
void gr_batch_fill(gr_batch *b, gr_kv *kv, const gr_fill *under_way);
/* Token of a sequence at a position: prompt, then generated. */
int32_t gr_sequence_token(const gr_sequence *s, int32_t position);
/* Tokens known so far. */
static inline int32_t gr_sequence_known(const gr_sequence *s) { return s->request.n_prompt + s->result.n_ids; }
/* A request's result, with its number, as bytes for the batches of other ranks. Both return where it ends. */
size_t gr_result_bytes(int32_t n_ids);
char *gr_result_pack(const gr_batch *b, int32_t request, char *to);
const char *gr_result_unpack(gr_batch *b, const char *at);
/* After a step: every row of it is computed; finished requests give their pages back. */
void gr_batch_advance(gr_batch *b, gr_kv *kv, const gr_fill *done);

#endif
