/* One rendering: what statements (template_render.c) and expressions (template_eval.c) share. */
#ifndef GR_TEXT_TEMPLATE_RUN_H
#define GR_TEXT_TEMPLATE_RUN_H
#include "text/template_tree.h"

typedef struct gr_tr_variable { gr_tv name, value; struct gr_tr_variable *next; } gr_tr_variable;
typedef struct gr_tr_scope { struct gr_tr_scope *parent; gr_tr_variable *first; } gr_tr_scope;
typedef struct gr_tv_macro { const gr_tn *node; gr_tr_scope *where; gr_tv caller; } gr_tv_macro;
typedef enum gr_tr_flow { GR_TR_GO_ON, GR_TR_BREAK, GR_TR_CONTINUE } gr_tr_flow;

typedef struct gr_tr {
    gr_tv_heap heap;
    gr_tr_scope *here;
    gr_tv captured;                 /* what a filter chain begins with */
    gr_tr_flow flow;
    int depth;
    bool located;                   /* the message names its line already */
} gr_tr;

size_t gr_tr_count(const gr_tn *list);

/* ---- scopes ---- */
grace_status gr_tr_open_scope(gr_tr *r, gr_tr_scope *parent, gr_tr_scope **saved);     /* r->here is a fresh one, *saved the one before */
grace_status gr_tr_assign(gr_tr *r, gr_tv name, gr_tv value);                          /* in r->here */

/* ---- nodes: every one pays a step; the innermost that fails puts its line before the message ---- */
grace_status gr_tr_enter(gr_tr *r);
grace_status gr_tr_leave(gr_tr *r, const gr_tn *node, grace_status st);
grace_status gr_tr_eval(gr_tr *r, const gr_tn *node, gr_tv *out);
/* Until the end, or until a break or continue that the loop around it will see. */
grace_status gr_tr_exec_body(gr_tr *r, const gr_tn *body);

/* ---- calls ---- */
grace_status gr_tr_eval_arguments(gr_tr *r, const gr_tn *node, gr_tv_args *args);
grace_status gr_tr_call_macro(gr_tr *r, const gr_tv_macro *macro, const gr_tv_args *args, gr_tv *out);
/* What a body writes, as a string. */
grace_status gr_tr_capture(gr_tr *r, const gr_tn *body, gr_tv *out);

#endif
