/* The pre-tokenizer of tokenizer.json: text -> pieces, which BPE then encodes one by one. */
#ifndef GR_TEXT_PRETOKENIZE_H
#define GR_TEXT_PRETOKENIZE_H
#include "base/json.h"
#include "base/memory.h"
#include "text/pattern.h"

typedef struct gr_pretokenizer gr_pretokenizer;     /* immutable: any number of threads may split with it */

/* json: the value of "pre_tokenizer". Fails with FORMAT, or UNSUPPORTED naming the type or value. */
grace_status gr_pretokenizer_build(const gr_json *json, gr_pretokenizer **out);
void gr_pretokenizer_free(gr_pretokenizer *pre);

typedef struct gr_span { size_t start, end; } gr_span;

/* Pieces of one text; zero it before, reuse it for the next text. */
typedef struct gr_pieces {
    const char *text;               /* what the spans cut: the caller's text, or own when a stage wrote into it */
    gr_buf own;
    gr_span *spans, *next;          /* [n_spans], in order, none empty; next is what the running stage makes */
    size_t n_spans, n_next, capacity, next_capacity;
} gr_pieces;

void gr_pieces_free(gr_pieces *pieces);

/* text [n], valid UTF-8, borrowed as long as the pieces are used. Fails with LIMIT when a pattern runs away. */
grace_status gr_pretokenize(const gr_pretokenizer *pre, gr_searcher *searcher, const char *text, size_t n, gr_pieces *pieces);

#endif
