/* The pre-tokenizer of tokenizer.json: text -> pieces, which BPE then encodes one by one. */
#ifndef GR_TEXT_PRETOKENIZE_H
#define GR_TEXT_PRETOKENIZE_H
#include "base/json.h"
#include "base/memory.h"
#include "text/pattern.h"

typedef struct gr_pretokenizer gr_pretokenizer;     /* immutable: any number of threads may split with it */

/* json: the value of "pre_tokenizer", null for none. Fails with FORMAT, or UNSUPPORTED naming the type or value. */
grace_status gr_pretokenizer_build(const gr_json *json, gr_pretokenizer **out);
void gr_pretokenizer_free(gr_pretokenizer *pre);
bool gr_pretokenizer_byte_level(const gr_pretokenizer *pre);    /* pieces are bytes to the model, not characters */

typedef enum gr_prepend { GR_PREPEND_NEVER, GR_PREPEND_ALWAYS, GR_PREPEND_FIRST } gr_prepend;

/* Metaspace, as pre-tokenizer and as decoder: a visible mark in place of spaces. */
typedef struct gr_metaspace {
    char text[8];                   /* the mark, one character */
    gr_prepend prepend;             /* pieces get a mark in front: none, all, the one that the text begins with */
    bool split;                     /* pieces begin at marks */
} gr_metaspace;
grace_status gr_metaspace_read(const gr_json *json, const char *where, gr_metaspace *out);

typedef struct gr_span { size_t start, end; } gr_span;

/* Pieces of one text; zero it before, reuse it for the next text. */
typedef struct gr_pieces {
    const char *text;               /* what the spans cut: the caller's text, or own when a stage wrote into it */
    gr_buf own;
    gr_span *spans, *next;          /* [n_spans], in order, none empty; next is what the running stage makes */
    size_t n_spans, n_next, capacity, next_capacity;
} gr_pieces;

void gr_pieces_free(gr_pieces *pieces);

/* text [n], valid UTF-8, borrowed as long as the pieces are used; at_start: it is where the caller's whole text begins. Fails with LIMIT
 * when a pattern runs away. */
grace_status gr_pretokenize(const gr_pretokenizer *pre, gr_searcher *searcher, const char *text, size_t n, bool at_start, gr_pieces *pieces);

#endif
