/* Tokens to a tree: expressions, from the parts to the loosest operator. */
#include <stdio.h>

#include "text/template_parser.h"

enum { DEPTH_MAX = 60 };

static grace_status parse_or(gr_tp *ps, gr_tn **out);
static grace_status parse_primary(gr_tp *ps, gr_tn **out);

/* ---- tokens ---- */

bool gr_tp_is(const gr_tt *token, gr_tt_kind kind, const char *word) {
    return token->kind == kind && token->n == strlen(word) && memcmp(token->text, word, token->n) == 0;
}

bool gr_tp_at_op(const gr_tp *ps, const char *op) { return gr_tp_is(ps->token, GR_TT_OP, op); }
bool gr_tp_at_word(const gr_tp *ps, const char *word) { return gr_tp_is(ps->token, GR_TT_NAME, word); }

bool gr_tp_skip_op(gr_tp *ps, const char *op) {
    bool yes = gr_tp_at_op(ps, op);
    ps->token += yes;
    return yes;
}

bool gr_tp_skip_word(gr_tp *ps, const char *word) {
    bool yes = gr_tp_at_word(ps, word);
    ps->token += yes;
    return yes;
}

grace_status gr_tp_expected(const gr_tp *ps, const char *what) {
    const gr_tt *t = ps->token;
    return gr_fail(GRACE_ERR_FORMAT, "line %d: expected %s, found '%.*s'", t->line, what, (int)(t->n > 40 ? 40 : t->n), t->text);
}

grace_status gr_tp_want_op(gr_tp *ps, const char *op) {
    char what[16];
    if (gr_tp_skip_op(ps, op)) return GRACE_OK;
    snprintf(what, sizeof what, "'%s'", op);
    return gr_tp_expected(ps, what);
}

grace_status gr_tp_want_kind(gr_tp *ps, gr_tt_kind kind, const char *what) {
    if (ps->token->kind != kind) return gr_tp_expected(ps, what);
    ps->token++;
    return GRACE_OK;
}

grace_status gr_tp_node(gr_tp *ps, gr_tn_kind kind, gr_tn **out) {
    grace_status st = gr_tv_alloc(ps->heap, 1, sizeof **out, out);
    if (!st) (*out)->kind = kind, (*out)->line = ps->token->line;
    return st;
}

grace_status gr_tp_wrap(gr_tp *ps, gr_tn_kind kind, gr_tn **out) {
    gr_tn *node;
    grace_status st = gr_tp_node(ps, kind, &node);
    if (!st) node->a = *out, *out = node;
    return st;
}

grace_status gr_tp_want_name(gr_tp *ps, gr_tv *name) {
    const gr_tt *token = ps->token;
    grace_status st = gr_tp_want_kind(ps, GR_TT_NAME, "a name");
    if (!st) *name = gr_tv_text(token->text, token->n);
    return st;
}

grace_status gr_tp_enter(gr_tp *ps) {
    if (++ps->depth <= DEPTH_MAX) return GRACE_OK;
    return gr_fail(GRACE_ERR_LIMIT, "line %d: nested deeper than %d levels", ps->token->line, DEPTH_MAX);
}

/* ---- parts ---- */

/* name=EXPRESSION or EXPRESSION, up to ')' */
static grace_status parse_arguments(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    bool named = false;
    GR_TRY(gr_tp_want_op(ps, "("));
    while (!gr_tp_skip_op(ps, ")")) {
        gr_tn *node;
        gr_tv name = {0};
        if (ps->token->kind == GR_TT_NAME && gr_tp_is(ps->token + 1, GR_TT_OP, "=")) {
            GR_TRY(gr_tp_want_name(ps, &name));
            ps->token++;
        }
        GR_TRY(gr_tp_expression(ps, &node));
        if (name.kind) GR_TRY(gr_tp_wrap(ps, GR_TN_KEYWORD, &node));
        else if (named) return gr_tp_expected(ps, "only named arguments behind a named one");
        node->value = name.kind ? name : node->value;
        named |= name.kind != GR_TV_ABSENT;
        *out = node;
        out = &node->next;
        if (!gr_tp_at_op(ps, ")")) GR_TRY(gr_tp_want_op(ps, ","));
    }
done:
    return st;
}

/* EXPRESSION, EXPRESSION, ... up to the closing bracket */
static grace_status parse_elements(gr_tp *ps, const char *end, gr_tn **out) {
    grace_status st = GRACE_OK;
    while (!gr_tp_skip_op(ps, end)) {
        GR_TRY(gr_tp_expression(ps, out));
        out = &(*out)->next;
        if (!gr_tp_at_op(ps, end)) GR_TRY(gr_tp_want_op(ps, ","));
    }
done:
    return st;
}

