/* A parsed template. Lists (bodies, arguments, elements) are chained by next. */
#ifndef GR_TEXT_TEMPLATE_TREE_H
#define GR_TEXT_TEMPLATE_TREE_H
#include "text/template_value.h"

/* ---- tokens ---- */
typedef enum gr_tt_kind { GR_TT_DATA, GR_TT_VAR_BEGIN, GR_TT_VAR_END, GR_TT_BLOCK_BEGIN,
                     GR_TT_BLOCK_END, GR_TT_NAME, GR_TT_LITERAL, GR_TT_OP, GR_TT_END } gr_tt_kind;
typedef struct gr_tt {
    gr_tt_kind kind;
    int line;
    const char *text;               /* as written, for messages; NAME, OP and DATA: what it is */
    size_t n;
    gr_tv value;                    /* LITERAL: a string or a number */
} gr_tt;

/* Cuts the text at its delimiters and applies the whitespace rules of the reference (trim_blocks, lstrip_blocks, '-' and '+', one newline at the
 * end dropped, every line end a newline). Tokens end with END and live in the heap's arena. */
grace_status gr_template_lex(gr_tv_heap *heap, const char *text, size_t n, gr_tt **tokens);

/* ---- the tree ---- */
typedef enum gr_tn_kind {
    GR_TN_CONST,                    /* value */
    GR_TN_NAME,                     /* value: the name */
    GR_TN_LIST, GR_TN_TUPLE,        /* a: elements */
    GR_TN_DICT,                     /* a: PAIRs */
    GR_TN_PAIR,                     /* a: key, b: value */
    GR_TN_ATTRIBUTE,                /* a . value */
    GR_TN_ITEM,                     /* a [b] */
    GR_TN_SLICE,                    /* a [b : c : d], each may be NULL */
    GR_TN_CALL,                     /* a (b: arguments) */
    GR_TN_KEYWORD,                  /* an argument value = a; also a macro's parameter with its default */
    GR_TN_FILTER, GR_TN_TEST,       /* a | builtin(b: arguments); a is builtin(b) */
    GR_TN_NOT, GR_TN_NEGATE, GR_TN_POSITIVE,        /* a */
    GR_TN_AND, GR_TN_OR,            /* a, b */
    GR_TN_BINARY,                   /* a op b */
    GR_TN_COMPARE,                  /* a, b: OPERANDs */
    GR_TN_OPERAND,                  /* op a */
    GR_TN_TERNARY,                  /* b if a else c (may be NULL) */
    GR_TN_DATA,                     /* value */
    GR_TN_PRINT,                    /* a */
    GR_TN_IF,                       /* a: condition, b: body, c: else body */
    GR_TN_FOR,                      /* a: target, b: iterable, c: filter or NULL, body, d: else body */
    GR_TN_SET,                      /* a: target, b: value */
    GR_TN_SET_BLOCK,                /* a: target, b: filter chain or NULL, body */
    GR_TN_MACRO,                    /* value: name, b: parameters, body */
    GR_TN_CALL_BLOCK,               /* a: the call, b: parameters, body */
    GR_TN_FILTER_BLOCK,             /* b: filter chain, body */
    GR_TN_SCOPE,                    /* b: SETs, body: with, generation */
    GR_TN_CAPTURED,                 /* inside a filter chain: the text it begins with */
    GR_TN_BREAK, GR_TN_CONTINUE
} gr_tn_kind;

typedef enum gr_op { GR_OP_ADD, GR_OP_SUB, GR_OP_MUL, GR_OP_DIV, GR_OP_FLOOR_DIV, GR_OP_MOD, GR_OP_POW, GR_OP_CONCAT,
                     GR_OP_EQ, GR_OP_NE, GR_OP_LT, GR_OP_LE, GR_OP_GT, GR_OP_GE, GR_OP_IN, GR_OP_NOT_IN } gr_op;

typedef struct gr_tn gr_tn;
struct gr_tn {
    gr_tn_kind kind;
    int line;
    gr_op op;
    gr_tv value;
    const gr_tv_builtin *builtin;
    gr_tn *a, *b, *c, *d, *body, *next;
};

struct gr_template {
    gr_arena *arena;
    const char *where;
    gr_tn *body;
};

/* The value of an expression's operator (template_operate.c). */
grace_status gr_tv_operate(gr_tv_heap *heap, gr_op op, gr_tv a, gr_tv b, gr_tv *out);
grace_status gr_tv_compare(gr_tv_heap *heap, gr_op op, gr_tv a, gr_tv b, bool *out);
grace_status gr_tv_negate(gr_tv value, gr_tv *out);

#endif
