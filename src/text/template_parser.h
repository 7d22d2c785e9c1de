/* What the two halves of the parser share: the place in the tokens, and making nodes. */
#ifndef GR_TEXT_TEMPLATE_PARSER_H
#define GR_TEXT_TEMPLATE_PARSER_H
#include "text/template_tree.h"

typedef struct gr_tp {
    gr_tv_heap *heap;
    const gr_tt *token;
    int depth;                      /* of brackets, tags and signs around the token */
    int n_loops;                    /* around it, inside the innermost macro */
} gr_tp;

bool gr_tp_is(const gr_tt *token, gr_tt_kind kind, const char *word);
bool gr_tp_at_op(const gr_tp *ps, const char *op);
bool gr_tp_at_word(const gr_tp *ps, const char *word);
bool gr_tp_skip_op(gr_tp *ps, const char *op);                  /* true: it was there and is taken */
bool gr_tp_skip_word(gr_tp *ps, const char *word);
grace_status gr_tp_expected(const gr_tp *ps, const char *what); /* FORMAT: "line 3: expected WHAT, found '...'" */
grace_status gr_tp_want_op(gr_tp *ps, const char *op);
grace_status gr_tp_want_kind(gr_tp *ps, gr_tt_kind kind, const char *what);
grace_status gr_tp_want_name(gr_tp *ps, gr_tv *name);
grace_status gr_tp_node(gr_tp *ps, gr_tn_kind kind, gr_tn **out);
grace_status gr_tp_wrap(gr_tp *ps, gr_tn_kind kind, gr_tn **out);       /* *out becomes the child a of a new node */
grace_status gr_tp_enter(gr_tp *ps);                            /* one level deeper: LIMIT; leave by ps->depth-- */

grace_status gr_tp_expression(gr_tp *ps, gr_tn **out);
grace_status gr_tp_tuple(gr_tp *ps, bool with_ternary, gr_tn **out);    /* x, or x, y without brackets; a loop keeps the 'if' behind it */
grace_status gr_tp_filter(gr_tp *ps, gr_tn **out);              /* NAME(arguments) behind a '|' that is taken; *out is filtered */

#endif