static grace_status parse_dict(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_DICT, out));
    for (gr_tn **pair = &(*out)->a; !gr_tp_skip_op(ps, "}"); pair = &(*pair)->next) {
        GR_TRY(gr_tp_node(ps, GR_TN_PAIR, pair));
        GR_TRY(gr_tp_expression(ps, &(*pair)->a));
        GR_TRY(gr_tp_want_op(ps, ":"));
        GR_TRY(gr_tp_expression(ps, &(*pair)->b));
        if (!gr_tp_at_op(ps, "}")) GR_TRY(gr_tp_want_op(ps, ","));
    }
done:
    return st;
}

/* (x), (), (x,), (x, y) */
static grace_status parse_bracketed(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    gr_tn *tuple;
    GR_TRY(gr_tp_node(ps, GR_TN_TUPLE, &tuple));
    if (!gr_tp_at_op(ps, ")")) {
        GR_TRY(gr_tp_expression(ps, &tuple->a));
        if (gr_tp_skip_op(ps, ")")) {
            *out = tuple->a;
            return st;
        }
        GR_TRY(gr_tp_want_op(ps, ","));
    }
    GR_TRY(parse_elements(ps, ")", tuple->a ? &tuple->a->next : &tuple->a));
    *out = tuple;
done:
    return st;
}

/* Adjacent strings are one, as in Python. */
static grace_status parse_literal(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_CONST, out));
    gr_tv *value = &(*out)->value;
    *value = ps->token++->value;
    while (value->kind == GR_TV_STRING && ps->token->kind == GR_TT_LITERAL && ps->token->value.kind == GR_TV_STRING) {
        gr_tv more = ps->token++->value;
        char *text;
        GR_TRY(gr_tv_alloc(ps->heap, value->n + more.n, 1, &text));
        if (value->n) memcpy(text, value->text, value->n);
        if (more.n) memcpy(text + value->n, more.text, more.n);
        *value = gr_tv_text(text, value->n + more.n);
    }
done:
    return st;
}

static grace_status parse_name(gr_tp *ps, gr_tn **out) {
    static const struct { const char *word; gr_tv value; } constants[] = {
        {"true", {.kind = GR_TV_BOOL, .integer = 1}}, {"True", {.kind = GR_TV_BOOL, .integer = 1}}, {"false", {.kind = GR_TV_BOOL}},
        {"False", {.kind = GR_TV_BOOL}}, {"none", {.kind = GR_TV_NONE}}, {"None", {.kind = GR_TV_NONE}}};
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_NAME, out));
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (!gr_tp_skip_word(ps, constants[i].word)) continue;
        (*out)->kind = GR_TN_CONST;
        (*out)->value = constants[i].value;
        return st;
    }
    GR_TRY(gr_tp_want_name(ps, &(*out)->value));
done:
    return st;
}

static grace_status parse_primary(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_enter(ps));
    if (ps->token->kind == GR_TT_NAME) GR_TRY(parse_name(ps, out));
    else if (ps->token->kind == GR_TT_LITERAL) GR_TRY(parse_literal(ps, out));
    else if (gr_tp_skip_op(ps, "(")) GR_TRY(parse_bracketed(ps, out));
    else if (gr_tp_skip_op(ps, "{")) GR_TRY(parse_dict(ps, out));
    else if (gr_tp_skip_op(ps, "[")) {
        GR_TRY(gr_tp_node(ps, GR_TN_LIST, out));
        GR_TRY(parse_elements(ps, "]", &(*out)->a));
    } else return gr_tp_expected(ps, "an expression");
    ps->depth--;
done:
    return st;
}

/* [x], [a:b:c] */
static grace_status parse_subscript(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    gr_tn **part[] = {&(*out)->b, &(*out)->c, &(*out)->d};
    for (int i = 0; i < 3; i++) {
        if (!gr_tp_at_op(ps, ":") && !gr_tp_at_op(ps, "]")) GR_TRY(gr_tp_expression(ps, part[i]));
        if (gr_tp_at_op(ps, "]")) break;
        GR_TRY(gr_tp_want_op(ps, ":"));
        (*out)->kind = GR_TN_SLICE;
    }
    if ((*out)->kind == GR_TN_ITEM && !(*out)->b) return gr_tp_expected(ps, "an expression");
    GR_TRY(gr_tp_want_op(ps, "]"));
done:
    return st;
}

static grace_status parse_postfix(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    for (;;) {
        if (gr_tp_skip_op(ps, ".")) {
            GR_TRY(gr_tp_wrap(ps, GR_TN_ATTRIBUTE, out));
            if (ps->token->kind == GR_TT_LITERAL && ps->token->value.kind == GR_TV_INT) {        /* x.0 is x[0] */
                (*out)->kind = GR_TN_ITEM;
                GR_TRY(parse_literal(ps, &(*out)->b));
            } else GR_TRY(gr_tp_want_name(ps, &(*out)->value));
        } else if (gr_tp_skip_op(ps, "[")) {
            GR_TRY(gr_tp_wrap(ps, GR_TN_ITEM, out));
            GR_TRY(parse_subscript(ps, out));
        } else if (gr_tp_at_op(ps, "(")) {
            GR_TRY(gr_tp_wrap(ps, GR_TN_CALL, out));
            GR_TRY(parse_arguments(ps, &(*out)->b));
        } else break;
    }
done:
    return st;
}

static grace_status want_builtin(gr_tp *ps, gr_tn *node) {
    grace_status st = GRACE_OK;
    bool filter = node->kind == GR_TN_FILTER;
    gr_tv name = {0};
    GR_TRY(gr_tp_want_name(ps, &name));
    node->builtin = filter ? gr_tv_filter(name.text, name.n) : gr_tv_test(name.text, name.n);
    GR_CHECK(node->builtin, GRACE_ERR_UNSUPPORTED, "line %d: there is no %s '%.*s'", node->line, filter ? "filter" : "test", (int)name.n, name.text);
done:
    return st;
}

grace_status gr_tp_filter(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_wrap(ps, GR_TN_FILTER, out));
    GR_TRY(want_builtin(ps, *out));
    if (gr_tp_at_op(ps, "(")) GR_TRY(parse_arguments(ps, &(*out)->b));
done:
    return st;
}

/* is [not] NAME, with an argument in brackets or one bare primary behind it */
static grace_status parse_test(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    bool negated = gr_tp_skip_word(ps, "not");
    GR_TRY(gr_tp_wrap(ps, GR_TN_TEST, out));
    GR_TRY(want_builtin(ps, *out));
    const gr_tt *t = ps->token;
    bool bare = t->kind == GR_TT_LITERAL || gr_tp_at_op(ps, "[") || gr_tp_at_op(ps, "{") ||
                (t->kind == GR_TT_NAME && !gr_tp_at_word(ps, "else") && !gr_tp_at_word(ps, "or") && !gr_tp_at_word(ps, "and") && !gr_tp_at_word(ps, "if"));
    if (gr_tp_at_op(ps, "(")) GR_TRY(parse_arguments(ps, &(*out)->b));
    else if (bare) {
        if (gr_tp_at_word(ps, "is")) return gr_tp_expected(ps, "only one test");
        GR_TRY(parse_primary(ps, &(*out)->b));
        GR_TRY(parse_postfix(ps, &(*out)->b));
    }
    if (negated) GR_TRY(gr_tp_wrap(ps, GR_TN_NOT, out));
done:
    return st;
}

static grace_status parse_filters(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    for (;;) {
        if (gr_tp_skip_op(ps, "|")) GR_TRY(gr_tp_filter(ps, out));
        else if (gr_tp_skip_word(ps, "is")) GR_TRY(parse_test(ps, out));
        else if (gr_tp_at_op(ps, "(")) {
            GR_TRY(gr_tp_wrap(ps, GR_TN_CALL, out));
            GR_TRY(parse_arguments(ps, &(*out)->b));
        } else break;
    }
done:
    return st;
}

/* ---- precedence ---- */

static grace_status parse_unary(gr_tp *ps, bool with_filters, gr_tn **out) {
    grace_status st = GRACE_OK;
    bool minus = gr_tp_skip_op(ps, "-"), plus = !minus && gr_tp_skip_op(ps, "+");
    GR_TRY(gr_tp_enter(ps));
    if (minus || plus) {
        GR_TRY(parse_unary(ps, false, out));
        GR_TRY(gr_tp_wrap(ps, minus ? GR_TN_NEGATE : GR_TN_POSITIVE, out));
    } else GR_TRY(parse_primary(ps, out));
    GR_TRY(parse_postfix(ps, out));
    if (with_filters) GR_TRY(parse_filters(ps, out));
    ps->depth--;
done:
    return st;
}

/* Left-associative operators, the loosest level first; power too associates to the left in Jinja. */
typedef struct level { const char *op; gr_op code; int level; } level;
static const level operators[] = {{"+", GR_OP_ADD, 0}, {"-", GR_OP_SUB, 0}, {"~", GR_OP_CONCAT, 1}, {"*", GR_OP_MUL, 2}, {"/", GR_OP_DIV, 2},
                                  {"//", GR_OP_FLOOR_DIV, 2}, {"%", GR_OP_MOD, 2}, {"**", GR_OP_POW, 3}};
enum { N_LEVELS = 4 };

static const level *operator_at(const gr_tp *ps, int at_level) {
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (operators[i].level == at_level && gr_tp_at_op(ps, operators[i].op)) return &operators[i];
    return NULL;
}

static grace_status parse_binary(gr_tp *ps, int at_level, gr_tn **out) {
    grace_status st = GRACE_OK;
    const level *op;
    if (at_level == N_LEVELS) return parse_unary(ps, true, out);
    GR_TRY(parse_binary(ps, at_level + 1, out));
    while ((op = operator_at(ps, at_level))) {
        ps->token++;
        GR_TRY(gr_tp_wrap(ps, GR_TN_BINARY, out));
        (*out)->op = op->code;
        GR_TRY(parse_binary(ps, at_level + 1, &(*out)->b));
    }
done:
    return st;
}

static bool skip_comparison(gr_tp *ps, gr_op *code) {
    static const struct { const char *op; gr_op code; } all[] = {{"==", GR_OP_EQ}, {"!=", GR_OP_NE}, {"<", GR_OP_LT},
                                                            {"<=", GR_OP_LE}, {">", GR_OP_GT}, {">=", GR_OP_GE}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (gr_tp_skip_op(ps, all[i].op)) return *code = all[i].code, true;
    if (gr_tp_skip_word(ps, "in")) return *code = GR_OP_IN, true;
    if (!gr_tp_at_word(ps, "not") || !gr_tp_is(ps->token + 1, GR_TT_NAME, "in")) return false;
    ps->token += 2;
    return *code = GR_OP_NOT_IN, true;
}

/* a < b < c means a < b and b < c */
static grace_status parse_comparison(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    gr_op code;
    GR_TRY(parse_binary(ps, 0, out));
    if (!skip_comparison(ps, &code)) return st;
    GR_TRY(gr_tp_wrap(ps, GR_TN_COMPARE, out));
    gr_tn **operand = &(*out)->b;
    do {
        GR_TRY(gr_tp_node(ps, GR_TN_OPERAND, operand));
        (*operand)->op = code;
        GR_TRY(parse_binary(ps, 0, &(*operand)->a));
        operand = &(*operand)->next;
    } while (skip_comparison(ps, &code));
done:
    return st;
}

static grace_status parse_not(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    if (!gr_tp_skip_word(ps, "not")) return parse_comparison(ps, out);
    GR_TRY(gr_tp_enter(ps));
    GR_TRY(parse_not(ps, out));
    GR_TRY(gr_tp_wrap(ps, GR_TN_NOT, out));
    ps->depth--;
done:
    return st;
}

static grace_status parse_and(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(parse_not(ps, out));
    while (gr_tp_skip_word(ps, "and")) {
        GR_TRY(gr_tp_wrap(ps, GR_TN_AND, out));
        GR_TRY(parse_not(ps, &(*out)->b));
    }
done:
    return st;
}

static grace_status parse_or(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(parse_and(ps, out));
    while (gr_tp_skip_word(ps, "or")) {
        GR_TRY(gr_tp_wrap(ps, GR_TN_OR, out));
        GR_TRY(parse_and(ps, &(*out)->b));
    }
done:
    return st;
}

grace_status gr_tp_expression(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_enter(ps));
    GR_TRY(parse_or(ps, out));
    while (gr_tp_skip_word(ps, "if")) {
        gr_tn *node;
        GR_TRY(gr_tp_node(ps, GR_TN_TERNARY, &node));
        node->b = *out;
        *out = node;
        GR_TRY(parse_or(ps, &node->a));
        if (gr_tp_skip_word(ps, "else")) GR_TRY(gr_tp_expression(ps, &node->c));
    }
    ps->depth--;
done:
    return st;
}

/* x or x, y, ...: a tuple without brackets. In a for loop the condition belongs to the loop. */
grace_status gr_tp_tuple(gr_tp *ps, bool with_ternary, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(with_ternary ? gr_tp_expression(ps, out) : parse_or(ps, out));
    if (!gr_tp_at_op(ps, ",")) return st;
    GR_TRY(gr_tp_wrap(ps, GR_TN_TUPLE, out));
    for (gr_tn **next = &(*out)->a->next; gr_tp_skip_op(ps, ","); next = &(*next)->next) {
        if (ps->token->kind == GR_TT_BLOCK_END || ps->token->kind == GR_TT_VAR_END) break;
        GR_TRY(with_ternary ? gr_tp_expression(ps, next) : parse_or(ps, next));
    }
done:
    return st;
}
